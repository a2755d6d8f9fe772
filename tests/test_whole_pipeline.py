"""A random network through export.py, build_engine.py and inference.py, against mmpose's own pipeline in PyTorch.

Both compute in float32, in another order, so logits differ by about 1e-5 of their size. Where two bins of a random
network are as good as each other, either may be the maximum: so nearly all keypoints must be equal, and each of the
others must lie in a bin that is a maximum for mmpose within that rounding.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import judge
import numpy as np
import pytest
from helpers import run_script

from rtmpose.evaluate.coco_eval import METRICS

pytestmark = judge.needs_xtcocotools

RUNS = {
    "drawn": ("drawn", False, False),
    "drawn, flip test": ("drawn", True, False),
    "coco-mini": ("coco_mini", False, False),
    "coco-mini, flip test": ("coco_mini", True, False),
    "coco-four, detections": ("coco_four", False, True),
}


@dataclass(frozen=True)
class Run:
    """One run of inference.py beside mmpose's: the files, mmpose's predictions by person in the order of the file,
    the logits (over x and over y) that they were decoded from, and what its CocoMetric wrote."""

    output: Path
    flip_test: bool
    samples: dict[int, Any]
    logits: dict[int, tuple[np.ndarray, np.ndarray]]
    results: list[dict[str, Any]]

    @property
    def keypoints(self) -> list[dict[str, Any]]:
        """keypoints.json."""
        return json.loads((self.output / "keypoints.json").read_text())

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        return json.loads((self.output / "summary.json").read_text())


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, model_files: dict[str, Path], engine_file: Path,
        tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every run."""
    name, flip_test, detected = RUNS[request.param]
    folder, output = request.getfixturevalue(name), tmp_path_factory.mktemp("output")
    detections = folder / "person_detections.json" if detected else None
    options = [*(["--flip_test"] if flip_test else []), *(["--detections", detections] if detected else [])]
    done = run_script("inference.py", "--engine", engine_file, "--batchsize", 4, "--input_name", "input",
                      "--datasets", folder, "--output", output, *options)
    assert done.returncode == 0, done.stderr

    dataset = judge.coco_dataset(folder, detections=detections)
    samples, logits = predict(model_files, dataset, flip_test)
    _, results = judge.evaluate(dataset, samples, output)
    order = np.argsort([position(dataset, sample.id, detected) for sample in samples])
    return Run(output, flip_test, {samples[i].id: samples[i] for i in order},
               {samples[i].id: (logits[0][i], logits[1][i]) for i in order}, results)


def position(dataset: Any, identity: int, detected: bool) -> int:
    """Where a person stands in its file."""
    annotations = json.loads(Path(dataset.ann_file).read_text())["annotations"]
    return identity if detected else [annotation["id"] for annotation in annotations].index(identity)


def predict(model_files: dict[str, Path], dataset: Any, flip_test: bool) -> tuple[list[Any], list[np.ndarray]]:
    """mmpose's ``test_step`` on all persons, eight at a time: data samples with predictions, and the logits."""
    import torch

    estimator = judge.estimator(model_files["config"], model_files["checkpoint"])
    estimator.test_cfg["flip_test"] = flip_test
    decode, decoded = estimator.head.decode, []

    def recording_decode(logits: tuple[Any, Any]) -> list[Any]:
        decoded.append([axis.numpy() for axis in logits])
        return decode(logits)

    estimator.head.decode = recording_decode
    items, samples = list(dataset), []
    with torch.no_grad():
        for start in range(0, len(items), 8):
            batch = items[start:start + 8]
            samples += estimator.test_step({key: [item[key] for item in batch] for key in batch[0]})
    return samples, [np.concatenate(axis) for axis in zip(*decoded, strict=True)]


def pair(run: Run) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The kit's result and mmpose's of each person that both kept, in the order of the file."""
    kept = {result["id"]: result for result in run.results}
    return list(zip(run.keypoints, [kept[identity] for identity in run.samples if identity in kept], strict=True))


def test_each_person_once_in_order(run: Run) -> None:
    pairs = pair(run)
    assert [(ours["image_id"], ours["bbox"]) for ours, _ in pairs] == [
        (theirs["image_id"], theirs["bbox"]) for _, theirs in pairs]
    assert {ours["category_id"] for ours, _ in pairs} == {1}
    assert run.summary["persons"] == len(run.samples)
    if run.summary["boxes"] == "ground-truth boxes":
        assert len(pairs) == len(run.samples)


def test_keypoints(run: Run) -> None:
    bins, equal = [], []
    for ours, theirs in pair(run):
        sample, logits = run.samples[theirs["id"]], run.logits[theirs["id"]]
        keypoints, expected = (np.reshape(result["keypoints"], (17, 3))[:, :2] for result in (ours, theirs))
        equal += (np.abs(keypoints - expected).max(axis=1) < 1e-3).tolist()
        places = (keypoints - sample.input_center + 0.5 * sample.input_scale) / sample.input_scale
        bins += [shortfall(places[:, axis], logits[axis]) for axis in (0, 1)]
    assert np.mean(equal) >= 0.995
    assert np.max(bins) < 1e-4


def shortfall(places: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """How far the logits at places (17,) from 0 to 1 lie below the largest of each row, relative to that one."""
    bins = np.rint(places * logits.shape[1]).astype(int)
    largest = logits.max(axis=1)
    return (largest - logits[np.arange(len(bins)), bins]) / np.abs(largest)


def test_persons_differ(run: Run) -> None:
    """The random network looks at its input: else a wrong crop would change nothing."""
    bins = np.stack([logits[0].argmax(axis=1) for logits in run.logits.values()])
    assert np.mean([len(np.unique(column)) for column in bins.T]) > 5


def test_scores(run: Run) -> None:
    for ours, theirs in pair(run):
        assert ours["keypoints"][2::3] == pytest.approx(theirs["keypoints"][2::3], rel=1e-4)
        assert ours["score"] == pytest.approx(theirs["score"], rel=1e-4)


def test_summary(run: Run) -> None:
    summary = run.summary
    assert {*METRICS, "persons", "fps", "latency_ms", "batch", "precision", "backend", "engine", "machine",
            "versions"} <= set(summary)
    assert set(summary["latency_ms"]) == {"mean", "median", "p90", "p99"}
    assert min(summary["fps"], *summary["latency_ms"].values()) > 0
    assert (summary["batch"], summary["precision"], summary["backend"]) == (4, "fp32", "onnxruntime")
    assert summary["flip_test"] == run.flip_test
    assert all(-1 <= summary[name] <= 1 for name in METRICS)
    assert {"sha256", "onnx_sha256", "source", "command"} <= set(summary["engine"])
    assert summary["machine"] and summary["versions"]
