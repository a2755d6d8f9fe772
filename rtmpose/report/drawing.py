"""Poses, arrows, captions and legends, drawn on persons that are cut out of their image and enlarged."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.files import write_bytes

# BGR, of the person's left and right, and of what is on neither side.
LEFT, RIGHT, MIDDLE = (20, 140, 255), (255, 130, 40), (70, 190, 60)
PAPER, INK, _GREY, _ARROW = (250, 250, 250), (40, 40, 40), (140, 140, 140), (190, 20, 230)
SHEET = 1280  # width of a sheet in pixels
MARGIN = 16
COLUMN = (SHEET - 3 * MARGIN) // 2  # width of a panel, of which a sheet has two beside each other

# Between the keypoints of those names, of one side or of none.
_SIDES = {"ankle": ("knee", "big_toe", "small_toe", "heel"), "knee": ("hip", "b_paw"), "hip": ("shoulder",),
          "shoulder": ("elbow", "ear", "neck"), "elbow": ("wrist", "f_paw"), "eye": ("ear", "nose")}
_ACROSS = ("hip", "shoulder", "eye")  # between left and right
_FONT, _FONT_SCALE, _LINE = cv2.FONT_HERSHEY_DUPLEX, 1.0, 38
_SHIFT = 4  # OpenCV draws at sixteenths of a pixel
_FAR = 2**16  # pixels; OpenCV draws nothing beyond, and can't take every number
_ZOOM = 8  # at most


class Skeleton(NamedTuple):
    """The keypoints of a network, to draw."""

    limbs: list[tuple[int, int]]
    colours: list[tuple[int, int, int]]  # of each keypoint


class Style(NamedTuple):
    """A pen for poses."""

    thickness: int  # of a limb in pixels
    radius: int  # of a joint; 0: without joints
    white: float = 0.0  # from 0, full colours, to 1
    dashed: bool = False


SOLID, BOLD = Style(5, 8), Style(8, 12)
DASHED, FAINT = Style(3, 6, white=0.55, dashed=True), Style(2, 0, white=1.0)


class Key(NamedTuple):
    """An entry of a legend: a limb with its two joints, or an arrow if it has no style."""

    text: str
    style: Style | None = SOLID
    colour: tuple[int, int, int] = _GREY
    visibility: int = 2


SIDES = (Key("person's left", colour=LEFT), Key("person's right", colour=RIGHT), Key("middle", colour=MIDDLE))


@dataclass
class View:
    """A part of an image, enlarged or reduced."""

    canvas: np.ndarray  # uint8 (H, W, 3), BGR
    corner: np.ndarray  # float64 (2,), x and y of its upper left pixel in the image
    zoom: np.ndarray  # float64 (2,), over x and y

    def place(self, keypoints: np.ndarray) -> np.ndarray:
        """Where keypoints of the image, (..., 2), lie on the canvas: its pixels, float64."""
        return (keypoints.astype(np.float64) - self.corner + 0.5) * self.zoom - 0.5


def make_skeleton(names: Sequence[str], number: int) -> Skeleton:
    """Limbs and colours of ``number`` keypoints, by their names, mmpose's; no limbs if there are none."""
    known = [re.sub("^r_", "right_", re.sub("^l_", "left_", name.lower())) for name in names or [""] * number]
    at = {name: index for index, name in enumerate(known) if name}
    pairs = [(f"{side}_{part}", f"{side}_{other}" if f"{side}_{other}" in at else other)
             for side in ("left", "right") for part, others in _SIDES.items() for other in others]
    pairs += [(f"left_{part}", f"right_{part}") for part in _ACROSS]
    pairs += [("neck", "head"), ("neck", "hip")]
    return Skeleton([(at[one], at[other]) for one, other in pairs if one in at and other in at],
                    [LEFT if name.startswith("left") else RIGHT if name.startswith("right") else MIDDLE
                     for name in known])


COCO_SKELETON = make_skeleton(COCO_KEYPOINTS, len(COCO_KEYPOINTS))


