"""Check that the kit works on this machine's NVIDIA GPU: a table of PASS and FAIL, and gpu_check.json."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, run

import argparse
import csv
import importlib
import json
import multiprocessing
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from rtmpose import startup
from rtmpose.data import postprocess, preprocess
from rtmpose.data.coco import load_persons
from rtmpose.engines import backend, load_engine
from rtmpose.engines.build import build_engine, plan_build
from rtmpose.engines.tensorrt import kernels
from rtmpose.engines.tensorrt.engine import TensorRTEngine
from rtmpose.engines.tensorrt.graph import Graph
from rtmpose.errors import KitError
from rtmpose.evaluate.accuracy import compare_accuracy, measure_accuracy
from rtmpose.files import check_output, write_json
from rtmpose.machine.gpu import find_gpu
from rtmpose.machine.versions import describe_machine, describe_versions, now
from rtmpose.model.graph import OUTPUTS
from rtmpose.timing import measure

ROOT = Path(__file__).resolve().parents[1]
SOFTWARE_GPU = "Software GPU"  # tests/software_gpu: results count, timings don't
SIZE = (192, 256)  # of the demo's crops, width and height
# By precision: the least share of keypoints at most one bin off the CPU engine, and the largest difference in AP.
TOLERANCES = {"fp32": (0.998, 0.005), "fp16": (0.99, 0.01), "bf16": (0.98, 0.01), "int8": (0.75, 0.03)}
# Bits of nvidia-smi's clocks_throttle_reasons.active.
POWER_CAP = 0x4
THROTTLED = {0x8: "hardware slowdown", 0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown",
             0x80: "power brake"}
SMI_FIELDS = "clocks.sm,clocks.max.sm,temperature.gpu,power.draw,clocks_throttle_reasons.active"


@dataclass(frozen=True)
class Setting:
    """The inputs of every check."""

    folder: Path  # demo.onnx, cpu.engine, people/, calibration/, and what the checks write
    batch: int
    real: bool  # a card, whose timings count


@dataclass(frozen=True)
class Result:
    """Outcome of one check."""

    check: str
    passed: bool
    reason: str
    to_do: str  # empty if it passed
    seconds: float


Check = Callable[[Setting], tuple[bool, str]]  # whether it passed, and why; an error is a failure


def check_driver(setting: Setting) -> tuple[bool, str]:
    """Versions of the driver and of TensorRT, and a compiler and bindings for the CUDA that the driver speaks."""
    from cuda.bindings import driver, nvrtc
    version, compiler = driver.cuDriverGetVersion()[1], nvrtc.nvrtcVersion()[1:]
    tensorrt = backend("tensorrt").describe()
    return max(driver.CUDA_VERSION // 1000, compiler[0]) <= version // 1000, (
        f"for CUDA {version // 1000}.{version % 1000 // 10}; {tensorrt['package']} {tensorrt['version']}, NVRTC "
        f"{'.'.join(map(str, compiler))}, cuda-bindings for CUDA {driver.CUDA_VERSION // 1000}")


def check_pycuda(setting: Setting) -> tuple[bool, str]:
    """A context, and bytes to the GPU and back."""
    cuda = open_context()
    sent = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    received = cuda.from_device_like(cuda.to_device(sent), sent)
    device = cuda.Context.get_device()
    return bool((sent == received).all()), (f"{device.name()}, {device.total_memory() / 2**30:.0f} GiB, 1 MiB to it "
                                            "and back")


def open_context() -> Any:
    """The module pycuda.driver, with the context that TensorRT shares."""
    importlib.import_module("pycuda.autoprimaryctx")
    return importlib.import_module("pycuda.driver")


def check_kernels(setting: Setting) -> tuple[bool, str]:
    """Crops and keypoints of the kit's kernels, bit for bit those of the CPU."""
    random, number = np.random.default_rng(0), 32
    image = random.integers(0, 256, (480, 640, 3), np.uint8)
    corners = random.uniform(-80, 500, (number, 2))
    boxes = np.hstack([corners, corners + random.uniform(1, 400, (number, 2))]).astype(np.float32)
    regions = np.zeros(number, kernels.REGION)
    regions["height"], regions["width"] = image.shape[:2]
    centers, scales = preprocess.box_to_center_scale(boxes, SIZE)
    regions["map"] = kernels.crop_maps(centers, scales, SIZE)
    crops = [preprocess.normalize(preprocess.crop_person(image, center, scale, SIZE))
             for center, scale in zip(centers, scales, strict=True)]
    wrong_crops = run_kernel(
        "crop", "PPPiiiP", kernels.crop_grid(number, SIZE), kernels.CROP_BLOCK, np.stack(crops),
        image, regions, kernels.normalized_values(), *SIZE, 0)
    logits = [random.normal(-0.5, 0.3, (number, 17, 2 * length)).astype(np.float32) for length in SIZE]
    keypoints, scores = postprocess.decode(logits[0], logits[1], SIZE)
    rows = number * 17
    wrong_keypoints = run_kernel(
        "decode", "PPPPPiiiifP", kernels.decode_grid(rows), kernels.DECODE_BLOCK,
        np.dstack([keypoints, scores[..., None]]).astype(np.float32), *logits, 0, 0,
        np.array(postprocess.COCO_FLIP_INDICES, np.int32), rows, 17, *(2 * length for length in SIZE), 2.0)
    return not wrong_crops + wrong_keypoints, (f"{wrong_crops} of {number} crops and {wrong_keypoints} of {rows} "
                                               "keypoints differ from the CPU's")


