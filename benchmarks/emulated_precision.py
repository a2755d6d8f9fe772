"""What TensorRT's FP16 and INT8 graphs do to AP and to every keypoint, found without a GPU.

    python3 benchmarks/emulated_precision.py --model_path rtmpose-t.onnx --datasets unseen --calibration people

The graphs are those that build_engine.py gives TensorRT. ONNX Runtime computes them on the CPU node by node in FP32,
and every FP16 result is rounded as a GPU rounds it. With the head's final convolution scaled by 2**8 they must do the
same: in exact arithmetic it changes nothing.
"""

import sys
from pathlib import Path

# The kit is no installed package: `common` and `rtmpose` lie in the repository's root.
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from common import Parser, run

import argparse
from collections.abc import Iterator

import numpy as np
import onnx
from fp16_stress import scale_final_convolution
from tqdm import tqdm

from rtmpose import calibration, precision, quantization, score
from rtmpose.agreement import crop_distances, describe_agreement
from rtmpose.coco import load_persons
from rtmpose.emulation import round_like_fp16, session
from rtmpose.engines import backend
from rtmpose.graph import INPUT, OUTPUTS, load, read_input, simplify
from rtmpose.pipeline import Batch, decode, iterate_batches, to_estimates
from rtmpose.score import Estimate

BATCH = 8


def graphs(model: onnx.ModelProto, shape: tuple[int, ...], crops: calibration.CalibrationSet
           ) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The FP32 graph, then the typed ones, by what they are."""
    fixed = simplify(model, shape)
    yield "FP32", fixed
    for power in (0, 8):
        scaled = scale_final_convolution(fixed, power)
        yield f"FP16, final convolution x 2^{power}", round_like_fp16(precision.to_fp16(scaled)[0])
    form = backend("tensorrt").INT8_FORM
    ranges = quantization.find_ranges(fixed, form, crops.batches)
    blocks = quantization.measure_sensitivity(fixed, ranges, form, crops.batches)
    quantized = quantization.quantize(fixed, ranges, form, blocks)
    yield "INT8, the rest FP16", round_like_fp16(precision.to_fp16(quantized)[0])


def estimate(model: onnx.ModelProto, batches: list[Batch], size: tuple[int, int]) -> list[Estimate]:
    """Keypoints of every crop, in the image."""
    runner, estimates = session(model), []
    for batch in tqdm(batches, unit="batch", leave=False, disable=None):
        logits = runner.run(list(OUTPUTS), {INPUT: batch.pixels})
        found = decode(*(axis[:len(batch.crops)] for axis in logits), size)
        estimates += to_estimates(batch.crops, *found, size)
    return estimates


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
    print(f"{persons.number} persons\n\n| graph | AP | difference | within a bin | within 4 px | furthest, px |\n"
          "|---|---|---|---|---|---|")
    calibrating = calibration.load_calibration_set(args.calibration, size)
    for name, graph in graphs(model, (BATCH, 3, height, width), calibrating):
        estimates = estimate(graph, batches, size)
        ap = score.evaluate(score.to_results(estimates), persons)[0]["AP"]
        reference = reference or (estimates, ap)
        scores = np.stack([one.scores for one in reference[0]])
        bin_width = width / graph.graph.output[0].type.tensor_type.shape.dim[2].dim_value
        agreement = describe_agreement(crop_distances(estimates, reference[0], size), scores, bin_width)
        print(f"| {name} | {ap:.4f} | {ap - reference[1]:+.4f} | {agreement['within_bin']:.3%} | "
              f"{agreement['within_4px']:.3%} | {agreement['max_px']:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
