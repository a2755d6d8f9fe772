"""Every person of a set through an engine: loader -> engine -> predictions."""

import time

import numpy as np
from tqdm import tqdm

from rtmpose.data import postprocess, preprocess
from rtmpose.data.batches import Crop, iterate_batches
from rtmpose.data.coco import Person, PersonSet
from rtmpose.engines import Engine
from rtmpose.evaluate.predictions import Predictions, decode_batch, join


def predict_persons(engine: Engine, persons: PersonSet, flip_test: bool = False
                    ) -> tuple[Predictions, list[float], float]:
    """Predict the keypoints of every person with an engine for 17 keypoints.

    ``flip_test`` averages with the mirrored crop, as mmpose's does. Returns predictions in the order of the set, the
    milliseconds of each run of the engine, and the seconds from the first image to the last keypoint. Raises KitError
    if an image can't be used or the engine returns NaN or infinity.
    """
    input_size = engine.record.input_size
    parts: list[Predictions] = []
    batch_ms: list[float] = []

    def infer(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = time.perf_counter()
        logits = engine.infer(crops)
        batch_ms.append((time.perf_counter() - before) * 1e3)
        return logits

    start = time.perf_counter()
    with tqdm(total=len(persons), unit="person", desc="Predicting", disable=None) as bar:
        for batch in iterate_batches(persons.images, input_size, engine.record.batch):
            simcc_x, simcc_y = infer(batch.pixels)
            if flip_test:
                flipped_x, flipped_y = infer(np.ascontiguousarray(batch.pixels[..., ::-1]))
                simcc_x = postprocess.fuse_flipped(simcc_x, flipped_x, mirror_axis=True)
                simcc_y = postprocess.fuse_flipped(simcc_y, flipped_y, mirror_axis=False)
            parts.append(decode_batch(batch.crops, simcc_x, simcc_y, input_size))
            bar.update(len(batch.crops))
    return join(parts), batch_ms, time.perf_counter() - start


def predict_person(engine: Engine, image: np.ndarray, bbox: np.ndarray) -> Predictions:
    """Predict the keypoints, of any number, of one person in an image, uint8 (H, W, 3), BGR.

    The box is float32 (4,), x1 y1 x2 y2 in pixels. Raises KitError if the engine returns NaN or infinity.
    """
    input_size = engine.record.input_size
    center, scale = preprocess.box_to_center_scale(bbox, input_size)
    crop = Crop(Person(0, 0, bbox, np.float32(1)), preprocess.crop_person(image, center, scale, input_size), center,
                scale)
    crops = np.repeat(preprocess.normalize(crop.pixels)[None], engine.record.batch, axis=0)
    return decode_batch([crop], *engine.infer(crops), input_size)
