"""Batches without gaps or mix-ups, whatever their size."""

from pathlib import Path

import judge
import numpy as np
import pytest

from rtmpose.data.batches import cut_image, iterate_batches
from rtmpose.data.coco import load_persons
from rtmpose.data.preprocess import normalize


@pytest.mark.parametrize("size", [1, 3, 4, 64])
def test_batches_are_the_crops_in_order(size: int, drawn: Path) -> None:
    """Kept beyond their turn, too: no batch writes into another's memory."""
    images = load_persons(drawn).images
    expected = [crop for image in images for crop in cut_image(image, judge.INPUT_SIZE)]
    batches = list(iterate_batches(images, judge.INPUT_SIZE, size))
    crops = [crop for batch in batches for crop in batch.crops]
    assert [crop.person.index for crop in crops] == [crop.person.index for crop in expected]
    assert [len(batch.crops) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    for batch in batches:
        assert batch.pixels.shape == (size, 3, 256, 192) and batch.pixels.flags.c_contiguous
        for row, crop in zip(batch.pixels, batch.crops, strict=False):
            assert np.shares_memory(row, crop.pixels)
        np.testing.assert_array_equal(batch.pixels[len(batch.crops):],
                                      np.broadcast_to(batch.pixels[0], batch.pixels[len(batch.crops):].shape))
    for ours, crop in zip(crops, expected, strict=True):
        np.testing.assert_array_equal(ours.pixels, normalize(crop.pixels))
