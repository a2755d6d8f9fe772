"""Calibration of INT8 on real crops: the factors of channels, and the range of every convolution's operands.

A JSON file beside the engine keeps them, with the facts they depend on, so that it is done once.
"""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from rtmpose.data.batches import iterate_batches
from rtmpose.data.coco import DataSet, load_persons, regroup
from rtmpose.errors import KitError, first_line
from rtmpose.files import read_sealed, sha256, write_sealed
from rtmpose.model.graph import open_session, simplify
from rtmpose.model.int8.equalize import Factors, channel_factors, equalize, equalized_tensors
from rtmpose.model.int8.quantize import Int8Scheme, Ranges

CALIBRATION_RECIPE = 4  # increases when the same crops give another calibration, so that old caches are not used

# Share of a tensor's numbers that its scale covers. In the demo, 99.99 loses more AP, and 100 moves more keypoints.
PERCENTILE = 99.999

PERSONS = 128  # number of persons drawn from the calibration set, or all if it has fewer
SEED = 0  # of the draw
BATCH = 8


@dataclass(frozen=True)
class CalibrationSet:
    """Crops of persons drawn from a data set."""

    source: str  # the data set
    annotations_sha256: str
    persons: int  # number of crops
    crops_sha256: str  # of their pixels
    batches: list[np.ndarray]  # the crops, float32 (BATCH, 3, H, W) each


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration."""

    factors: Factors
    ranges: Ranges  # of the equalized graph
    cache: Path
    reused: bool  # whether it was read from the cache


def load_calibration_set(data_set: DataSet | str | Path, input_size: tuple[int, int]) -> CalibrationSet:
    """Draw persons of a data set and cut them out. Raises KitError if the set is broken or smaller than a batch."""
    persons = load_persons(data_set)
    if len(persons) < BATCH:
        raise KitError(f"{data_set}: holds {len(persons)} persons, expected at least {BATCH} to calibrate with")
    everyone = persons.pairs
    drawn = np.sort(np.random.default_rng(SEED).permutation(len(everyone))[:PERSONS])
    batches = [batch.pixels for batch in iterate_batches(regroup(everyone[i] for i in drawn), input_size, BATCH)]
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.data)
    return CalibrationSet(str(data_set), sha256(persons.annotations.path), len(drawn), digest.hexdigest(), batches)


def facts(scheme: Int8Scheme, crops: CalibrationSet) -> dict[str, Any]:
    """Everything a calibration depends on, except the ONNX file."""
    import onnxruntime
    return {"recipe": CALIBRATION_RECIPE, "scheme": asdict(scheme), "seed": SEED, "persons": crops.persons,
            "annotations_sha256": crops.annotations_sha256, "crops_sha256": crops.crops_sha256,
            "library": "onnxruntime.quantization", "library_version": onnxruntime.__version__}


def calibrate(model: onnx.ModelProto, onnx_sha256: str, scheme: Int8Scheme, crops: CalibrationSet, cache: Path
              ) -> Calibration:
    """Find factors and ranges of an FP32 network with a dynamic batch.

    The result is kept in the file ``cache`` and read from there as long as the facts and the ONNX file are the same.
    """
    wanted = {"onnx_sha256": onnx_sha256, **facts(scheme, crops)}
    if known := read_cache(cache, wanted):
        return known
    fixed = simplify(model, crops.batches[0].shape)
    factors = find_factors(fixed, crops.batches) if scheme.equalized else {}
    ranges = find_ranges(equalize(fixed, factors), scheme, crops.batches)
    write_sealed(cache, {"facts": wanted, "factors": factors, "ranges": ranges})
    return Calibration(factors, ranges, cache, reused=False)


def read_cache(cache: Path, wanted: dict[str, Any]) -> Calibration | None:
    """Read a calibration, or None if the file is missing, broken, changed since or made from other facts."""
    try:
        content = read_sealed(cache, "calibration")
    except KitError:
        return None
    if content.get("facts") != wanted:
        return None
    ranges = {name: (low, high) for name, (low, high) in content["ranges"].items()}
    return Calibration(content["factors"], ranges, cache, reused=True)


def find_factors(model: onnx.ModelProto, batches: Sequence[np.ndarray]) -> Factors:
    """Factors that equalize the channels of all convolutions' inputs of an FP32 graph on real crops."""
    opened, names = deepcopy(model), equalized_tensors(model)
    opened.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    runner = open_session(opened)
    reach = [[np.abs(tensor).max(axis=(0, 2, 3)) for tensor in runner.run(names, {model.graph.input[0].name: batch})]
             for batch in batches]
    return {name: channel_factors(np.max(of_batches, axis=0))
            for name, of_batches in zip(names, zip(*reach, strict=True), strict=True)}


def find_ranges(model: onnx.ModelProto, scheme: Int8Scheme, batches: Sequence[np.ndarray]) -> Ranges:
    """Ranges of the inputs and outputs of all convolutions of an FP32 graph on real crops, less the rarest outliers."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path, augmented = Path(folder) / "model.onnx", f"{folder}/augmented.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(path, ["Conv"], augmented, CalibrationMethod.Percentile,
                                       extra_options={"percentile": PERCENTILE, "symmetric": scheme.signed})
        # One reader a batch: the calibrator keeps all tensors of all batches that a reader gives it.
        for batch in tqdm(batches, desc="Calibrating", unit="batch", leave=False, disable=None):
            inputs = iter([{model.graph.input[0].name: batch}, None])
            calibrator.collect_data(SimpleNamespace(get_next=inputs.__next__))
        found = calibrator.compute_data().data
    ranges = {tensor: (np.ravel(data.lowest).item(), np.ravel(data.highest).item()) for tensor, data in found.items()}
    if broken := [tensor for tensor, limits in ranges.items() if not np.isfinite(limits).all()]:
        raise KitError(f"calibration: {first_line(broken[0])} takes no finite values on these crops; check the weights "
                       "for NaN")
    return ranges
