"""Every person of a set through a TensorRT engine: threads read images, the GPU does the rest.

The same persons, crops and keypoints as :mod:`rtmpose.evaluate.predict`. Work that the main thread does for each person
would limit a fast GPU, so it handles arrays: of the whole set at the start, and of a batch while the GPU runs.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from tqdm import tqdm

from rtmpose.data import postprocess, preprocess
from rtmpose.data.coco import Image, PersonSet
from rtmpose.data.images import read_image
from rtmpose.engines.tensorrt import kernels
from rtmpose.engines.tensorrt.engine import IN_FLIGHT, TensorRTEngine
from rtmpose.engines.tensorrt.stream import GpuStream, ImageBatch
from rtmpose.evaluate.predict import Run
from rtmpose.evaluate.predictions import Predictions, check_finite
from rtmpose.machine.cpu import count_cores

IMAGES_A_THREAD = 2  # being read or waiting


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
    with (closing(read_batches(persons.images, layout, regions, record.batch, memory)) as batches,
          closing(stream.run(batches)) as results,
          tqdm(total=len(persons), unit="person", desc="Predicting", disable=None) as bar):
        for result in results:
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
    """The kernels' regions of all persons, :data:`kernels.REGION` (N,)."""
    regions = np.empty(len(layout.owner), kernels.REGION)
    regions["map"] = kernels.crop_maps(centers, scales, input_size)
    regions["start"] = layout.start
    for name in ("width", "height"):
        regions[name] = np.array([getattr(image, name) for image in images])[layout.owner]
    return regions


def count_buffers(images: int, batches: int) -> int:
    """Batches in host memory: in flight, handed over, and read ahead so that every thread has images to read."""
    ahead = IMAGES_A_THREAD * count_cores() * batches / images
    return min(IN_FLIGHT + 2 + int(ahead), batches)


class Reading:
    """A batch whose images are being read."""

    def __init__(self, batch: ImageBatch, images: int) -> None:
        self.batch = batch
        self.errors: dict[int, Exception] = {}  # by the offset of the image that can't be used
        self._left, self._lock, self._done = images, threading.Lock(), threading.Event()

    def finish_image(self) -> None:
        with self._lock:
            self._left -= 1
            if not self._left:
                self._done.set()

    def wait(self) -> ImageBatch:
        """Wait for all images; raises KitError if one can't be used."""
        self._done.wait()
        if self.errors:
            raise self.errors[min(self.errors)]
        return self.batch


Pixels = Future[np.ndarray]


@dataclass(slots=True)
class Job:
    """One image to read."""

    image: Image
    reading: Reading
    start: int  # offset in the batch's memory
    earlier: Pixels | None  # the same image, if the batch before needs it too
    shared: Pixels | None  # for its pixels, if the next batch needs them too


def read_batches(images: Sequence[Image], layout: Layout, regions: np.ndarray, batch_size: int,
                 memory: deque[np.ndarray]) -> Generator[ImageBatch]:
    """Batches in order, while a thread for each core reads ahead into ``memory``, as long as there is some.

    A batch's memory has to be put back when it is free again. Closing it ends the threads. Raises KitError if an image
    can't be used.
    """
    # A future for each image would cost the main thread more than all its other work.
    queue: SimpleQueue[Job | None] = SimpleQueue()
    readings: deque[Reading] = deque()
    upcoming = plan_batches(images, layout, regions, batch_size, memory)
    threads = count_cores()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in range(threads):
                pool.submit(read_images, queue)
            while True:
                while memory and (jobs := next(upcoming, None)):
                    readings.append(jobs[0].reading)
                    for job in jobs:
                        queue.put(job)
                if not readings:
                    return
                yield readings.popleft().wait()
        finally:
            while not queue.empty():
                queue.get()
            for _ in range(threads):
                queue.put(None)


def plan_batches(images: Sequence[Image], layout: Layout, regions: np.ndarray, batch_size: int,
                 memory: deque[np.ndarray]) -> Generator[list[Job]]:
    """The jobs of each batch, which takes the next of ``memory``."""
    shared: Pixels | None = None
    for number, image_bytes in enumerate(layout.batch_bytes.tolist()):
        rows = slice(number * batch_size, (number + 1) * batch_size)
        first = layout.first[rows]
        owners, starts = layout.owner[rows][first].tolist(), layout.start[rows][first].tolist()
        reading = Reading(ImageBatch(memory.popleft(), image_bytes, regions[rows]), len(owners))
        jobs = [Job(images[owner], reading, start, None, None) for owner, start in zip(owners, starts, strict=True)]
        jobs[0].earlier = shared
        shared = Future() if owners[-1] in layout.owner[rows.stop:rows.stop + 1] else None
        jobs[-1].shared = shared
        yield jobs


def read_images(queue: SimpleQueue[Job | None]) -> None:
    """Read the images of a queue into the memory of their batches, until it holds None."""
    while job := queue.get():
        try:
            pixels = job.earlier.result() if job.earlier else read_image(job.image)
            job.reading.batch.images[job.start:job.start + pixels.size] = pixels.ravel()
            if job.shared:
                job.shared.set_result(pixels)
        except Exception as error:
            job.reading.errors[job.start] = error
            if job.shared:
                job.shared.set_exception(error)
        job.reading.finish_image()