def run_kernel(name: str, types: str, grid: tuple[int, int, int], block: tuple[int, int, int], expected: np.ndarray,
               *arguments: Any) -> int:
    """Run a kernel whose last argument is its result; the number of crops or keypoints that are not as expected."""
    cuda = open_context()
    capability = ".".join(map(str, cuda.Context.get_device().compute_capability()))
    kernel = cuda.module_from_buffer(kernels.compile_kernels(capability)).get_function(name)
    memory = [cuda.to_device(one) if isinstance(one, np.ndarray) else one for one in (*arguments, expected * 0 - 1)]
    kernel.prepare(types)
    cuda.Context.synchronize()
    kernel.prepared_call(grid, block, *(one if isinstance(one, int | float) else int(one) for one in memory))
    cuda.Context.synchronize()
    given = cuda.from_device_like(memory[-1], expected)
    items = (-1, expected[0].size if name == "crop" else 3)
    return int((given.reshape(items) != expected.reshape(items)).any(axis=1).sum())


def check_build(precision: str, setting: Setting) -> tuple[bool, str]:
    """The demo's network, built in a precision."""
    calibration = setting.folder / "calibration" if precision == "int8" else None
    plan = plan_build(setting.folder / "demo.onnx", engine_path(setting, precision), setting.batch, precision,
                      "tensorrt", calibration)
    record = build_engine(plan).record
    return record.precision == precision, (
        f"{record.runtime}, batch {record.batch}, convolutions and matrix products: "
        + ", ".join(f"{number} {kind}" for kind, number in record.arithmetic.items()))


def engine_path(setting: Setting, precision: str) -> Path:
    return setting.folder / f"{precision}.engine"


def check_keypoints(precision: str, setting: Setting) -> tuple[bool, str]:
    """Keypoints and AP beside those of the FP32 engine on the CPU."""
    persons = load_persons(setting.folder / "people")
    engine, reference = load_engine(engine_path(setting, precision)), load_engine(setting.folder / "cpu.engine")
    found, expected = (measure_accuracy(each, persons, False) for each in (engine, reference))
    agreement, _ = compare_accuracy(engine, found, reference, expected)
    share, difference = agreement["within_bin"], agreement["ap_difference"]
    least, most = TOLERANCES[precision]
    return share >= least and abs(difference) <= most, (
        f"{share:.2%} at most one bin off (expected {least:.1%}), AP {agreement['ap_reference']:.4f} {difference:+.4f} "
        f"(expected at most {most} off), {len(persons)} persons")


@contextmanager
def open_fp16(setting: Setting) -> Iterator[tuple[TensorRTEngine, dict[str, Any]]]:
    """The FP16 engine, and GPU memory for its tensors; the engine is closed at the end."""
    engine = load_engine(engine_path(setting, "fp16"))
    if not isinstance(engine, TensorRTEngine):
        raise KitError(f"{engine.path}: is no TensorRT engine")
    try:
        yield engine, allocate_tensors(engine)
    finally:
        engine.close()  # waits for the batches that a timer leaves in flight


