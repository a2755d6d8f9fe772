"""The GPU kernels against crops and keypoints of the CPU, bit for bit.

g++ compiles the same source as C++ here, and NVRTC compiles it for GPUs. Tests marked ``gpu`` run it on one.
"""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from cases import FLIP_INDICES, KINDS, Region, draw, draw_regions, pack

from rtmpose.data import postprocess, preprocess
from rtmpose.engines.tensorrt import kernels
from rtmpose.errors import KitError
from rtmpose.machine.gpu import find_gpu

# Run a kernel, given its name, grid, block, result and other arguments; None is a null pointer. Returns the result.
Run = Callable[..., np.ndarray]


def has_nvrtc() -> bool:
    """Whether CUDA's run-time compiler is installed."""
    try:
        from cuda.bindings import nvrtc
        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="needs cuda-bindings and nvidia-cuda-nvrtc")


def on_cpu(folder: Path) -> Run:
    """The kernels as a library for the CPU, without fused multiply-add, as they are compiled for GPUs."""
    compiler, library = shutil.which("g++"), folder / "kernels.so"
    if not compiler:
        pytest.skip("needs g++")
    subprocess.run([compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC",
                    f"-I{kernels.SOURCE.parent}", str(Path(__file__).with_name("cuda_on_cpu.cpp")), "-o", str(library)],
                   check=True)
    functions = ctypes.CDLL(str(library))

    def run(name: str, grid: tuple[int, ...], block: tuple[int, ...], result: np.ndarray, *arguments: object
            ) -> np.ndarray:
        given = [np.array(size, np.uint32) for size in (grid, block)]
        getattr(functions, f"run_{name}")(*(
            one.ctypes.data_as(ctypes.c_void_p) if isinstance(one, np.ndarray) else
            ctypes.c_float(one) if isinstance(one, float) else one for one in (*given, *arguments, result)))
        return result

    return run


def on_gpu(folder: Path) -> Run:
    import pycuda.autoprimaryctx
    import pycuda.driver as cuda
    module = cuda.module_from_buffer(kernels.compile_kernels(find_gpu().compute_capability))

    def run(name: str, grid: tuple[int, ...], block: tuple[int, ...], result: np.ndarray, *arguments: object
            ) -> np.ndarray:
        function = module.get_function(name)
        function.prepare({"crop": "PPPiiiP", "decode": "PPPPPiiiifP"}[name])
        memory = [cuda.to_device(one) if isinstance(one, np.ndarray) else one for one in (*arguments, result)]
        pycuda.autoprimaryctx.context.synchronize()
        function.prepared_call(grid, block, *(one if isinstance(one, int | float) else int(one or 0) for one in memory))
        return cuda.from_device_like(memory[-1], result)

    return run


@pytest.fixture(scope="module", params=[on_cpu, pytest.param(on_gpu, marks=[
    pytest.mark.gpu, pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")])])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return request.param(tmp_path_factory.mktemp("kernels"))


def draw_far_regions(size: tuple[int, int]) -> list[Region]:
    """Of an image far larger and far smaller than the crop."""
    image = np.random.default_rng(5).integers(0, 256, (1500, 2500, 3), np.uint8)
    boxes = ([0, 0, 2500, 1500], [100.3, 50.7, 100.9, 51.9], [-9000, -9000, 90000, 80000], [2498, 1498, 2501, 1502],
             [-1000, 0, -900, 100])
    return [(image, *preprocess.box_to_center_scale(np.array(box, np.float32), size)) for box in boxes]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("size", [(192, 256), (288, 384), (50, 30)], ids=str)
def test_crops_equal_the_cpus(run: Run, size: tuple[int, int], mirrored: bool) -> None:
    people = draw_regions(size, 16, size[0]) + (draw_far_regions(size) if size == (192, 256) else [])
    images, regions = pack(people, size)
    crops = run("crop", kernels.crop_grid(len(people), size), kernels.CROP_BLOCK,
                np.full((len(people), 3, size[1], size[0]), np.nan, np.float32), images, regions, preprocess.NORMALIZED,
                *size, int(mirrored))
    for (image, center, scale), given in zip(people, crops, strict=True):
        expected = preprocess.normalize(preprocess.crop_person(image, center, scale, size))
        np.testing.assert_array_equal(given, expected[..., ::-1] if mirrored else expected)


def test_maps_are_inverted_as_warp_affine_does() -> None:
    size = (192, 256)
    for image, center, scale in draw_regions(size, 50, 7):
        inverse = kernels.crop_maps(center[None], scale[None], size).reshape(2, 3)
        np.testing.assert_array_equal(
            cv2.warpAffine(image, inverse, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP),
            preprocess.crop_person(image, center, scale, size))


@pytest.mark.parametrize(("size", "keypoints", "flip_test"), [
    ((192, 256), 17, False), ((288, 384), 17, False), ((22, 35), 5, False), ((192, 256), 17, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_keypoints_equal_the_cpus(run: Run, kind: str, size: tuple[int, int], keypoints: int, flip_test: bool
                                  ) -> None:
    logits = draw(kind, size, keypoints)[0], draw(kind, size, keypoints, seed=1)[1]
    flipped = draw(kind, size, keypoints, seed=2) if flip_test else (None, None)
    rows, bins = 5 * keypoints, (2 * size[0], 2 * size[1])
    decoded = run("decode", kernels.decode_grid(rows), kernels.DECODE_BLOCK,
                  np.full((5, keypoints, 3), -7, np.float32), *logits, *flipped, FLIP_INDICES, rows, keypoints, *bins,
                  2.0)
    if flip_test:
        with np.errstate(all="ignore"):
            logits = (postprocess.fuse_flipped(logits[0], flipped[0], True),
                      postprocess.fuse_flipped(logits[1], flipped[1], False))
    expected, scores = postprocess.decode(*logits, size)
    finite = np.isfinite(logits[0]).all(-1) & np.isfinite(logits[1]).all(-1)
    np.testing.assert_array_equal(np.isnan(decoded[..., 2]), ~finite)
    np.testing.assert_array_equal(decoded[finite], np.dstack([expected, scores[..., None]])[finite])


@needs_nvrtc
@pytest.mark.parametrize("compute_capability", ["7.5", "8.9", "9.0", "12.0"])
def test_kernels_compile_for_gpus(compute_capability: str) -> None:
    code = kernels.compile_kernels(compute_capability)
    assert code.startswith(b"\x7fELF")
    assert all(re.search(rb"\x00\.text\." + name + rb"\x00", code) for name in (b"crop", b"decode"))


@needs_nvrtc
def test_a_gpu_that_nvrtc_does_not_know() -> None:
    with pytest.raises(KitError, match="can't compile it for sm_30"):
        kernels.compile_kernels("3.0")
