"""Keypoints drawn on people: predictions beside ground truth, and two engines side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rtmpose.data import preprocess
from rtmpose.data.dataset import Image, Person, PersonSet
from rtmpose.data.loader import read_image
from rtmpose.data.postprocess import KEYPOINT_SCORE_THRESHOLD
from rtmpose.evaluate.coco_eval import SIGMAS
from rtmpose.evaluate.predictions import Predictions
from rtmpose.files import atomic_write, make_folder

_LIMBS = ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
          (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6))
# BGR. COCO's odd keypoints are the person's left, the even ones the right.
_LEFT, _RIGHT, _MIDDLE = (80, 175, 255), (255, 140, 60), (90, 220, 90)
_GROUND_TRUTH, _BOX, _TEXT = (255, 0, 255), (200, 200, 200), (255, 255, 255)
_CAPTION = 18


def ground_truth_oks(keypoints: np.ndarray, annotation: dict[str, Any]) -> float:
    """Object keypoint similarity of an annotated person with the closest prediction, 0 to 1, as COCO defines it
    (pycocotools ``computeOks``); 0 where there is no prediction.

    Args:
        keypoints: float32 (N, 17, 2), predictions in the annotation's image.
        annotation: the person's.
    """
    expected = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
    labelled = expected[:, 2] > 0
    variances = (2 * SIGMAS.astype(np.float64)) ** 2
    squared = ((keypoints - expected[:, :2]) ** 2).sum(axis=2)
    similarities = np.exp(-squared / variances / (annotation["area"] + np.spacing(1)) / 2)[:, labelled].mean(axis=1)
    return float(similarities.max(initial=0.0))


def write_pictures(folder: Path, number: int, predictions: Predictions, persons: PersonSet) -> Path:
    """Draw the ``number`` images with the worst mean OKS and as many with the best, prediction beside ground truth.

    Args:
        folder: where to write ``worst_1.jpg``, ``best_1.jpg`` and so on, and ``overview.jpg`` with all of them.
        number: of images a kind; fewer where there are fewer.
        predictions, persons: of the run.

    Returns:
        The overview's path.

    Raises:
        KitError: the folder can't be made or written.
    """
    make_folder(folder)
    scenes = _scenes(predictions, persons)
    ranked = sorted(scenes, key=lambda scene: scene.oks)
    number = min(number, (len(ranked) + 1) // 2)
    chosen = {f"worst_{i + 1}": scene for i, scene in enumerate(ranked[:number])}
    chosen |= {f"best_{i + 1}": scene for i, scene in enumerate(reversed(ranked[len(ranked) - number:]))}
    pictures = {name: draw(name, scene) for name, scene in chosen.items()}
    for name, picture in pictures.items():
        _write(folder / f"{name}.jpg", picture)
    _write(folder / "overview.jpg", _tile(list(pictures.values())))
    return folder / "overview.jpg"


@dataclass(frozen=True)
class Scene:
    """An image with its predictions, its annotated persons and their mean OKS."""

    image: Image
    predictions: Predictions
    ground_truth: list[dict[str, Any]]
    oks: float


def _scenes(predictions: Predictions, persons: PersonSet) -> list[Scene]:
    """The images that have ground truth."""
    rows: dict[int, list[int]] = {}
    for row, person in enumerate(predictions.persons):
        rows.setdefault(person.image_id, []).append(row)
    ground_truth: dict[int, list[dict[str, Any]]] = {}
    for annotation in persons.annotations.annotations:
        if annotation.get("num_keypoints") and not annotation["iscrowd"]:
            ground_truth.setdefault(annotation["image_id"], []).append(annotation)
    scenes = []
    for image in persons.images:
        if image.id in ground_truth:
            found, expected = predictions.take(rows[image.id]), ground_truth[image.id]
            oks = float(np.mean([ground_truth_oks(found.keypoints, annotation) for annotation in expected]))
            scenes.append(Scene(image, found, expected, oks))
    return scenes


def draw(name: str, scene: Scene) -> np.ndarray:
    """One image twice: with its predictions, boxes and scores, and with the ground truth in another colour.

    Returns:
        uint8 (H + caption, 2 W, 3), BGR.
    """
    pixels = read_image(scene.image)
    left, right = pixels.copy(), pixels
    found = scene.predictions
    for person, keypoints, scores in zip(found.persons, found.keypoints, found.scores, strict=True):
        x1, y1, x2, y2 = map(int, person.bbox)
        cv2.rectangle(left, (x1, y1), (x2, y2), _BOX, 1)
        _skeleton(left, keypoints, scores > KEYPOINT_SCORE_THRESHOLD)
        _text(left, f"{scores.mean():.2f}", (x1 + 2, max(y1 - 4, 10)))
    for annotation in scene.ground_truth:
        expected = np.array(annotation["keypoints"], np.float32).reshape(-1, 3)
        _skeleton(right, expected[:, :2], expected[:, 2] > 0, _GROUND_TRUTH)
    picture = np.hstack([left, right])
    picture = cv2.copyMakeBorder(picture, _CAPTION, 0, 0, 0, cv2.BORDER_CONSTANT)
    _text(picture, f"{name.replace('_', ' ')}: {scene.image.path.name}, prediction, OKS {scene.oks:.3f}", (4, 13))
    _text(picture, "ground truth", (scene.image.width + 4, 13))
    return picture


def write_crops(folder: Path, rows: Sequence[int], predictions: Predictions, reference: Predictions,
                persons: PersonSet, input_size: tuple[int, int]) -> Path:
    """Draw the crops of some persons twice: with an engine's keypoints, and with the reference engine's.

    Args:
        folder: where to write ``overview.jpg``.
        rows: of ``predictions`` and ``reference``, which are of the same persons.
        persons: of the run.
        input_size: width and height of the crop in pixels.

    Returns:
        The path written.

    Raises:
        KitError: the folder can't be made or written.
    """
    make_folder(folder)
    images = {image.id: image for image in persons.images}
    pictures = []
    for row in rows:
        person = predictions.persons[row]
        panels = {"engine": predictions.keypoints[row], "reference": reference.keypoints[row]}
        shown = reference.scores[row] > KEYPOINT_SCORE_THRESHOLD
        pictures.append(_draw_crop(images[person.image_id], person, panels, shown, input_size))
    _write(folder / "overview.jpg", _tile(pictures, columns=5, width=2 * input_size[0]))
    return folder / "overview.jpg"


def _draw_crop(image: Image, person: Person, panels: dict[str, np.ndarray], shown: np.ndarray,
               input_size: tuple[int, int]) -> np.ndarray:
    center, scale = preprocess.box_to_center_scale(person.bbox, input_size)
    pixels = preprocess.crop_person(read_image(image), center, scale, input_size)
    drawn = []
    for name, keypoints in panels.items():
        panel = pixels.copy()
        _skeleton(panel, (keypoints - center + 0.5 * scale) / scale * np.array(input_size), shown)
        _text(panel, name, (4, 13))
        drawn.append(panel)
    return np.hstack(drawn)


def _skeleton(image: np.ndarray, keypoints: np.ndarray, shown: np.ndarray, colour: tuple[int, int, int] | None = None
              ) -> None:
    points = [tuple(map(int, np.rint(point))) for point in keypoints]
    for start, end in _LIMBS:
        if shown[start] and shown[end]:
            side = _MIDDLE if start % 2 != end % 2 or 0 in (start, end) else _LEFT if start % 2 else _RIGHT
            cv2.line(image, points[start], points[end], colour or side, 2, cv2.LINE_AA)
    for index, point in enumerate(points):
        if shown[index]:
            side = _MIDDLE if index == 0 else _LEFT if index % 2 else _RIGHT
            cv2.circle(image, point, 3, colour or side, -1, cv2.LINE_AA)


def _text(image: np.ndarray, text: str, corner: tuple[int, int]) -> None:
    cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.42, _TEXT, 1, cv2.LINE_AA)


def _tile(pictures: Sequence[np.ndarray], columns: int = 2, width: int = 960) -> np.ndarray:
    """Pictures under and beside each other, each ``width`` pixels wide, uint8 (H, columns * width, 3)."""
    scaled = [cv2.resize(p, (width, round(p.shape[0] * width / p.shape[1])), interpolation=cv2.INTER_AREA)
              for p in pictures]
    height = max(p.shape[0] for p in scaled)
    padded = [cv2.copyMakeBorder(p, 0, height - p.shape[0], 0, 0, cv2.BORDER_CONSTANT) for p in scaled]
    padded += [np.zeros_like(padded[0])] * (-len(padded) % columns)
    return np.vstack([np.hstack(padded[i:i + columns]) for i in range(0, len(padded), columns)])


def _write(path: Path, picture: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(cv2.imencode(".jpg", picture)[1])