def allocate_tensors(engine: TensorRTEngine) -> dict[str, Any]:
    """GPU memory for an engine's input and outputs, by their names."""
    record = engine.record
    sizes = {record.input_name: 3 * record.input_size[0] * record.input_size[1],
             **{name: record.num_keypoints * bins for name, bins in zip(OUTPUTS, record.bins, strict=True)}}
    return {name: engine.allocate(4 * record.batch * size) for name, size in sizes.items()}


def check_graph(setting: Setting) -> tuple[bool, str]:
    """The network as a CUDA graph, and whether that is faster."""
    with open_fp16(setting) as (engine, tensors):
        plain = loop_ms(engine, lambda: engine.enqueue(tensors), 100 if setting.real else 5)
        try:
            graph = Graph(engine.runs, lambda: engine.enqueue(tensors))
        except (RuntimeError, KitError, engine.cuda.Error) as error:
            return False, f"not used: it can't be recorded ({error})"
        graphed = loop_ms(engine, graph.launch, 100 if setting.real else 5)
        graph.close()
        return True, (f"{'used' if graphed < plain else 'not used'}: {graphed:.3f} ms a batch as a graph, {plain:.3f} "
                      "kernel by kernel")


def loop_ms(engine: TensorRTEngine, work: Callable[[], None], runs: int) -> float:
    """Milliseconds a batch of a loop that only enqueues."""
    start, end = engine.cuda.Event(), engine.cuda.Event()
    for repeat in range(runs + 1):
        if repeat == 1:  # the first run is a warm-up
            start.record(engine.runs)
        work()
    end.record(engine.runs)
    end.synchronize()
    return start.time_till(end) / runs


def bare_loop_ms(engine: TensorRTEngine, tensors: dict[str, Any], runs: int) -> float:
    """Milliseconds a batch of a loop that only enqueues the network, as a CUDA graph if that is faster."""
    graph = engine.faster_graph(lambda: engine.enqueue(tensors))
    return loop_ms(engine, graph.launch if graph else lambda: engine.enqueue(tensors), runs)


def mean_ms(timer: Callable[[], float], setting: Setting) -> float:
    """Mean milliseconds of a batch by one of the engine's timers."""
    return float(np.mean(measure(timer, *((20, 300, 1) if setting.real else (1, 5, 0)), "Timing")))


def check_harness(setting: Setting) -> tuple[bool, str]:
    """The throughput of the kit's timed loop, beside that of a bare loop."""
    with open_fp16(setting) as (engine, tensors):
        bare = bare_loop_ms(engine, tensors, 300 if setting.real else 5)
        timer = next(iter(engine.timers(preprocess.random_input(setting.batch, SIZE)).values()))
        timed = mean_ms(timer, setting)
        return not setting.real or timed <= 1.05 * bare, (
            f"{timed:.3f} ms a batch of {setting.batch}, {bare:.3f} in a bare loop (expected at most 5 % more)")


