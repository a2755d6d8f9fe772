"""Calibration of INT8 on real crops: the range of every convolution's operands, and the effect of INT8 on the keypoints
block by block. Kept in a JSON beside the engine with the facts that made it, so that it is done once.

A scale covers all but one in 100,000 of the numbers that its tensor holds over the calibration crops.
"""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from rtmpose.data import postprocess
from rtmpose.data.agreement import describe_agreement
from rtmpose.data.dataset import ANNOTATIONS, Image, load_persons
from rtmpose.data.loader import iterate_batches
from rtmpose.errors import KitError
from rtmpose.files import read_json, sha256, write_json
from rtmpose.model.graph import OUTPUTS, count_macs, simplify
from rtmpose.model.int8 import Block, Int8Scheme, Ranges, group_by_block, insert_quantization

RECIPE = 1
"""Counts up when the same crops give another calibration, so that old ones are not used."""

PERCENTILE = 99.999
"""Share of a tensor's numbers that its scale covers. In the demo's network 99.99 loses more AP, and 100 moves more
keypoints."""

SENSITIVITY_BATCHES = 8
"""Number of the calibration's batches that the sensitivity is measured on."""

LEAST_WITHIN_BIN = 0.8
"""A block stays in higher precision where INT8 in it alone leaves fewer of the counted keypoints within one bin."""

PERSONS = 128
"""Number of persons that are drawn from the calibration set."""

SEED = 0
"""Of that draw."""

BATCH = 8


@dataclass(frozen=True)
class CalibrationSet:
    """Crops of persons drawn from a data set.

    Attributes:
        folder: the data set.
        annotations_sha256: of its annotation file.
        persons: how many crops there are.
        crops_sha256: of the crops' pixels.
        batches: the crops, float32 (BATCH, 3, H, W) each.
    """

    folder: str
    annotations_sha256: str
    persons: int
    crops_sha256: str
    batches: list[np.ndarray]


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration.

    Attributes:
        ranges: of every convolution's operands.
        blocks: effect of INT8 in each block alone.
        cache: file in which it is kept.
        reused: whether it was taken from there.
    """

    ranges: Ranges
    blocks: list[Block]
    cache: Path
    reused: bool


def load_calibration_set(folder: str | Path, input_size: tuple[int, int]) -> CalibrationSet:
    """Draw :data:`PERSONS` persons of a set in COCO's layout, all if there are fewer, and cut them out.

    Args:
        folder: the data set.
        input_size: width and height of a crop in pixels.

    Raises:
        KitError: the set is broken or smaller than a batch.
    """
    persons = load_persons(folder)
    if len(persons) < BATCH:
        raise KitError(f"{folder}: holds {len(persons)} persons, expected at least {BATCH} to calibrate with")
    chosen = np.random.default_rng(SEED).permutation(len(persons))[:PERSONS]
    images = _only(persons.images, set(chosen.tolist()))
    batches = [batch.pixels for batch in iterate_batches(images, input_size, BATCH)]
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch)
    return CalibrationSet(str(folder), sha256(Path(folder) / ANNOTATIONS), len(chosen), digest.hexdigest(), batches)


def _only(images: tuple[Image, ...], chosen: set[int]) -> Iterator[Image]:
    """The images with only those persons whose number, counted over all images, is among ``chosen``."""
    number = 0
    for image in images:
        persons = tuple(person for index, person in enumerate(image.persons, number) if index in chosen)
        number += len(image.persons)
        if persons:
            yield replace(image, persons=persons)


def facts(scheme: Int8Scheme, crops: CalibrationSet) -> dict[str, Any]:
    """All that a calibration depends on, but for the ONNX file."""
    return {"recipe": RECIPE, "scheme": asdict(scheme), "seed": SEED, "persons": crops.persons,
            "annotations_sha256": crops.annotations_sha256, "crops_sha256": crops.crops_sha256,
            **describe_library()}


def calibrate(model: onnx.ModelProto, onnx_sha256: str, scheme: Int8Scheme, crops: CalibrationSet, cache: Path
              ) -> Calibration:
    """Find the ranges of a network's tensors, and the effect of INT8 block by block.

    Args:
        model: FP32, with a dynamic batch.
        onnx_sha256: of the file it comes from.
        scheme: the runtime's.
        crops: to calibrate with.
        cache: file for the result; it is used again while the facts are the same.
    """
    wanted = {"onnx_sha256": onnx_sha256, **facts(scheme, crops)}
    known = _read(cache, wanted)
    if known:
        return known
    fixed = simplify(model, crops.batches[0].shape)
    ranges = find_ranges(fixed, scheme, crops.batches)
    blocks = measure_sensitivity(fixed, ranges, scheme, crops.batches)
    write_json(cache, {"facts": wanted, "ranges": ranges, "blocks": [asdict(block) for block in blocks]})
    return Calibration(ranges, blocks, cache, reused=False)


def _read(cache: Path, wanted: dict[str, Any]) -> Calibration | None:
    """The calibration in a cache, if it was made from just these facts."""
    try:
        content = read_json(cache, "a calibration")
        if content["facts"] != wanted:
            return None
        ranges = {name: (low, high) for name, (low, high) in content["ranges"].items()}
        return Calibration(ranges, [Block(**block) for block in content["blocks"]], cache, reused=True)
    except (KitError, AttributeError, KeyError, TypeError, ValueError):
        return None


def find_ranges(model: onnx.ModelProto, scheme: Int8Scheme, batches: Sequence[np.ndarray]) -> Ranges:
    """Run a graph over crops and note the range of what its convolutions take and give, without the rarest outliers.

    Args:
        model: FP32, with the batches' shape.
        scheme: the runtime's.
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
                                       extra_options={"percentile": PERCENTILE, "symmetric": scheme.signed})
        # It keeps all tensors of all crops that one call gives it.
        for batch in tqdm(batches, desc="Calibrating", unit="batch", leave=False, disable=None):
            calibrator.collect_data(OneBatch(batch))
        found = calibrator.compute_data().data
    return {tensor: (np.ravel(data.lowest).item(), np.ravel(data.highest).item()) for tensor, data in found.items()}


