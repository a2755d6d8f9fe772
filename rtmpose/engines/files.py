"""Devices that only take files: an engine is the index of batches of crops, whose outputs a vendor's tool writes.

Outputs are found by the digests of the crops, so that any part of the data set can be measured, in any order.
"""

import io
import json
import math
import shutil
from datetime import datetime
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from rtmpose import files
from rtmpose.data.batches import iterate_batches
from rtmpose.data.coco import DataSet, find_data_set, load_persons
from rtmpose.data.preprocess import MEAN, STD, to_pixels
from rtmpose.engines.record import Facts, Record, Target
from rtmpose.engines.runtime import Compiled, RuntimeEngine
from rtmpose.errors import KitError, explained
from rtmpose.model.graph import OUTPUTS, count_types, read_spec

NAME = "files"
LAYOUTS = ("nchw_float32", "nhwc_uint8")  # crops as engines take them; or pixels, which the vendor's tool normalises
_load_persons = cache(load_persons)


def describe() -> list[Target]:
    return [Target(NAME, "1", NAME, None)]  # the version of what is in a folder


def describe_inputs(data_set: DataSet | str | None, detections: str | None, limit: int | None, layout: str, raw: bool,
                    precision: str | None) -> dict[str, Any]:
    """Whose crops are to be written, and how: ``inputs`` of :class:`rtmpose.engines.record.Facts`.

    ``layout`` is one of :data:`LAYOUTS`, ``raw`` whether files are bare bytes, and ``precision`` what the vendor's tool
    computes in, or None if the user doesn't say. Raises KitError if the data set is missing or broken.
    """
    found = find_data_set(data_set)
    return {"annotations": str(found.annotations), "images": str(found.images), "detections": detections,
            "sha256": [files.sha256(path) for path in (found.annotations, detections) if path], "limit": limit,
            "persons": len(_load_persons(found, detections, limit)), "layout": layout,
            "suffix": ".bin" if raw else ".npy", "precision": precision}


