"""Arguments, grids and compilation of the kernels in ``kernels.cu``; needs no GPU."""

from pathlib import Path

import cv2
import numpy as np

from rtmpose.data import preprocess
from rtmpose.errors import KitError

SOURCE = Path(__file__).with_name("kernels.cu")

# A region of an image, the kernels' struct Region.
REGION = np.dtype([("map", np.float64, 6), ("start", np.uint64), ("width", np.int32), ("height", np.int32)])

CROP_BLOCK = (32, 8, 1)  # a thread a pixel of the crop, over width and height
DECODE_BLOCK = (32, 4, 1)  # a warp a keypoint


def crop_grid(batch: int, input_size: tuple[int, int]) -> tuple[int, int, int]:
    """Blocks of :data:`CROP_BLOCK` for a batch of crops; ``input_size`` is width and height in pixels."""
    return -(-input_size[0] // CROP_BLOCK[0]), -(-input_size[1] // CROP_BLOCK[1]), batch


def decode_grid(rows: int) -> tuple[int, int, int]:
    """Blocks of :data:`DECODE_BLOCK` for a number of keypoints."""
    return -(-rows // DECODE_BLOCK[1]), 1, 1


def crop_maps(centers: np.ndarray, scales: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Affine maps from crop pixels to image pixels, float64 (N, 6), inverted as ``cv2.warpAffine`` inverts them.

    Centers and scales are float32 (N, 2).
    """
    return np.stack([cv2.invertAffineTransform(preprocess.warp_matrix(center, scale, input_size)).ravel()
                     for center, scale in zip(centers, scales, strict=True)])


def compile_kernels(compute_capability: str) -> bytes:
    """Machine code for a compute capability, e.g. ``"9.0"``; raises KitError if NVRTC is missing or doesn't know it."""
    try:
        from cuda.bindings import nvrtc
        version = nvrtc.nvrtcVersion()[1:]
    except (ImportError, RuntimeError) as error:  # cuda-bindings without NVRTC's library raises a RuntimeError
        raise KitError(f"the GPU's kernels need cuda-bindings and nvidia-cuda-nvrtc ({error}); "
                       "run scripts/setup.sh --gpu again") from error
    program = nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], [])[1]
    architecture = f"sm_{compute_capability.replace('.', '')}"
    status, = nvrtc.nvrtcCompileProgram(program, 2, [f"--gpu-architecture={architecture}".encode(), b"--fmad=false"])
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(nvrtc.nvrtcGetProgramLogSize(program)[1])
        nvrtc.nvrtcGetProgramLog(program, log)
        raise KitError(f"{SOURCE}: NVRTC {'.'.join(map(str, version))} can't compile it for {architecture} "
                       f"({(log.decode(errors='replace').splitlines() or [status.name])[0][:200]})")
    code = bytearray(nvrtc.nvrtcGetCUBINSize(program)[1])
    nvrtc.nvrtcGetCUBIN(program, code)
    nvrtc.nvrtcDestroyProgram(program)
    return bytes(code)
