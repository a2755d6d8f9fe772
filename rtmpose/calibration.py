"""What INT8 needs to know of real crops: the range of every convolution's operands, and how much each block of the
network suffers from INT8. Kept in a JSON beside the engine with the facts that made it, so that it is done once."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rtmpose import quantization
from rtmpose.coco import ANNOTATIONS, Image, load_persons
from rtmpose.errors import KitError
from rtmpose.files import read_json, sha256, write_json
from rtmpose.graph import simplify
from rtmpose.pipeline import iterate_batches
from rtmpose.quantization import Block, Form, Ranges

PERSONS = 128
"""How many persons are drawn from the calibration set."""

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


def load_calibration_set(folder: str | Path, input_size: tuple[int, int]) -> CalibrationSet:
    """Draw :data:`PERSONS` persons of a set in COCO's layout, all if there are fewer, and cut them out.

    Args:
        folder: the data set.
        input_size: width and height of a crop in pixels.

    Raises:
        KitError: the set is broken or smaller than a batch.
    """
    persons = load_persons(folder)
    if persons.number < BATCH:
        raise KitError(f"{folder}: holds {persons.number} persons, expected at least {BATCH} to calibrate with")
    chosen = np.random.default_rng(SEED).permutation(persons.number)[:PERSONS]
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


def facts(form: Form, crops: CalibrationSet) -> dict[str, Any]:
    """All that a calibration depends on, but for the ONNX file."""
    return {"recipe": quantization.RECIPE, "form": asdict(form), "seed": SEED, "persons": crops.persons,
            "annotations_sha256": crops.annotations_sha256, "crops_sha256": crops.crops_sha256,
            **quantization.describe_library()}


def calibrate(model: onnx.ModelProto, onnx_sha256: str, form: Form, crops: CalibrationSet, cache: Path
              ) -> tuple[Ranges, list[Block]]:
    """Find the ranges of a network's tensors, and what INT8 does to it block by block.

    Args:
        model: FP32, with a dynamic batch.
        onnx_sha256: of the file it comes from.
        form: of INT8 that the runtime takes.
        crops: to calibrate with.
        cache: what was found before from just the same facts is read here; else what is found is written.
    """
    wanted = {"onnx_sha256": onnx_sha256, **facts(form, crops)}
    known = _read(cache, wanted)
    if known:
        print(f"Calibration: taken from {cache}", flush=True)
        return known
    print(f"Calibration: {crops.persons} crops of {crops.folder}, seed {SEED}; kept in {cache}", flush=True)
    fixed = simplify(model, crops.batches[0].shape)
    ranges = quantization.find_ranges(fixed, form, crops.batches)
    blocks = quantization.measure_sensitivity(fixed, ranges, form, crops.batches)
    write_json(cache, {"facts": wanted, "ranges": ranges, "blocks": [asdict(block) for block in blocks]})
    return ranges, blocks


def _read(cache: Path, wanted: dict[str, Any]) -> tuple[Ranges, list[Block]] | None:
    """What a cache holds, where it was made from just these facts."""
    try:
        content = read_json(cache, "a calibration")
        if content["facts"] != wanted:
            return None
        ranges = {name: (low, high) for name, (low, high) in content["ranges"].items()}
        return ranges, [Block(**block) for block in content["blocks"]]
    except (KitError, AttributeError, KeyError, TypeError, ValueError):
        return None
