"""Keypoints drawn on people: predictions beside ground truth, and two engines side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from rtmpose.data import preprocess
from rtmpose.data.dataset import Image, PersonSet
from rtmpose.data.loader import read_image
from rtmpose.data.postprocess import KEYPOINT_SCORE_THRESHOLD
from rtmpose.errors import KitError
from rtmpose.evaluate.coco_eval import SIGMAS
from rtmpose.evaluate.predictions import Predictions
from rtmpose.files import make_folder, write_bytes

_LIMBS = ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
          (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6))
# BGR. COCO's odd keypoints are the person's left, the even ones the right, and 0 is the nose.
_LEFT, _RIGHT, _MIDDLE = (80, 175, 255), (255, 140, 60), (90, 220, 90)
_PREDICTION = [_MIDDLE, *[_LEFT, _RIGHT] * 8]
_GROUND_TRUTH = [(255, 0, 255)] * 17
_CAPTION = 18  # pixels above a picture
_FAR = 2**20  # pixels; OpenCV draws nothing beyond, and can't take every number
_LONGEST_SIDE = 65500  # of a JPEG, in pixels


class Scene(NamedTuple):
    """An image with predictions and annotated persons, and their mean OKS."""

    image: Image
    predictions: Predictions
    ground_truth: list[dict[str, Any]]
    oks: float


def ground_truth_oks(keypoints: np.ndarray, annotation: dict[str, Any]) -> float:
    """Object keypoint similarity of an annotated person with the closest of N predictions, float32 (N, 17, 2).

    From 0 to 1, as pycocotools' ``computeOks`` defines it; 0 without a prediction.
    """
    expected = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
    labelled = expected[:, 2] > 0
    variances = (2 * SIGMAS.astype(np.float64)) ** 2
    squared = ((keypoints - expected[:, :2]) ** 2).sum(axis=2)
    similarities = np.exp(-squared / variances / (annotation["area"] + np.spacing(1)) / 2)[:, labelled].mean(axis=1)
    return float(similarities.max(initial=0.0))


def write_pictures(folder: Path, number: int, predictions: Predictions, persons: PersonSet) -> Path:
    """Draw the ``number`` images with the worst mean OKS and as many with the best, prediction beside ground truth.

    Writes ``worst_1.jpg``, ``best_1.jpg`` and so on, fewer if there are fewer images, and ``overview.jpg`` with all of
    them, whose path is returned. Raises KitError if no image has ground truth or the folder can't be written.
    """
    scenes = _scenes(predictions, persons)
    number = min(number, (len(scenes) + 1) // 2)
    make_folder(folder)
    pictures = []
    for kind, ranked in (("worst", scenes[:number]), ("best", scenes[::-1][:number])):
        for rank, scene in enumerate(ranked, 1):
            pictures.append(_draw(f"{kind} {rank}", scene))
            _write(folder / f"{kind}_{rank}.jpg", pictures[-1])
    return _write(folder / "overview.jpg", _tile(pictures, columns=2, width=960))


def write_crops(folder: Path, rows: Sequence[int], predictions: Predictions, reference: Predictions,
                persons: PersonSet, input_size: tuple[int, int]) -> Path:
    """Draw the crops of some persons twice: with an engine's keypoints, and with the reference engine's.

    Both predictions are of the same persons, ``rows`` selects some. The input size is width and height of a crop.
    Returns the path of the picture. Raises KitError if it can't be written.
    """
    images = {image.id: image for image in persons.images}
    pictures = [_draw_crop(images[predictions.persons[row].image_id], row, predictions, reference, input_size)
                for row in rows]
    return _write(make_folder(folder) / "overview.jpg", _tile(pictures, columns=5, width=2 * input_size[0]))


def find_ground_truth(persons: PersonSet) -> dict[int, list[dict[str, Any]]]:
    """The annotations to draw, by image id. Raises KitError if there are none for the images of the set."""
    images = {image.id for image in persons.images}
    found: dict[int, list[dict[str, Any]]] = {}
    for annotation in persons.annotations.annotations:
        if (annotation["image_id"] in images and "keypoints" in annotation and annotation["num_keypoints"]
                and annotation["category_id"] == persons.annotations.person_id and not annotation["iscrowd"]
                and any(v > 0 for v in annotation["keypoints"][2::3])):
            found.setdefault(annotation["image_id"], []).append(annotation)
    if not found:
        raise KitError(f"{persons.annotations.path}: has no keypoints for these {len(persons.images)} images, expected "
                       "ground truth to draw; leave out --visualize, or raise --limit")
    return found


def _scenes(predictions: Predictions, persons: PersonSet) -> list[Scene]:
    """The images that have ground truth, worst first. Raises KitError if there are none."""
    rows: dict[int, list[int]] = {}
    for row, person in enumerate(predictions.persons):
        rows.setdefault(person.image_id, []).append(row)
    ground_truth, scenes = find_ground_truth(persons), []
    for image in persons.images:
        if expected := ground_truth.get(image.id):
            found = predictions.take(rows[image.id])
            oks = float(np.mean([ground_truth_oks(found.keypoints, annotation) for annotation in expected]))
            scenes.append(Scene(image, found, expected, oks))
    return sorted(scenes, key=lambda scene: scene.oks)


def _draw(name: str, scene: Scene) -> np.ndarray:
    """One image twice, uint8 (H + caption, 2 W, 3), BGR: with predictions, boxes and scores, and with ground truth."""
    right = read_image(scene.image)
    left, found = right.copy(), scene.predictions
    for person, keypoints, scores in zip(found.persons, found.keypoints, found.scores, strict=True):
        x1, y1, x2, y2 = _to_pixels(person.bbox)
        cv2.rectangle(left, (x1, y1), (x2, y2), (200, 200, 200), 1)
        _skeleton(left, keypoints, scores > KEYPOINT_SCORE_THRESHOLD, _PREDICTION)
        _text(left, f"{scores.mean():.2f}", (x1 + 2, max(y1 - 4, 10)))
    for annotation in scene.ground_truth:
        expected = np.array(annotation["keypoints"], np.float32).reshape(-1, 3)
        _skeleton(right, expected[:, :2], expected[:, 2] > 0, _GROUND_TRUTH)
    picture = cv2.copyMakeBorder(np.hstack([left, right]), _CAPTION, 0, 0, 0, cv2.BORDER_CONSTANT)
    _text(picture, f"{name}: {scene.image.path.name}, prediction, OKS {scene.oks:.3f}", (4, 13))
    _text(picture, "ground truth", (scene.image.width + 4, 13))
    return picture


def _draw_crop(image: Image, row: int, predictions: Predictions, reference: Predictions, input_size: tuple[int, int]
               ) -> np.ndarray:
    center, scale = preprocess.box_to_center_scale(predictions.persons[row].bbox, input_size)
    pixels = preprocess.crop_person(read_image(image), center, scale, input_size)
    shown = reference.scores[row] > KEYPOINT_SCORE_THRESHOLD
    panels = []
    for name, found in (("engine", predictions), ("reference", reference)):
        panels.append(pixels.copy())
        in_crop = (found.keypoints[row] - center + 0.5 * scale) / scale * np.array(input_size)
        _skeleton(panels[-1], in_crop, shown, _PREDICTION)
        _text(panels[-1], name, (4, 13))
    return np.hstack(panels)


def _skeleton(image: np.ndarray, keypoints: np.ndarray, shown: np.ndarray, colours: list[tuple[int, int, int]]) -> None:
    points = [_to_pixels(np.rint(point)) for point in keypoints]
    for start, end in _LIMBS:
        if shown[start] and shown[end]:
            colour = colours[start] if colours[start] == colours[end] else _MIDDLE
            cv2.line(image, points[start], points[end], colour, 2, cv2.LINE_AA)
    for point, colour, visible in zip(points, colours, shown, strict=True):
        if visible:
            cv2.circle(image, point, 3, colour, -1, cv2.LINE_AA)


def _to_pixels(numbers: np.ndarray) -> list[int]:
    return [int(number) for number in np.clip(numbers, -_FAR, _FAR)]


def _text(image: np.ndarray, text: str, corner: tuple[int, int]) -> None:
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA)


def _tile(pictures: Sequence[np.ndarray], columns: int, width: int) -> np.ndarray:
    """Pictures under and beside each other, uint8 (H, columns * width, 3): ``width`` pixels wide, or less if they would
    be higher than twice that."""
    scaled = [_fit(picture, width, 2 * width) for picture in pictures]
    height = max(p.shape[0] for p in scaled)
    padded = [cv2.copyMakeBorder(p, 0, height - p.shape[0], 0, width - p.shape[1], cv2.BORDER_CONSTANT) for p in scaled]
    padded += [np.zeros_like(padded[0])] * (-len(padded) % columns)
    return np.vstack([np.hstack(padded[i:i + columns]) for i in range(0, len(padded), columns)])


def _fit(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize a picture to a width, or to a height if it would be higher."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _write(path: Path, picture: np.ndarray) -> Path:
    if max(picture.shape) > _LONGEST_SIDE:
        picture = _fit(picture, _LONGEST_SIDE, _LONGEST_SIDE)
    write_bytes(path, cv2.imencode(".jpg", picture)[1].tobytes())
    return path
