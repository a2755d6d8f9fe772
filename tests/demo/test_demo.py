"""Drawn people and the training on them: same seed, same bytes; correct labels; one-line errors."""

import hashlib
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import judge
import numpy as np
import pytest
import torch
from helpers import ran, refused
from pycocotools.coco import COCO

import train
from drawing.body import KEYPOINT_NAMES
from drawing.camera import IMAGE_HEIGHT, IMAGE_WIDTH
from rtmpose.data.coco import ANNOTATIONS
from rtmpose.model.checkpoint import load_network
from training.crops import INPUT_SIZE, rotated_warp_matrix
from training.learner import Learner, cell_loss

DRAW = "demo/make_dataset.py"
TRAIN = "demo/train.py"
SEED, IMAGES = 4, 24
NOSE, LEFT_EYE, RIGHT_EYE, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 1, 2, 5, 6


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set, made from a folder outside the repository."""
    folder = tmp_path_factory.mktemp("people")
    ran(DRAW, "--output", "set", "--images", IMAGES, "--seed", SEED, cwd=folder)
    return folder / "set"


@pytest.fixture(scope="module")
def ground_truth(people: Path) -> COCO:
    """Its annotations, read by pycocotools."""
    return COCO(str(people / ANNOTATIONS))


@pytest.fixture(scope="module")
def annotations(ground_truth: COCO) -> list[dict[str, Any]]:
    """One per person."""
    return list(ground_truth.anns.values())


@pytest.fixture(scope="module")
def keypoints(annotations: list[dict[str, Any]]) -> np.ndarray:
    """Keypoints of all persons, float64 (N, 17, 3)."""
    return np.array([annotation["keypoints"] for annotation in annotations], np.float64).reshape(-1, 17, 3)


def digests(folder: Path, suffix: str = "") -> dict[str, str]:
    """SHA-256 of each file in a folder, by its path."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob(f"*{suffix}") if path.is_file()}


# Files


def test_the_bytes_depend_on_the_seed_alone(people: Path, tmp_path: Path) -> None:
    for name, images, seed in (("again", IMAGES, SEED), ("other", 3, SEED + 1), ("fewer", 3, SEED)):
        ran(DRAW, "--output", tmp_path / name, "--images", images, "--seed", seed)
    drawn, other, fewer = (digests(folder, ".jpg") for folder in (people, tmp_path / "other", tmp_path / "fewer"))
    assert digests(tmp_path / "again") == digests(people) and len(digests(people)) == IMAGES + 1
    assert not set(other.values()) & set(drawn.values())
    assert len(fewer) == 3 and fewer.items() <= drawn.items()


