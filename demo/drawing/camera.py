"""The camera: no perspective, mostly from the front, the back or a side.

Picture axes, in pixels: x to the right, y down, depth away from the camera.
"""

from dataclasses import dataclass

import numpy as np

IMAGE_WIDTH, IMAGE_HEIGHT = 640, 480


@dataclass(frozen=True)
class View:
    """The camera's view of a body."""

    yaw: float  # radians; 0: seen from the front, pi / 2: facing the picture's right
    elevation: float  # radians, of the camera above the body
    roll: float  # radians, of the body in the picture
    height: float  # pixels, of the body when it stands upright
    x: float  # pixels, of the point between the hips
    y: float


def projection(view: View) -> np.ndarray:
    """A 3 x 3 matrix from body axes to picture axes."""
    c, s = np.cos(view.yaw), np.sin(view.yaw)
    turned = np.array([[c, 0, s], [0, -1, 0], [s, 0, -c]])
    ce, se = np.cos(view.elevation), np.sin(view.elevation)
    raised = np.array([[1, 0, 0], [0, ce, -se], [0, se, ce]])
    cr, sr = np.cos(view.roll), np.sin(view.roll)
    rolled = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return view.height * rolled @ raised @ turned


def _sample_yaw(rng: np.random.Generator, difficulty: float) -> float:
    """A random yaw near the front, the back or a side, in radians."""
    centre, spread = [(0, 28), (180, 25), (90, 22), (-90, 22)][rng.choice(4, p=[0.46, 0.2, 0.17, 0.17])]
    return float(np.radians(centre + np.clip(rng.normal(0, 1), -2, 2) * spread * (0.5 + 0.5 * difficulty)))


def sample_view(rng: np.random.Generator, difficulty: float) -> View:
    """A random view; x and y are still 0."""
    smallest = 200 - 155 * difficulty
    return View(
        yaw=_sample_yaw(rng, difficulty),
        elevation=float(np.radians(rng.uniform(-2, 8 + 8 * difficulty))),
        roll=float(np.radians(rng.normal(0, 2 + 3 * difficulty))),
        height=float(smallest * (400 / smallest) ** (rng.random() ** 0.7)),
        x=0.0,
        y=0.0,
    )