def check_copies(setting: Setting) -> tuple[bool, str]:
    """Bandwidth between pinned memory and the GPU, and whether copies run beside the network."""
    with open_fp16(setting) as (engine, _):
        size = 1 << (26 if setting.real else 20)
        sent, received = (engine.pinned((size,), np.uint8) for _ in range(2))
        sent[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        memory = engine.allocate(size)
        up = loop_ms(engine, lambda: engine.cuda.memcpy_htod_async(memory, sent, engine.runs), 5)
        down = loop_ms(engine, lambda: engine.cuda.memcpy_dtoh_async(received, memory, engine.runs), 5)
        crops = preprocess.random_input(setting.batch, SIZE)
        timers = list(engine.timers(crops).values())[:2]
        alone, both = (mean_ms(timer, setting) for timer in timers)
        upload = up * crops.nbytes / size
        rates = [size / ms / 1e6 for ms in (up, down)]
        good = not setting.real or (min(rates) >= 5 and both <= 1.25 * max(alone, upload) + 0.05)
        return good and bool((sent == received).all()), (
            f"{rates[0]:.1f} GB/s to the GPU, {rates[1]:.1f} back (expected 5); a batch takes {alone:.3f} ms, its "
            f"upload {upload:.3f}, both together {both:.3f} (expected at most 25 % more than the longer one)")


def check_accuracy_run(setting: Setting) -> tuple[bool, str]:
    """The command that a user runs, image files to AP."""
    with recorded_clocks(setting.folder / "accuracy.csv"):
        summary = run_inference(setting, "--datasets", setting.folder / "people")
    return summary["AP"] > 0.7, f"AP {summary['AP']:.4f} (expected above 0.7), {summary['fps']:.0f} persons a second"


def check_clocks(setting: Setting) -> tuple[bool, str]:
    """Clocks and throttling during the accuracy run and a timed loop."""
    if not shutil.which("nvidia-smi"):
        return True, "unknown: there is no nvidia-smi"
    with recorded_clocks(setting.folder / "throughput.csv"):
        run_inference(setting, "--perf_only", "--duration", 5 if setting.real else 0)
    lines = [line for run in ("accuracy", "throughput")
             for line in (setting.folder / f"{run}.csv").read_text().splitlines()]
    return judge_clocks(lines)


def judge_clocks(lines: list[str]) -> tuple[bool, str]:
    """Judge what nvidia-smi printed of :data:`SMI_FIELDS`."""
    rows = [row for row in csv.reader(lines, skipinitialspace=True) if len(row) == 5 and row[4].startswith("0x")]
    if not rows:
        return True, f"unknown: nvidia-smi says {lines[0] if lines else 'nothing'}"
    clocks, limits, temperatures = (sorted(float(row[i]) for row in rows if row[i].replace(".", "").isdecimal())
                                    for i in range(3))
    reasons = [int(row[4], 16) for row in rows]
    found = [name for bit, name in THROTTLED.items() if any(reason & bit for reason in reasons)]
    capped = sum(bool(reason & POWER_CAP) for reason in reasons)
    measured = (f"{clocks[-1]:.0f} of {limits[-1]:.0f} MHz at most, " if clocks and limits else "") + (
        f"{temperatures[-1]:.0f} C, " if temperatures else "")
    return not found, (f"{measured}throttled by: {', '.join(found) or 'nothing'}; power cap reached in {capped} of "
                       f"{len(rows)} readings")


@contextmanager
def recorded_clocks(path: Path) -> Iterator[None]:
    """Let nvidia-smi write the clocks of the GPU into a file, five times a second, if it is installed."""
    if not shutil.which("nvidia-smi"):
        yield
        return
    bus = open_context().Context.get_device().pci_bus_id()
    with path.open("w") as file:
        command = ["nvidia-smi", f"--id={bus}", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader,nounits",
                   "--loop-ms=200"]
        monitor = subprocess.Popen(startup.child(command), stdout=file, stderr=file)
        try:
            yield
        finally:
            monitor.terminate()
            monitor.wait()


def run_inference(setting: Setting, *options: object) -> dict[str, Any]:
    """The summary of inference.py on the FP16 engine."""
    output = setting.folder / "output"
    run_script("inference.py", "--engine", engine_path(setting, "fp16"), "--output", output, *options)
    return json.loads((output / "summary.json").read_text())


def run_script(script: str, *options: object) -> None:
    """Run one of the kit's scripts; raises KitError with its last line if it fails."""
    command = startup.child([sys.executable, str(ROOT / script), *map(str, options)])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = done.stderr.strip().splitlines() or ["no message"]
        raise KitError(f"{script} ended with exit code {done.returncode}: {message[-1]}")


SET_UP = "run scripts/setup.sh --gpu again"
REPORT = "the kit or TensorRT has a bug here: report it with gpu_check.json"
CHECKS: dict[str, tuple[Check, str]] = {
    "driver": (check_driver, f"{SET_UP}: it takes the packages that the driver can run"),
    "pycuda": (check_pycuda, f"{SET_UP}; check that the GPU is free and nvidia-smi sees it"),
    "kernels": (check_kernels, f"if NVRTC is missing, {SET_UP}; if results differ, {REPORT}"),
    **{f"build {name}": (partial(check_build, name), f"{SET_UP}; if TensorRT refuses the graph, {REPORT}")
       for name in TOLERANCES},
    **{f"keypoints {name}": (partial(check_keypoints, name), f"don't trust results in {name}; {REPORT}")
       for name in TOLERANCES},
    "CUDA graph": (check_graph, "results are right, but FPS at small batches is lower than it could be; report it with "
                                "gpu_check.json"),
    "harness": (check_harness, "run it again on an idle machine; the CPU may be too slow or shared"),
    "copies": (check_copies, "check the PCIe link (nvidia-smi -q) and that no other process uses the GPU; FPS of the "
                             "engine alone is not affected"),
    "accuracy run": (check_accuracy_run, "run inference.py by hand to see the whole message"),
    "clocks": (check_clocks, "FPS is below what the card can do: improve its cooling or power supply, and stop other "
                             "work on it"),
}


def main() -> int:
    """Run the checks, print the table, write gpu_check.json."""
    parser = Parser(description=__doc__, example="python3 scripts/check_gpu.py --output gpu_check.json")
    parser.add_argument("--output", default="gpu_check.json", metavar="FILE", help="default: %(default)s")
    args: argparse.Namespace = parser.parse_args()
    check_output(args.output)
    gpu = find_gpu()
    if gpu is None:
        raise KitError("no NVIDIA GPU: the driver (libcuda.so.1) is missing or finds none; nothing to check")
    real = gpu.name != SOFTWARE_GPU
    print(f"{gpu.name}, compute capability {gpu.compute_capability}"
          + ("" if real else "; all timings are meaningless: this GPU is software"), flush=True)
    no_bf16 = backend("tensorrt").find_bf16_obstacle()
    if no_bf16:
        print(f"BF16 is not checked: {no_bf16}")
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), 32 if real else 2, real)
        prepare(setting)
        results = [report(run_check(name, setting)) for name in CHECKS if not (no_bf16 and name.endswith("bf16"))]
    passed = all(result.passed for result in results)
    write_json(args.output, {"passed": passed, "timings_count": real, "made_at": now(), "machine": describe_machine(),
                             "versions": describe_versions(), "checks": [asdict(result) for result in results]})
    print(f"\n{'All checks passed' if passed else 'Failed'}; written: {args.output}")
    return 0 if passed else 1


