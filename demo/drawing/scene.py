"""Place people in a picture, paint them, and annotate what is visible of each.

Parts are painted from far to near into the picture and, with the same polygons, into an id map. Masks, boxes, areas and
the visibility of keypoints are read from that map, so they match the picture.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from drawing.body import KEYPOINT_NAMES, Body, Pose, build_skeleton, sample_body, sample_pose
from drawing.camera import IMAGE_HEIGHT, IMAGE_WIDTH, View, projection, sample_view
from drawing.dress import OBJECT, PART_NAMES, Figure, make_figure
from drawing.outfit import sample_outfit
from drawing.shapes import fill
from drawing.surroundings import OBJECT_ID, light_and_blur, paint_background, paint_object

_IDS_PER_PERSON = 20
_MINIMUM_VISIBLE_SHARE = 0.5
_MINIMUM_VISIBLE_KEYPOINTS = 5


@dataclass
class DrawnPerson:
    """An annotated person."""

    keypoints: np.ndarray  # float64 (17, 3): x, y in pixels; v: 2 visible, 1 hidden, 0 (with x = y = 0) outside
    bbox: tuple[int, int, int, int]  # x, y, width, height of the visible part, in pixels
    area: int  # of the visible part, in pixels
    mask: np.ndarray  # uint8 (height, width) of the box, 255 where the person is visible


def _allowed_parts(name: str) -> tuple[int, ...]:
    """Indices of the parts that may cover a keypoint without hiding it."""
    side, _, joint = name.partition("_")
    around = {
        "shoulder": ("torso", "upper_arm"),
        "elbow": ("upper_arm", "forearm"),
        "wrist": ("forearm", "hand"),
        "hip": ("pelvis", "torso", "skirt", "thigh"),
        "knee": ("thigh", "shin", "skirt"),
        "ankle": ("shin", "foot"),
    }
    names = around.get(joint, ("head",))
    return tuple(PART_NAMES.index(n if n in PART_NAMES else f"{side}_{n}") for n in names)


_ALLOWED_PARTS = [_allowed_parts(name) for name in KEYPOINT_NAMES]


def _first_id(number: int) -> int:
    """Value of a person's first part in an id map."""
    return 1 + number * _IDS_PER_PERSON


def _paint_figure(image: np.ndarray, ids: np.ndarray, figure: Figure, number: int) -> None:
    """Paint a person into the picture (H x W x 3) and the id map (H x W)."""
    for part in figure.parts:
        value = OBJECT_ID if part.name == OBJECT else _first_id(number) + PART_NAMES.index(part.name)
        for polygon, colour in part.polygons:
            fill(image, polygon, colour, smooth=True)
            fill(ids, polygon, value, smooth=False)


def _person_mask(ids: np.ndarray, number: int) -> np.ndarray:
    """Pixels (H x W, uint8 0 or 255) of one person in an id map."""
    first = _first_id(number)
    return cv2.inRange(ids, first, first + len(PART_NAMES) - 1)


def _annotate(ids: np.ndarray, figure: Figure, number: int) -> DrawnPerson:
    """Annotate a painted person from the id map."""
    mask = _person_mask(ids, number)
    x, y, w, h = cv2.boundingRect(mask)
    keypoints = np.zeros((len(KEYPOINT_NAMES), 3), dtype=np.float64)
    first = _first_id(number)
    for index, (px, py) in enumerate(figure.keypoints):
        if not (0 <= px <= IMAGE_WIDTH - 1 and 0 <= py <= IMAGE_HEIGHT - 1):
            continue
        on_top = int(ids[round(py), round(px)]) - first
        seen = figure.faces_camera[index] and on_top in _ALLOWED_PARTS[index]
        keypoints[index] = round(px, 2), round(py, 2), 2 if seen else 1
    return DrawnPerson(keypoints, (x, y, w, h), cv2.countNonZero(mask), mask[y:y + h, x:x + w])


def _extent(pose: Pose, body: Body, view: View) -> np.ndarray:
    """Box x1 y1 x2 y2 around a body's joints, with a margin, in pixels."""
    joints = np.stack(list(build_skeleton(pose, body).joints.values())) @ projection(view).T
    margin = 0.05 * view.height
    return np.concatenate([joints.min(axis=0)[:2] - margin, joints.max(axis=0)[:2] + margin])


