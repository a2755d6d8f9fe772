"""Throughput of a model on this machine's NVIDIA GPU, batch by batch, beside its roofline and PyTorch.

    python3 benchmarks/gpu_table.py --model_path rtmpose_opt.onnx --cfg rtmpose-m_8xb256-420e_coco-256x192.py \\
        --weight rtmpose-m.pth --datasets $DATASETS_DIR

Builds two FP16 engines for each batch size into --folder, of the default optimization level and of level 5, and prints
a Markdown table. The first six figures take turns: one stream and two, copies of FP32 and of 8-bit crops, both levels.
PyTorch measures the ceilings in the same run: a matrix product of 8192 x 8192 by 8192 x 8192, and a copy of 1 GiB
within the GPU's memory.
"""

from common import Parser, positive, run

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from roofline import Ceilings, count_work, shortest_ms

from rtmpose.data.coco import load_persons
from rtmpose.engines import headline_timer, load_engine
from rtmpose.engines.build import build_engine, is_built, plan_build
from rtmpose.engines.in_flight import BatchTimer
from rtmpose.engines.tensorrt.engine import TensorRTEngine
from rtmpose.errors import KitError
from rtmpose.evaluate import predict_gpu
from rtmpose.evaluate.throughput import throughput_input
from rtmpose.files import make_folder
from rtmpose.machine.gpu import find_gpu
from rtmpose.model import graph
from rtmpose.model.mixed_precision import to_mixed_precision
from rtmpose.timing import finish, measure

