"""INT8 as Q/DQ nodes in the graph: which operators, in which form, and what it does to the keypoints block by block.

Convolutions take INT8 operands: weights signed, symmetric, a scale a channel; activations one scale a tensor. A sum
that reads the same tensor reads it rounded as well. Biases stay in float, and so does the head behind its convolution,
whose matrix products are a few percent of the network and end in logits that must not be rounded. ONNX Runtime's
quantiser writes the nodes: it is installed anyway, it gives plain ONNX, and it lets the form be chosen.

What a runtime runs fast, and right, differs (:class:`Form`). A scale covers all but one in 100,000 of the numbers that
its tensor holds over the calibration crops.
"""

import contextlib
import io
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
from tqdm import tqdm

from rtmpose.agreement import describe_agreement
from rtmpose.emulation import keypoints
from rtmpose.graph import count_macs
from rtmpose.precision import scale_final_convolutions

RECIPE = 1
"""Counts up when the same crops give another calibration, so that old ones are not used."""

PERCENTILE = 99.999
"""Share of a tensor's numbers that its scale covers. In the demo's network 99.99 loses more AP, and 100 moves more
keypoints."""

SENSITIVITY_BATCHES = 8
"""How many of the calibration's batches the sensitivity is measured on."""

LEAST_WITHIN_BIN = 0.8
"""A block stays in higher precision where INT8 in it alone leaves fewer of the counted keypoints within one bin."""

_SMALLEST_SCALE = 1e-5
"""Below, a scale that is rounded to FP16 would be further off than INT8 itself."""

_OPSET = 19
"""The first in which scales can be FP16."""

Ranges = dict[str, tuple[float, float]]
"""Smallest and largest value of a tensor, by its name."""


@dataclass(frozen=True)
class Form:
    """How a runtime takes INT8.

    Attributes:
        signed: activations are signed and symmetric; otherwise unsigned with a zero point, which uses the whole range
            on what is mostly positive, as SiLU's outputs are.
        outputs: the outputs of convolutions are quantised as well as their inputs.
        half: everything else is typed as for FP16 (:func:`rtmpose.precision.to_fp16`), else it is FP32.
    """

    signed: bool
    outputs: bool
    half: bool


@dataclass(frozen=True)
class Block:
    """What INT8 in one block of the network alone does.

    Attributes:
        name: as mmpose names it.
        convolutions: how many it has.
        macs: its share of the network's multiplications.
        within_bin, within_4px: shares of the counted keypoints that stay within a SimCC bin and 4 px of FP32's.
        int8: whether its convolutions are quantised.
    """

    name: str
    convolutions: int
    macs: float
    within_bin: float
    within_4px: float
    int8: bool


def describe_library() -> dict[str, str]:
    """Name and version of what calibrates and quantises."""
    import onnxruntime
    return {"library": "onnxruntime.quantization", "library_version": onnxruntime.__version__}


def find_ranges(model: onnx.ModelProto, form: Form, batches: Sequence[np.ndarray]) -> Ranges:
    """Run a graph over crops and note the range of what its convolutions take and give, without the rarest outliers.

    Args:
        model: FP32, with the batches' shape.
        form: of INT8.
        batches: float32 (n, 3, H, W) each.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class OneBatch(CalibrationDataReader):
        def __init__(self, batch: np.ndarray) -> None:
            self.left = [{model.graph.input[0].name: batch}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(path, ["Conv"], str(path.with_name("augmented.onnx")),
                                       CalibrationMethod.Percentile,
                                       extra_options={"percentile": PERCENTILE, "symmetric": form.signed})
        # It keeps all tensors of all crops that one call gives it.
        for batch in tqdm(batches, desc="Calibrating", unit="batch", leave=False, disable=None):
            calibrator.collect_data(OneBatch(batch))
        found = calibrator.compute_data().data
    return {tensor: (np.ravel(data.lowest).item(), np.ravel(data.highest).item()) for tensor, data in found.items()}


def quantize(model: onnx.ModelProto, ranges: Ranges, form: Form, blocks: Iterable[Block]) -> onnx.ModelProto:
    """Give a network its INT8 graph; where the form asks for half, :func:`rtmpose.precision.to_fp16` is to follow.

    Args:
        model: FP32, with a fixed batch size; not changed.
        ranges, blocks: what :func:`find_ranges` and :func:`measure_sensitivity` gave.
        form: of INT8.
    """
    scaled = scale_final_convolutions(model) if form.half else model
    return insert_quantization(scaled, ranges, form, kept_nodes(model, blocks))


def insert_quantization(model: onnx.ModelProto, ranges: Ranges, form: Form, kept: Iterable[str] = ()
                        ) -> onnx.ModelProto:
    """Put Q/DQ nodes around a graph's convolutions.

    Args:
        model: FP32, with a fixed batch size; not changed.
        ranges: what :func:`find_ranges` gave for the same graph with any batch size.
        form: of INT8.
        kept: names of convolutions that are left alone.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    tensors = TensorsData(CalibrationMethod.MinMax, {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()})
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if form.signed else QuantType.QUInt8, tensors_range=tensors,
        nodes_to_quantize=[], nodes_to_exclude=list(kept), op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": form.signed, "WeightSymmetric": True, "QuantizeBias": False,
                       "MinimumRealRange": 255 * _SMALLEST_SCALE,
                       "OpTypesToExcludeOutputQuantization": [] if form.outputs else ["Conv"]})
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return onnx.version_converter.convert_version(quantizer.model.model, _OPSET)


def measure_sensitivity(model: onnx.ModelProto, ranges: Ranges, form: Form, batches: Sequence[np.ndarray]
                        ) -> list[Block]:
    """Quantise each block of a network alone, and see how far that moves its keypoints.

    Args:
        model: FP32, with the batches' shape.
        ranges: what :func:`find_ranges` gave for it.
        form: of INT8.
        batches: float32 (n, 3, H, W) each; the first :data:`SENSITIVITY_BATCHES` are used.
    """
    blocks, batches = group_by_block(model), batches[:SENSITIVITY_BATCHES]
    pixels_per_bin = batches[0].shape[3] / model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    macs = count_macs(model)
    reference, scores = keypoints(model, batches)
    measured = []
    for name in tqdm(blocks, desc="Sensitivity", unit="block", leave=False, disable=None):
        others = [node for other, nodes in blocks.items() if other != name for node in nodes]
        found, _ = keypoints(insert_quantization(model, ranges, form, others), batches)
        agreement = describe_agreement(np.abs(found.astype(np.float64) - reference), scores, pixels_per_bin)
        within = agreement.get("within_bin", 1.0)
        measured.append(Block(name, len(blocks[name]), sum(macs[node] for node in blocks[name]) / sum(macs.values()),
                              within, agreement.get("within_4px", 1.0), within >= LEAST_WITHIN_BIN))
    return measured


def group_by_block(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of a graph's convolutions by block: mmpose's stem, stages and final layer; ``other`` where names differ."""
    blocks: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            found = re.search(r"(stem|stage\d+|final_layer)", node.name)
            blocks.setdefault(found.group() if found else "other", []).append(node.name)
    return blocks


def kept_nodes(model: onnx.ModelProto, blocks: Iterable[Block]) -> list[str]:
    """Names of the convolutions that stay in higher precision."""
    nodes = group_by_block(model)
    return [node for block in blocks if not block.int8 for node in nodes.get(block.name, ())]
