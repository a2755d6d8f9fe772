"""How pictures are drawn: a person cropped large, poses and arrows on it, captions and legends.

A canvas is uint8 (H, W, 3), BGR. A pose is float64 (K, 3): x, y in pixels, and visibility, which is 2 for a filled
joint, 1 for a hollow one and 0 for none.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.data.preprocess import PADDING, box_to_center_scale, warp_matrix
from rtmpose.files import write_bytes

# BGR, of the person's left and right, and of what is on neither side.
LEFT, RIGHT, MIDDLE = (20, 140, 255), (255, 130, 40), (70, 190, 60)
PAPER, INK, _GREY, _ARROW = (250, 250, 250), (40, 40, 40), (140, 140, 140), (190, 20, 230)
MARGIN = 16  # pixels between two pictures of a sheet
WIDTH, COLUMN = 1280 - MARGIN, 1280 // 2 - MARGIN  # pixels of a picture, alone or with another beside it
_FONT, _LINE = cv2.FONT_HERSHEY_DUPLEX, 38  # and the height of a line of text
_FAR = 2**14  # pixels; OpenCV can't take every number
_ZOOM = 8  # at most, with all of its padding

# Limbs, by the names of keypoints: on one side or to one of none, and across.
_SIDES = {"ankle": ("knee", "big_toe", "small_toe", "heel"), "knee": ("hip", "b_paw"), "hip": ("shoulder",),
          "shoulder": ("elbow", "ear", "neck"), "elbow": ("wrist", "f_paw"), "eye": ("ear", "nose")}
_ACROSS = ("hip", "shoulder", "eye")

Skeleton = tuple[list[tuple[int, int]], list[tuple[int, int, int]]]  # limbs, and the colour of each keypoint


class Style(NamedTuple):
    """A pen for poses."""

    thickness: int  # of a limb in pixels
    radius: int  # of a joint; 0: without joints
    white: float = 0.0  # from 0, full colours, to 1
    dashed: bool = False


SOLID, BOLD = Style(5, 8), Style(8, 12)
DASHED, FAINT = Style(3, 6, white=0.55, dashed=True), Style(2, 0, white=1.0)


def make_skeleton(names: Sequence[str]) -> Skeleton:
    """Limbs and colours of keypoints by their names, mmpose's; no limbs between names that aren't known."""
    known = [re.sub("^r_", "right_", re.sub("^l_", "left_", name.lower())) for name in names]
    at = {name: index for index, name in enumerate(known)}
    pairs = [(f"{side}_{part}", f"{side}_{other}" if f"{side}_{other}" in at else other)
             for side in ("left", "right") for part, others in _SIDES.items() for other in others]
    pairs += [("neck", "head"), ("neck", "hip"), *((f"left_{part}", f"right_{part}") for part in _ACROSS)]
    return ([(at[one], at[other]) for one, other in pairs if one in at and other in at],
            [LEFT if name.startswith("left") else RIGHT if name.startswith("right") else MIDDLE for name in known])


COCO_SKELETON = make_skeleton(COCO_KEYPOINTS)


def crop_large(pixels: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Crop the region around points, (N, 2), of an image, uint8 (H, W, 3), onto a canvas of ``size``, as of a box.

    Returns the canvas, and the affine map from pixels of the image to its own, float64 (2, 3). The region is moved into
    the image and loses padding where that avoids paper around the image; it is enlarged 10 times at most.
    """
    sides = np.array(pixels.shape[1::-1]) - 1
    inside = np.clip(points, 0, sides).astype(np.float32)
    center, scale = box_to_center_scale(np.concatenate([inside.min(axis=0), inside.max(axis=0)]), size)
    scale = np.maximum(scale, np.divide(size, _ZOOM))
    scale *= np.clip((sides / scale).min(), 1 / PADDING, 1)
    half = np.minimum(scale, sides) / 2
    matrix = warp_matrix(np.clip(center, half, sides - half), scale, size)
    averaged = max(1, int(scale[0] / size[0]))  # image pixels in one of the canvas, over x and over y
    return cv2.warpAffine(cv2.blur(pixels, (averaged, averaged)), matrix, size, borderValue=PAPER), matrix


