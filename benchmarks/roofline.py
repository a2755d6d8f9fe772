"""A network's shortest possible time, from its arithmetic, its memory traffic and the machine's measured ceilings.

    python3 benchmarks/roofline.py results/NAME --model_path rtmpose_opt.onnx

measures the ceilings of this machine's processor with PyTorch, and writes what they mean for each cell of a folder of
results/ that was measured here: roofline.json, which scripts/results_table.py reads. benchmarks/gpu_table.py does it
for a GPU.

The roofline of Williams, Waterman and Patterson ("Roofline: an insightful visual performance model", 2009), summed over
convolutions and matrix products. Everything between them counts as free, as if fused into them.
"""

from common import Parser, run

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto

from rtmpose.errors import KitError
from rtmpose.files import check_output, sha256, write_json
from rtmpose.machine.versions import command_line, describe_machine, now
from rtmpose.model import graph
from rtmpose.model.graph import PRODUCTS, Shapes, infer_shapes, node_macs
from rtmpose.model.mixed_precision import to_mixed_precision
from rtmpose.report.results import read_cells

_TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Work:
    """One convolution or matrix product."""

    type: str  # that it computes in: fp32 or fp16
    flops: int  # floating-point operations, two a multiply-add
    bytes: int  # read and written, each operand and the result once


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of a GPU or a processor."""

    flops: Mapping[str, float]  # floating-point operations a second of a large matrix product, by type
    bandwidth: float  # bytes a second, read and written, of a large copy within its memory


def count_work(model: onnx.ModelProto) -> list[Work]:
    """Every convolution and matrix product of a graph with a fixed batch size."""
    shapes = infer_shapes(model)
    return [_work(node, shapes) for node in model.graph.node if node.op_type in PRODUCTS]


def _work(node: onnx.NodeProto, shapes: Shapes) -> Work:
    dtype = _TYPES[shapes[node.input[0]][0]]
    values = sum(prod(shapes[name][1]) for name in (*node.input, *node.output) if name)
    return Work(dtype, 2 * node_macs(node, shapes), _BYTES[dtype] * values)


def shortest_ms(work: Iterable[Work], ceilings: Ceilings) -> float:
    """Minimum milliseconds if the operators run one after the other, each bound by arithmetic or by memory.

    A runtime that keeps data in the cache between operators can beat this.
    """
    return 1e3 * sum(max(one.flops / ceilings.flops[one.type], one.bytes / ceilings.bandwidth) for one in work)


def measure_ceilings() -> Ceilings:
    """Measure the processor's ceilings: matrix products of 2048 by 2048, and a copy of 256 MiB; the fastest of ten."""
    import torch
    flops = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
        flops[name] = 2 * 2048**3 / _fastest(lambda a=left, b=right: torch.matmul(a, b))
    source = torch.zeros(2**28, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Ceilings(flops, 2 * source.numel() / _fastest(lambda: target.copy_(source)))


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of ten runs."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    """Measure, and write roofline.json. Raises KitError if the results are of another network or machine."""
    parser = Parser(description="The processor's ceilings, and the shortest time of each cell of a folder of results/.",
                    example="python3 benchmarks/roofline.py results/NAME --model_path rtmpose_opt.onnx")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with results.json")
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="the network of these results")
    args = parser.parse_args()
    check_output(args.folder / "roofline.json")
    model, digest, machine = graph.load_model(args.model_path), sha256(args.model_path), describe_machine()
    cells = read_cells(args.folder)
    for cell in cells:
        if cell.summary["engine"]["onnx_sha256"] != digest or cell.summary["machine"]["cpu"] != machine["cpu"]:
            raise KitError(f"{args.folder}: {cell.name} is of another network than {args.model_path}, or of another "
                           "processor than this one; measure it here, with this file")
    ceilings, shortest = measure_ceilings(), {}
    _, (*_, height, width) = graph.read_input(model)
    for cell in cells:
        if (kind := cell.summary["precision"]) in ceilings.flops:
            fixed = graph.simplify(model, (cell.batch, 3, height, width))
            typed = fixed if kind == "fp32" else to_mixed_precision(fixed, kind)[0]
            shortest[f"{cell.precision}_bs{cell.batch}"] = shortest_ms(count_work(typed), ceilings)
    write_json(args.folder / "roofline.json", {
        "command": command_line(), "measured_at": now(), "machine": machine, "flops": ceilings.flops,
        "bandwidth": ceilings.bandwidth, "shortest_ms": shortest})
    print(f"{ceilings.flops['fp32'] / 1e9:.0f} GFLOP/s FP32, {ceilings.flops['bf16'] / 1e9:.0f} GFLOP/s BF16, "
          f"{ceilings.bandwidth / 1e9:.1f} GB/s; written: {args.folder / 'roofline.json'}")
    return 0


if __name__ == "__main__":
    run(main)
