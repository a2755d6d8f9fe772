"""Agreement of two engines on the same crops, in pixels of the crop: the effect of reduced precision on keypoints."""

from typing import Any

import numpy as np

from rtmpose.data.postprocess import KEYPOINT_SCORE_THRESHOLD


def crop_distances(keypoints: np.ndarray, reference: np.ndarray, scales: np.ndarray, input_size: tuple[int, int]
                   ) -> np.ndarray:
    """Distance of each keypoint from the reference's over x and over y, float64 (N, K, 2), in pixels of the crop.

    Keypoints and reference are in image pixels, of the same persons in the same order; scales is float32 (N, 2).
    """
    moved = keypoints.astype(np.float64) - reference
    return np.abs(moved) / scales.astype(np.float64)[:, None] * np.array(input_size)


def describe_agreement(distances: np.ndarray, scores: np.ndarray, pixels_per_bin: float) -> dict[str, Any]:
    """Shares and percentiles of distances, over the keypoints that the reference scores above 0.2.

    Returns the number of ``counted`` keypoints; the shares ``within_bin`` (at most one SimCC bin off on either axis),
    ``within_1px``, ``within_4px``; ``median_px``, ``p99_px``, ``max_px``; and ``rest``, the same for lower scores.
    Distances come from :func:`crop_distances`, and scores are the reference's.
    """
    counted = scores > KEYPOINT_SCORE_THRESHOLD
    return {**_describe(distances[counted], pixels_per_bin), "rest": _describe(distances[~counted], pixels_per_bin)}


def _describe(distances: np.ndarray, pixels_per_bin: float) -> dict[str, float]:
    if not len(distances):
        return {"counted": 0}
    lengths = np.hypot(*distances.T)
    # Keypoints are float32 in image pixels, so a distance of exactly one bin can come out slightly longer.
    slack = 0.01
    median, p99 = np.percentile(lengths, [50, 99])
    return {"counted": len(lengths),
            "within_bin": float((distances.max(axis=1) <= pixels_per_bin + slack).mean()),
            "within_1px": float((lengths <= 1 + slack).mean()),
            "within_4px": float((lengths <= 4 + slack).mean()),
            "median_px": float(median), "p99_px": float(p99), "max_px": float(lengths.max())}


def worst_crops(distances: np.ndarray, scores: np.ndarray, limit: int = 10) -> list[tuple[int, int, float]]:
    """The persons whose worst counted keypoint moved, furthest first: row, keypoint, and distance in pixels."""
    lengths = np.where(scores > KEYPOINT_SCORE_THRESHOLD, np.hypot(distances[..., 0], distances[..., 1]), 0)
    order = np.argsort(-lengths.max(axis=1), kind="stable")[:limit]
    worst = [(int(row), int(lengths[row].argmax()), float(lengths[row].max())) for row in order]
    return [person for person in worst if person[2] > 0]
