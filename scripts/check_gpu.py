"""Check that the kit works on this machine's NVIDIA GPU: a table of PASS and FAIL, and gpu_check.json."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, run

import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from rtmpose import startup
from rtmpose.data.coco import load_persons
from rtmpose.engines import load_engine, tensorrt
from rtmpose.engines.tensorrt.graph import Graph
from rtmpose.errors import KitError, first_line
from rtmpose.evaluate.predict import predict_persons
from rtmpose.evaluate.predict_gpu import predict_persons_on_gpu
from rtmpose.files import check_output, read_sealed, write_json
from rtmpose.machine.gpu import find_gpu
from rtmpose.machine.versions import describe_machine, describe_versions, now
from rtmpose.report.text import describe_conditions

ROOT = Path(__file__).resolve().parents[1]
SOFTWARE_GPU = "Software GPU"  # tests/software_gpu: results count, timings don't
# By precision: the least share of keypoints at most one bin off the CPU engine, and the largest difference in AP.
TOLERANCES = {"fp32": (0.998, 0.005), "fp16": (0.99, 0.01), "bf16": (0.98, 0.01), "int8": (0.75, 0.03)}


# Its arguments: a folder with demo.onnx, cpu.engine, people/ and calibration/, which the checks add to, and whether
# timings count. Returns whether it passed, or None if it was not checked, and why; an error is a failure.
Check = Callable[[Path, bool], tuple[bool | None, str]]


def check_driver(folder: Path, real: bool) -> tuple[bool, str]:
    """Versions of the driver and of TensorRT, and a compiler and bindings for the CUDA that the driver speaks."""
    from cuda.bindings import driver, nvrtc
    version, compiler = driver.cuDriverGetVersion()[1], nvrtc.nvrtcVersion()[1:]
    runtime = tensorrt.describe()[0].runtime
    return max(driver.CUDA_VERSION // 1000, compiler[0]) <= version // 1000, (
        f"for CUDA {version // 1000}.{version % 1000 // 10}; {runtime}, NVRTC "
        f"{'.'.join(map(str, compiler))}, cuda-bindings for CUDA {driver.CUDA_VERSION // 1000}")


def check_pycuda(folder: Path, real: bool) -> tuple[bool, str]:
    """A context, and bytes to the GPU and back."""
    import pycuda.autoprimaryctx as primary  # makes the context that TensorRT shares
    import pycuda.driver as cuda
    sent = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    received = cuda.from_device_like(cuda.to_device(sent), sent)
    return bool((sent == received).all()), (
        f"{primary.device.name()}, {primary.device.total_memory() / 2**30:.0f} GiB, 1 MiB to it and back")


def check_precision(precision: str, folder: Path, real: bool) -> tuple[bool | None, str]:
    """The commands of a user: build the demo's network, image files to AP, keypoints beside FP32's on the CPU."""
    if obstacle := tensorrt.find_precision_obstacle("cuda", precision):
        return None, obstacle
    engine = folder / f"{precision}.engine"
    calibration = ("--calibration", folder / "calibration") if precision == "int8" else ()
    run_script("build_engine.py", "--model_path", folder / "demo.onnx", "--batch", 32 if real else 2, "--precision",
               precision, "--backend", "tensorrt", "--engine_path", engine, *calibration)
    summary = run_inference(engine, "--datasets", folder / "people", "--reference", folder / "cpu.engine")
    agreement, (least, most) = summary["agreement"], TOLERANCES[precision]
    share, difference = agreement["within_bin"], agreement["ap_difference"]
    kept = summary["precision"]
    return kept in (precision, {"int8": "fp16"}.get(precision)) and share >= least and abs(difference) <= most, (
        f"{'' if kept == precision else f'{kept}, which is faster: '}{share:.2%} of keypoints at most one bin off "
        f"(expected {least:.1%}), AP {summary['AP']:.4f}, "
        f"{difference:+.4f} (expected at most {most} off), {summary['fps']:.0f} persons a second from files")


def check_kernels(folder: Path, real: bool) -> tuple[bool, str]:
    """Images to keypoints by the kit's kernels, bit for bit as with crops and arg-max of the CPU."""
    engine: Any = load_engine(folder / "fp32.engine")
    persons = load_persons(folder / "people")
    given, expected = (predict(engine, persons)[0] for predict in (predict_persons_on_gpu, predict_persons))
    wrong = ((given.keypoints != expected.keypoints).any(axis=2) | (given.scores != expected.scores)).sum()
    return not wrong, f"{wrong} of {given.scores.size} keypoints differ from those with the CPU's crops and arg-max"


def check_graph(folder: Path, real: bool) -> tuple[bool, str]:
    """The network, recorded as a CUDA graph and launched."""
    engine: Any = load_engine(folder / "fp16.engine")
    slot = engine.make_network_slot()
    slot.launch()  # TensorRT loads its kernels
    graph = Graph(engine.runs, slot.launch)
    graph.launch()
    engine.wait()
    return True, "recorded and launched; engines use one where it is faster"