def test_rerun_restores_the_same_files(tmp_path: Path) -> None:
    arguments = ("--output", tmp_path / "set", "--images", 3)
    ran(DRAW, *arguments)
    before = digests(tmp_path / "set")
    for lost in ("images/val2017/000000000002.jpg", ANNOTATIONS):  # an interrupted run leaves images alone
        (tmp_path / "set" / lost).unlink()
        ran(DRAW, *arguments)
        assert digests(tmp_path / "set") == before


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_contact_sheet(tmp_path: Path, suffix: str) -> None:
    ran(DRAW, "--output", tmp_path / "set", "--images", 1, "--contact-sheet", tmp_path / f"sheet.{suffix}")
    assert cv2.imread(str(tmp_path / f"sheet.{suffix}")).shape == (3 * IMAGE_HEIGHT // 2, 4 * IMAGE_WIDTH // 2, 3)


# Readers


@judge.needs_xtcocotools
def test_mmpose_reads_every_person(people: Path, annotations: list[dict[str, Any]], keypoints: np.ndarray) -> None:
    dataset = judge.coco_dataset(people)
    assert len(dataset) == len(annotations)
    read = np.concatenate([dataset.get_data_info(index)["keypoints"] for index in range(len(dataset))])
    np.testing.assert_allclose(read, keypoints[..., :2], atol=1e-3)
    description = judge.coco_description()
    assert [description["keypoint_id2name"][index] for index in range(17)] == list(KEYPOINT_NAMES)
    assert dataset[0]["inputs"].shape == (3, 256, 192)


# Labels


def test_visibility(keypoints: np.ndarray, annotations: list[dict[str, Any]]) -> None:
    x, y, v = keypoints[..., 0], keypoints[..., 1], keypoints[..., 2]
    assert set(np.unique(v)) == {0, 1, 2}
    assert (keypoints[v == 0] == 0).all()
    assert ((x >= 0) & (x <= IMAGE_WIDTH - 1) & (y >= 0) & (y <= IMAGE_HEIGHT - 1)).all()
    assert [annotation["num_keypoints"] for annotation in annotations] == (v > 0).sum(axis=1).tolist()
    assert ((v == 2).sum(axis=1) >= 5).all()


def test_visible_keypoints_lie_on_the_person(ground_truth: COCO, keypoints: np.ndarray,
                                             annotations: list[dict[str, Any]]) -> None:
    on_person = []
    for person, annotation in zip(keypoints, annotations, strict=True):
        seen = np.rint(person[person[:, 2] == 2]).astype(int)
        # A polygon runs through the centres of the outermost pixels, so its mask lacks half of them.
        mask = cv2.dilate(ground_truth.annToMask(annotation), np.ones((3, 3), np.uint8))
        on_person += mask[seen[:, 1], seen[:, 0]].tolist()
    assert np.mean(on_person) > 0.99


def test_boxes_areas_and_segmentations_match(ground_truth: COCO, annotations: list[dict[str, Any]]) -> None:
    differences = []
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= IMAGE_WIDTH and 0 <= y < y + height <= IMAGE_HEIGHT
        polygons = [np.reshape(polygon, (-1, 2)) for polygon in annotation["segmentation"]]
        outline = np.concatenate(polygons)
        assert (outline >= (x, y)).all() and (outline <= (x + width - 1, y + height - 1)).all()
        # Specks of one or two pixels have no polygon.
        np.testing.assert_allclose([*outline.min(axis=0), *outline.max(axis=0)],
                                   [x, y, x + width - 1, y + height - 1], atol=5)
        length = sum(np.hypot(*(b - a)) for polygon in polygons for a, b in pairwise([*polygon, polygon[0]]))
        # The polygons lack half a pixel along the outline.
        filled = ground_truth.annToMask(annotation).sum() + 0.5 * length
        differences.append(abs(filled - annotation["area"]) / annotation["area"])
    # Polygons include the gaps between limbs, the area does not.
    assert np.median(differences) < 0.02 and max(differences) < 0.3


# Errors


@pytest.mark.parametrize(("script", "arguments", "parts"), [
    (DRAW, "--images 1", ["the following arguments are required: --output"]),
    (DRAW, "--output new --images 0", ["--images: 0 is not above zero"]),
    (DRAW, "--output new --images many", ["--images: invalid positive value: 'many'"]),
    (DRAW, "--output new --seed -1", ["--seed: -1 is below zero"]),
    (DRAW, "--output new --contact-sheet sheet.pdf", ["--contact-sheet sheet.pdf: expected a file name that ends in"]),
    (DRAW, "--output mine --images 1", ["mine: ", "notes.txt"]),
    (DRAW, "--output mine/notes.txt", ["mine/notes.txt"]),
    (DRAW, "--output mine/notes.txt/set", ["mine/notes.txt"]),
    (DRAW, "--output set --images 2 --seed 1", ["set: ", "another data set"]),
    (DRAW, "--output set --images 3", ["set: ", "another data set"]),
    (DRAW, "--output set --images 1", ["set: ", "000000000002.jpg"]),
    (TRAIN, "--output new --round 10 --batch 4", ["--round 10 is not a multiple of --batch 4"]),
    (TRAIN, "--output new --ema nan", ["--ema: nan is not a number from 0 to 1"]),
    (TRAIN, "--output state --device cpu", ["state/state.pth: "]),
])
def test_refuses(tmp_path: Path, script: str, arguments: str, parts: list[str]) -> None:
    """In one line, with exit code 2, and nothing is changed."""
    ran(DRAW, "--output", tmp_path / "set", "--images", 2)
    for name, content in (("mine/notes.txt", b"mine"), ("state/state.pth", b"no state")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    before = digests(tmp_path)
    line = refused(script, *arguments.split(), cwd=tmp_path)
    assert all(part in line for part in parts), line
    assert digests(tmp_path) == before


# Training


@pytest.mark.parametrize("degrees", [0.0, -23.5, 30.0])
def test_rotated_warp_matrix_equals_mmpose(degrees: float) -> None:
    center, scale = np.array([211.7, 93.2], np.float32), np.array([61.3, 81.73], np.float32)
    expected = judge.mmpose("structures.bbox").get_warp_matrix(center, scale, degrees, INPUT_SIZE)
    np.testing.assert_array_equal(rotated_warp_matrix(center, scale, degrees), expected)


def test_cell_loss_falls_when_the_map_peaks_at_the_keypoint() -> None:
    keypoints = torch.zeros(1, 17, 3)
    keypoints[0, 0] = torch.tensor([96 + 16.0, 128 + 16.0, 2])  # the middle of column 3 and row 4
    keypoints[0, 1] = torch.tensor([-20.0, 128, 2])  # outside: is ignored
    losses = []
    for column in (2, 3):
        maps = torch.zeros(1, 17, 8, 6)
        maps[0, 0, 4, column] = 20
        losses.append(float(cell_loss(maps, keypoints)))
    assert losses[0] > 10 and losses[1] < 1e-3


@pytest.fixture
def threads() -> Any:
    """The training sets the number of torch threads; restore it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_training_is_reproducible_and_resumable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, threads: None,
                                                  capsys: pytest.CaptureFixture) -> None:
    def checkpoint(name: str) -> Path:
        monkeypatch.setattr("training.loop.VALIDATION_IMAGES", 2)
        monkeypatch.setattr(sys, "argv", [TRAIN, "--output", str(tmp_path / name), "--crops", "16", "--round", "8",
                                          "--batch", "4", "--device", "cpu"])
        assert train.main() == 0
        (path,) = (tmp_path / name).glob("rtmpose-t_drawn-people-256x192-*.pth")
        return path

    whole, again = checkpoint("whole"), checkpoint("again")
    assert whole.name == again.name
    assert "16 crops: AP 0." in capsys.readouterr().out

    save = Learner.save

    def save_and_stop(learner: Learner, path: Path) -> None:
        save(learner, path)
        raise InterruptedError

    monkeypatch.setattr(Learner, "save", save_and_stop)
    with pytest.raises(InterruptedError):
        checkpoint("resumed")
    monkeypatch.setattr(Learner, "save", save)
    resumed = checkpoint("resumed")
    assert "Resuming after 8 crops" in capsys.readouterr().out
    assert resumed.read_bytes() == whole.read_bytes()

    assert whole.stem.endswith(hashlib.sha256(whole.read_bytes()).hexdigest()[:8])
    assert whole.stat().st_size < 8e6
    assert load_network(train.CONFIG, whole).skeleton.name == "coco"
    # A finished training only writes its checkpoint again.
    assert checkpoint("whole").name == whole.name
