"""Reading for the GPU path, which needs none: batches of whole images in memory that is used again and again."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import draw_dataset

from rtmpose.data import preprocess
from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.data.images import read_image
from rtmpose.engines.tensorrt import kernels
from rtmpose.errors import KitError
from rtmpose.evaluate import predict_gpu

SIZE = (192, 256)


class Found(NamedTuple):
    """A batch as the GPU would see it."""

    pixels: np.ndarray
    regions: np.ndarray
    persons: int


def read(persons: PersonSet, batch: int, buffers: int) -> Iterator[Found]:
    """All batches, read into a few buffers that are used again."""
    def infer(pixels: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, Any]:
        seen = pixels.copy(), regions.copy()
        pixels[:] = 0
        return np.zeros((batch, 17, 3)), seen

    split = predict_gpu.split_batches(persons, batch)
    largest = max(sum(predict_gpu.count_bytes(image) for image in images) for images in split)
    memory = [(np.zeros(largest, np.uint8), np.zeros(batch, kernels.REGION)) for _ in range(buffers)]
    regions = preprocess.box_to_center_scale(np.stack([person.bbox for person in persons]), SIZE)
    for keypoints, seen in predict_gpu.run_batches(infer, split, *regions, SIZE, memory):
        yield Found(*seen, len(keypoints))


@pytest.mark.parametrize(("batch", "buffers"), [(1, 1), (2, 3), (3, 1), (4, 2), (100, 1)])
def test_every_region_lies_in_its_image(tmp_path: Path, batch: int, buffers: int) -> None:
    """An image whose persons are in several batches lies in each of them; the last batch is padded."""
    draw_dataset(tmp_path, images=12)
    persons, seen, lengths, maps = load_persons(tmp_path), [], [], []
    for found in read(persons, batch, buffers):
        ends = []
        for start, width, height in found.regions[["start", "width", "height"]].tolist()[:found.persons]:
            ends.append(start + 3 * width * height)
            seen.append(found.pixels[start:ends[-1]].reshape(height, width, 3))
        assert max(ends) == len(found.pixels) and len(found.regions) == batch
        assert all(padding == found.regions[0] for padding in found.regions[found.persons:])
        lengths.append(found.persons)
        maps.extend(found.regions["map"][:found.persons])
    assert sum(lengths) == len(seen) == len(persons) and set(lengths[:-1]) <= {batch}
    expected = [read_image(image) for image in persons.images for _ in image.persons]
    for given, pixels in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(given, pixels)
    boxes = np.stack([person.bbox for person in persons])
    np.testing.assert_array_equal(maps, kernels.crop_maps(*preprocess.box_to_center_scale(boxes, SIZE), SIZE))


def test_the_first_broken_image_is_reported_and_the_threads_end(tmp_path: Path) -> None:
    draw_dataset(tmp_path, images=8)
    persons = load_persons(tmp_path)
    for image in persons.images[3:]:
        image.path.write_bytes(b"")
    before, batches = threading.active_count(), []
    with pytest.raises(KitError, match=f"{persons.images[3].path.name}: is no image"):
        batches.extend(read(persons, 2, 4))
    assert len(batches) == sum(len(image.persons) for image in persons.images[:3]) // 2
    assert threading.active_count() == before
