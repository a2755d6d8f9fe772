"""ONNX file -> engine for one runtime, precision and batch size, with its record beside it."""

from common import Parser, add_annotations, choose_data_set, choose_measured, input_shape, positive, run

import argparse
from pathlib import Path
from typing import Any

from rtmpose.engines import BACKENDS, files
from rtmpose.engines.build import HINTS, PRECISIONS, build_engine, is_built, plan_build, save_onnx
from rtmpose.engines.record import INDEX, read_record
from rtmpose.errors import KitError
from rtmpose.files import check_output
from rtmpose.model.int8.calibrate import PERSONS
from rtmpose.report import text

FILES_OPTIONS = ("datasets", "detections", "limit", "layout", "raw")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description="Build an engine for one batch size from an RTMPose ONNX file.",
                    example="python3 build_engine.py --model_path rtmpose_opt.onnx --input input:32,3,256,192 "
                            "--precision fp16 --engine_path rtmpose_bs_32_fp16.engine")
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="the ONNX file that export.py wrote")
    parser.add_argument("--batch", type=positive, metavar="N",
                        help="crops in a batch; the input's name, height and width are those of the graph")
    parser.add_argument("--input", type=input_shape, metavar="NAME:N,3,H,W",
                        help="instead of --batch: the input's name and shape, e.g. input:32,3,256,192")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: fp16")
    parser.add_argument("--calibration", metavar="DIR",
                        help=f"for int8: a data set in COCO's layout, of which {PERSONS} persons are used; don't take "
                             "the one that accuracy is measured on")
    add_annotations(parser, "--calibration or --datasets")
    parser.add_argument("--engine_path", required=True, metavar="FILE",
                        help="the engine to write; for --backend files, a folder")
    parser.add_argument("--backend", metavar="NAME", default="auto",
                        help=f"{', '.join(BACKENDS)}, or a Python file with a backend of your own, which is run; "
                             "default: auto, which is TensorRT on a machine with an NVIDIA GPU and TensorRT, else the "
                             "faster of ONNX Runtime and OpenVINO on the CPU")
    parser.add_argument("--device", metavar="NAME",
                        help="what the runtime runs on, e.g. cpu, gpu.1, npu, cuda; default: its first (see "
                             "docs/hardware.md)")
    parser.add_argument("--hint", choices=HINTS, default=HINTS[0],
                        help="for --backend openvino: one batch at a time, or as many as its streams take; default: "
                             "%(default)s")
    parser.add_argument("--optimization_level", type=int, choices=range(6), metavar="N",
                        help="of TensorRT's builder, 0 to 5: a higher one looks longer for a faster engine; default: "
                             "TensorRT's own, 3")
    parser.add_argument("--builds", type=positive, default=1, metavar="N",
                        help="build with TensorRT N times and keep the fastest engine: they differ, because it times "
                             "kernels to choose among them; default: %(default)s")
    parser.add_argument("--skeleton", choices=("coco",),
                        help="the keypoints of an ONNX file that doesn't name them, e.g. of mmdeploy or rtmlib")
    parser.add_argument("--save_onnx", metavar="FILE.onnx",
                        help="write the engine's graph, with its types and batch size, for trtexec --stronglyTyped, "
                             "ONNX Runtime and others")
    add_files_options(parser.add_argument_group("--backend files, for a device that only takes files"))
    args = parser.parse_args()
    if args.batch is None and args.input is None:
        parser.error("--batch N or --input NAME:N,3,H,W is needed")
    if args.backend == files.NAME:
        return args
    for option in FILES_OPTIONS:
        if getattr(args, option) != parser.get_default(option):
            parser.error(f"--{option}: is for --backend files alone; leave it out")
    args.calibration = choose_data_set("--calibration", args.calibration, args.annotations, args.images)
    if (args.precision == "int8") != (args.calibration is not None):
        parser.error("--precision int8 and --calibration DIR (or --annotations FILE and --images DIR) belong together")
    return args


def add_files_options(group: argparse._ArgumentGroup) -> None:
    """Options of --backend files, which mean what they mean to inference.py."""
    group.add_argument("--datasets", nargs="?", const="", metavar="DIR",
                       help="write the crops of this data set; default: $DATASETS_DIR")
    group.add_argument("--detections", metavar="FILE",
                       help="a detector's boxes in COCO result format; default: ground-truth boxes")
    group.add_argument("--limit", type=positive, metavar="N", help="only the first N images with persons")
    group.add_argument("--layout", choices=files.LAYOUTS, default=files.LAYOUTS[0],
                       help="normalised as engines take it, or pixels for a toolchain that normalises; default: "
                            "%(default)s")
    group.add_argument("--raw", action="store_true", help="bare bytes, in .bin files; default: NumPy's .npy")


def describe_inputs(args: argparse.Namespace) -> dict[str, Any]:
    """What --backend files writes. Raises KitError for options that only other backends have."""
    if args.calibration:
        raise KitError("--calibration: the vendor's tool calibrates by itself; leave it out")
    data_set = choose_measured(args.datasets, args.annotations, args.images)
    return files.describe_inputs(data_set, args.detections, args.limit, args.layout, args.raw, args.precision)


def main() -> int:
    """Build an engine, unless it is up to date, and print a report."""
    args = parse_arguments()
    if args.save_onnx:
        check_output(args.save_onnx, args.model_path, args.engine_path)
    engine_path, inputs = args.engine_path, None
    if args.backend == files.NAME:
        engine_path, inputs = Path(engine_path, INDEX), describe_inputs(args)
    plan = plan_build(args.model_path, engine_path, args.batch, args.precision or "fp16", args.backend,
                      args.calibration, args.input, args.device, args.hint, args.skeleton, inputs,
                      args.optimization_level, args.builds)
    if args.builds > max(facts.builds for facts in plan.candidates):
        raise KitError(f"--builds {args.builds}: {plan.candidates[0].runtime} builds the same engine each time; leave "
                       "it out")
    if is_built(plan):
        print(f"{engine_path}: already built from the same ONNX file, for the same batch, precision, runtime "
              "and device; nothing to do")
    else:
        print(text.build_start_lines(plan), flush=True)
        print(text.build_lines(plan, build_engine(plan)))
    if args.save_onnx:
        save_onnx(plan, read_record(engine_path), args.save_onnx)
        print(f"Wrote {args.save_onnx}: the engine's graph, for other runtimes")
    return 0


if __name__ == "__main__":
    run(main)
