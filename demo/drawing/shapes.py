"""Outlines in picture pixels (x to the right, y down), and colours."""

from itertools import product

import cv2
import numpy as np

Colour = tuple[float, float, float]
"""Blue, green and red, 0 to 255."""

_SUBPIXEL_BITS = 4


def _circle(count: int) -> np.ndarray:
    """Points (count x 2) on the unit circle."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


UNIT_CIRCLE, _FINE_CIRCLE = _circle(14), _circle(40)
_HALF_CIRCLE = np.stack([np.sin(np.linspace(0, np.pi, 7)), -np.cos(np.linspace(0, np.pi, 7))], axis=1)


def capsule(start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float) -> np.ndarray:
    """Outline (14 x 2) of a tapered limb between two points, in pixels."""
    x, y = end[0] - start[0], end[1] - start[1]
    length = np.hypot(x, y) + 1e-9
    cap = _HALF_CIRCLE @ np.array([[x, y], [-y, x]]) / length
    return np.concatenate([end[:2] + end_radius * cap, start[:2] - start_radius * cap])


def disc(centre: np.ndarray, radius: float) -> np.ndarray:
    """Outline (n x 2) of a circle; radius in pixels."""
    return centre[:2] + radius * (_FINE_CIRCLE if radius > 8 else UNIT_CIRCLE)


def hull(points: np.ndarray) -> np.ndarray:
    """Convex hull (n x 2) of points (m x 2 or m x 3); depth is ignored."""
    return cv2.convexHull(np.ascontiguousarray(points[:, :2], dtype=np.float32))[:, 0]


def box_corners(*sides: tuple[float, float]) -> np.ndarray:
    """Corners (8 x 3) of a box, from its limits along each axis."""
    return np.array(list(product(*sides)))


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (factor < 1) or lighter colour."""
    return tuple(min(255.0, channel * factor) for channel in colour)


def fill(canvas: np.ndarray, polygon: np.ndarray, colour: Colour | int, smooth: bool) -> None:
    """Fill a convex polygon (n x 2, pixels, with fractions) in place."""
    points = np.round(polygon * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillConvexPoly(canvas, points, colour, cv2.LINE_AA if smooth else cv2.LINE_8, _SUBPIXEL_BITS)
