"""Every person of a set through a TensorRT engine: threads read images, the GPU does the rest.

The same persons, crops and keypoints as :mod:`rtmpose.evaluate.predict`. Work that the main thread does for each person
would limit a fast GPU, so it handles arrays: of the whole set at the start, and of a batch while the GPU runs.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from rtmpose.data import postprocess, preprocess
from rtmpose.data.dataset import Image, PersonSet
from rtmpose.data.loader import read_image
from rtmpose.engines import cuda_kernels
from rtmpose.engines.gpu_stream import GpuStream, ImageBatch
from rtmpose.engines.tensorrt_backend import IN_FLIGHT, TensorRTEngine
from rtmpose.environment import count_cores
from rtmpose.evaluate.predict import Run
from rtmpose.evaluate.predictions import Predictions, check_finite

IMAGES_A_THREAD = 2  # being read or waiting
Reading = tuple[int, Future[np.ndarray | None]]  # index of an image; its pixels, if the next batch needs them


@dataclass(frozen=True)
class Layout:
    """Where each person's image lies in the memory of the person's batch, one image after the other."""

    owner: np.ndarray  # int (N,), index of each person's image
    first: np.ndarray  # bool (N,), whether a person is the first of its image in its batch
    start: np.ndarray  # int (N,), offset of each person's image in bytes
    batch_bytes: np.ndarray  # int (batches,)


def predict(engine: TensorRTEngine, persons: PersonSet, flip_test: bool = False) -> Run:
    """Predict keypoints as :func:`rtmpose.evaluate.predict.predict` does.

    A batch's milliseconds are those from the start of its upload to the end of its download. Raises KitError also if
    memory runs out.
    """
    record, batch_ms = engine.record, []
    layout = lay_out(persons.images, record.batch)
    image_bytes = int(layout.batch_bytes.max())
    memory = deque(engine.pinned((image_bytes,), np.uint8)
                   for _ in range(count_buffers(len(persons.images), len(layout.batch_bytes))))
    stream = GpuStream(engine, image_bytes, flip_test)
    start, done = time.perf_counter(), 0
    boxes = np.stack([person.bbox for person in persons])
    centers, scales = preprocess.box_to_center_scale(boxes, record.input_size)
    regions = find_regions(persons.images, layout, centers, scales, record.input_size)
    found = np.empty((len(persons), record.num_keypoints, 3), np.float32)
    with tqdm(total=len(persons), unit="person", desc="Predicting", disable=None) as bar:
        for result in stream.run(read_batches(persons.images, layout, regions, record.batch, memory)):
            memory.append(result.batch.images)
            check_finite(~np.isnan(result.keypoints[..., 2]).any(axis=1))
            found[done:done + len(result.keypoints)] = result.keypoints
            done += len(result.keypoints)
            batch_ms.append(result.milliseconds)
            bar.update(len(result.keypoints))
    keypoints = postprocess.crop_to_image(found[..., :2], centers, scales, record.input_size)
    return Run(Predictions(list(persons), keypoints, found[..., 2].copy(), scales), batch_ms,
               time.perf_counter() - start)


def lay_out(images: Sequence[Image], batch_size: int) -> Layout:
    """Batches of the persons of all images in order. An image of persons of two batches lies in both."""
    owner = np.repeat(np.arange(len(images)), [len(image.persons) for image in images])
    size = np.array([3 * image.width * image.height for image in images])[owner]
    batch = np.arange(len(owner)) // batch_size
    first = (np.diff(owner, prepend=-1) != 0) | (np.diff(batch, prepend=-1) != 0)
    end = np.cumsum(np.where(first, size, 0))
    batch_start = (end - size)[::batch_size]
    return Layout(owner, first, end - size - batch_start[batch], np.diff(batch_start, append=end[-1]))


def find_regions(images: Sequence[Image], layout: Layout, centers: np.ndarray, scales: np.ndarray,
                 input_size: tuple[int, int]) -> np.ndarray:
    """The kernels' regions of all persons, :data:`cuda_kernels.REGION` (N,)."""
    regions = np.empty(len(layout.owner), cuda_kernels.REGION)
    regions["map"] = cuda_kernels.crop_maps(centers, scales, input_size)
    regions["start"] = layout.start
    for name in ("width", "height"):
        regions[name] = np.array([getattr(image, name) for image in images])[layout.owner]
    return regions


def count_buffers(images: int, batches: int) -> int:
    """Batches in host memory: in flight, handed over, and read ahead so that every thread has images to read."""
    ahead = IMAGES_A_THREAD * count_cores() * batches / images
    return min(IN_FLIGHT + 2 + int(ahead), batches)


def read_batches(images: Sequence[Image], layout: Layout, regions: np.ndarray, batch_size: int,
                 memory: deque[np.ndarray]) -> Iterator[ImageBatch]:
    """Batches in order, while a thread for each core reads ahead into ``memory``, as long as there is some.

    A batch's memory has to be put back when it is free again. Raises KitError if an image can't be used.
    """
    reading: deque[tuple[ImageBatch, list[Reading]]] = deque()
    last: Reading | None = None  # of the batch before: the next batch may need the same image
    upcoming = iter(range(len(layout.batch_bytes)))
    with ThreadPoolExecutor(count_cores()) as pool:
        try:
            while True:
                while memory and (number := next(upcoming, None)) is not None:
                    rows = slice(number * batch_size, (number + 1) * batch_size)
                    batch = ImageBatch(memory.popleft(), int(layout.batch_bytes[number]), regions[rows])
                    jobs = start_reading(pool, images, layout, rows, batch.images, last)
                    reading.append((batch, jobs))
                    last = jobs[-1]
                if not reading:
                    return
                batch, jobs = reading.popleft()
                wait([pixels for _, pixels in jobs])
                for _, pixels in jobs:
                    pixels.result()
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def start_reading(pool: ThreadPoolExecutor, images: Sequence[Image], layout: Layout, rows: slice, memory: np.ndarray,
                  last: Reading | None) -> list[Reading]:
    """Read the images of a batch, whose persons are ``rows``, into its memory."""
    first = layout.first[rows]
    owners, starts = layout.owner[rows][first].tolist(), layout.start[rows][first].tolist()
    shared = layout.owner[rows.stop] if rows.stop < len(layout.owner) else None  # the next batch's first image
    return [(owner, pool.submit(read_into, images[owner], memory[start:], owner == shared,
                                last[1] if last and last[0] == owner else None))
            for owner, start in zip(owners, starts, strict=True)]


def read_into(image: Image, memory: np.ndarray, shared: bool, earlier: Future[np.ndarray | None] | None
              ) -> np.ndarray | None:
    """Write an image into memory, from its file or from an earlier reading, and return its pixels if they are shared."""
    pixels = earlier.result() if earlier else None
    if pixels is None:
        pixels = read_image(image)
    memory[:pixels.size] = pixels.ravel()
    return pixels if shared else None
