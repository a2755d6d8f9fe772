"""What FP16 does when the head's final convolution is scaled by 2**k, which in exact arithmetic changes nothing.

    python3 benchmarks/fp16_stress.py --model_path rtmpose-t.onnx --datasets people

For plain conversion, for plain conversion with ScaleNorm in FP32, and for the kit's typing: the share of counted
keypoints (FP32 score above 0.2) that stay within one SimCC bin of FP32, and the furthest one in pixels of the crop.
Every FP16 result is rounded as a GPU rounds it; ONNX Runtime's own FP16 on a CPU would hide overflows.
"""

import argparse
import sys
from itertools import islice
from pathlib import Path

# The kit is no installed package: `common` and `rtmpose` lie in the repository's root.
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from common import Parser, positive, run

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from tqdm import tqdm

from rtmpose import graph, precision, simcc
from rtmpose.agreement import describe_agreement
from rtmpose.coco import load_persons
from rtmpose.pipeline import iterate_crops

_BATCH = 8


def scale_final_convolution(model: onnx.ModelProto, power: int) -> onnx.ModelProto:
    """Multiply weights and bias of the last convolution by a power of two."""
    scaled = onnx.ModelProto()
    scaled.CopyFrom(model)
    final = [node for node in scaled.graph.node if node.op_type == "Conv"][-1]
    for tensor in scaled.graph.initializer:
        if tensor.name in final.input[1:]:
            values = numpy_helper.to_array(tensor) * np.float32(2.0 ** power)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return scaled


def plain(model: onnx.ModelProto, kept: tuple[str, ...] = ()) -> onnx.ModelProto:
    """What a converter that knows nothing of RTMPose makes; operators of the types ``kept`` stay in FP32."""
    converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True, op_block_list=list(kept)))
    converted.topological_sort()
    return converted.model


TYPINGS = {
    "plain conversion": plain,
    "ReduceL2, Clip and Div in FP32": lambda model: plain(model, ("ReduceL2", "Clip", "Div")),
    "the kit's typing": lambda model: precision.to_fp16(model)[0],
}


def keypoints(model: onnx.ModelProto, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, K, 2) in pixels of the crop, and scores (N, K), with nothing optimised away."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits = [session.run(list(graph.OUTPUTS), {graph.INPUT: crops[start:start + _BATCH]})
              for start in range(0, len(crops), _BATCH)]
    return simcc.decode(*map(np.concatenate, zip(*logits, strict=True)), (crops.shape[3], crops.shape[2]))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="what export.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="crops are taken from this set")
    parser.add_argument("--persons", type=positive, default=64, metavar="N", help="default: %(default)s")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    args = parse_arguments()
    model = graph.load(args.model_path)
    height, width = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[2:])
    fixed = graph.simplify(model, (_BATCH, 3, height, width))
    number = -(-args.persons // _BATCH) * _BATCH
    people = islice(iterate_crops(load_persons(args.datasets).images, (width, height)), number)
    crops = np.stack([one.pixels for one in people])
    crops = crops[:len(crops) // _BATCH * _BATCH]
    reference, scores = keypoints(fixed, crops)
    print(f"{len(crops)} persons; share of counted keypoints within one SimCC bin of FP32, furthest in crop pixels\n")
    print("| k | " + " | ".join(TYPINGS) + " |\n|---" + "|---" * len(TYPINGS) + "|")
    for power in tqdm(range(0, 13, 2), leave=False, disable=None):
        scaled = scale_final_convolution(fixed, power)
        cells = []
        for typing in TYPINGS.values():
            given, _ = keypoints(precision.round_like_fp16(typing(scaled)), crops)
            agreement = describe_agreement(np.abs(given - reference), scores, 0.5)
            cells.append(f"{agreement['within_bin']:.2%}, {agreement['max_px']:.1f} px")
        print(f"| {power} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
