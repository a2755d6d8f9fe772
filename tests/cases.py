"""Inputs that several tests share: logits of every awkward kind, and regions of images to crop."""

from collections.abc import Callable

import numpy as np

from rtmpose.data import postprocess, preprocess
from rtmpose.engines.tensorrt import kernels

SIZES = ((192, 256), (288, 384))
Logits = tuple[np.ndarray, np.ndarray]
Region = tuple[np.ndarray, np.ndarray, np.ndarray]
FLIP_INDICES = np.array(postprocess.COCO_FLIP_INDICES, np.int32)


def broken(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """NaN in some rows, alone or beside infinity."""
    logits = random.normal(0, 1, shape)
    rows = random.random(shape[:2])
    logits[rows < 0.3, 7] = np.nan
    logits[rows < 0.2, 3] = np.inf
    logits[rows < 0.1] = np.nan
    return logits


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "as a network's": lambda random, shape: random.normal(-0.5, 0.3, shape),  # mostly below zero, one peak above
    "ties": lambda random, shape: random.integers(-2, 3, shape),
    "negative": lambda random, shape: -random.uniform(1e-6, 3, shape),
    "zeros": lambda random, shape: random.choice([0.0, -0.0], shape),
    "barely positive": lambda random, shape: random.uniform(-1, 0, shape) + random.choice(
        [-1e-7, 0, 1e-7, 1e-3], (*shape[:2], 1)),  # maxima just above, at and below zero
    "denormal": lambda random, shape: random.uniform(-1, 1, shape) * 1e-40,
    "huge": lambda random, shape: random.choice(
        [3.4e38, -3.4e38, np.inf, -np.inf, 1.0], shape, p=[.02, .4, .001, .179, .4]),
    "broken": broken}


def draw(kind: str, size: tuple[int, int], keypoints: int = 17, seed: int = 0) -> Logits:
    """Logits of five persons over both axes."""
    random = np.random.default_rng(seed)
    return tuple(KINDS[kind](random, (5, keypoints, 2 * length)).astype(np.float32) for length in size)


def pack(people: list[Region], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images in one buffer, and what the kernel takes of each person."""
    regions = np.zeros(len(people), kernels.REGION)
    _, centers, scales = zip(*people, strict=True)
    regions["map"] = kernels.crop_maps(np.stack(centers), np.stack(scales), size)
    start = 0
    for region, (image, _, _) in zip(regions, people, strict=True):
        region["start"], (region["height"], region["width"]) = start, image.shape[:2]
        start += image.nbytes
    return np.concatenate([image.ravel() for image, _, _ in people]), regions


def draw_regions(size: tuple[int, int], number: int, seed: int) -> list[Region]:
    """Boxes in, across and beside the borders of noise images of all sizes, and at whole and half pixels."""
    random = np.random.default_rng(seed)
    people = []
    for i in range(number):
        height, width = random.integers(1, 300, 2)
        corner = random.uniform(-80, 260, 2)
        box = np.concatenate([corner, corner + random.uniform(0.5, 400, 2)]).astype(np.float32)
        if i % 4 == 0:
            box = np.rint(box * 2) / 2 + np.array([0, 0, 1, 1], np.float32)
        if i % 4 == 1:
            box = np.array([0, 0, width, height], np.float32)
        people.append((random.integers(0, 256, (height, width, 3), np.uint8),
                       *preprocess.box_to_center_scale(box, size)))
    return people
