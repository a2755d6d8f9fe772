"""Effect of TensorRT's FP16, BF16 and INT8 graphs on AP and on every keypoint, emulated without a GPU.

    python3 benchmarks/emulated_precision.py --model_path rtmpose-t.onnx --datasets unseen --calibration people

The graphs are those that build_engine.py gives TensorRT. ONNX Runtime computes them on the CPU node by node in FP32,
and every 16-bit result is rounded as a GPU rounds it. A head whose final convolution is scaled by 2**12 must give the
same keypoints: in exact arithmetic the factor changes nothing. Beside the kit's FP16 graph stands one whose operators
are all FP16, as ONNX Runtime's and onnxconverter-common's converter makes it.
"""

from common import Parser, run

import argparse
from collections.abc import Iterator

import onnx
from emulation import round_like_gpu
from fp16_stress import plain, scale_final_convolution
from tqdm import tqdm

from rtmpose.data.agreement import crop_distances, describe_agreement
from rtmpose.data.batches import Batch, iterate_batches
from rtmpose.data.coco import load_persons
from rtmpose.data.postprocess import decode
from rtmpose.engines import BACKENDS
from rtmpose.evaluate.coco_eval import score
from rtmpose.evaluate.predictions import Predictions, join, to_predictions
from rtmpose.model import graph, mixed_precision
from rtmpose.model.int8 import calibrate, quantize
from rtmpose.model.int8.equalize import equalize

BATCH = 8


def make_graphs(fp32: onnx.ModelProto, crops: calibrate.CalibrationSet) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The FP32 graph, then those of reduced precision, with their names."""
    yield "FP32", fp32
    for power in (0, 12):
        scaled = scale_final_convolution(fp32, power)
        yield f"all FP16, final convolution x 2^{power}", round_like_gpu(plain(scaled))
        yield f"FP16, final convolution x 2^{power}", emulate(scaled, "fp16")
    yield "BF16", emulate(fp32, "bf16")
    scheme = BACKENDS["tensorrt"].INT8_SCHEME
    factors = calibrate.find_factors(fp32, crops.batches)
    ranges = calibrate.find_ranges(equalize(fp32, factors), scheme, crops.batches)
    yield "INT8, the rest FP16", emulate(quantize.quantize(fp32, factors, ranges, scheme), "fp16")


def emulate(model: onnx.ModelProto, half: str) -> onnx.ModelProto:
    """The kit's mixed-precision graph, emulated in FP32."""
    return round_like_gpu(mixed_precision.to_mixed_precision(model, half)[0])


def predict(model: onnx.ModelProto, batches: list[Batch], size: tuple[int, int]) -> Predictions:
    """Run a graph over all batches. Logits may be NaN, which are decoded as if they were the largest."""
    session, parts = graph.open_session(model), []
    for batch in tqdm(batches, unit="batch", leave=False, disable=None):
        logits = session.run(list(graph.OUTPUTS), {graph.INPUT: batch.pixels})
        keypoints, scores = decode(*(axis[:len(batch.crops)] for axis in logits), size)
        parts.append(to_predictions(batch.crops, keypoints, scores, size))
    return join(parts)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="ONNX file that export.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="data set that AP is measured on")
    parser.add_argument("--calibration", required=True, metavar="DIR", help="data set that INT8 is calibrated on")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    args = parse_arguments()
    model = graph.load_model(args.model_path)
    _, (*_, height, width) = graph.read_input(model)
    size = width, height
    fp32 = graph.simplify(model, (BATCH, 3, height, width))
    pixels_per_bin = width / graph.read_spec(fp32, args.model_path).bins[0]
    persons = load_persons(args.datasets)
    batches = list(iterate_batches(persons.images, size, BATCH))
    crops = calibrate.load_calibration_set(args.calibration, size)
    print(f"{len(persons)} persons\n")
    print("| graph | AP | difference | at most one bin off | at most 4 px off | worst, px |\n|---|---|---|---|---|---|")
    for name, emulated in make_graphs(fp32, crops):
        predictions = predict(emulated, batches, size)
        ap = score(predictions, persons)[1]["AP"]
        if emulated is fp32:
            expected, expected_ap = predictions, ap
        distances = crop_distances(predictions.keypoints, expected.keypoints, expected.scales, size)
        agreement = describe_agreement(distances, expected.scores, pixels_per_bin)
        print(f"| {name} | {ap:.4f} | {ap - expected_ap:+.4f} | {agreement['within_bin']:.3%} | "
              f"{agreement['within_4px']:.3%} | {agreement['max_px']:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