def place(pose: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Where a pose in the image lies on the canvas; not farther outside than OpenCV can draw."""
    return np.column_stack([np.clip(pose[:, :2] @ matrix[:, :2].T + matrix[:, 2], -_FAR, _FAR), pose[:, 2]])


def draw_pose(canvas: np.ndarray, pose: np.ndarray, style: Style = SOLID, skeleton: Skeleton = COCO_SKELETON,
              opacity: float = 1.0) -> None:
    """Draw a pose of the canvas. A limb between two joints is thin if one is hollow."""
    points, visibility, below = pose[:, :2], pose[:, 2], canvas.copy()
    colours = (255 - (255 - np.array([*skeleton[1], MIDDLE])) * (1 - style.white)).tolist()
    limbs = [limb for limb in skeleton[0] if visibility[list(limb)].all()]
    for outline in (3, 0):
        for start, end in limbs:
            colour = colours[start] if colours[start] == colours[end] else colours[-1]
            is_thin = 1 in visibility[[start, end]] and not style.dashed
            thickness = (style.thickness // 2 if is_thin else style.thickness) + outline
            _draw_line(canvas, points[[start, end]], INK if outline else colour, thickness, style.dashed)
    in_limbs = {joint for limb in skeleton[0] for joint in limb}
    for joint in np.flatnonzero(visibility if style.radius else 0):
        radius = style.radius if joint in in_limbs or not in_limbs else style.radius // 2
        discs = ((radius + 2, INK), (radius, colours[joint]), (radius - 3, INK))
        for size, colour in discs if visibility[joint] == 1 else discs[:2]:
            cv2.circle(canvas, np.rint(points[joint]).astype(int).tolist(), size, colour, cv2.FILLED, cv2.LINE_AA)
    cv2.addWeighted(canvas, opacity, below, 1 - opacity, 0, dst=canvas)


def draw_arrow(canvas: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """Draw a ring around one point of the canvas, (2,), and an arrow from there to another."""
    length = max(1.0, np.hypot(*(end - start)))
    center, begin, tip = np.rint([start, start + (end - start) * min(0.5, 16 / length), end]).astype(int).tolist()
    for colour, thickness in ((INK, 7), (_ARROW, 4)):
        cv2.circle(canvas, center, 16, colour, thickness, cv2.LINE_AA)
        cv2.arrowedLine(canvas, begin, tip, colour, thickness, cv2.LINE_AA, tipLength=min(0.5, 18 / length))


def make_card(canvas: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """A canvas with lines of text below it, and a margin around both."""
    (height, width), side = canvas.shape[:2], MARGIN // 2
    card = cv2.copyMakeBorder(canvas, 0, _LINE * len(lines) + 10 + MARGIN, side, side, cv2.BORDER_CONSTANT, value=PAPER)
    for number, line in enumerate(lines, 1):
        _write(card, line, (side, height + number * _LINE), width)
    return card


def write_sheet(path: Path, cards: Sequence[np.ndarray], styles: Mapping[str, Style | None]) -> Path:
    """Write a JPEG of one card, or of cards of the same size in two columns, below a legend. Returns its path.

    ``styles`` by what they mean, None for an arrow, are in the legend beside the colours. Raises KitError if the file
    can't be written.
    """
    columns = min(2, len(cards))
    filled = [*cards, *[np.full_like(cards[0], PAPER)] * (-len(cards) % columns)]
    rows = [np.hstack(filled[first:first + columns]) for first in range(0, len(filled), columns)]
    sheet = np.vstack([_draw_legend(styles, rows[0].shape[1]), *rows])
    write_bytes(path, cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return path


def _draw_legend(styles: Mapping[str, Style | None], width: int) -> np.ndarray:
    """Samples, and what they mean."""
    keys = [(text, style, _GREY, 2) for text, style in styles.items()]
    keys += [("person's left", SOLID, LEFT, 2), ("person's right", SOLID, RIGHT, 2), ("middle", SOLID, MIDDLE, 2),
             ("hidden or low score", SOLID, _GREY, 1)]
    columns, height = width // 320, 46
    legend = np.full((-(-len(keys) // columns) * height + 2 * MARGIN, width, 3), PAPER, np.uint8)
    for number, (text, style, colour, visibility) in enumerate(keys):
        x, y = number % columns * 320 + 18, number // columns * height + MARGIN + height // 2
        sample = np.array([[x, y, visibility], [x + 28, y, visibility]], np.float64)
        if style:
            draw_pose(legend, sample, style, ([(0, 1)], [colour, colour]))
        else:
            draw_arrow(legend, sample[0, :2] + (5, 0), sample[1, :2] + (8, 0))
        _write(legend, text, (x + 44, y + 9), 256, 0.75)
    return legend


def _draw_line(canvas: np.ndarray, ends: np.ndarray, colour: Sequence[float], thickness: int, dashed: bool) -> None:
    length = max(1.0, np.hypot(*(ends[1] - ends[0])))
    begins, stroke = (np.arange(0, length, 20), 9) if dashed else (np.zeros(1), length)
    shares = np.minimum(begins[:, None] + (0, stroke), length) / length
    strokes = ends[0] + (ends[1] - ends[0]) * shares[..., None]
    cv2.polylines(canvas, np.rint(strokes).astype(np.int32), False, colour, thickness, cv2.LINE_AA)


def _write(canvas: np.ndarray, text: str, corner: tuple[int, int], width: int, scale: float = 1.0) -> None:
    """Write text, smaller if it is wider than ``width`` pixels. OpenCV's font has ASCII only."""
    text = text.encode("ascii", "replace").decode()
    scale = min(scale, width / cv2.getTextSize(text, _FONT, 1.0, 1)[0][0])
    cv2.putText(canvas, text, corner, _FONT, scale, INK, 1, cv2.LINE_AA)
