"""What TensorRT's FP16 and INT8 graphs do to AP and to every keypoint, found without a GPU.

    python3 benchmarks/emulated_precision.py --model_path rtmpose-t.onnx --datasets unseen --calibration people

The graphs are those that build_engine.py gives TensorRT. ONNX Runtime computes them on the CPU node by node in FP32,
and every FP16 result is rounded as a GPU rounds it. With the head's final convolution scaled by 2**8 they must do the
same: in exact arithmetic it changes nothing.
"""

from common import Parser, run

import argparse
from collections.abc import Iterator

import onnx
from emulation import round_like_fp16
from fp16_stress import scale_final_convolution
from tqdm import tqdm

from rtmpose.data.agreement import crop_distances, describe_agreement
from rtmpose.data.dataset import load_persons
from rtmpose.data.loader import Batch, iterate_batches
from rtmpose.engines import backend
from rtmpose.evaluate import coco_eval
from rtmpose.evaluate.predictions import Predictions, decode, join, to_predictions
from rtmpose.model import calibration, fp16, int8
from rtmpose.model.calibration import session
from rtmpose.model.graph import INPUT, OUTPUTS, load, read_input, simplify

BATCH = 8


def graphs(model: onnx.ModelProto, shape: tuple[int, ...], crops: calibration.CalibrationSet
           ) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The FP32 graph, then the typed ones, by what they are."""
    fixed = simplify(model, shape)
    yield "FP32", fixed
    for power in (0, 8):
        scaled = scale_final_convolution(fixed, power)
        yield f"FP16, final convolution x 2^{power}", round_like_fp16(fp16.to_fp16(scaled)[0])
    scheme = backend("tensorrt").INT8_SCHEME
    ranges = calibration.find_ranges(fixed, scheme, crops.batches)
    blocks = calibration.measure_sensitivity(fixed, ranges, scheme, crops.batches)
    quantized = int8.quantize(fixed, ranges, scheme, blocks)
    yield "INT8, the rest FP16", round_like_fp16(fp16.to_fp16(quantized)[0])


def predict(model: onnx.ModelProto, batches: list[Batch], size: tuple[int, int]) -> Predictions:
    """Keypoints of every crop, in the image."""
    runner, parts = session(model), []
    for batch in tqdm(batches, unit="batch", leave=False, disable=None):
        logits = runner.run(list(OUTPUTS), {INPUT: batch.pixels})
        found = decode(*(axis[:len(batch.crops)] for axis in logits), size)
        parts.append(to_predictions(batch.crops, *found, size))
    return join(parts)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="what export.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="AP is measured on this set")
    parser.add_argument("--calibration", required=True, metavar="DIR", help="INT8 is calibrated on this one")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    args = parse_arguments()
    model = load(args.model_path)
    _, (*_, height, width) = read_input(model)
    size = width, height
    persons = load_persons(args.datasets)
    batches = list(iterate_batches(persons.images, size, BATCH))
    reference = None
    print(f"{len(persons)} persons\n\n| graph | AP | difference | within a bin | within 4 px | furthest, px |\n"
          "|---|---|---|---|---|---|")
    calibrating = calibration.load_calibration_set(args.calibration, size)
    for name, graph in graphs(model, (BATCH, 3, height, width), calibrating):
        predictions = predict(graph, batches, size)
        ap = coco_eval.evaluate(coco_eval.to_results(predictions), persons)[0]["AP"]
        reference = reference or (predictions, ap)
        bin_width = width / graph.graph.output[0].type.tensor_type.shape.dim[2].dim_value
        expected = reference[0]
        distances = crop_distances(predictions.keypoints, expected.keypoints, expected.scales, size)
        agreement = describe_agreement(distances, expected.scores, bin_width)
        print(f"| {name} | {ap:.4f} | {ap - reference[1]:+.4f} | {agreement['within_bin']:.3%} | "
              f"{agreement['within_4px']:.3%} | {agreement['max_px']:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
