"""ONNX -> engine, with a record of what it was built from beside it."""

from common import Parser, input_shape, run

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from onnx import ModelProto

from rtmpose import graph
from rtmpose.engines import BACKENDS, choose_backend
from rtmpose.engines.record import Record, command_line, find_built, now, record_path, write_record
from rtmpose.files import atomic_write, sha256
from rtmpose.precision import Kept, to_fp16


def main() -> int:
    """Build an engine, unless the same is there already, and say what was built."""
    parser = Parser(description="Build an engine for one batch size from an RTMPose ONNX file.")
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="what export.py wrote")
    parser.add_argument("--input", required=True, type=input_shape, metavar="NAME:N,3,H,W",
                        help="the input's name and shape, e.g. input:32,3,256,192")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="default: %(default)s")
    parser.add_argument("--engine_path", required=True, metavar="FILE", help="the engine to write")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto",
                        help="auto: TensorRT where an NVIDIA GPU and TensorRT are, else ONNX Runtime on the CPU")
    args = parser.parse_args()

    name, shape = args.input
    model = graph.load(args.model_path)
    graph.check_input(model, args.model_path, name, shape)
    backend = choose_backend(args.backend)
    wanted = Record(onnx_sha256=sha256(args.model_path), recipe=graph.RECIPE, requested_precision=args.precision,
                    input_name=name, batch=shape[0], input_size=(shape[3], shape[2]), **backend.describe())
    if find_built(args.engine_path, wanted):
        print(f"{args.engine_path}: already built from the same ONNX file, for the same batch, precision, runtime "
              "and device; nothing to do")
        return 0
    record = build(model, wanted, backend, args)
    print(describe(record, args.engine_path))
    return 0


def build(model: ModelProto, wanted: Record, backend: ModuleType, args: argparse.Namespace) -> Record:
    """Simplify, type, build, and write engine and record."""
    print(f"Building {args.engine_path}: {wanted.runtime} for {wanted.device or 'any GPU it supports'}, "
          f"{args.precision}, batch {wanted.batch}", flush=True)
    start = time.perf_counter()
    fixed = graph.simplify(model, args.input[1])
    contract = graph.read_contract(fixed, args.model_path)
    typed, kept = to_fp16(fixed) if args.precision == "fp16" else (fixed, [])
    if kept:
        print(describe_kept(kept), flush=True)
    with atomic_write(args.engine_path) as temporary:
        arithmetic, layers = backend.build(typed, temporary, Path(args.engine_path))
        size, digest = temporary.stat().st_size, sha256(temporary)
        # An old record must not stand beside a new engine.
        record_path(args.engine_path).unlink(missing_ok=True)
    record = replace(wanted, precision=max(arithmetic, key=arithmetic.get), arithmetic=arithmetic, layers=layers,
                     num_keypoints=contract.num_keypoints, bins=contract.bins, onnx=Path(args.model_path).name,
                     source=graph.read_metadata(model), built_at=now(), command=command_line(),
                     build_seconds=round(time.perf_counter() - start, 3), engine_bytes=size, engine_sha256=digest)
    write_record(args.engine_path, record)
    return record


def describe_kept(kept: list[Kept]) -> str:
    """What of an FP16 engine stays in FP32, as a Markdown table."""
    prefix = os.path.commonprefix([name for entry in kept for name in entry.nodes])
    prefix = prefix[:prefix.rfind("/") + 1]
    rows = [f"| {entry.reason} | {', '.join(name.removeprefix(prefix) for name in entry.nodes)} |" for entry in kept]
    return "\n".join(["| stays in fp32, because | operators |", "|---|---|", *rows])


def describe(record: Record, path: str) -> str:
    """What was built, in a few lines."""
    def count(numbers: dict[str, int]) -> str:
        return ", ".join(f"{number} {kind}" for kind, number in sorted(numbers.items(), key=lambda i: -i[1]))

    lines = [f"Built {path} in {record.build_seconds:.1f} s: {record.engine_bytes / 2**20:.1f} MiB, "
             f"record in {record_path(path).name}",
             f"  convolutions and matrix products: {count(record.arithmetic)}",
             f"  all layers: {count(record.layers)}"]
    if record.precision != record.requested_precision:
        lines.append(f"  {record.requested_precision} was asked for, but {record.package} computes in "
                     f"{record.precision} here: weights are rounded to {record.requested_precision}, results are not "
                     f"those of {record.requested_precision} hardware and no faster")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
