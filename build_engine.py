"""ONNX -> engine, with a record of what it was built from beside it."""

from common import Parser, input_shape, run

import argparse
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from onnx import ModelProto

from rtmpose import calibration, graph, quantization
from rtmpose.calibration import CalibrationSet
from rtmpose.engines import BACKENDS, choose_backends
from rtmpose.engines.record import Record, command_line, find_built, now, record_path, write_record
from rtmpose.errors import KitError
from rtmpose.files import put_in_place, sha256, temporary_beside
from rtmpose.precision import Kept, to_fp16
from rtmpose.quantization import Block
from rtmpose.throughput import compare_fps


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Build an engine for one batch size from an RTMPose ONNX file.")
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="what export.py wrote")
    parser.add_argument("--input", required=True, type=input_shape, metavar="NAME:N,3,H,W",
                        help="the input's name and shape, e.g. input:32,3,256,192")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp16", help="default: %(default)s")
    parser.add_argument("--calibration", metavar="DIR",
                        help=f"for int8: a set in COCO's layout, of which {calibration.PERSONS} persons are looked at; "
                             "not the one that accuracy is measured on")
    parser.add_argument("--engine_path", required=True, metavar="FILE", help="the engine to write")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto",
                        help="auto: TensorRT where an NVIDIA GPU and TensorRT are, else the CPU runtime that is faster "
                             "here")
    args = parser.parse_args()
    if (args.precision == "int8") != (args.calibration is not None):
        parser.error("--precision int8 and --calibration DIR belong together")
    return args


def main() -> int:
    """Build an engine, unless the same is there already, and say what was built."""
    args = parse_arguments()
    name, shape = args.input
    model = graph.load(args.model_path)
    graph.check_input(model, args.model_path, name, shape)
    if args.calibration and graph.read_input(model)[1][0] is not None:
        raise KitError(f"{args.model_path}: has a fixed batch size, and INT8 is calibrated with another; give the file "
                       "that export.py wrote, whose batch is dynamic")
    crops = calibration.load_calibration_set(args.calibration, shape[:1:-1]) if args.calibration else None
    backends = choose_backends(args.backend)
    wanted = [describe_wanted(args, backend, crops) for backend in backends]
    if any(find_built(args.engine_path, record) for record in wanted):
        print(f"{args.engine_path}: already built from the same ONNX file, for the same batch, precision, runtime "
              "and device; nothing to do")
        return 0
    record = build_fastest(model, wanted, backends, crops, args)
    print(describe(record, args.engine_path))
    return 0


def describe_wanted(args: argparse.Namespace, backend: ModuleType, crops: CalibrationSet | None) -> Record:
    """The facts that an engine is to be built for."""
    name, shape = args.input
    return Record(onnx_sha256=sha256(args.model_path), recipe=graph.RECIPE, requested_precision=args.precision,
                  calibration=calibration.facts(backend.INT8_FORM, crops) if crops else {},
                  requested_backend=args.backend, input_name=name, batch=shape[0], input_size=(shape[3], shape[2]),
                  **backend.describe())


def build_fastest(model: ModelProto, wanted: list[Record], backends: list[ModuleType], crops: CalibrationSet | None,
                  args: argparse.Namespace) -> Record:
    """Build with every backend, keep the engine that is faster here, and write it and its record."""
    with ExitStack() as stack:
        files = [stack.enter_context(temporary_beside(args.engine_path)) for _ in backends]
        records = [build(model, *one, crops, args) for one in zip(wanted, backends, files, strict=True)]
        best = 0
        if len(records) > 1:
            fps = compare_fps([b.load(*one) for b, *one in zip(backends, files, records, strict=True)])
            best = fps.index(max(fps))
            records[best].measured_fps.update(zip([record.backend for record in records], fps, strict=True))
        # An old record must not stand beside a new engine.
        record_path(args.engine_path).unlink(missing_ok=True)
        put_in_place(files[best], args.engine_path)
    write_record(args.engine_path, records[best])
    return records[best]


