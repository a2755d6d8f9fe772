"""Colours and clothes of a person."""

from dataclasses import dataclass

import cv2
import numpy as np

from drawing.shapes import Colour, shade

_SKIN_TONES: list[Colour] = [
    (180, 205, 240),
    (150, 185, 228),
    (120, 160, 210),
    (90, 130, 185),
    (65, 100, 150),
    (45, 70, 110),
    (160, 190, 225),
]
_HAIR_TONES: list[Colour] = [
    (25, 25, 30),
    (30, 45, 70),
    (40, 70, 110),
    (70, 130, 180),
    (110, 180, 215),
    (30, 60, 150),
    (150, 150, 150),
]


@dataclass(frozen=True)
class Outfit:
    """Skin, hair and clothes of a person."""

    skin: Colour
    hair: Colour
    hair_style: str
    shirt: Colour
    shirt_trim: Colour
    pattern: str
    sleeve: float  # share of the upper arm; above 1: a long sleeve
    lower: str
    lower_colour: Colour
    shoe: Colour
    front_detail: str
    backpack: Colour | None
    hat: Colour | None


def sample_colour(rng: np.random.Generator, strongest: int = 210) -> Colour:
    """A random colour; ``strongest`` limits the saturation, up to 255."""
    hsv = np.array([[[rng.integers(0, 180), rng.integers(10, strongest), rng.integers(50, 245)]]], dtype=np.uint8)
    return tuple(float(channel) for channel in cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0])


def _varied(rng: np.random.Generator, tones: list[Colour]) -> Colour:
    """One of the tones, a little darker or lighter."""
    return shade(tones[rng.integers(len(tones))], rng.uniform(0.88, 1.08))


def sample_outfit(rng: np.random.Generator) -> Outfit:
    """Random skin, hair and clothes."""
    return Outfit(
        skin=_varied(rng, _SKIN_TONES),
        hair=_varied(rng, _HAIR_TONES),
        hair_style=str(rng.choice(["short", "long", "tail", "bald"], p=[0.5, 0.22, 0.18, 0.1])),
        shirt=sample_colour(rng),
        shirt_trim=sample_colour(rng),
        pattern=str(rng.choice(["plain", "stripes", "band", "dots"], p=[0.5, 0.2, 0.15, 0.15])),
        sleeve=float(rng.choice([0.0, 0.55, 2.0], p=[0.15, 0.45, 0.4])),
        lower=str(rng.choice(["trousers", "shorts", "skirt"], p=[0.6, 0.22, 0.18])),
        lower_colour=sample_colour(rng),
        shoe=sample_colour(rng),
        front_detail=str(rng.choice(["buttons", "zip", "print", "tie", "none"], p=[0.25, 0.25, 0.2, 0.1, 0.2])),
        backpack=sample_colour(rng) if rng.random() < 0.15 else None,
        hat=sample_colour(rng) if rng.random() < 0.15 else None,
    )
