"""From a person's box to the network's input: centre and scale, affine crop, normalised NCHW.

The same arithmetic in the same order and precision as mmpose's ``GetBBoxCenterScale``, ``TopdownAffine``
(``get_warp_matrix``, no UDP) and ``PoseDataPreprocessor``, so that crops are equal to the last bit.
"""

import cv2
import numpy as np

PADDING = 1.25  # factor by which a box grows before it is cropped (mmpose GetBBoxCenterScale)

# Of R, G and B, in units of 8-bit pixels (mmpose PoseDataPreprocessor).
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)

# The network's input for each 8-bit pixel, float32 (3, 256), in the order R, G, B: a pixel has only 256 values.
NORMALIZED = (np.arange(256, dtype=np.float32) - MEAN[:, None]) / STD[:, None]


def box_to_center_scale(bbox: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale, float32 (..., 2), of the region that is cropped for a box, float32 (..., 4), x1 y1 x2 y2.

    It has the crop's aspect ratio (mmpose ``bbox_xyxy2cs`` and ``TopdownAffine._fix_aspect_ratio``).
    """
    size, center = (bbox[..., 2:] - bbox[..., :2]) * PADDING, (bbox[..., 2:] + bbox[..., :2]) * 0.5
    width, height = size[..., 0], size[..., 1]
    aspect_ratio = input_size[0] / input_size[1]
    wide = width > height * aspect_ratio
    scale = np.stack([np.where(wide, width, height * aspect_ratio), np.where(wide, width / aspect_ratio, height)], -1)
    return center, scale


def warp_matrix(center: np.ndarray, scale: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Affine map from image pixels to crop pixels, float64 (2, 3) (mmpose ``get_warp_matrix``).

    Three points fix it: the centre, the middle of the left edge, and the point at a right angle below that.
    """
    (x, y), (width, height) = center, input_size
    left = np.float32(float(x) - 0.5 * float(scale[0]))
    source = np.array([[x, y], [left, y], [left, y + (x - left)]], np.float32)
    target = np.array([[width, height], [0, height], [0, height + width]], np.float32) * np.float32(0.5)
    return cv2.getAffineTransform(source, target)


def crop_person(image: np.ndarray, center: np.ndarray, scale: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Cut a person out of an image, both uint8 (H, W, 3), BGR; what lies outside the image is black."""
    return cv2.warpAffine(image, warp_matrix(center, scale, input_size), input_size, flags=cv2.INTER_LINEAR)


def normalize(crop: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Turn a crop, uint8 (H, W, 3), BGR, into the network's input: float32 (3, H, W), RGB, ``(pixel - MEAN) / STD``.

    ``out``, if given, is where to write it: contiguous, e.g. a row of a batch.
    """
    if out is None:
        out = np.empty((3, *crop.shape[:2]), np.float32)
    for plane, table, channel in zip(cv2.split(crop)[::-1], NORMALIZED, out, strict=True):
        cv2.LUT(plane, table, dst=channel)
    return out


def to_pixels(crops: np.ndarray) -> np.ndarray:
    """The pixels of normalised crops, float32 (N, 3, H, W): uint8 (N, H, W, 3), RGB."""
    return np.rint(crops.transpose(0, 2, 3, 1) * STD + MEAN).astype(np.uint8)


def random_input(batch: int, input_size: tuple[int, int]) -> np.ndarray:
    """A batch of random pixels, normalised, float32 (batch, 3, H, W); the same at every call."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *input_size[::-1], 3), np.uint8)
    return np.stack([normalize(crop) for crop in pixels])