def build(model: ModelProto, wanted: Record, backend: ModuleType, file: Path, crops: CalibrationSet | None,
          args: argparse.Namespace) -> Record:
    """Simplify, type, and build an engine into a file; its record."""
    print(f"Building {args.engine_path}: {wanted.runtime} for {wanted.device or 'any GPU it supports'}, "
          f"{args.precision}, batch {wanted.batch}", flush=True)
    start = time.perf_counter()
    fixed = graph.simplify(model, args.input[1])
    contract = graph.read_contract(fixed, args.model_path)
    typed = set_precision(model, fixed, wanted, backend, crops, Path(args.engine_path).parent)
    arithmetic, layers = backend.build(typed, file, Path(args.engine_path))
    return replace(wanted, precision=max(arithmetic, key=arithmetic.get), arithmetic=arithmetic, layers=layers,
                   num_keypoints=contract.num_keypoints, bins=contract.bins, onnx=Path(args.model_path).name,
                   source=graph.read_metadata(model), built_at=now(), command=command_line(),
                   build_seconds=round(time.perf_counter() - start, 3), engine_bytes=file.stat().st_size,
                   engine_sha256=sha256(file))


def set_precision(model: ModelProto, fixed: ModelProto, wanted: Record, backend: ModuleType,
                  crops: CalibrationSet | None, folder: Path) -> ModelProto:
    """Write the precision that is wanted into a graph, and print what stays in a higher one.

    Args:
        model: with a dynamic batch.
        fixed: the same graph with the engine's batch size.
        wanted: the engine's facts.
        backend: for whom.
        crops: for INT8.
        folder: the engine's, where the calibration is kept.
    """
    half = wanted.requested_precision == "fp16"
    if crops:
        form = backend.INT8_FORM
        cache = folder / f"rtmpose_{wanted.onnx_sha256[:8]}_{wanted.backend}.calibration.json"
        ranges, blocks = calibration.calibrate(model, wanted.onnx_sha256, form, crops, cache)
        print(describe_blocks(blocks), flush=True)
        half = form.half
        fixed = quantization.quantize(fixed, ranges, form, blocks)
    if not half:
        return fixed
    typed, kept = to_fp16(fixed)
    print(describe_kept(kept, fixed), flush=True)
    return typed


def describe_blocks(blocks: list[Block]) -> str:
    """What INT8 does to a network block by block, as a Markdown table."""
    rows = [f"| {block.name} | {block.convolutions} | {block.macs:.1%} | {block.within_bin:.2%} | "
            f"{block.within_4px:.2%} | {'int8' if block.int8 else 'higher precision'} |" for block in blocks]
    return "\n".join(["| block | convolutions | multiplications | int8 in it alone: within a bin | within 4 px "
                      "| computes in |", "|---|---|---|---|---|---|", *rows])


def describe_kept(kept: list[Kept], model: ModelProto) -> str:
    """What of an FP16 engine stays in FP32, as a Markdown table."""
    macs = graph.count_macs(model)
    prefix = os.path.commonprefix([name for entry in kept for name in entry.nodes])
    prefix = prefix[:prefix.rfind("/") + 1]
    rows = [f"| {entry.reason} | {', '.join(name.removeprefix(prefix) for name in entry.nodes)} | "
            f"{sum(macs.get(name, 0) for name in entry.nodes) / sum(macs.values()):.3%} |" for entry in kept]
    return "\n".join(["| stays in fp32, because | operators | multiplications |", "|---|---|---|", *rows])


_WHY = {
    "fp16": "weights are rounded to fp16, results are not those of fp16 hardware and no faster",
    "int8": "the table above says which blocks don't bear int8",
}


def describe(record: Record, path: str) -> str:
    """What was built, in a few lines."""
    def count(numbers: dict[str, int]) -> str:
        return ", ".join(f"{number} {kind}" for kind, number in sorted(numbers.items(), key=lambda i: -i[1]))

    lines = [f"Built {path} in {record.build_seconds:.1f} s: {record.engine_bytes / 2**20:.1f} MiB, "
             f"record in {record_path(path).name}",
             f"  convolutions and matrix products: {count(record.arithmetic)}",
             f"  all layers: {count(record.layers)}"]
    if record.measured_fps:
        lines.append(f"  chosen: {record.backend}, because it is the fastest here: " + ", ".join(
            f"{backend} {fps:.1f} persons a second" for backend, fps in record.measured_fps.items()))
    if record.precision != record.requested_precision:
        lines.append(f"  {record.requested_precision} was asked for, but {record.package} computes in "
                     f"{record.precision} here: {_WHY[record.requested_precision]}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
