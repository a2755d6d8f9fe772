"""Pictures of people: predictions on ground truth, an engine on its reference, and one photograph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtmpose.data.agreement import crop_distances
from rtmpose.data.coco import Image, PersonSet
from rtmpose.data.images import read_image
from rtmpose.data.postprocess import COCO_KEYPOINTS, KEYPOINT_SCORE_THRESHOLD
from rtmpose.engines.record import Record
from rtmpose.errors import KitError
from rtmpose.evaluate.oks import oks_exponents
from rtmpose.evaluate.predictions import Predictions
from rtmpose.files import make_folder
from rtmpose.report.drawing import (
    BOLD,
    COLUMN,
    DASHED,
    FAINT,
    MARGIN,
    SHEET,
    SIDES,
    SOLID,
    Key,
    cut,
    draw_arrow,
    draw_pose,
    make_card,
    make_sheet,
    make_skeleton,
    write_jpeg,
)
from rtmpose.report.text import photograph_line

_PANEL = COLUMN, COLUMN
_PADDING = 1.15  # factor by which a person's box grows before it is cut out
_MOST_ROWS = 20  # of an overview


class Comparison(NamedTuple):
    """An annotated person, the predictions for the image, and which of them is closest."""

    image: Image
    annotation: dict[str, Any]
    predictions: Predictions
    best: int  # row of the prediction with the highest OKS
    oks: float
    worst: int  # joint that lowers it most
    distance: float  # of that joint, in pixels of the image


def ground_truth_oks(keypoints: np.ndarray, annotation: dict[str, Any]) -> np.ndarray:
    """Object keypoint similarity of N predictions with an annotated person, float64 (N,), from 0 to 1.

    Keypoints are float32 (N, 17, 2). The same as pycocotools' ``computeOks``.
    """
    return np.exp(-_errors(keypoints, annotation)).mean(axis=1)


def write_pictures(folder: Path, number: int, predictions: Predictions, persons: PersonSet) -> Path:
    """Draw the ``number`` annotated persons with the lowest OKS and as many with the highest, with their prediction.

    Writes ``worst_1.jpg``, ``best_1.jpg`` and so on, fewer if there are fewer persons, and ``overview.jpg`` with the
    first 20 of each, whose path is returned. Raises KitError if no image has ground truth or the folder can't be
    written.
    """
    ranked = _compare(predictions, persons)
    number = min(number, (len(ranked) + 1) // 2)
    make_folder(folder)
    keys = [Key("prediction"), Key("ground truth", DASHED), Key("other predictions", FAINT), Key("worst joint", None),
            *SIDES, Key("hidden or low score", visibility=1)]
    cards = []
    for rank, pair in enumerate(zip(ranked[:number], ranked[::-1][:number], strict=True), 1):
        for kind, comparison in zip(("worst", "best"), pair, strict=True):
            card = _draw_comparison(f"{kind} {rank}", comparison)
            write_jpeg(folder / f"{kind}_{rank}.jpg", make_sheet([card], keys))
            cards += [card] * (rank <= _MOST_ROWS)
    return write_jpeg(folder / "overview.jpg", make_sheet(cards, keys))


def write_crops(folder: Path, rows: Sequence[int], predictions: Predictions, reference: Predictions,
                persons: PersonSet, input_size: tuple[int, int]) -> Path:
    """Draw an engine's keypoints and those of the reference engine, with an arrow at the joint that moved furthest.

    Both predictions are of the same persons, ``rows`` selects some. The input size is width and height of a crop.
    Returns the path of the picture. Raises KitError if it can't be written.
    """
    images = {image.id: image for image in persons.images}
    distances = crop_distances(predictions.keypoints, reference.keypoints, reference.scales, input_size)
    lengths = np.where(reference.scores > KEYPOINT_SCORE_THRESHOLD, np.hypot(*np.moveaxis(distances, 2, 0)), 0)
    cards = []
    for rank, row in enumerate(rows, 1):
        image, joint = images[predictions.persons[row].image_id], int(lengths[row].argmax())
        view = cut(read_image(image), _grow(predictions.persons[row].bbox), _PANEL)
        for found, style in ((reference, DASHED), (predictions, SOLID)):
            draw_pose(view, found.keypoints[row], _visibility(found.scores[row]), style=style)
        draw_arrow(view, reference.keypoints[row, joint], predictions.keypoints[row, joint])
        cards.append(make_card(view, [f"{rank}: {_name(joint)}, {_pixels(lengths[row, joint])} of the crop",
                                      image.path.name], _PANEL))
    keys = [Key("this engine"), Key("reference", DASHED), Key("moved furthest", None), *SIDES,
            Key("low score", visibility=1)]
    return write_jpeg(make_folder(folder) / "overview.jpg", make_sheet(cards, keys))


def write_photograph(path: Path, pixels: np.ndarray, predictions: Predictions, record: Record) -> Path:
    """Draw the skeleton of the only person of ``predictions``, with the keypoints of an engine's record, on an image,
    uint8 (H, W, 3), BGR. Returns the path. Raises KitError if it can't be written."""
    side = SHEET - 2 * MARGIN
    view = cut(pixels, _grow(predictions.persons[0].bbox), (side, side))
    draw_pose(view, predictions.keypoints[0], _visibility(predictions.scores[0]),
              make_skeleton(record.keypoints, record.num_keypoints), BOLD)
    card = make_card(view, [photograph_line(predictions, record)], (side, view.canvas.shape[0]))
    return write_jpeg(path, make_sheet([card], [*SIDES, Key("low score", visibility=1)]))


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


