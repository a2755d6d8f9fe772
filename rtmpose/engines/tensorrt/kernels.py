"""Arguments, grids and compilation of the kernels in ``kernels.cu``; needs no GPU."""

from pathlib import Path

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
    """Affine maps from crop pixels to image pixels, float64 (N, 6); centers and scales are float32 (N, 2).

    Bit-equal to ``cv2.invertAffineTransform(preprocess.warp_matrix(...))``, which ``cv2.warpAffine`` uses: the same
    operations in the same order, but on all regions at once.
    """
    m = _solve(*_equations(centers, scales, input_size))
    determinant = m[:, 0] * m[:, 4] - m[:, 1] * m[:, 3]
    factor = np.divide(1, determinant, out=np.zeros_like(determinant), where=determinant != 0)
    a, b, d, e = m[:, 4] * factor, -m[:, 1] * factor, -m[:, 3] * factor, m[:, 0] * factor
    return np.stack([a, b, -a * m[:, 2] - b * m[:, 5], d, e, -d * m[:, 2] - e * m[:, 5]], axis=1)


def _equations(centers: np.ndarray, scales: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The linear equations of ``cv2.getAffineTransform`` for the points of :func:`preprocess.warp_matrix`."""
    (x, y), (width, height) = centers.T, input_size
    left = (x.astype(np.float64) - 0.5 * scales[:, 0].astype(np.float64)).astype(np.float32)
    source = np.stack([x, y, left, y, left, y + (x - left)], axis=1).reshape(-1, 3, 2)
    matrix = np.zeros((len(x), 6, 6))
    matrix[:, 0::2, 0:2] = matrix[:, 1::2, 3:5] = source
    matrix[:, 0::2, 2] = matrix[:, 1::2, 5] = 1
    target = np.array([width, height, 0, height, 0, height + width], np.float64) * 0.5
    return matrix, np.broadcast_to(target, (len(x), 6))


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve N systems of linear equations, (N, n, n) and (N, n), as OpenCV does; zeros where one is singular."""
    system, rows, number = np.concatenate([matrix, right[..., None]], axis=2), np.arange(len(matrix)), right.shape[1]
    singular = np.zeros(len(matrix), bool)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # in singular systems
        for i in range(number):
            pivot = i + np.abs(system[:, i:, i]).argmax(axis=1)
            singular |= np.abs(system[rows, pivot, i]) < 100 * np.finfo(np.float64).eps
            system[rows, pivot], system[:, i] = system[:, i], system[rows, pivot]
            factor = system[:, i + 1:, i] * (-1 / system[:, i, i])[:, None]
            system[:, i + 1:, i + 1:] += factor[..., None] * system[:, i, None, i + 1:]
        solution = system[..., number]
        for i in reversed(range(number)):
            for k in range(i + 1, number):
                solution[:, i] -= system[:, i, k] * solution[:, k]
            solution[:, i] /= system[:, i, i]
    solution[singular] = 0
    return solution


def normalized_values() -> np.ndarray:
    """The network's input for each 8-bit pixel, float32 (3, 256), in the order R, G, B."""
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    return preprocess.normalize(pixels)[..., 0]


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
