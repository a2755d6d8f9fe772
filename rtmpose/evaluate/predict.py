"""Every person of a set through an engine: loader -> engine -> predictions."""

import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from rtmpose.data import postprocess
from rtmpose.data.dataset import PersonSet
from rtmpose.data.loader import iterate_batches
from rtmpose.engines import Engine
from rtmpose.evaluate.predictions import Predictions, decode, join, to_predictions


@dataclass(frozen=True)
class Run:
    """Result of one pass over a set.

    Attributes:
        predictions: for every person, in the order of the set.
        batch_ms: milliseconds of each run of the engine.
        seconds: from the first image to the last keypoint.
    """

    predictions: Predictions
    batch_ms: list[float]
    seconds: float


def predict(engine: Engine, persons: PersonSet, flip_test: bool = False) -> Run:
    """Predict every person's keypoints.

    Args:
        engine: for 17 keypoints.
        persons: the persons.
        flip_test: average with the mirrored crop, as mmpose's ``flip_test`` does.

    Raises:
        KitError: an image can't be used, or the engine gives something else than numbers.
    """
    record, parts, batch_ms = engine.record, [], []
    start = time.perf_counter()
    with tqdm(total=len(persons), unit="person", desc="Predicting", disable=None) as bar:
        for batch in iterate_batches(persons.images, record.input_size, record.batch):
            logits = _infer(engine, batch.pixels, flip_test, batch_ms)
            decoded = decode(*(axis[:len(batch.crops)] for axis in logits), record.input_size)
            parts.append(to_predictions(batch.crops, *decoded, record.input_size))
            bar.update(len(batch.crops))
    return Run(join(parts), batch_ms, time.perf_counter() - start)


def _infer(engine: Engine, crops: np.ndarray, flip_test: bool, batch_ms: list[float]
           ) -> tuple[np.ndarray, np.ndarray]:
    simcc_x, simcc_y = _timed_infer(engine, crops, batch_ms)
    if not flip_test:
        return simcc_x, simcc_y
    flipped_x, flipped_y = _timed_infer(engine, np.ascontiguousarray(crops[..., ::-1]), batch_ms)
    return (postprocess.fuse_flipped(simcc_x, flipped_x, mirror_axis=True),
            postprocess.fuse_flipped(simcc_y, flipped_y, mirror_axis=False))


def _timed_infer(engine: Engine, crops: np.ndarray, batch_ms: list[float]) -> tuple[np.ndarray, np.ndarray]:
    start = time.perf_counter()
    logits = engine.infer(crops)
    batch_ms.append((time.perf_counter() - start) * 1e3)
    return logits
