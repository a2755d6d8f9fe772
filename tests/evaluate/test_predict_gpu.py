"""Reading for the GPU path, which needs none: batches of whole images in memory that is used again and again."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from helpers import draw_dataset

from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.data.images import read_image
from rtmpose.engines.tensorrt.stream import ImageBatch
from rtmpose.errors import KitError
from rtmpose.evaluate import predict_gpu

SIZE = (192, 256)


def read(persons: PersonSet, batch_size: int, buffers: int, use: Callable[[ImageBatch], None]) -> None:
    """Read all batches into a few buffers; ``use`` sees each before its buffer is used again."""
    split = predict_gpu.split_batches(persons.images, batch_size)
    largest = max(sum(map(predict_gpu.count_bytes, images)) for images in split)
    memory = deque(np.zeros(largest, np.uint8) for _ in range(buffers))
    with closing(predict_gpu.read_batches(split, SIZE, memory)) as batches:
        for batch in batches:
            use(batch)
            batch.images[:] = 0
            memory.append(batch.images)


@pytest.mark.parametrize(("batch_size", "buffers"), [(1, 1), (2, 3), (3, 1), (4, 2), (100, 1)])
def test_every_region_lies_in_its_image(tmp_path: Path, batch_size: int, buffers: int) -> None:
    """An image whose persons are in several batches lies in each of them."""
    draw_dataset(tmp_path, images=12)
    persons, seen, lengths = load_persons(tmp_path), [], []

    def check(batch: ImageBatch) -> None:
        ends = []
        for start, width, height in batch.regions[["start", "width", "height"]].tolist():
            ends.append(start + 3 * width * height)
            seen.append(batch.images[start:ends[-1]].reshape(height, width, 3).copy())
        assert max(ends) == batch.image_bytes
        lengths.append(len(batch.regions))

    read(persons, batch_size, buffers, check)
    assert sum(lengths) == len(seen) == len(persons) and set(lengths[:-1]) <= {batch_size}
    expected = [read_image(image) for image in persons.images for _ in image.persons]
    for given, pixels in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(given, pixels)


def test_the_first_broken_image_is_reported(tmp_path: Path) -> None:
    draw_dataset(tmp_path, images=8)
    persons = load_persons(tmp_path)
    for image in persons.images[3:]:
        image.path.write_bytes(b"")
    batches: list[ImageBatch] = []
    with pytest.raises(KitError, match=f"{persons.images[3].path.name}: is no image"):
        read(persons, 2, 4, batches.append)
    assert len(batches) == sum(len(image.persons) for image in persons.images[:3]) // 2


def test_leaving_early_ends_the_threads(tmp_path: Path) -> None:
    draw_dataset(tmp_path, images=12)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        read(load_persons(tmp_path), 2, 2, interrupt)
    assert threading.active_count() == before


def interrupt(batch: ImageBatch) -> None:
    raise KeyboardInterrupt