def _sample_place(rng: np.random.Generator, box: np.ndarray, horizon: int, slack: float) -> np.ndarray:
    """A random place (x, y) for a body; the box is relative to it. Feet are on the floor, at most ``slack`` outside."""
    low = np.array([-box[0] - slack, max(-box[1] - slack, horizon - box[3])])
    high = np.array([IMAGE_WIDTH - box[2] + slack, IMAGE_HEIGHT - box[3] + slack])
    return rng.uniform(np.minimum(low, high), np.maximum(low, high))


def _overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Share of a box that the other one covers."""
    size = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return float(np.clip(size, 0, None).prod() / (box[2:] - box[:2]).prod())


def _sample_figures(rng: np.random.Generator, horizon: int, difficulty: float) -> list[Figure]:
    """One to five people who overlap little, from far (small) to near (big)."""
    wanted = 1 + int(rng.integers(0, 1 + round(4 * difficulty)))
    boxes: list[np.ndarray] = []
    figures: list[Figure] = []
    for _ in range(3 * wanted):
        pose, body, outfit = sample_pose(rng, difficulty), sample_body(rng), sample_outfit(rng)
        view = sample_view(rng, difficulty)
        box = _extent(pose, body, view)
        slack = 0.12 * difficulty * view.height if rng.random() < 0.3 else 0.0
        place = _sample_place(rng, box, horizon, slack)
        box = box + np.tile(place, 2)
        if all(max(_overlap(box, other), _overlap(other, box)) <= 0.3 * difficulty for other in boxes):
            boxes.append(box)
            figures.append(make_figure(pose, body, outfit, replace(view, x=float(place[0]), y=float(place[1]))))
        if len(figures) == wanted:
            break
    return sorted(figures, key=lambda figure: figure.height)


def _paint_occluder(rng: np.random.Generator, image: np.ndarray, ids: np.ndarray, figure: Figure) -> None:
    """Paint an object in front of a part of a person."""
    (x1, y1), (x2, y2) = figure.keypoints.min(axis=0), figure.keypoints.max(axis=0)
    size = rng.uniform(0.1, 0.3) * figure.height
    paint_object(rng, image, ids, rng.uniform(x1, x2), rng.uniform(y1 + 0.2 * (y2 - y1), y2), size)


def _paint_scene(rng: np.random.Generator, background: np.ndarray, figures: list[Figure], difficulty: float
                 ) -> tuple[np.ndarray, list[DrawnPerson], list[float]]:
    """Paint people and occluders; return the picture, the annotations and each person's visible share."""
    image, ids = background.copy(), np.zeros((IMAGE_HEIGHT, IMAGE_WIDTH), dtype=np.uint8)
    full = []
    for number, figure in enumerate(figures):
        _paint_figure(image, ids, figure, number)
        full.append(cv2.countNonZero(_person_mask(ids, number)))
        if rng.random() < 0.3 * difficulty:
            _paint_occluder(rng, image, ids, figure)
    people = [_annotate(ids, figure, number) for number, figure in enumerate(figures)]
    shares = [person.area / max(area, 1) for person, area in zip(people, full, strict=True)]
    return image, people, shares


def draw_scene(rng: np.random.Generator, difficulty: float = 1.0) -> tuple[np.ndarray, list[DrawnPerson]]:
    """Draw a picture (480 x 640 x 3, uint8, BGR) and annotate its people.

    Difficulty runs from 0 (one big person, little clutter) to 1 (the data set: up to five people from 45 pixels on,
    with occlusion).
    """
    while True:
        horizon = int(rng.uniform(0.3, 0.75) * IMAGE_HEIGHT)
        background = paint_background(rng, horizon, 0.2 + 0.8 * difficulty)
        figures = _sample_figures(rng, horizon, difficulty)
        image, people, shares = _paint_scene(rng, background, figures, difficulty)
        seen = [int((person.keypoints[:, 2] == 2).sum()) for person in people]
        if min(shares) >= _MINIMUM_VISIBLE_SHARE and min(seen) >= _MINIMUM_VISIBLE_KEYPOINTS:
            return light_and_blur(rng, image, difficulty), people
