"""Keypoints and scores of a whole set, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtmpose.data import postprocess
from rtmpose.data.coco import Person
from rtmpose.errors import KitError


@dataclass(frozen=True)
class Predictions:
    """Keypoints of N persons."""

    persons: list[Person]
    keypoints: np.ndarray  # float32 (N, 17, 2), x and y in image pixels
    scores: np.ndarray  # float32 (N, 17)
    scales: np.ndarray  # float32 (N, 2), width and height of the cropped region in image pixels

    def __len__(self) -> int:
        return len(self.persons)


def join(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate the predictions of several batches."""
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in ("keypoints", "scores", "scales"))
    return Predictions([person for part in parts for person in part.persons], *arrays)


def decode_batch(crops: Sequence[Any], simcc_x: np.ndarray, simcc_y: np.ndarray, input_size: tuple[int, int]
                 ) -> Predictions:
    """Decode the logits of a batch, whose first rows belong to ``crops`` and whose other rows are padding."""
    keypoints, scores = check_and_decode(simcc_x[:len(crops)], simcc_y[:len(crops)], input_size)
    return to_predictions(crops, keypoints, scores, input_size)


def to_predictions(crops: Sequence[Any], keypoints: np.ndarray, scores: np.ndarray, input_size: tuple[int, int]
                   ) -> Predictions:
    """Move keypoints of crops, as :func:`check_and_decode` returns them, into their images.

    Each crop is a :class:`rtmpose.data.batches.Crop` or has its ``person``, ``center`` and ``scale``; ``input_size`` is
    its width and height in pixels.
    """
    centers, scales = np.stack([crop.center for crop in crops]), np.stack([crop.scale for crop in crops])
    return Predictions([crop.person for crop in crops],
                       postprocess.crop_to_image(keypoints, centers, scales, input_size), scores, scales)


def check_and_decode(simcc_x: np.ndarray, simcc_y: np.ndarray, input_size: tuple[int, int]
                     ) -> tuple[np.ndarray, np.ndarray]:
    """Decode logits as :func:`rtmpose.data.postprocess.decode` does. Raises KitError if one is NaN or infinite."""
    check_finite(np.isfinite(simcc_x).all((1, 2)) & np.isfinite(simcc_y).all((1, 2)))
    return postprocess.decode(simcc_x, simcc_y, input_size)


def check_finite(finite: np.ndarray) -> None:
    """Raise KitError unless the logits of every person of a batch are finite, bool (N,)."""
    if not finite.all():
        raise KitError(f"the engine gave NaN or infinity for {np.count_nonzero(~finite)} of {len(finite)} persons of a "
                       "batch: a number left the range of its type; build the engine with --precision fp32 or check "
                       "the checkpoint")
