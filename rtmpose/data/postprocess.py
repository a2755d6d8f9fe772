"""From SimCC logits to keypoints in the image (Li et al., "SimCC", 2022, arXiv:2107.03332).

Each axis has a classifier: the bin with the largest logit, divided by the split ratio, is the coordinate.
"""

import numpy as np

# Keypoints above it count in a person's score (mmpose CocoMetric), in agreement and in pictures.
KEYPOINT_SCORE_THRESHOLD = 0.2

COCO_KEYPOINTS = ("nose", *(f"{side}_{part}" for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee",
                                                          "ankle") for side in ("left", "right")))

# For each of COCO's 17 keypoints, the keypoint that it becomes in the mirror image.
COCO_FLIP_INDICES = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


def decode(simcc_x: np.ndarray, simcc_y: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints in the crop (mmpose ``SimCCLabel.decode`` and ``get_simcc_maximum``).

    Logits are float32, (N, K, Wx) over the crop's width and (N, K, Wy) over its height; ``Wx / width`` is the split
    ratio. Returns keypoints in crop pixels, and scores: the smaller of the two maxima. A keypoint whose score is not
    positive lies one bin outside the crop, as in mmpose.
    """
    bins_x, bins_y = simcc_x.argmax(axis=-1, keepdims=True), simcc_y.argmax(axis=-1, keepdims=True)
    max_x, max_y = (np.take_along_axis(*axis, axis=-1)[..., 0] for axis in ((simcc_x, bins_x), (simcc_y, bins_y)))
    bins = np.concatenate([bins_x, bins_y], axis=-1).astype(np.float32)
    scores = np.where(max_x > max_y, max_y, max_x)
    bins[scores <= 0.0] = -1
    return bins / np.float32(simcc_x.shape[-1] / input_size[0]), scores


def fuse_flipped(simcc: np.ndarray, flipped: np.ndarray, mirror_axis: bool) -> np.ndarray:
    """Average the logits of a crop with those of its mirror image, all float32 (N, 17, W) (mmpose ``flip_vectors``).

    ``mirror_axis`` is whether the axis runs the other way in the mirror image: x does, y does not.
    """
    swapped = flipped[:, COCO_FLIP_INDICES]
    return (simcc + (swapped[..., ::-1] if mirror_axis else swapped)) * np.float32(0.5)


def crop_to_image(keypoints: np.ndarray, center: np.ndarray, scale: np.ndarray, input_size: tuple[int, int]
                  ) -> np.ndarray:
    """Move keypoints from crop pixels to image pixels (mmpose ``TopdownPoseEstimator.add_pred_to_datasample``).

    Centre and scale are float32 (N, 2). Computed in float64 and rounded to float32 once, as in mmpose.
    """
    center, scale = center[:, None], scale[:, None]
    return (keypoints / np.array(input_size) * scale + center - 0.5 * scale).astype(np.float32)