def measure_sensitivity(model: onnx.ModelProto, ranges: Ranges, scheme: Int8Scheme, batches: Sequence[np.ndarray]
                        ) -> list[Block]:
    """Quantise each block of a network alone, and see how far that moves its keypoints.

    Args:
        model: FP32, with the batches' shape.
        ranges: its ranges.
        scheme: the runtime's.
        batches: float32 (n, 3, H, W) each; the first :data:`SENSITIVITY_BATCHES` are used.
    """
    blocks, batches = group_by_block(model), batches[:SENSITIVITY_BATCHES]
    pixels_per_bin = batches[0].shape[3] / model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    macs = count_macs(model)
    reference, scores = keypoints(model, batches)
    measured = []
    for name in tqdm(blocks, desc="Sensitivity", unit="block", leave=False, disable=None):
        others = [node for other, nodes in blocks.items() if other != name for node in nodes]
        found, _ = keypoints(insert_quantization(model, ranges, scheme, others), batches)
        agreement = describe_agreement(np.abs(found.astype(np.float64) - reference), scores, pixels_per_bin)
        within = agreement.get("within_bin", 1.0)
        measured.append(Block(name, len(blocks[name]), sum(macs[node] for node in blocks[name]) / sum(macs.values()),
                              within, agreement.get("within_4px", 1.0), within >= LEAST_WITHIN_BIN))
    return measured


def keypoints(model: onnx.ModelProto, batches: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Run a graph over crops, as its nodes say.

    Args:
        model: with the batches' shape.
        batches: float32 (n, 3, H, W) each.

    Returns:
        Keypoints, float32 (N, K, 2) in pixels of the crop, and scores, float32 (N, K).
    """
    runner, name = session(model), model.graph.input[0].name
    logits = [runner.run(list(OUTPUTS), {name: batch}) for batch in batches]
    height, width = batches[0].shape[2:]
    return postprocess.decode(*map(np.concatenate, zip(*logits, strict=True)), (width, height))


def session(model: onnx.ModelProto) -> "object":
    """An ``onnxruntime.InferenceSession`` that runs a graph as its nodes say."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def describe_library() -> dict[str, str]:
    """Name and version of the library that calibrates and quantises."""
    import onnxruntime
    return {"library": "onnxruntime.quantization", "library_version": onnxruntime.__version__}