def prepare(setting: Setting) -> None:
    """Draw people, export the demo's network, and build the CPU engine to compare with."""
    (weights,) = (ROOT / "demo").glob("*.pth")
    onnx = setting.folder / "demo.onnx"
    run_script("demo/make_dataset.py", "--output", setting.folder / "people", "--images", 24, "--seed", 11)
    run_script("demo/make_dataset.py", "--output", setting.folder / "calibration", "--images", 12, "--seed", 12)
    run_script("export.py", "--weight", weights, "--cfg", ROOT / "demo/rtmpose-t_drawn-people-256x192.py", "--output",
               onnx, "--simplify")
    build_engine(plan_build(onnx, setting.folder / "cpu.engine", 8, "fp32", "onnxruntime"))


def run_check(name: str, setting: Setting) -> Result:
    """Run a check in a process of its own: an error on the GPU spoils no other check."""
    check, to_do = CHECKS[name]
    start = time.perf_counter()
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), startup.end_with_parent) as pool:
            passed, reason = pool.submit(check, setting).result()
    except BrokenProcessPool:
        passed, reason = False, "its process crashed"
    except Exception as error:  # a failed check must not end the others
        passed, reason = False, (str(error) or repr(error)).strip().splitlines()[0]
        if not isinstance(error, KitError):
            reason = f"{type(error).__name__}: {reason}"
    return Result(name, passed, reason, "" if passed else to_do, round(time.perf_counter() - start, 1))


def report(result: Result) -> Result:
    """Print a row of the table."""
    print(f"{result.check:15} {'PASS' if result.passed else 'FAIL'}  {result.seconds:5.1f} s  {result.reason}",
          *([f"{'':15} to do: {result.to_do}"] if result.to_do else []), sep="\n", flush=True)
    return result


if __name__ == "__main__":
    run(main)
