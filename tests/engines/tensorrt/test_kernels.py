"""The GPU kernels against crops and keypoints of the CPU, bit for bit.

g++ compiles the same source as C++ here, and NVRTC compiles it for GPUs. Tests marked ``gpu`` run it on one.
"""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from cases import FLIP_INDICES, KINDS, Region, draw, draw_regions, pack
from helpers import ROOT

from rtmpose.data import postprocess, preprocess
from rtmpose.engines.tensorrt import kernels as cuda_kernels
from rtmpose.errors import KitError


def has_nvrtc() -> bool:
    """Whether CUDA's run-time compiler is installed."""
    try:
        from cuda.bindings import nvrtc
        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="needs cuda-bindings and nvidia-cuda-nvrtc")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels as a library for the CPU, without fused multiply-add, as they are compiled for GPUs."""
    compiler = shutil.which("g++")
    if not compiler:
        pytest.skip("needs g++")
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    subprocess.run([compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC",
                    f"-I{cuda_kernels.SOURCE.parent}", str(ROOT / "tests/engines/tensorrt/cuda_on_cpu.cpp"), "-o",
                    str(library)], check=True)
    return ctypes.CDLL(str(library))


def run(kernel: Callable, grid: tuple[int, int, int], block: tuple[int, int, int], *arguments: object) -> None:
    """Run a kernel on NumPy arrays, numbers, and None for a null pointer."""
    dimensions = [(ctypes.c_uint * 3)(*one) for one in (grid, block)]
    kernel(*dimensions, *(argument.ctypes.data_as(ctypes.c_void_p) if isinstance(argument, np.ndarray) else argument
                          for argument in arguments))


def crop(kernels: ctypes.CDLL, people: list[Region], size: tuple[int, int], mirrored: bool = False) -> np.ndarray:
    """Crops by the kernel, (N, 3, H, W)."""
    images, regions = pack(people, size)
    crops = np.full((len(people), 3, size[1], size[0]), np.nan, np.float32)
    run(kernels.run_crop, cuda_kernels.crop_grid(len(people), size), cuda_kernels.CROP_BLOCK, images, regions,
        cuda_kernels.normalized_values(), *size, int(mirrored), crops)
    return crops


@pytest.mark.parametrize("size", [(192, 256), (288, 384), (50, 30)], ids=str)
def test_crops_equal_the_cpus(kernels: ctypes.CDLL, size: tuple[int, int]) -> None:
    people = draw_regions(size, 16, size[0])
    for (image, center, scale), given in zip(people, crop(kernels, people, size), strict=True):
        expected = preprocess.normalize(preprocess.crop_person(image, center, scale, size))
        np.testing.assert_array_equal(given, expected)


def test_crops_of_an_image_far_larger_and_far_smaller_than_the_crop(kernels: ctypes.CDLL) -> None:
    size, random = (192, 256), np.random.default_rng(5)
    image = random.integers(0, 256, (1500, 2500, 3), np.uint8)
    boxes = ([0, 0, 2500, 1500], [100.3, 50.7, 100.9, 51.9], [-9000, -9000, 90000, 80000], [2498, 1498, 2501, 1502],
             [-1000, 0, -900, 100])
    people = [(image, *preprocess.box_to_center_scale(np.array(box, np.float32), size)) for box in boxes]
    for (_, center, scale), given in zip(people, crop(kernels, people, size), strict=True):
        np.testing.assert_array_equal(given, preprocess.normalize(preprocess.crop_person(image, center, scale, size)))


def test_mirrored_crops(kernels: ctypes.CDLL) -> None:
    size = (192, 256)
    people = draw_regions(size, 8, 6)
    whole = crop(kernels, people, size)
    np.testing.assert_array_equal(crop(kernels, people, size, mirrored=True), whole[..., ::-1])


def test_maps_are_inverted_as_warp_affine_does() -> None:
    size = (192, 256)
    for image, center, scale in draw_regions(size, 50, 7):
        inverse = cuda_kernels.crop_maps(center[None], scale[None], size).reshape(2, 3)
        np.testing.assert_array_equal(
            cv2.warpAffine(image, inverse, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP),
            preprocess.crop_person(image, center, scale, size))


def decode(kernels: ctypes.CDLL, logits: tuple[np.ndarray, np.ndarray], size: tuple[int, int],
           flipped: tuple[np.ndarray | None, np.ndarray | None] = (None, None)) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, K, 2) and scores (N, K) by the kernel."""
    number, keypoints, bins = logits[0].shape
    decoded = np.full((number, keypoints, 3), -7, np.float32)
    run(kernels.run_decode, cuda_kernels.decode_grid(number * keypoints), cuda_kernels.DECODE_BLOCK, *logits, *flipped,
        FLIP_INDICES, number * keypoints, keypoints, bins, logits[1].shape[-1], ctypes.c_float(bins / size[0]), decoded)
    return decoded[..., :2], decoded[..., 2]


@pytest.mark.parametrize("size", [(192, 256), (288, 384)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_keypoints_equal_the_cpus(kernels: ctypes.CDLL, kind: Callable, size: tuple[int, int]) -> None:
    logits = draw(kind, size)[0], draw(kind, size, seed=1)[1]
    keypoints, scores = decode(kernels, logits, size)
    expected, expected_scores = postprocess.decode(*logits, size)
    finite = np.isfinite(logits[0]).all(-1) & np.isfinite(logits[1]).all(-1)
    np.testing.assert_array_equal(np.isnan(scores), ~finite)
    np.testing.assert_array_equal(keypoints[finite], expected[finite])
    np.testing.assert_array_equal(scores[finite], expected_scores[finite])


def test_any_number_of_keypoints_and_bins(kernels: ctypes.CDLL) -> None:
    random = np.random.default_rng(8)
    logits = tuple(random.integers(-3, 4, (3, 5, bins)).astype(np.float32) for bins in (44, 70))
    for given, expected in zip(decode(kernels, logits, (20, 30)), postprocess.decode(*logits, (20, 30)), strict=True):
        np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.__name__ not in ("huge", "broken")])
def test_flip_test_equals_the_cpus(kernels: ctypes.CDLL, kind: Callable) -> None:
    size = (192, 256)
    logits, flipped = draw(kind, size), draw(kind, size, seed=1)
    fused = (postprocess.fuse_flipped(logits[0], flipped[0], True),
             postprocess.fuse_flipped(logits[1], flipped[1], False))
    for given, expected in zip(decode(kernels, logits, size, flipped), postprocess.decode(*fused, size), strict=True):
        np.testing.assert_array_equal(given, expected)


@needs_nvrtc
@pytest.mark.parametrize("compute_capability", ["7.5", "8.9", "9.0", "12.0"])
def test_kernels_compile_for_gpus(compute_capability: str) -> None:
    code = cuda_kernels.compile_kernels(compute_capability)
    assert code.startswith(b"\x7fELF")
    assert all(re.search(rb"\x00\.text\." + name + rb"\x00", code) for name in (b"crop", b"decode"))


@needs_nvrtc
def test_a_gpu_that_nvrtc_does_not_know() -> None:
    with pytest.raises(KitError, match="can't compile it for sm_30"):
        cuda_kernels.compile_kernels("3.0")