def _compare(predictions: Predictions, persons: PersonSet) -> list[Comparison]:
    """The annotated persons, lowest OKS first. Raises KitError if there are none."""
    rows: dict[int, list[int]] = {}
    for row, person in enumerate(predictions.persons):
        rows.setdefault(person.image_id, []).append(row)
    ground_truth, found = find_ground_truth(persons), []
    for image in persons.images:
        for annotation in ground_truth.get(image.id, ()):
            taken = predictions.take(rows[image.id])
            similarities, errors = ground_truth_oks(taken.keypoints, annotation), _errors(taken.keypoints, annotation)
            best = int(similarities.argmax())
            labelled = np.flatnonzero(np.array(annotation["keypoints"][2::3]) > 0)
            worst = int(labelled[errors[best].argmax()])
            moved = taken.keypoints[best, worst] - np.array(annotation["keypoints"][3 * worst:3 * worst + 2])
            found.append(Comparison(image, annotation, taken, best, float(similarities[best]), worst,
                                    float(np.hypot(*moved))))
    return sorted(found, key=lambda comparison: comparison.oks)


def _errors(keypoints: np.ndarray, annotation: dict[str, Any]) -> np.ndarray:
    """What OKS takes as the exponent of each labelled keypoint, float64 (N, labelled)."""
    expected = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
    dx, dy = np.moveaxis(keypoints - expected[:, :2], 2, 0)
    errors = -oks_exponents(dx, dy, annotation["area"])
    return np.nan_to_num(errors, nan=np.inf, posinf=np.inf)[:, expected[:, 2] > 0]


def _draw_comparison(name: str, comparison: Comparison) -> np.ndarray:
    """A card: the person with ground truth and prediction; other predictions are the fainter, the lower their box's
    score."""
    image, annotation, found, best, oks, worst, distance = comparison
    expected = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
    labelled = expected[:, 2] > 0
    x, y, width, height = annotation["bbox"]
    points = np.clip(expected[labelled, :2], 0, (image.width, image.height))
    corners = np.array([points.min(axis=0), points.max(axis=0), (x, y), (x + width, y + height)])
    view = cut(read_image(image), _grow(np.concatenate([corners.min(axis=0), corners.max(axis=0)])), _PANEL)
    for row, keypoints in enumerate(found.keypoints):
        if row != best:
            visibility = 2 * (found.scores[row] > KEYPOINT_SCORE_THRESHOLD)
            opacity = float(np.clip(found.persons[row].score, 0, 0.7))
            draw_pose(view, keypoints, visibility, style=FAINT, opacity=opacity)
    draw_pose(view, expected[:, :2], np.maximum(expected[:, 2], 0), style=DASHED)
    draw_pose(view, found.keypoints[best], _visibility(found.scores[best]))
    draw_arrow(view, expected[worst, :2], found.keypoints[best, worst])
    return make_card(view, [f"{name}: OKS {oks:.3f}", f"{_name(worst)}, {_pixels(distance)}",
                            f"area {annotation['area']:,.0f}, {labelled.sum()} of {len(expected)} labelled",
                            image.path.name], _PANEL)


def _visibility(scores: np.ndarray) -> np.ndarray:
    """Joints of low score hollow; those without a positive one lie nowhere."""
    return np.where(scores > KEYPOINT_SCORE_THRESHOLD, 2, scores > 0)


def _grow(box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = box.astype(np.float64)
    dx, dy = (_PADDING - 1) / 2 * (x2 - x1), (_PADDING - 1) / 2 * (y2 - y1)
    return np.array([x1 - dx, y1 - dy, x2 + dx, y2 + dy])


def _name(joint: int) -> str:
    return COCO_KEYPOINTS[joint].replace("_", " ")


def _pixels(distance: float) -> str:
    return f"{distance:.1f} px" if distance < 10 else f"{distance:,.0f} px"
