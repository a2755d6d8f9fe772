"""Keypoints and scores of a whole set, as arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rtmpose.data import postprocess
from rtmpose.data.dataset import Person
from rtmpose.errors import KitError


@dataclass(frozen=True)
class Predictions:
    """Output of a network for N persons.

    Attributes:
        persons: N of them.
        keypoints: float32 (N, 17, 2), x and y in image pixels.
        scores: float32 (N, 17).
        scales: float32 (N, 2), width and height in image pixels of the region that was cropped.
    """

    persons: list[Person]
    keypoints: np.ndarray
    scores: np.ndarray
    scales: np.ndarray

    def __len__(self) -> int:
        return len(self.persons)

    def take(self, rows: Sequence[int]) -> "Predictions":
        """The predictions in some rows."""
        return Predictions([self.persons[row] for row in rows],
                           *(array[list(rows)] for array in (self.keypoints, self.scores, self.scales)))


def join(parts: Iterable[Predictions]) -> Predictions:
    """Predictions of several batches, one after the other, as one."""
    persons, *arrays = ([getattr(part, field.name) for part in parts] for field in fields(Predictions))
    return Predictions(sum(persons, []), *map(np.concatenate, arrays))


def to_predictions(crops: Sequence[Any], keypoints: np.ndarray, scores: np.ndarray, input_size: tuple[int, int]
                   ) -> Predictions:
    """Move the keypoints of crops into their images.

    Args:
        crops: N of :class:`rtmpose.data.loader.Crop`, or of anything with ``person``, ``center`` and ``scale``.
        keypoints, scores: as :func:`decode` gives them.
        input_size: width and height of a crop in pixels.
    """
    centers, scales = np.stack([crop.center for crop in crops]), np.stack([crop.scale for crop in crops])
    return Predictions([crop.person for crop in crops],
                       postprocess.crop_to_image(keypoints, centers, scales, input_size), scores, scales)


def decode(simcc_x: np.ndarray, simcc_y: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints in the crop and scores, as :func:`rtmpose.data.postprocess.decode` gives them.

    Raises:
        KitError: there is NaN or infinity among the logits.
    """
    check_finite(np.isfinite(simcc_x).all((1, 2)) & np.isfinite(simcc_y).all((1, 2)))
    return postprocess.decode(simcc_x, simcc_y, input_size)


def check_finite(finite: np.ndarray) -> None:
    """Raise a KitError unless the engine gave finite numbers for every person of a batch, bool (n,)."""
    if not finite.all():
        raise KitError(f"the engine gave NaN or infinity for {np.count_nonzero(~finite)} of {len(finite)} persons of a "
                       "batch: a number left the range of its type; build the engine with --precision fp32 or check "
                       "the checkpoint")
