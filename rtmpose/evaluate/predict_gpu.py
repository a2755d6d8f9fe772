"""Every person of a set through a TensorRT engine: threads read images, the GPU does the rest.

The same persons, crops and keypoints as :mod:`rtmpose.evaluate.predict`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle

import numpy as np
from tqdm import tqdm

from rtmpose.data import postprocess, preprocess
from rtmpose.data.coco import Image, PersonSet, regroup
from rtmpose.data.images import read_image
from rtmpose.engines.in_flight import IN_FLIGHT
from rtmpose.engines.tensorrt import kernels
from rtmpose.engines.tensorrt.engine import TensorRTEngine
from rtmpose.engines.tensorrt.stream import KeypointRunner
from rtmpose.evaluate.predictions import Predictions, check_finite
from rtmpose.machine.cpu import count_cores

IMAGES_A_THREAD = 2  # being read or waiting

Result = tuple[np.ndarray, float]  # keypoints of a batch, and its milliseconds
Infer = Callable[[np.ndarray, np.ndarray], Result]  # KeypointRunner.infer_images


def predict_persons_on_gpu(engine: TensorRTEngine, persons: PersonSet, flip_test: bool = False
                           ) -> tuple[Predictions, list[float], float]:
    """Predict keypoints, with the same result as :func:`rtmpose.evaluate.predict.predict_persons`.

    A batch's milliseconds are those from the start of its upload to the end of its download. Raises KitError also if
    memory runs out.
    """
    record = engine.record
    batches = split_batches(persons, record.batch)
    image_bytes = max(sum(map(count_bytes, images)) for images in batches)
    buffers = [(engine.pinned((image_bytes,), np.uint8), engine.pinned((record.batch,), kernels.REGION))
               for _ in range(count_buffers(len(persons.images), len(batches)))]
    runner = KeypointRunner(engine, image_bytes, flip_test)
    start = time.perf_counter()
    boxes = np.stack([person.bbox for person in persons])
    centers, scales = preprocess.box_to_center_scale(boxes, record.input_size)
    parts, batch_ms = [], []
    with tqdm(total=len(persons), unit="person", desc="Predicting", disable=None) as bar:
        for keypoints, milliseconds in run_batches(runner.infer_images, batches, centers, scales, record.input_size,
                                                   buffers):
            parts.append(keypoints)
            batch_ms.append(milliseconds)
            bar.update(len(keypoints))
    found = np.concatenate(parts)
    keypoints = postprocess.crop_to_image(found[..., :2], centers, scales, record.input_size)
    predictions = Predictions(list(persons), keypoints, found[..., 2].copy(), scales)
    return predictions, batch_ms, time.perf_counter() - start


def split_batches(persons: PersonSet, batch: int) -> list[list[Image]]:
    """The images of each batch of persons, with their persons in it: an image may be in several batches."""
    pairs = persons.pairs
    return [regroup(pairs[start:start + batch]) for start in range(0, len(pairs), batch)]


def count_bytes(image: Image) -> int:
    """Bytes of an image's pixels."""
    return 3 * image.width * image.height


def count_buffers(images: int, batches: int) -> int:
    """Batches in host memory: in flight, handed over, and read ahead so that every thread has images to read."""
    ahead = IMAGES_A_THREAD * count_cores() * batches / images
    return min(IN_FLIGHT + 2 + int(ahead), batches)


def run_batches(infer: Infer, batches: Sequence[Sequence[Image]], centers: np.ndarray, scales: np.ndarray,
                input_size: tuple[int, int], buffers: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[Result]:
    """Results of all batches, in order. A thread for each core reads images ahead, as far as there are buffers, and a
    thread for each batch in flight waits for the images of one and infers.

    Centers and scales, float32 (N, 2), are those of all persons. A buffer is memory for the images and the regions of a
    batch. Raises KitError if an image can't be used or the engine returns NaN or infinity.
    """
    running: deque[Future[Result]] = deque()
    row = 0  # of the batch's first person
    with ThreadPoolExecutor(count_cores()) as readers, ThreadPoolExecutor(IN_FLIGHT) as runners:
        for images, (memory, regions) in zip(batches, cycle(buffers), strict=False):
            if len(running) == len(buffers):
                yield running.popleft().result()  # of the batch that had this buffer
            pixels, persons = memory[:sum(map(count_bytes, images))], sum(len(image.persons) for image in images)
            reading = start_reading(readers, images, centers[row:], scales[row:], input_size, pixels, regions)
            running.append(runners.submit(run_batch, infer, reading, pixels, regions, persons))
            row += persons
        yield from (job.result() for job in running)


def start_reading(pool: ThreadPoolExecutor, images: Sequence[Image], centers: np.ndarray, scales: np.ndarray,
                  input_size: tuple[int, int], pixels: np.ndarray, regions: np.ndarray) -> list[Future[None]]:
    """Start a job for each image, which fills its part of a batch."""
    jobs, start, row = [], 0, 0
    for image in images:
        end, rows = start + count_bytes(image), slice(row, row + len(image.persons))
        regions["start"][rows] = start
        jobs.append(pool.submit(fill_part, image, centers[rows], scales[rows], input_size, pixels[start:end],
                                regions[rows]))
        start, row = end, rows.stop
    return jobs


def fill_part(image: Image, centers: np.ndarray, scales: np.ndarray, input_size: tuple[int, int], pixels: np.ndarray,
              regions: np.ndarray) -> None:
    """Read an image, and describe the regions of its persons to the kernels."""
    regions["map"] = kernels.crop_maps(centers, scales, input_size)
    regions["width"], regions["height"] = image.width, image.height
    pixels[:] = read_image(image).ravel()


def run_batch(infer: Infer, reading: Sequence[Future[None]], pixels: np.ndarray, regions: np.ndarray, persons: int
              ) -> Result:
    """Wait for a batch's images, pad its regions with the first one, and infer."""
    for job in reading:
        job.result()
    regions[persons:] = regions[0]
    keypoints, milliseconds = infer(pixels, regions)
    check_finite(np.all(np.isfinite(keypoints[:persons]), axis=(1, 2)))
    return keypoints[:persons], milliseconds
