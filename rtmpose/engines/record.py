"""The JSON beside an engine: what it was built from, by what, for what.

It makes every number traceable to a model, a build and a machine, and it lets a second build with the same facts be
skipped and an engine that does not fit here be refused.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError
from rtmpose.files import read_json, sha256, write_json

FACTS = ("onnx_sha256", "recipe", "requested_precision", "calibration", "requested_backend", "input_name", "batch",
         "input_size", "backend", "package", "version", "device", "compute_capability")
"""The fields of a :class:`Record` that decide whether an engine can be used again."""


@dataclass(frozen=True)
class Record:
    """An engine's record: the facts it is built for, then what was built.

    Attributes:
        onnx_sha256: of the ONNX file.
        recipe: :data:`rtmpose.model.graph.RECIPE`.
        requested_precision: what was asked for: ``fp32``, ``fp16`` or ``int8``.
        calibration: what INT8 was calibrated with (:func:`rtmpose.model.calibration.facts`); empty for the others.
        requested_backend: what was asked for: ``auto`` or a backend.
        input_name, batch, input_size: of the input; the size is width and height in pixels.
        backend, package, version: the runtime, e.g. ``tensorrt``, ``tensorrt_rtx``, ``1.7.1``.
        device: the GPU's name, or the processor's for a CPU runtime; None where TensorRT-RTX built without a GPU.
        compute_capability: of the GPU.
        precision: what most convolutions and matrix products compute in, read from the built graph.
        arithmetic: number of convolutions and matrix products by that type.
        layers: number of all layers by the type that they give.
        num_keypoints, bins: K, and the number of SimCC bins over x and over y.
        onnx: the ONNX file's name.
        measured_fps: persons a second of each backend that ``auto`` tried.
        source: where the ONNX file comes from, as export.py wrote it.
        built_at: UTC, ISO 8601.
        command: the command that built it.
        build_seconds: how long that took.
        engine_bytes, engine_sha256: of the engine file.
    """

    onnx_sha256: str
    recipe: int
    requested_precision: str
    calibration: dict[str, Any]
    requested_backend: str
    input_name: str
    batch: int
    input_size: tuple[int, int]
    backend: str
    package: str
    version: str
    device: str | None
    compute_capability: str | None
    precision: str = ""
    arithmetic: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    num_keypoints: int = 0
    bins: tuple[int, int] = (0, 0)
    measured_fps: dict[str, float] = field(default_factory=dict)
    onnx: str = ""
    source: dict[str, str] = field(default_factory=dict)
    built_at: str = ""
    command: str = ""
    build_seconds: float = 0.0
    engine_bytes: int = 0
    engine_sha256: str = ""

    @property
    def runtime(self) -> str:
        """Package and version, for people."""
        return f"{self.package} {self.version}"


def record_path(engine: str | Path) -> Path:
    """Where an engine's record lies."""
    return Path(f"{engine}.json")


def write_record(engine: str | Path, record: Record) -> None:
    """Write the record of an engine file."""
    write_json(record_path(engine), asdict(record))


def read_record(engine: str | Path) -> Record:
    """The record of an engine, after making sure that the engine file is the one that it describes.

    Raises:
        KitError: engine or record is missing, or the two don't belong together.
    """
    if not Path(engine).is_file():
        raise KitError(f"{engine}: no such engine; build_engine.py builds it")
    path = record_path(engine)
    if not path.is_file():
        raise KitError(f"{engine}: has no record {path.name} beside it, so nobody knows what it is; "
                       "build it with build_engine.py")
    content = read_json(path, "the record that build_engine.py wrote")
    names = {f.name for f in fields(Record)}
    if not isinstance(content, dict) or set(content) != names:
        raise KitError(f"{path}: is no record of this version of the kit; build the engine again")
    record = Record(**{**content, **{key: tuple(content[key]) for key in ("input_size", "bins")}})
    if Path(engine).stat().st_size != record.engine_bytes or sha256(engine) != record.engine_sha256:
        raise KitError(f"{engine}: is not the file that {path.name} describes ({Path(engine).stat().st_size} bytes, "
                       f"expected {record.engine_bytes}): cut off or replaced; build it again")
    return record


def find_built(engine: str | Path, wanted: Record) -> Record | None:
    """The record of an engine that was built for just the facts that are wanted and is intact, else None."""
    try:
        record = read_record(engine)
    except KitError:
        return None
    return record if all(getattr(record, fact) == getattr(wanted, fact) for fact in FACTS) else None


def check_built_here(path: str | Path, record: Record, here: Mapping[str, str | None], runtime: str) -> None:
    """Make sure that an engine of a CPU runtime fits this machine.

    Args:
        path: the engine.
        record: its record.
        here: the runtime's ``describe()``.
        runtime: its name, for people.

    Raises:
        KitError: it was built by another version or for another processor.
    """
    if (record.version, record.device) != (here["version"], here["device"]):
        raise KitError(f"{path}: was built by {runtime} {record.version} for {record.device}, here are "
                       f"{here['version']} and {here['device']}; build it again")
