"""How the camera sees a body: without perspective, mostly from the front, the back or a side.

Axes of the picture, in pixels: x to the right, y down, depth away from the camera.
"""

from dataclasses import dataclass

import numpy as np

IMAGE_WIDTH, IMAGE_HEIGHT = 640, 480


@dataclass(frozen=True)
class View:
    """Camera's view of a body.

    Attributes:
        yaw: radians; 0 is the front, a quarter turn the person's face to the picture's right.
        elevation, roll: radians; of the camera above the body, and of the body in the picture.
        height: of the body when it stands upright, in pixels.
        x, y: of the middle of the hips, in pixels.
    """

    yaw: float
    elevation: float
    roll: float
    height: float
    x: float
    y: float


def projection(view: View) -> np.ndarray:
    """3 x 3 matrix from (left, up, forward) in body heights to (x, y, depth) in pixels."""
    c, s = np.cos(view.yaw), np.sin(view.yaw)
    turned = np.array([[c, 0, s], [0, -1, 0], [s, 0, -c]])
    ce, se = np.cos(view.elevation), np.sin(view.elevation)
    raised = np.array([[1, 0, 0], [0, ce, -se], [0, se, ce]])
    cr, sr = np.cos(view.roll), np.sin(view.roll)
    rolled = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return view.height * rolled @ raised @ turned


def _sample_yaw(rng: np.random.Generator, difficulty: float) -> float:
    """Which way a person stands: around the front, the back or a side, in radians."""
    centre, spread = [(0, 28), (180, 25), (90, 22), (-90, 22)][rng.choice(4, p=[0.46, 0.2, 0.17, 0.17])]
    return float(np.radians(centre + np.clip(rng.normal(0, 1), -2, 2) * spread * (0.5 + 0.5 * difficulty)))


def sample_view(rng: np.random.Generator, difficulty: float) -> View:
    """How a person stands and how big; the place is still the picture's corner."""
    smallest = 200 - 155 * difficulty
    return View(
        yaw=_sample_yaw(rng, difficulty),
        elevation=float(np.radians(rng.uniform(-2, 8 + 8 * difficulty))),
        roll=float(np.radians(rng.normal(0, 2 + 3 * difficulty))),
        height=float(smallest * (400 / smallest) ** (rng.random() ** 0.7)),
        x=0.0,
        y=0.0,
    )
