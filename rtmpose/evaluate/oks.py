"""Object keypoint similarity (OKS), from 0 to 1, and non-maximum suppression by it.

The similarity of two persons is the mean of ``exp`` over the exponents of their keypoints.
"""

import numpy as np
from pycocotools.cocoeval import Params

NMS_THRESHOLD = 0.9
_AT_ONCE = 32  # persons compared with all others: bounds memory where an image has many
# Standard deviation of each of COCO's 17 keypoints, relative to the person's size, float64.
_SIGMAS = Params("keypoints").kpt_oks_sigmas


def oks_exponents(dx: np.ndarray, dy: np.ndarray, areas: np.ndarray | float) -> np.ndarray:
    """Exponents of OKS, at most 0, from the distances of 17 keypoints over x and y in pixels, (..., 17).

    Areas are in square pixels, (..., 1). float32 distances give what mmpose's ``oks_iou`` computes, float64 ones what
    pycocotools' ``computeOks`` does, both to the bit.
    """
    variances = (_SIGMAS.astype(dx.dtype) * 2) ** 2
    return (dx**2 + dy**2) / variances / (areas + np.spacing(1)) / -2


def oks_nms(keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray) -> list[int]:
    """Indices of the persons that non-maximum suppression keeps, best first (mmpose ``oks_nms`` at 0.9).

    Takes float32 (N, 17, 2), (N,) and (N,).
    """
    order, kept = scores.argsort()[::-1], []
    while len(order):
        best = order[:_AT_ONCE]
        better, worse = np.triu_indices(len(best), 1, len(order))
        one, other = order[better], order[worse]
        dx, dy = np.ascontiguousarray((keypoints[other] - keypoints[one]).transpose(2, 0, 1))
        exponents = oks_exponents(dx, dy, (areas[one, None] + areas[other, None]) / 2)
        alike = np.flatnonzero(~(np.exp(exponents).mean(axis=-1).astype(np.float32) <= NMS_THRESHOLD))
        dropped = np.zeros(len(order), bool)
        for first, second in zip(better[alike].tolist(), worse[alike].tolist(), strict=True):
            dropped[second] |= not dropped[first]
        kept += best[~dropped[:_AT_ONCE]].tolist()
        order = order[_AT_ONCE:][~dropped[_AT_ONCE:]]
    return kept
