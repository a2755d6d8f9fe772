"""Reading for the GPU path, which needs none: batches of whole images in memory that is used again and again."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from helpers import draw_dataset

from rtmpose.data import preprocess
from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.data.images import read_image
from rtmpose.engines.tensorrt import kernels
from rtmpose.errors import KitError
from rtmpose.evaluate import predict_gpu
from rtmpose.evaluate.predict_gpu import ImageBatch

SIZE = (192, 256)


def read(persons: PersonSet, batch: int, buffers: int, use: Callable[[ImageBatch], None]) -> None:
    """Read all batches into a few buffers; ``use`` sees each before its buffer is used again."""
    split = predict_gpu.split_batches(persons, batch)
    largest = max(sum(predict_gpu.count_bytes(image) for image in images) for images in split)
    memory = deque(ImageBatch(np.zeros(largest, np.uint8), np.zeros(batch, kernels.REGION)) for _ in range(buffers))
    regions = preprocess.box_to_center_scale(np.stack([person.bbox for person in persons]), SIZE)
    with closing(predict_gpu.read_batches(split, *regions, SIZE, memory)) as batches:
        for read_batch in batches:
            use(read_batch)
            read_batch.pixels[:] = 0
            memory.append(read_batch)


@pytest.mark.parametrize(("batch", "buffers"), [(1, 1), (2, 3), (3, 1), (4, 2), (100, 1)])
def test_every_region_lies_in_its_image(tmp_path: Path, batch: int, buffers: int) -> None:
    """An image whose persons are in several batches lies in each of them; the last batch is padded."""
    draw_dataset(tmp_path, images=12)
    persons, seen, lengths, maps = load_persons(tmp_path), [], [], []

    def check(found: ImageBatch) -> None:
        ends = []
        for start, width, height in found.regions[["start", "width", "height"]].tolist()[:found.persons]:
            ends.append(start + 3 * width * height)
            seen.append(found.pixels[start:ends[-1]].reshape(height, width, 3).copy())
        assert max(ends) == found.image_bytes and len(found.regions) == batch
        assert all(padding == found.regions[0] for padding in found.regions[found.persons:])
        lengths.append(found.persons)
        maps.extend(found.regions["map"][:found.persons].copy())

    read(persons, batch, buffers, check)
    assert sum(lengths) == len(seen) == len(persons) and set(lengths[:-1]) <= {batch}
    expected = [read_image(image) for image in persons.images for _ in image.persons]
    for given, pixels in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(given, pixels)
    boxes = np.stack([person.bbox for person in persons])
    np.testing.assert_array_equal(maps, kernels.crop_maps(*preprocess.box_to_center_scale(boxes, SIZE), SIZE))


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
