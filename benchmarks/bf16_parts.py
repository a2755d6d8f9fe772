"""Parts of a network that stay in FP32 beside BF16: the keypoints that this saves and the speed that it costs.

    python3 benchmarks/bf16_parts.py --model_path rtmpose-t.onnx --engine openvino_fp32.engine --datasets unseen

In OpenVINO, against the given FP32 engine, batch after batch in turn.
"""

from common import Parser, positive, run

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from contest import take_turns
from side_by_side import batch_timer

from rtmpose.data.agreement import describe_agreement
from rtmpose.data.batches import Batch, iterate_batches
from rtmpose.data.coco import load_persons
from rtmpose.data.postprocess import decode
from rtmpose.engines import BACKENDS, Engine, load_engine
from rtmpose.errors import KitError
from rtmpose.model import graph
from rtmpose.model.mixed_precision import find_head, insert_casts, scale_final_convolutions


def find_parts(model: onnx.ModelProto) -> Iterator[tuple[str, set[str]]]:
    """Names of the operators that stay in FP32, by a name for them."""
    head = set(find_head(model.graph))

    def blocks(*names: str) -> set[str]:
        return {node.name for node in model.graph.node if any(name in node.name for name in names)}

    yield "logits", {node.name for node in model.graph.node if {*node.output} & {*graph.OUTPUTS}}
    yield "head (the kit)", head
    yield "head, final_layer", head | blocks("final_layer")
    yield "head, final_layer, stage4", head | blocks("final_layer", "stage4")
    yield "head, final_layer, stage4, stage3", head | blocks("final_layer", "stage4", "stage3")
    yield "head, stem", head | blocks("stem")
    yield "head, depthwise", head | blocks("depthwise")
    yield "all but stem", {node.name for node in model.graph.node} - blocks("stem")


def keypoints(engine: Engine, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints in the crop, and scores."""
    logits = [[axis[:len(batch.crops)] for axis in engine.infer(batch.pixels)] for batch in batches]
    simcc_x, simcc_y = (np.concatenate(axis) for axis in zip(*logits, strict=True))
    return decode(simcc_x, simcc_y, engine.record.input_size)


def main() -> int:
    """Measure and print."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="ONNX file that export.py wrote")
    parser.add_argument("--engine", required=True, metavar="FILE", help="its FP32 engine for OpenVINO")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="data set that crops are taken from")
    parser.add_argument("--rounds", type=positive, default=30, metavar="N",
                        help="batches an engine; default: %(default)s")
    args = parser.parse_args()
    reference, openvino = load_engine(args.engine), BACKENDS["openvino"]
    if obstacle := openvino.find_precision_obstacle("cpu", "bf16"):
        raise KitError(f"BF16: {obstacle}; run it on another machine")
    width, height = size = reference.record.input_size
    batch = reference.record.batch
    batches = list(iterate_batches(load_persons(args.datasets).images, size, batch))
    expected, scores = keypoints(reference, batches)
    model = scale_final_convolutions(graph.simplify(graph.load_model(args.model_path), (batch, 3, height, width)))
    macs = graph.count_macs(model)
    engines, rows = {"": reference}, []
    for name, kept in find_parts(model):
        typed, path = onnx.ModelProto(), Path("parts.engine")
        typed.CopyFrom(model)
        insert_casts(typed.graph, kept, "bf16")
        (compiled,) = openvino.build(typed, path, reference.record)
        engines[name] = openvino.load(compiled.content, path, reference.record)
        found, _ = keypoints(engines[name], batches)
        agreement = describe_agreement(np.abs(found.astype(np.float64) - expected), scores,
                                       width / reference.record.bins[0])
        rows.append((name, sum(macs.get(node, 0) for node in kept) / sum(macs.values()), agreement))
    samples = take_turns({name: batch_timer(engine, args.datasets) for name, engine in engines.items()}, args.rounds)
    medians = {name: np.median(values) for name, values in samples.items()}
    print("| in FP32 | multiplications | at most one bin off | at most 4 px off | worst, px | times FP32 |")
    print("|---|---|---|---|---|---|")
    for name, share, agreement in rows:
        print(f"| {name} | {share:.1%} | {agreement['within_bin']:.2%} | {agreement['within_4px']:.2%} | "
              f"{agreement['max_px']:.1f} | {medians[name] / medians['']:.2f} |")
    print(f"{len(scores)} persons; {args.rounds} batches each, in turn; load average {os.getloadavg()[0]:.2f}")
    return 0


if __name__ == "__main__":
    run(main)
