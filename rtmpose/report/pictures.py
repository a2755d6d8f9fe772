"""Pictures of people: predictions on ground truth, an engine on its reference, and one photograph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.data.coco import Image, PersonSet
from rtmpose.data.images import read_image
from rtmpose.data.postprocess import COCO_KEYPOINTS, KEYPOINT_SCORE_THRESHOLD
from rtmpose.engines.record import Record
from rtmpose.errors import KitError
from rtmpose.evaluate.oks import oks_exponents
from rtmpose.evaluate.predictions import Predictions
from rtmpose.files import make_folder
from rtmpose.report import drawing
from rtmpose.report.drawing import BOLD, COLUMN, DASHED, FAINT, SOLID, WIDTH
from rtmpose.report.text import photograph_line

_NAMES = [name.replace("_", " ") for name in COCO_KEYPOINTS]


def write_pictures(folder: Path, number: int, predictions: Predictions, persons: PersonSet) -> Path:
    """Draw the ``number`` annotated persons with the lowest OKS and as many with the highest, with their prediction.

    Writes ``worst_1.jpg``, ``best_1.jpg`` and so on, fewer if there are fewer persons, and ``overview.jpg`` with the
    first 20 of each, whose path is returned. Raises KitError if no image has ground truth or the folder can't be
    written.
    """
    ranked = rank_persons(predictions, persons)
    make_folder(folder)
    styles = {"prediction": SOLID, "ground truth": DASHED, "other predictions": FAINT, "worst joint": None}
    images, cards = {image.id: image for image in persons.images}, []
    for rank in range(min(number, (len(ranked) + 1) // 2)):
        for kind, (oks, rows, annotation) in (("worst", ranked[rank]), ("best", ranked[-1 - rank])):
            card = _draw_annotated(f"{kind} {rank + 1}: OKS {oks:.3f}", images[annotation["image_id"]], annotation,
                                   predictions, rows)
            drawing.write_sheet(folder / f"{kind}_{rank + 1}.jpg", [card], styles)
            cards += [card] * (rank < 20)
    return drawing.write_sheet(folder / "overview.jpg", cards, styles)


def write_crops(folder: Path, worst: Sequence[tuple[int, int, float]], predictions: Predictions, reference: Predictions,
                persons: PersonSet) -> Path:
    """Draw an engine's keypoints and those of the reference engine, with an arrow at the joint that moved furthest.

    Both predictions are of the same persons, of whom ``worst`` has row, joint and its distance in pixels of the crop.
    Returns the path of the picture. Raises KitError if it can't be written.
    """
    images, cards = {image.id: image for image in persons.images}, []
    for rank, (row, joint, distance) in enumerate(worst, 1):
        person, caption = predictions.persons[row], f"{rank}: {_NAMES[joint]}, {distance:,.1f} px of the crop"
        cards.append(_draw_person(images[person.image_id], person.bbox.reshape(2, 2), _pose(reference, row),
                                  predictions, [row], joint, caption))
    styles = {"this engine": SOLID, "reference": DASHED, "moved furthest": None}
    return drawing.write_sheet(make_folder(folder) / "overview.jpg", cards, styles)


def write_photograph(path: Path, pixels: np.ndarray, predictions: Predictions, record: Record) -> Path:
    """Draw the skeleton of the only person of ``predictions``, with the keypoints of an engine's record, on an image,
    uint8 (H, W, 3), BGR. Returns the path. Raises KitError if it can't be written."""
    corners = predictions.persons[0].bbox.reshape(2, 2)
    width, height = corners[1] - corners[0]
    canvas, matrix = drawing.crop_large(pixels, corners, (WIDTH, round(WIDTH * np.clip(height / width, 0.2, 1))))
    skeleton = drawing.make_skeleton(record.keypoints or [""] * record.num_keypoints)
    drawing.draw_pose(canvas, drawing.place(_pose(predictions, 0), matrix), BOLD, skeleton)
    card = drawing.make_card(canvas, [photograph_line(predictions, record)])
    return drawing.write_sheet(path, [card], {})