def describe_batches(facts: Facts) -> tuple[int, tuple[int, ...], str, int]:
    """Number of batches, shape and type of each, and the bytes of all."""
    batch, (width, height), layout = facts.batch, facts.input_size, facts.inputs["layout"]
    shape = (batch, 3, height, width) if layout == LAYOUTS[0] else (batch, height, width, 3)
    number, kind = -(-facts.inputs["persons"] // batch), layout.split("_")[1]
    return number, shape, kind, number * math.prod(shape) * np.dtype(kind).itemsize


def build(model: ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """Write the folder of the index ``path``: the batches, the graph with its fixed batch size, and a README.md.

    Raises KitError if something is in the folder, which may be outputs for other batches, or the disk is too full.
    """
    folder, inputs, (number, shape, kind, size) = path.parent, facts.inputs, describe_batches(facts)
    if folder.exists() and any(folder.iterdir()):
        raise KitError(f"{folder}: is not empty; choose another folder, or delete it if its outputs aren't needed")
    persons = _load_persons(DataSet(Path(inputs["annotations"]), Path(inputs["images"])), inputs["detections"],
                            inputs["limit"])
    spec, batches = read_spec(model, path), dict[str, dict[str, Any]]()
    with files.atomic_write(folder) as new:
        if (free := shutil.disk_usage(new.parent).free) < size:
            raise KitError(f"{folder}: {size / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free; free some "
                           "space, or give --limit")
        (new / "inputs").mkdir(parents=True)
        for batch in iterate_batches(persons.images, facts.input_size, facts.batch):
            file, content = f"inputs/{len(batches):06}{inputs['suffix']}", encode(batch.pixels, inputs)
            (new / file).write_bytes(content)
            batches[file] = {"sha256": sha256(content).hexdigest(),
                             "crops": [sha256(crop.pixels.data).hexdigest() for crop in batch.crops]}
        (new / "SHA256SUMS").write_text("".join(f"{batches[file]['sha256']}  {file}\n" for file in batches))
        (new / "model.onnx").write_bytes(model.SerializeToString())
        (new / "README.md").write_text(Path(__file__).with_name("files.md").read_text("utf-8").format(
            facts=facts, number=number, last=number - 1, shape=shape, kind=kind,
            outputs=[(facts.batch, spec.num_keypoints, bins) for bins in spec.bins], mean=", ".join(map(str, MEAN)),
            std=", ".join(map(str, STD))), "utf-8")
    index = json.dumps({"shape": shape, "type": kind, "batches": batches}).encode()
    # Only the user can say what the vendor's tool makes of the graph.
    precision = f"{inputs['precision']} (reported)" if inputs["precision"] else "unknown"
    return [Compiled(index, {precision: sum(count_types(model)[0].values())}, {})]


def encode(pixels: np.ndarray, inputs: dict[str, Any]) -> bytes:
    """A file of crops, float32 (batch, 3, H, W), as they are or as 8-bit pixels, (batch, H, W, 3), RGB."""
    if inputs["layout"] == LAYOUTS[1]:
        pixels = to_pixels(pixels)
    np.save(file := io.BytesIO(), pixels)
    return pixels.tobytes() if inputs["suffix"] == ".bin" else file.getvalue()


def load(content: bytes, path: str | Path, record: Record) -> RuntimeEngine:
    """An engine that looks outputs up. Raises KitError unless the folder has them all, and none that is old."""
    folder, batches = Path(path).with_name("outputs"), json.loads(content)["batches"].values()
    places = dict(reversed([(crop, (number, row)) for number, batch in enumerate(batches)
                            for row, crop in enumerate(batch["crops"])]))  # of equal crops, the first
    outputs = {(number, name): folder / f"{number:06}_{name}{record.inputs['suffix']}"
               for number in range(len(batches)) for name in OUTPUTS}
    check_outputs(folder, list(outputs.values()), record.built_at)

    @lru_cache(2 * len(OUTPUTS))  # the crops of a run may be the end of one batch and the start of another
    def read(number: int, name: str) -> np.ndarray:
        shape = (record.batch, record.num_keypoints, record.bins[OUTPUTS.index(name)])
        return read_output(outputs[number, name], shape)

    def look_up(crops: np.ndarray) -> list[np.ndarray]:
        try:
            found = [places[sha256(crop.data).hexdigest()] for crop in crops]
        except KeyError:
            given = ", ".join(f"--{name} {record.inputs[name]}" for name in ("annotations", "detections", "limit")
                              if record.inputs[name])
            raise KitError(f"{path}: has no outputs for some of these crops, only for those of {given}; give the same, "
                           "or build it again: another version of OpenCV crops otherwise") from None
        return [np.stack([read(number, name)[row] for number, row in found]) for name in OUTPUTS]

    return RuntimeEngine(NAME, path, record, look_up)


def check_outputs(folder: Path, expected: list[Path], built_at: str) -> None:
    """Raise KitError unless a folder has exactly these files, none older than ``built_at``, ISO 8601."""
    found = set(folder.iterdir()) if folder.is_dir() else set()
    if missing := [path for path in expected if path not in found]:
        raise KitError(f"{missing[0]}: no such output, {len(missing)} of {len(expected)} are missing; let the vendor's "
                       "tool write it, as README.md beside the index says")
    if extra := found.difference(expected):
        raise KitError(f"{min(extra)}: belongs to none of the inputs, so others may not either; remove it")
    built = datetime.fromisoformat(built_at).timestamp()
    if old := [path for path in expected if path.stat().st_mtime < built]:
        raise KitError(f"{old[0]}: is older than the inputs of {built_at}, so it was computed from others; run the "
                       "vendor's tool again, or touch it if only its date is wrong")


def read_output(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """One output of a batch. Raises KitError unless it is of this shape, float32 and finite."""
    expected = f"float32 {shape}, without NaN or infinity"
    with files.open_regular(path, expected) as file, explained(f"{path}: is not {expected}", "write that"):
        output = (np.frombuffer(file.read(), np.float32).reshape(shape) if path.suffix == ".bin" else
                  np.lib.format.read_array(file, allow_pickle=False))
        if output.dtype != np.float32 or output.shape != shape:
            raise RuntimeError(f"it is {output.dtype} {output.shape}")
        if not np.isfinite(output).all():
            raise RuntimeError(f"{np.count_nonzero(~np.isfinite(output))} numbers aren't finite")
    return output
