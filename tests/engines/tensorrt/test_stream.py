"""On an NVIDIA GPU: the kernels, and images to keypoints, against the CPU path."""

import threading
from pathlib import Path

import numpy as np
import pytest
from cases import FLIP_INDICES, KINDS, draw, draw_regions, pack
from helpers import build_engine

from rtmpose.data import postprocess, preprocess
from rtmpose.data.coco import load_persons
from rtmpose.engines import backend, load_engine
from rtmpose.engines.tensorrt import kernels
from rtmpose.engines.tensorrt.engine import TensorRTEngine
from rtmpose.evaluate import predict, predict_gpu
from rtmpose.machine.gpu import find_gpu

tensorrt = backend("tensorrt")
pytestmark = [pytest.mark.gpu,
              pytest.mark.skipif(find_gpu() is None or not tensorrt.is_installed(), reason="needs an NVIDIA GPU")]


@pytest.fixture(scope="module")
def engine(model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> TensorRTEngine:
    """An FP16 engine for batches of 4."""
    return load_engine(build_engine(model_files["onnx"], tmp_path_factory.mktemp("gpu") / "rtmpose.engine", 4, "fp16",
                                    "tensorrt"))


def run(engine: TensorRTEngine, kernel: str, types: str, grid: tuple[int, int, int], block: tuple[int, int, int],
        result: np.ndarray, *arguments: object) -> np.ndarray:
    """Run a kernel whose last argument is its result; arrays are copied to the GPU and None is a null pointer."""
    cuda = engine.cuda
    function = cuda.module_from_buffer(
        kernels.compile_kernels(find_gpu().compute_capability)).get_function(kernel)
    function.prepare(types)
    memory = [cuda.to_device(one) if isinstance(one, np.ndarray) else one for one in (*arguments, result)]
    cuda.Context.synchronize()
    function.prepared_async_call(grid, block, engine.runs,
                                 *(0 if one is None else one if isinstance(one, int | float) else int(one)
                                   for one in memory))
    engine.runs.synchronize()
    return cuda.from_device_like(memory[-1], result)


def test_crops_equal_the_cpus(engine: TensorRTEngine) -> None:
    size = (192, 256)
    people = draw_regions(size, 100, 1)
    images, regions = pack(people, size)
    crops = run(engine, "crop", "PPPiiiP", kernels.crop_grid(len(people), size), kernels.CROP_BLOCK,
                np.empty((len(people), 3, size[1], size[0]), np.float32), images, regions,
                kernels.normalized_values(), *size, 0)
    for given, (image, center, scale) in zip(crops, people, strict=True):
        np.testing.assert_array_equal(
            given, preprocess.normalize(preprocess.crop_person(image, center, scale, size)))


@pytest.mark.parametrize("kind", KINDS)
def test_keypoints_equal_the_cpus(engine: TensorRTEngine, kind: object) -> None:
    size = (192, 256)
    logits = draw(kind, size)[0], draw(kind, size, seed=1)[1]
    number, keypoints, bins = logits[0].shape
    rows = number * keypoints
    decoded = run(engine, "decode", "PPPPPiiiifP", kernels.decode_grid(rows), kernels.DECODE_BLOCK,
                  np.empty((number, keypoints, 3), np.float32), *logits, None, None, FLIP_INDICES, rows, keypoints,
                  bins, logits[1].shape[-1], bins / size[0])
    expected, scores = postprocess.decode(*logits, size)
    finite = np.isfinite(logits[0]).all(-1) & np.isfinite(logits[1]).all(-1)
    np.testing.assert_array_equal(np.isnan(decoded[..., 2]), ~finite)
    np.testing.assert_array_equal(decoded[finite], np.dstack([expected, scores[..., None]])[finite])


@pytest.mark.parametrize("flip_test", [False, True])
def test_images_to_keypoints_as_with_crops_from_the_cpu(engine: TensorRTEngine, drawn: Path, flip_test: bool) -> None:
    persons = load_persons(drawn)
    expected, *_ = predict.predict_persons(engine, persons, flip_test)
    given, batch_ms, _ = predict_gpu.predict_persons_on_gpu(engine, persons, flip_test)
    assert len(batch_ms) == -(-len(persons) // engine.record.batch)
    assert len(given) == len(expected) == len(persons)
    assert [person.index for person in given.persons] == [person.index for person in expected.persons]
    for name in ("keypoints", "scores", "scales"):
        np.testing.assert_array_equal(getattr(given, name), getattr(expected, name))


def test_infer_in_another_thread(engine: TensorRTEngine) -> None:
    crops = np.random.default_rng(0).standard_normal((4, 3, 256, 192), dtype=np.float32)
    expected, given = engine.infer(crops), []
    thread = threading.Thread(target=lambda: given.extend(engine.infer(crops)))
    thread.start()
    thread.join()
    for one, other in zip(given, expected, strict=True):
        np.testing.assert_array_equal(one, other)
