"""Effect of FP16 when the head's final convolution is scaled by 2**k, which changes nothing in exact arithmetic.

    python3 benchmarks/fp16_stress.py --model_path rtmpose-t.onnx --datasets people

For plain conversion, plain conversion with ScaleNorm in FP32, and the kit's mixed precision: the share of keypoints
(of those with an FP32 score above 0.2) that are at most one SimCC bin off FP32, and the worst one in crop pixels. Every
FP16 result is rounded as a GPU rounds it; ONNX Runtime's own FP16 on a CPU would hide overflows.
"""

from common import run

import numpy as np
import onnx
from emulation import keypoints, round_like_gpu
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from subject import load_subject, parse_arguments
from tqdm import tqdm

from rtmpose.data.agreement import describe_agreement
from rtmpose.model import mixed_precision


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


def plain(model: onnx.ModelProto, fp32_ops: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Convert without knowledge of RTMPose; operators of the types ``fp32_ops`` stay in FP32."""
    converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True, op_block_list=list(fp32_ops)))
    converted.topological_sort()
    return converted.model


CONVERSIONS = {
    "plain conversion": plain,
    "ReduceL2, Clip and Div in FP32": lambda model: plain(model, ("ReduceL2", "Clip", "Div")),
    "the kit's mixed precision": lambda model: mixed_precision.to_mixed_precision(model, "fp16")[0],
}


def main() -> int:
    """Measure and print."""
    model, batches = load_subject(parse_arguments(__doc__))
    reference, scores = keypoints(model, batches)
    print(f"{len(scores)} persons; share of keypoints at most one bin off FP32, worst in crop pixels\n")
    print(f"| k | {' | '.join(CONVERSIONS)} |\n|---{'|---' * len(CONVERSIONS)}|")
    for power in tqdm(range(0, 13, 2), leave=False, disable=None):
        scaled = scale_final_convolution(model, power)
        cells = []
        for convert in CONVERSIONS.values():
            rounded, _ = keypoints(round_like_gpu(convert(scaled)), batches)
            agreement = describe_agreement(np.abs(rounded - reference), scores, 0.5)
            cells.append(f"{agreement['within_bin']:.2%}, {agreement['max_px']:.1f} px")
        print(f"| {power} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
