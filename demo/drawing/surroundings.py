"""Surroundings of the people: background, objects, lighting, blur and noise."""

from functools import lru_cache

import cv2
import numpy as np

from drawing.camera import IMAGE_HEIGHT, IMAGE_WIDTH
from drawing.outfit import sample_colour
from drawing.shapes import Colour, capsule, disc, fill, shade

OBJECT_ID = 255
"""Value of an object in an id map."""


@lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    """Fixed normal noise (1200 x 1200 x 3, float32) to take windows from."""
    return np.random.default_rng(17).standard_normal((1200, 1200, 3), dtype=np.float32)


def _noise_window(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A window (height x width x 3) of the noise at a random place."""
    bank = _noise_bank()
    y, x = rng.integers(0, bank.shape[0] - height), rng.integers(0, bank.shape[1] - width)
    return bank[y:y + height, x:x + width]


def _clouds(rng: np.random.Generator, cells: int, strength: float) -> np.ndarray:
    """Smooth noise (H x W x 3, float32); ``cells`` is roughly the number of blobs across the picture."""
    small = _noise_window(rng, cells * 3 // 4 + 2, cells + 2)
    small = (0.8 * small[:, :, :1] + 0.3 * small) * np.float32(strength)
    return cv2.resize(small, (IMAGE_WIDTH, IMAGE_HEIGHT), interpolation=cv2.INTER_CUBIC)


def _tiles(rng: np.random.Generator, image: np.ndarray, top: int, bottom: int) -> None:
    """Draw bricks, tiles or planks between two rows, in place."""
    colour = tuple(float(c) for c in image[(top + bottom) // 2, IMAGE_WIDTH // 2] * rng.uniform(0.6, 1.3))
    step_y, step_x = int(rng.integers(14, 60)), int(rng.integers(20, 120))
    shift = int(rng.integers(0, step_x)) if rng.random() < 0.5 else 0
    for row, y in enumerate(range(top, bottom, step_y)):
        cv2.line(image, (0, y), (IMAGE_WIDTH, y), colour, 1)
        for x in range((row % 2) * shift, IMAGE_WIDTH, step_x):
            cv2.line(image, (x, y), (x, min(y + step_y, bottom)), colour, 1)


def paint_object(rng: np.random.Generator, image: np.ndarray, ids: np.ndarray | None, x: float, y: float, size: float
                ) -> None:
    """Paint a random box, ball, post or bush at (x, y), in pixels; mark it in the id map if there is one."""
    colour = sample_colour(rng)
    kind = rng.choice(["box", "ball", "post", "bush"])
    centre = np.array([x, y])
    polygons: list[tuple[np.ndarray, Colour]] = []
    if kind == "ball":
        polygons = [(disc(centre, size * 0.5), shade(colour, 0.7)), (disc(centre - size * 0.06, size * 0.4), colour)]
    elif kind == "post":
        top, low = centre - (0, size * 2), centre + (0, size * 2)
        polygons = [(capsule(top, low, size * 0.16, size * 0.16), shade(colour, 0.7)),
                    (capsule(top, low, size * 0.1, size * 0.1), colour)]
    elif kind == "bush":
        spots = centre + rng.normal(0, size * 0.25, (9, 2))
        green = (40.0 * rng.uniform(0.5, 1.5), 110.0 * rng.uniform(0.5, 1.4), 50.0 * rng.uniform(0.5, 1.6))
        polygons = [(disc(s, size * 0.2), shade(green, rng.uniform(0.7, 1.3))) for s in spots]
    else:
        turn = rng.normal(0, 0.15)
        c, s = np.cos(turn), np.sin(turn)
        corners = np.array([[-0.5, -0.4], [0.5, -0.4], [0.5, 0.4], [-0.5, 0.4]]) * size @ np.array([[c, s], [-s, c]])
        polygons = [(centre + corners, shade(colour, 0.7)), (centre + corners * 0.86, colour)]
    for polygon, tone in polygons:
        fill(image, polygon, tone, smooth=True)
        if ids is not None:
            fill(ids, polygon, OBJECT_ID, smooth=False)


def paint_background(rng: np.random.Generator, horizon: int, clutter: float) -> np.ndarray:
    """A textured wall or sky above a floor, with objects (H x W x 3, uint8)."""
    upper, lower = np.array(sample_colour(rng, 110)), np.array(sample_colour(rng, 110))
    rows = np.linspace(0, 1, IMAGE_HEIGHT, dtype=np.float32)[:, None]
    ramp = 1 + rng.uniform(-0.3, 0.3) * (rows - 0.5)
    column = np.where(np.arange(IMAGE_HEIGHT)[:, None] < horizon, upper * ramp, lower * ramp).astype(np.float32)
    canvas = _clouds(rng, int(rng.integers(4, 14)), rng.uniform(4, 22))
    canvas += _clouds(rng, int(rng.integers(40, 160)), rng.uniform(0, 14))
    canvas += column[:, None]
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _tiles(rng, image, 0, horizon)
    if rng.random() < 0.4:
        _tiles(rng, image, horizon, IMAGE_HEIGHT)
    for _ in range(rng.integers(0, 1 + int(14 * clutter))):
        paint_object(rng, image, None, rng.uniform(0, IMAGE_WIDTH), rng.uniform(0, IMAGE_HEIGHT), rng.uniform(15, 130))
    return image


def light_and_blur(rng: np.random.Generator, image: np.ndarray, difficulty: float) -> np.ndarray:
    """The picture with random exposure, tint, side light, blur and noise (H x W x 3, uint8)."""
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3)
    across = np.linspace(-1, 1, IMAGE_WIDTH, dtype=np.float32) * np.float32(rng.uniform(-0.25, 0.25))
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.5 + 0.5 * difficulty))
    lit = image * (gain.astype(np.float32) * (1 + across)[:, None])
    lit += _noise_window(rng, IMAGE_HEIGHT, IMAGE_WIDTH) * np.float32(rng.uniform(0.5, 2 + 5 * difficulty))
    return np.clip(lit, 0, 255).astype(np.uint8)
