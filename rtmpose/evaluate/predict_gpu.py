"""Every person of a set through a TensorRT engine: threads read images, the GPU does the rest.

The same persons, crops and keypoints as :mod:`rtmpose.evaluate.predict`.
"""

import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

import numpy as np
from tqdm import tqdm

from rtmpose.data import postprocess, preprocess
from rtmpose.data.coco import Image, PersonSet
from rtmpose.data.images import read_image
from rtmpose.engines.tensorrt import kernels
from rtmpose.engines.tensorrt.engine import IN_FLIGHT, TensorRTEngine
from rtmpose.engines.tensorrt.stream import GpuStream, ImageBatch
from rtmpose.evaluate.predictions import Predictions, check_finite
from rtmpose.machine.cpu import count_cores

IMAGES_A_THREAD = 2  # being read or waiting


def predict_persons_on_gpu(engine: TensorRTEngine, persons: PersonSet, flip_test: bool = False
                           ) -> tuple[Predictions, list[float], float]:
    """Predict keypoints, with the same result as :func:`rtmpose.evaluate.predict.predict_persons`.

    A batch's milliseconds are those from the start of its upload to the end of its download. Raises KitError also if
    memory runs out.
    """
    record, batch_ms = engine.record, []
    batches = split_batches(persons.images, record.batch)
    image_bytes = max(sum(map(count_bytes, images)) for images in batches)
    memory = deque(engine.pinned((image_bytes,), np.uint8)
                   for _ in range(count_buffers(len(persons.images), len(batches))))
    stream = GpuStream(engine, image_bytes, flip_test)
    start, done = time.perf_counter(), 0
    found = np.empty((len(persons), record.num_keypoints, 3), np.float32)
    with (closing(read_batches(batches, record.input_size, memory)) as filled,
          closing(stream.run(filled)) as results,
          tqdm(total=len(persons), unit="person", desc="Predicting", disable=None) as bar):
        for result in results:
            memory.append(result.batch.images)
            check_finite(~np.isnan(result.keypoints[..., 2]).any(axis=1))
            found[done:done + len(result.keypoints)] = result.keypoints
            done += len(result.keypoints)
            batch_ms.append(result.milliseconds)
            bar.update(len(result.keypoints))
    boxes = np.stack([person.bbox for person in persons])
    centers, scales = preprocess.box_to_center_scale(boxes, record.input_size)
    keypoints = postprocess.crop_to_image(found[..., :2], centers, scales, record.input_size)
    predictions = Predictions(list(persons), keypoints, found[..., 2].copy(), scales)
    return predictions, batch_ms, time.perf_counter() - start


def split_batches(images: Sequence[Image], batch: int) -> list[list[Image]]:
    """The images of each batch of persons, with their persons of that batch: an image may be in several batches."""
    pairs = [(image, person) for image in images for person in image.persons]
    return [[replace(image, persons=[person for _, person in group])
             for image, group in groupby(pairs[start:start + batch], itemgetter(0))]
            for start in range(0, len(pairs), batch)]


def count_bytes(image: Image) -> int:
    """Bytes of an image's pixels."""
    return 3 * image.width * image.height


def count_buffers(images: int, batches: int) -> int:
    """Batches in host memory: in flight, handed over, and read ahead so that every thread has images to read."""
    ahead = IMAGES_A_THREAD * count_cores() * batches / images
    return min(IN_FLIGHT + 2 + int(ahead), batches)


def read_batches(batches: Sequence[Sequence[Image]], input_size: tuple[int, int], memory: deque[np.ndarray]
                 ) -> Generator[ImageBatch]:
    """Batches in order, while a thread for each core reads ahead into ``memory``, as long as there is some.

    A batch's memory has to be put back when it is free again. Closing it ends the threads. Raises KitError if an image
    can't be used.
    """
    reading: deque[tuple[ImageBatch, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(count_cores()) as pool:
        try:
            for images in batches:
                while not memory:
                    yield wait_for(*reading.popleft())
                reading.append(start_reading(pool, images, input_size, memory.popleft()))
            while reading:
                yield wait_for(*reading.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def start_reading(pool: ThreadPoolExecutor, images: Sequence[Image], input_size: tuple[int, int], memory: np.ndarray
                  ) -> tuple[ImageBatch, list[Future[None]]]:
    """Start a job for each image of a batch, which fills its part of the batch."""
    regions = np.empty(sum(len(image.persons) for image in images), kernels.REGION)
    jobs, start, row = [], 0, 0
    for image in images:
        end, last = start + count_bytes(image), row + len(image.persons)
        regions["start"][row:last] = start
        jobs.append(pool.submit(fill_part, image, input_size, memory[start:end], regions[row:last]))
        start, row = end, last
    return ImageBatch(memory, start, regions), jobs


def fill_part(image: Image, input_size: tuple[int, int], pixels: np.ndarray, regions: np.ndarray) -> None:
    """Read an image, and describe the regions of its persons to the kernels."""
    boxes = np.stack([person.bbox for person in image.persons])
    regions["map"] = kernels.crop_maps(*preprocess.box_to_center_scale(boxes, input_size), input_size)
    regions["width"], regions["height"] = image.width, image.height
    pixels[:] = read_image(image).ravel()


def wait_for(batch: ImageBatch, jobs: Sequence[Future[None]]) -> ImageBatch:
    """A batch whose images have been read. Raises KitError if one can't be used."""
    for job in jobs:
        job.result()
    return batch
