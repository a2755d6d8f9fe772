"""ONNX file -> engine for one runtime, precision and batch size, with its record beside it."""

from common import Parser, add_annotations, choose_data_set, input_shape, positive, run

import argparse

from rtmpose.engines import BACKENDS
from rtmpose.engines.build import HINTS, PRECISIONS, build_engine, is_built, plan_build, save_onnx
from rtmpose.engines.record import read_record
from rtmpose.files import check_output
from rtmpose.model.int8.calibrate import PERSONS
from rtmpose.report import text


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
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="default: %(default)s")
    parser.add_argument("--calibration", metavar="DIR",
                        help=f"for int8: a data set in COCO's layout, of which {PERSONS} persons are used; don't take "
                             "the one that accuracy is measured on")
    add_annotations(parser, "--calibration")
    parser.add_argument("--engine_path", required=True, metavar="FILE", help="the engine to write")
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
    parser.add_argument("--skeleton", choices=("coco",),
                        help="the keypoints of an ONNX file that doesn't name them, e.g. of mmdeploy or rtmlib")
    parser.add_argument("--save_onnx", metavar="FILE.onnx",
                        help="write the engine's graph, with its types and batch size, for trtexec --stronglyTyped, "
                             "ONNX Runtime and others")
    args = parser.parse_args()
    if args.batch is None and args.input is None:
        parser.error("--batch N or --input NAME:N,3,H,W is needed")
    args.calibration = choose_data_set("--calibration", args.calibration, args.annotations, args.images)
    if (args.precision == "int8") != (args.calibration is not None):
        parser.error("--precision int8 and --calibration DIR (or --annotations FILE and --images DIR) belong together")
    return args


def main() -> int:
    """Build an engine, unless it is up to date, and print a report."""
    args = parse_arguments()
    if args.save_onnx:
        check_output(args.save_onnx, args.model_path, args.engine_path)
    plan = plan_build(args.model_path, args.engine_path, args.batch, args.precision, args.backend, args.calibration,
                      args.input, args.device, args.hint, args.skeleton)
    if is_built(plan):
        print(f"{args.engine_path}: already built from the same ONNX file, for the same batch, precision, runtime "
              "and device; nothing to do")
    else:
        print(text.build_start_lines(plan), flush=True)
        print(text.build_lines(plan, build_engine(plan)))
    if args.save_onnx:
        save_onnx(plan, read_record(args.engine_path), args.save_onnx)
        print(f"Wrote {args.save_onnx}: the engine's graph, for other runtimes")
    return 0


if __name__ == "__main__":
    run(main)
