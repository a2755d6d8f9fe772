"""Training crops: freshly drawn people, cropped as in the kit and augmented."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cv2
import numpy as np

from drawing.dataset import encode_jpeg
from drawing.scene import DrawnPerson, draw_scene
from rtmpose.data.annotations import NUM_KEYPOINTS
from rtmpose.data.postprocess import COCO_FLIP_INDICES
from rtmpose.data.preprocess import box_to_center_scale

INPUT_SIZE = (192, 256)
"""Width and height of a crop in pixels."""

_USES_PER_PERSON = 6


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a crop."""

    shift: tuple[float, float]  # in shares of the region
    scale: float
    rotation: float  # degrees
    flip: bool
    gain: tuple[float, float, float]  # one per colour channel


def draw_round(seed: int, number: int, count: int, difficulty: float, strength: float
               ) -> tuple[np.ndarray, np.ndarray]:
    """Draw one round of shuffled training crops; the same arguments give the same crops.

    Args:
        seed: of the training.
        number: of the round.
        count: number of crops.
        difficulty: upper limit, 0 to 1 (see :func:`drawing.scene.draw_scene`).
        strength: of the augmentation, 0 to 1.

    Returns:
        Crops, uint8 (count, 256, 192, 3), BGR; keypoints, float32 (count, 17, 3): x and y in crop pixels, v.
    """
    rng = np.random.default_rng([seed, number, 1])
    width, height = INPUT_SIZE
    crops = np.empty((count, height, width, 3), dtype=np.uint8)
    keypoints = np.empty((count, NUM_KEYPOINTS, 3), dtype=np.float32)
    places = iter(rng.permutation(count))
    with contextlib.suppress(StopIteration):
        while True:
            image, people = draw_scene(rng, difficulty * rng.uniform(0.5, 1.0) ** 0.5)
            image = _through_jpeg(image)
            for person in people * _USES_PER_PERSON:
                place = next(places)
                crops[place], keypoints[place] = _crop(image, person, _sample_augmentation(rng, strength))
    return crops, keypoints


def draw_rounds(rounds: Sequence[tuple[int, int, int, float, float]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield :func:`draw_round` for each set of arguments; a separate process draws one round ahead."""
    # Forking a process that has threads (torch, OpenCV) can hang.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_rounds, args=(sender, rounds), daemon=True)
    process.start()
    sender.close()
    try:
        for _ in rounds:
            yield receiver.recv()
    finally:
        process.kill()
        process.join()


def _send_rounds(sender: Connection, rounds: Sequence[tuple[int, int, int, float, float]]) -> None:
    """Draw in a child process: on one core, leaving interrupts to the parent, and ending when the parent ends."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    for arguments in rounds:
        sender.send(draw_round(*arguments))


def _through_jpeg(image: np.ndarray) -> np.ndarray:
    """A picture after JPEG compression, like the pictures of the data set."""
    return cv2.imdecode(np.frombuffer(encode_jpeg(image), np.uint8), cv2.IMREAD_COLOR)


def _sample_augmentation(rng: np.random.Generator, strength: float) -> Augmentation:
    return Augmentation(
        shift=tuple(rng.uniform(-0.06, 0.06, 2) * strength),
        scale=float(np.exp(rng.uniform(-0.2, 0.2) * strength)),
        rotation=float(np.clip(rng.normal(0, 15), -30, 30) * strength) if rng.random() < 0.5 else 0.0,
        flip=bool(rng.random() < 0.5),
        gain=tuple(1 + rng.uniform(-0.12, 0.12, 3) * strength),
    )


def _crop(image: np.ndarray, person: DrawnPerson, change: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """One augmented crop (256 x 192 x 3, uint8, BGR) and its keypoints (17 x 3: x, y in crop pixels, v)."""
    x, y, width, height = person.bbox
    center, scale = box_to_center_scale(np.array([x, y, x + width, y + height], np.float32), INPUT_SIZE)
    center = center + np.array(change.shift, dtype=np.float32) * scale
    matrix = rotated_warp_matrix(center, scale * change.scale, change.rotation)
    crop = cv2.warpAffine(image, matrix, INPUT_SIZE, flags=cv2.INTER_LINEAR)
    keypoints = person.keypoints.copy()
    keypoints[:, :2] = keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    if change.flip:
        crop = crop[:, ::-1]
        keypoints[:, 0] = INPUT_SIZE[0] - 1 - keypoints[:, 0]
        keypoints = keypoints[list(COCO_FLIP_INDICES)]
    table = np.clip(np.arange(256)[:, None] * np.array(change.gain), 0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(crop), table[:, None]), keypoints


def rotated_warp_matrix(center: np.ndarray, scale: np.ndarray, degrees: float) -> np.ndarray:
    """:func:`rtmpose.data.preprocess.warp_matrix` for a rotated region (mmpose: ``get_warp_matrix``)."""
    angle, half = np.deg2rad(degrees), scale[0] * -0.5
    middle = np.float32(center)
    left = np.float32(center + np.array([half * np.cos(angle), half * np.sin(angle)]))
    turned = left + np.array([-(middle - left)[1], (middle - left)[0]], np.float32)
    width, height = INPUT_SIZE
    target = np.array([[width, height], [0, height], [0, height + width]], np.float32) * np.float32(0.5)
    return cv2.getAffineTransform(np.stack([middle, left, turned]), target)
