"""Pictures of estimates beside the truth: the images that went worst and best."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rtmpose import crop
from rtmpose.annotations import read_annotations
from rtmpose.coco import Image, PersonSet
from rtmpose.files import atomic_write, make_folder
from rtmpose.pipeline import read_image
from rtmpose.score import KEYPOINT_SCORE_THRESHOLD, SIGMAS, Estimate

_LIMBS = ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
          (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6))
# BGR. COCO's odd keypoints are the person's left, the even ones the right.
_LEFT, _RIGHT, _MIDDLE = (80, 175, 255), (255, 140, 60), (90, 220, 90)
_TRUTH, _BOX, _TEXT = (255, 0, 255), (200, 200, 200), (255, 255, 255)
_CAPTION = 18


def truth_oks(estimates: Sequence[Estimate], truth: dict[str, Any]) -> float:
    """Object keypoint similarity of an annotated person with the estimate that is closest to it, 0 to 1, as COCO
    defines it (pycocotools ``computeOks``); 0 where there is no estimate."""
    keypoints = np.array(truth["keypoints"], np.float64).reshape(-1, 3)
    labelled = keypoints[:, 2] > 0
    variances = (2 * SIGMAS.astype(np.float64)) ** 2
    squared = [((estimate.keypoints - keypoints[:, :2]) ** 2).sum(axis=1) for estimate in estimates]
    similarities = [np.exp(-distances / variances / (truth["area"] + np.spacing(1)) / 2)[labelled].mean()
                    for distances in squared]
    return float(max(similarities, default=0.0))


def write_pictures(folder: Path, number: int, estimates: Sequence[Estimate], persons: PersonSet) -> Path:
    """Draw the ``number`` images with the worst mean OKS and as many with the best, estimate beside truth.

    Args:
        folder: where to write ``worst_1.jpg``, ``best_1.jpg`` and so on, and ``overview.jpg`` with all of them.
        number: of images a kind; fewer where there are fewer.
        estimates, persons: of the run.

    Returns:
        The overview's path.

    Raises:
        KitError: the folder can't be made or written.
    """
    make_folder(folder)
    found, truths = _by_image(estimates, persons)
    ranked = sorted((image for image in persons.images if truths.get(image.id)),
                    key=lambda image: _mean_oks(found[image.id], truths[image.id]))
    number = min(number, (len(ranked) + 1) // 2)
    chosen = [(f"worst_{i + 1}", image) for i, image in enumerate(ranked[:number])]
    chosen += [(f"best_{i + 1}", image) for i, image in enumerate(reversed(ranked[len(ranked) - number:]))]
    pictures = {name: draw(name, image, found[image.id], truths[image.id]) for name, image in chosen}
    for name, picture in pictures.items():
        _write(folder / f"{name}.jpg", picture)
    _write(folder / "overview.jpg", _tile(list(pictures.values())))
    return folder / "overview.jpg"


def draw(name: str, image: Image, estimates: Sequence[Estimate], truths: Sequence[dict[str, Any]]) -> np.ndarray:
    """One image twice: with its estimates, boxes and scores, and with the truth in another colour.

    Returns:
        uint8 (H + caption, 2 W, 3), BGR.
    """
    pixels = read_image(image)
    left, right = pixels.copy(), pixels
    for estimate in estimates:
        x1, y1, x2, y2 = map(int, estimate.person.bbox)
        cv2.rectangle(left, (x1, y1), (x2, y2), _BOX, 1)
        _skeleton(left, estimate.keypoints, estimate.scores > KEYPOINT_SCORE_THRESHOLD)
        _text(left, f"{estimate.scores.mean():.2f}", (x1 + 2, max(y1 - 4, 10)))
    for truth in truths:
        keypoints = np.array(truth["keypoints"], np.float32).reshape(-1, 3)
        _skeleton(right, keypoints[:, :2], keypoints[:, 2] > 0, _TRUTH)
    picture = np.hstack([left, right])
    picture = cv2.copyMakeBorder(picture, _CAPTION, 0, 0, 0, cv2.BORDER_CONSTANT)
    caption = f"{name.replace('_', ' ')}: {image.path.name}, estimated, OKS {_mean_oks(estimates, truths):.3f}"
    _text(picture, caption, (4, 13))
    _text(picture, "true", (image.width + 4, 13))
    return picture


def write_crops(folder: Path, indices: Sequence[int], estimates: Sequence[Estimate], reference: Sequence[Estimate],
                persons: PersonSet, input_size: tuple[int, int]) -> Path:
    """Draw the crops of some persons twice: with an engine's keypoints, and with the reference engine's.

    Args:
        folder: where to write ``overview.jpg``.
        indices: into ``estimates`` and ``reference``, which are of the same persons.
        persons: of the run.
        input_size: width and height of the crop in pixels.

    Returns:
        The path written.

    Raises:
        KitError: the folder can't be made or written.
    """
    make_folder(folder)
    images = {image.id: image for image in persons.images}
    pictures = [_draw_crop(images[estimates[i].person.image_id], estimates[i], reference[i], input_size)
                for i in indices]
    _write(folder / "overview.jpg", _tile(pictures, columns=5, width=2 * input_size[0]))
    return folder / "overview.jpg"


def _draw_crop(image: Image, estimate: Estimate, reference: Estimate, input_size: tuple[int, int]) -> np.ndarray:
    center, scale = crop.box_to_center_scale(estimate.person.bbox, input_size)
    pixels = crop.crop_person(read_image(image), center, scale, input_size)
    panels = []
    for name, one in (("engine", estimate), ("reference", reference)):
        panel = pixels.copy()
        keypoints = (one.keypoints - center + 0.5 * scale) / scale * np.array(input_size)
        _skeleton(panel, keypoints, reference.scores > KEYPOINT_SCORE_THRESHOLD)
        _text(panel, name, (4, 13))
        panels.append(panel)
    return np.hstack(panels)


def _by_image(estimates: Sequence[Estimate], persons: PersonSet
              ) -> tuple[dict[int, list[Estimate]], dict[int, list[dict[str, Any]]]]:
    found: dict[int, list[Estimate]] = {image.id: [] for image in persons.images}
    for estimate in estimates:
        found[estimate.person.image_id].append(estimate)
    truths: dict[int, list[dict[str, Any]]] = {}
    for annotation in read_annotations(persons.path)["annotations"]:
        if annotation.get("num_keypoints") and not annotation["iscrowd"]:
            truths.setdefault(annotation["image_id"], []).append(annotation)
    return found, truths


def _mean_oks(estimates: Sequence[Estimate], truths: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([truth_oks(estimates, truth) for truth in truths]))


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