def check_speed(folder: Path, real: bool) -> tuple[bool | None, str]:
    """The conditions of a timed run: clocks, throttling, other work on the machine."""
    if not real:
        return None, "this GPU is software"
    summary = run_inference(folder / "fp16.engine", "--perf_only", "--duration", 5)
    conditions, gpu = summary["conditions"], summary["conditions"]["gpu"] or {}
    boost = f" of {gpu['boost_mhz']:.0f}" if gpu.get("boost_mhz") else ""
    figures = [f"{gpu[name]['max']:.0f}{unit} at most" for name, unit in (
        ("sm_mhz", f"{boost} MHz"), ("temperature_c", " °C")) if gpu.get(name)]
    return {"clean": True, "unknown": None}.get(conditions["verdict"], False), "; ".join(
        [f"{summary['fps']:.0f} persons a second", *figures, describe_conditions(conditions)])


def run_inference(engine: Path, *options: object) -> dict[str, Any]:
    """The summary of inference.py."""
    output = engine.with_suffix(".output")
    run_script("inference.py", "--engine", engine, "--output", output, *options)
    return read_sealed(output / "summary.json", "summary.json")


def run_script(script: str, *options: object) -> None:
    """Run one of the kit's scripts; raises KitError with its last line if it fails."""
    command = startup.child([sys.executable, str(ROOT / script), *map(str, options)])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KitError(f"{script} ended with exit code {done.returncode}: {(done.stderr.splitlines() or ['-'])[-1]}")


SET_UP = "run scripts/setup.sh --gpu again"
REPORT = "the kit or TensorRT has a bug here: report it with gpu_check.json"
CHECKS: dict[str, tuple[Check, str]] = {
    "driver": (check_driver, f"{SET_UP}: it takes the packages that the driver can run"),
    "pycuda": (check_pycuda, f"{SET_UP}; check that the GPU is free and nvidia-smi sees it"),
    **{name: (partial(check_precision, name), f"{SET_UP}; if results differ, don't trust {name}, and {REPORT}")
       for name in TOLERANCES},
    "kernels": (check_kernels, f"if NVRTC is missing, {SET_UP}; if results differ, {REPORT}"),
    "CUDA graph": (check_graph, "results are right, but FPS at small batches is lower than it could be; report it with "
                                "gpu_check.json"),
    "speed": (check_speed, "FPS is below what the card can do: improve its cooling or power supply, and stop other "
                           "work on it"),
}


def main() -> int:
    """Run the checks, print the table, write gpu_check.json."""
    parser = Parser(description=__doc__, example="python3 scripts/check_gpu.py --output gpu_check.json")
    parser.add_argument("--output", default="gpu_check.json", metavar="FILE", help="default: %(default)s")
    args = parser.parse_args()
    check_output(args.output)
    gpu = find_gpu()
    if gpu is None:
        raise KitError("no NVIDIA GPU: the driver (libcuda.so.1) is missing or finds none; nothing to check")
    real = gpu.name != SOFTWARE_GPU
    print(f"{gpu.name}, compute capability {gpu.compute_capability}"
          + ("" if real else "; all timings are meaningless: this GPU is software"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        results = [run_check(name, Path(folder), real) for name in CHECKS]
    passed = all(result["passed"] is not False for result in results)
    write_json(args.output, {"passed": passed, "timings_count": real, "made_at": now(), "machine": describe_machine(),
                             "versions": describe_versions(), "checks": results})
    print(f"\n{'All checks passed' if passed else 'Failed'}; written: {args.output}")
    return 0 if passed else 1


def prepare(folder: Path) -> None:
    """Draw people, export the demo's network, and build the CPU engine to compare with."""
    (weights,) = (ROOT / "demo").glob("*.pth")
    onnx = folder / "demo.onnx"
    run_script("demo/make_dataset.py", "--output", folder / "people", "--images", 24, "--seed", 11)
    run_script("demo/make_dataset.py", "--output", folder / "calibration", "--images", 12, "--seed", 12)
    run_script("export.py", "--weight", weights, "--cfg", ROOT / "demo/rtmpose-t_drawn-people-256x192.py", "--output",
               onnx, "--simplify")
    run_script("build_engine.py", "--model_path", onnx, "--batch", 8, "--precision", "fp32", "--backend", "onnxruntime",
               "--engine_path", folder / "cpu.engine")


def run_check(name: str, folder: Path, real: bool) -> dict[str, Any]:
    """Run a check in a process of its own, and print its row: an error on the GPU spoils no other check.

    Returns ``check``, ``passed`` (None: not checked), ``reason``, ``to_do`` (empty unless it failed) and ``seconds``.
    """
    check, to_do = CHECKS[name]
    start = time.perf_counter()
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), startup.end_with_parent) as pool:
            passed, reason = pool.submit(check, folder, real).result()
    except KitError as error:
        passed, reason = False, str(error)
    except Exception as error:  # a failed check must not end the others
        passed, reason = False, f"{type(error).__name__}: {first_line(error)}"
    seconds, outcome = time.perf_counter() - start, {True: "PASS", False: "FAIL", None: "not checked"}[passed]
    print(f"{name:10}  {outcome:11}  {seconds:5.1f} s  {reason}", flush=True)
    if passed is False:
        print(f"{'':10}  to do: {to_do}", flush=True)
    return {"check": name, "passed": passed, "reason": reason, "to_do": to_do if passed is False else "",
            "seconds": round(seconds, 1)}


if __name__ == "__main__":
    run(main)