def find_ground_truth(persons: PersonSet) -> list[dict[str, Any]]:
    """The annotated persons to draw. Raises KitError if there are none in the images of the set."""
    images = {image.id for image in persons.images}
    found = [annotation for annotation in persons.annotations.annotations
             if annotation["image_id"] in images and not annotation["iscrowd"]
             and max(annotation["keypoints"][2::3]) > 0]
    if not found:
        raise KitError(f"{persons.annotations.path}: has no keypoints for these {len(images)} images, expected ground "
                       "truth to draw; leave out --visualize, or raise --limit")
    return found


def rank_persons(predictions: Predictions, persons: PersonSet) -> list[tuple[float, list[int], dict[str, Any]]]:
    """The annotated persons, lowest OKS first: the OKS of the closest prediction, the rows of all predictions for the
    image, closest first, and the annotation. Raises KitError if there are none."""
    image_ids, ranked = np.array([person.image_id for person in predictions.persons]), []
    for annotation in find_ground_truth(persons):
        found, expected = np.flatnonzero(image_ids == annotation["image_id"]), _expected(annotation)
        dx, dy = np.moveaxis(predictions.keypoints[found] - expected[:, :2], 2, 0)
        oks = np.exp(oks_exponents(dx, dy, annotation["area"])[:, expected[:, 2] > 0]).mean(axis=1)
        ranked.append((float(oks.max()), found[np.argsort(-oks, kind="stable")].tolist(), annotation))
    return sorted(ranked, key=lambda person: person[0])


def _draw_annotated(title: str, image: Image, annotation: dict[str, Any], predictions: Predictions, rows: list[int]
                    ) -> np.ndarray:
    """The card of an annotated person, with the predictions for its image, closest first.

    The arrow is at the joint that lowers OKS most.
    """
    expected, (x, y, width, height) = _expected(annotation), annotation["bbox"]
    labelled = expected[:, 2] > 0
    points = np.concatenate([expected[labelled, :2], [(x, y), (x + width, y + height)]])
    dx, dy = (predictions.keypoints[rows[0]] - expected[:, :2]).T
    worst = int(np.where(labelled, oks_exponents(dx, dy, annotation["area"]), 1).argmin())
    return _draw_person(image, points, expected, predictions, rows, worst, title,
                        f"{_NAMES[worst]}, {np.hypot(dx, dy)[worst]:,.1f} px",
                        f"area {annotation['area']:,.0f}, {labelled.sum()} of {len(expected)} labelled")


def _draw_person(image: Image, points: np.ndarray, expected: np.ndarray, predictions: Predictions, rows: Sequence[int],
                 joint: int, *lines: str) -> np.ndarray:
    """A card of what is around points of an image: the first row's pose on the expected one, and an arrow at a joint.

    The other rows are below them, the fainter, the lower the score of their box, and without joints of low score.
    """
    canvas, matrix = drawing.crop_large(read_image(image), points, (COLUMN, COLUMN))
    for row in rows[1:]:
        pose = drawing.place(_pose(predictions, row), matrix)
        opacity = float(np.clip(predictions.persons[row].score, 0, 0.7))
        drawing.draw_pose(canvas, pose * (pose[:, 2:] == 2), FAINT, opacity=opacity)
    start, found = (drawing.place(pose, matrix) for pose in (expected, _pose(predictions, rows[0])))
    drawing.draw_pose(canvas, start, DASHED)
    drawing.draw_pose(canvas, found)
    drawing.draw_arrow(canvas, start[joint, :2], found[joint, :2])
    return drawing.make_card(canvas, [*lines, image.path.name])


def _expected(annotation: dict[str, Any]) -> np.ndarray:
    """The pose of an annotated person; COCO's visibility is 1 for a hidden joint and 0 for one that isn't labelled."""
    return np.array(annotation["keypoints"], np.float64).reshape(-1, 3)


def _pose(predictions: Predictions, row: int) -> np.ndarray:
    """The pose to draw: joints of low score are hollow; those without a positive one lie nowhere."""
    scores = predictions.scores[row]
    return np.column_stack([predictions.keypoints[row], np.where(scores > KEYPOINT_SCORE_THRESHOLD, 2, scores > 0)])