def cut(pixels: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> View:
    """Cut out a box, x1 y1 x2 y2, and what is around it, of an image, uint8 (H, W, 3), as large as fits into ``size``.

    The view is narrower or lower than ``size``, width and height, where the image ends.
    """
    sides = np.array(pixels.shape[1::-1])
    low, high = (np.clip(corner, 0, sides) for corner in (box[:2], box[2:]))
    zoom = min(_ZOOM, *(np.array(size) / np.maximum(high - low, 1)))
    extent = np.minimum(np.maximum(np.array(size) / zoom, 1), sides)
    corner = np.clip((low + high - extent) / 2, 0, sides - extent)
    x1, y1, x2, y2 = (int(number) for number in (*np.floor(corner), *np.minimum(np.ceil(corner + extent), sides)))
    shape = [max(1, min(round(side * zoom), most)) for side, most in zip((x2 - x1, y2 - y1), size, strict=True)]
    canvas = cv2.resize(pixels[y1:y2, x1:x2], shape, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC)
    return View(canvas, np.array([x1, y1], np.float64), np.array(shape) / (x2 - x1, y2 - y1))


def draw_pose(view: View, keypoints: np.ndarray, visibility: np.ndarray, skeleton: Skeleton = COCO_SKELETON,
              style: Style = SOLID, opacity: float = 1.0) -> None:
    """Draw keypoints, (K, 2), in image pixels; ``visibility`` (K,) is 2 for a filled joint, 1 for a hollow one, 0 for
    none. A limb between two joints is thin if one is hollow."""
    points, shown = view.place(keypoints), np.where(np.isfinite(keypoints).all(axis=1), visibility, 0)
    canvas = view.canvas.copy()
    limbs = [limb for limb in skeleton.limbs if shown[list(limb)].all()]
    for outline in (3, 0):
        for limb in limbs:
            start, end = limb
            same = skeleton.colours[start] == skeleton.colours[end]
            colour = INK if outline else _mix(skeleton.colours[start] if same else MIDDLE, style.white)
            thickness = style.thickness if shown[list(limb)].min() == 2 or style.dashed else style.thickness // 2
            _line(canvas, points[start], points[end], colour, thickness + outline, style.dashed)
    in_limbs = {joint for limb in skeleton.limbs for joint in limb}
    for joint, (point, colour, visible) in enumerate(zip(points, skeleton.colours, shown, strict=True)):
        radius = style.radius if joint in in_limbs or not in_limbs else style.radius // 2
        if visible and radius:
            _disc(canvas, point, radius + 2, INK)
            _disc(canvas, point, radius, _mix(colour, style.white))
            if visible == 1:
                _disc(canvas, point, radius - 3, INK)
    view.canvas = cv2.addWeighted(canvas, opacity, view.canvas, 1 - opacity, 0)


def draw_arrow(view: View, start: np.ndarray, end: np.ndarray) -> None:
    """Draw a ring around one point of the image and an arrow from there to another."""
    first, last = view.place(np.array([start, end]))
    length = float(np.hypot(*(last - first)))
    for colour, outline in ((INK, 3), (_ARROW, 0)):
        cv2.circle(view.canvas, _fixed(first), 16 << _SHIFT, colour, 4 + outline, cv2.LINE_AA, _SHIFT)
        if 5 < length < _FAR:
            begin = first if length < 40 else first + (last - first) * 16 / length
            cv2.arrowedLine(view.canvas, _whole(begin), _whole(last), colour, (4 if length > 16 else 2) + outline,
                            cv2.LINE_AA, tipLength=min(0.5, 18 / length))


def make_card(view: View, lines: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """A view in the middle of a paper of ``size``, width and height, and lines of text below."""
    canvas, (width, height) = view.canvas, size
    left, top = (width - canvas.shape[1]) // 2, (height - canvas.shape[0]) // 2
    card = cv2.copyMakeBorder(canvas, top, height - canvas.shape[0] - top + 10 + _LINE * len(lines), left,
                              width - canvas.shape[1] - left, cv2.BORDER_CONSTANT, value=PAPER)
    for number, line in enumerate(lines, 1):
        _text(card, _shorten(line, width), (0, height + number * _LINE))
    return card


def make_sheet(cards: Sequence[np.ndarray], keys: Sequence[Key]) -> np.ndarray:
    """Cards of the same size below a legend, as many beside each other as fit."""
    columns = max(1, (SHEET - MARGIN) // (cards[0].shape[1] + MARGIN)) if len(cards) > 1 else 1
    spaced = [cv2.copyMakeBorder(card, 0, MARGIN, MARGIN, 0, cv2.BORDER_CONSTANT, value=PAPER) for card in cards]
    spaced += [np.full_like(spaced[0], PAPER)] * (-len(cards) % columns)
    rows = [np.hstack(spaced[first:first + columns]) for first in range(0, len(spaced), columns)]
    rows.insert(0, _legend(rows[0].shape[1], keys))
    return cv2.copyMakeBorder(np.vstack(rows), 0, 0, 0, MARGIN, cv2.BORDER_CONSTANT, value=PAPER)


def write_jpeg(path: Path, picture: np.ndarray) -> Path:
    """Write a picture, and return its path. Raises KitError if it can't be written."""
    write_bytes(path, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return path


def _legend(width: int, keys: Sequence[Key]) -> np.ndarray:
    """Samples and what they mean, in as many lines as it takes, uint8 (H, width, 3)."""
    sample, space, places, x, row = 50, 24, [], MARGIN, 0
    for key in keys:
        needed = sample + 10 + _measure(key.text)
        if x > MARGIN and x + needed > width:
            x, row = MARGIN, row + 1
        places.append((x, MARGIN + row * (_LINE + 8) + _LINE // 2))
        x += needed + space
    view = View(np.full((places[-1][1] + _LINE // 2 + MARGIN, width, 3), PAPER, np.uint8), np.zeros(2), np.ones(2))
    for key, (x, y) in zip(keys, places, strict=True):
        ends = np.array([[x + 9, y], [x + sample - 9, y]])
        if key.style:
            draw_pose(view, ends, np.full(2, key.visibility), Skeleton([(0, 1)], [key.colour] * 2), key.style)
        else:
            draw_arrow(view, ends[0] + (8, 0), ends[1] + (6, 0))
        _text(view.canvas, key.text, (x + sample + 10, y + 10))
    return view.canvas


def _line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, colour: tuple[float, ...], thickness: int,
          dashed: bool) -> None:
    if not dashed:
        cv2.line(canvas, _fixed(start), _fixed(end), colour, thickness, cv2.LINE_AA, _SHIFT)
        return
    inside, one, other = cv2.clipLine((0, 0, *canvas.shape[1::-1]), _whole(start), _whole(end))
    first, last = (start, end) if inside and (one, other) == (_whole(start), _whole(end)) else np.array([one, other])
    length = np.hypot(*(last - first))
    for begin in np.arange(0, length, 20) if inside else ():
        one, other = (_fixed(first + (last - first) * min(at / length, 1)) for at in (begin, begin + 9))
        cv2.line(canvas, one, other, colour, thickness, cv2.LINE_AA, _SHIFT)


def _disc(canvas: np.ndarray, point: np.ndarray, radius: int, colour: tuple[float, ...]) -> None:
    cv2.circle(canvas, _fixed(point), radius << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)


def _fixed(point: np.ndarray) -> tuple[int, int]:
    """A point for OpenCV, in sixteenths of a pixel."""
    return _whole(np.clip(point, -_FAR, _FAR) * 2**_SHIFT)


def _whole(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(np.clip(point, -_FAR << _SHIFT, _FAR << _SHIFT))
    return int(x), int(y)


def _mix(colour: tuple[float, ...], white: float) -> tuple[float, ...]:
    return tuple(channel + (255 - channel) * white for channel in colour)


def _text(canvas: np.ndarray, text: str, corner: tuple[int, int]) -> None:
    cv2.putText(canvas, _ascii(text), corner, _FONT, _FONT_SCALE, INK, 1, cv2.LINE_AA)


def _measure(text: str) -> int:
    return cv2.getTextSize(_ascii(text), _FONT, _FONT_SCALE, 1)[0][0]


def _ascii(text: str) -> str:
    """OpenCV's font has no other letters."""
    return text.encode("ascii", "replace").decode()


def _shorten(text: str, width: int) -> str:
    """The text, without its middle if it is wider than ``width`` pixels."""
    shown, kept = text, len(text) // 2
    while _measure(shown) > width:
        kept -= 1
        shown = f"{text[:kept]}...{text[-kept:]}"
    return shown