TIMED = ("persons/s", "with copies", "copies of 8-bit crops", "end to end", "2 streams", "level 5")
HEADER = ("batch", "device ms", *TIMED, "images to keypoints", "roofline ms", "share of it", "harness / bare loop",
          "torch.compile")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="ONNX file that export.py wrote")
    parser.add_argument("--cfg", required=True, metavar="FILE.py", help="its mmpose config, for PyTorch")
    parser.add_argument("--weight", required=True, metavar="FILE.pth", help="its checkpoint, for PyTorch")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="data set for images to keypoints")
    parser.add_argument("--batches", type=positive, nargs="+", default=[1, 8, 32, 64, 128], metavar="N",
                        help="batch sizes; default: %(default)s")
    parser.add_argument("--builds", type=positive, default=1, metavar="N",
                        help="of each engine, keep the fastest of N, as build_engine.py does; default: %(default)s")
    parser.add_argument("--folder", default="engines", metavar="DIR", help="engines go here; default: %(default)s")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    args = parse_arguments()
    gpu = find_gpu()
    if gpu is None:
        raise KitError("benchmarks/gpu_table.py: needs an NVIDIA GPU, found none")
    model = graph.load_model(args.model_path)
    ceilings = measure_ceilings()
    print(f"{gpu.name}: {ceilings.flops['fp16'] / 1e12:.0f} TFLOP/s FP16, {ceilings.flops['fp32'] / 1e12:.0f} TFLOP/s "
          f"FP32, {ceilings.bandwidth / 1e12:.2f} TB/s\n\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for batch in args.batches:
        print(f"| {' | '.join(row(args, model, batch, ceilings))} |", flush=True)
    return 0


def row(args: argparse.Namespace, model: onnx.ModelProto, batch: int, ceilings: Ceilings) -> list[str]:
    """The table's cells for one batch size."""
    _, (*_, height, width) = graph.read_input(model)
    fixed = graph.simplify(model, (batch, 3, height, width))
    limit = shortest_ms(count_work(to_mixed_precision(fixed, "fp16")[0]), ceilings)
    timed = measure_in_turns(args.model_path, args.folder, batch, args.builds)
    rates = [f"{batch / timed[name] * 1e3:.0f}" if name in timed else "-" for name in TIMED]
    engine, persons = load_engine(build(args.model_path, args.folder, batch, args.builds)), load_persons(args.datasets)
    images = len(persons) / predict_gpu.predict_persons_on_gpu(engine, persons)[2]
    device, bare, crops = timed[TIMED[0]], bare_loop_ms(engine, 200), throughput_input(None, engine)[0]
    engine.close()
    return [str(batch), f"{device:.3f}", *rates, f"{images:.0f}", f"{limit:.3f}", f"{limit / device:.1%}",
            f"{device / bare:.1%}", f"{batch / torch_ms(args, crops) * 1e3:.0f}"]


def measure_in_turns(model_path: str, folder: str, batch: int, builds: int, rounds: int = 5, seconds: float = 1.0
                     ) -> dict[str, float]:
    """Milliseconds a batch by :data:`TIMED`: the median of the means of some rounds. TensorRT-RTX has no levels."""
    engines = [load_engine(build(model_path, folder, batch, builds)) for _ in range(2)]
    engines[1].add_streams(1)
    if engines[0].record.package == "tensorrt":
        engines.append(load_engine(build(model_path, folder, batch, builds, level=5)))
    crops, _ = throughput_input(None, engines[0])
    timers = dict(zip(TIMED, (*engines[0].timers(crops).values(),
                              *(headline_timer(engine, crops) for engine in engines[1:])), strict=False))
    means: dict[str, list[float]] = {name: [] for name in timers}
    for name in [*timers] * rounds:
        means[name].append(float(np.mean(measure(timers[name], 5, 5, seconds, name))))
        finish(timers[name])
    for engine in engines:
        engine.close()
    return {name: float(np.median(values)) for name, values in means.items()}


def build(model_path: str, folder: str, batch: int, builds: int, level: int | None = None) -> Path:
    """Build an FP16 engine unless it is there."""
    name = f"{Path(model_path).stem}_bs_{batch}_fp16{'' if level is None else f'_level_{level}'}.engine"
    path = make_folder(Path(folder)) / name
    plan = plan_build(model_path, path, batch, "fp16", "tensorrt", optimization_level=level, builds=builds)
    if not is_built(plan):
        build_engine(plan)
    return path


def bare_loop_ms(engine: TensorRTEngine, runs: int) -> float:
    """Milliseconds a batch of a loop that only enqueues the network, as a CUDA graph if that is faster."""
    slot = engine.make_network_slot()
    engine.add_graphs([slot])
    start, end = engine.cuda.Event(), engine.cuda.Event()
    slot.launch()
    start.record(engine.runs)
    for _ in range(runs):
        slot.launch()
    end.record(engine.runs)
    end.synchronize()
    return start.time_till(end) / runs


def torch_timer(work: Callable[[], object]) -> BatchTimer:
    """A timer of ``work`` on PyTorch's stream, with as many runs in flight as the kit's own has batches."""
    import torch

    def enqueue(i: int) -> tuple[Any, Any]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        return start, end

    return BatchTimer(torch.cuda.synchronize, enqueue, lambda first, second: first.elapsed_time(second))


def measure_ceilings() -> Ceilings:
    """Measure the GPU's ceilings; FP32 products without TF32. Raises KitError if PyTorch can't use the GPU."""
    import torch
    if not torch.cuda.is_available():
        raise KitError(f"PyTorch {torch.__version__} can't use the GPU; install its build for CUDA")
    side, flops = 8192, {}
    for name, dtype in (("fp16", torch.float16), ("fp32", torch.float32)):
        left, right, product = (torch.randn(side, side, dtype=dtype, device="cuda") for _ in range(3))
        timer = torch_timer(lambda a=left, b=right, c=product: torch.matmul(a, b, out=c))
        flops[name] = 2 * side**3 / np.median(measure(timer, 5, 20, 0, name)) * 1e3
    source = torch.randint(0, 256, (2**30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = np.median(measure(torch_timer(lambda: target.copy_(source)), 5, 20, 0, "copy"))
    return Ceilings(flops, 2 * source.numel() / copy * 1e3)


def torch_ms(args: argparse.Namespace, crops: np.ndarray) -> float:
    """Mean milliseconds of a batch in PyTorch: FP16, channels last, torch.compile with CUDA graphs."""
    import torch

    from rtmpose.model.checkpoint import load_network
    module = load_network(args.cfg, args.weight).module.half().cuda().to(memory_format=torch.channels_last)
    batch = torch.from_numpy(crops).half().cuda().contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(module, mode="max-autotune")
    with torch.inference_mode():
        return float(np.mean(measure(torch_timer(lambda: compiled(batch)), 20, 100, 3, "torch.compile")))


if __name__ == "__main__":
    run(main)
