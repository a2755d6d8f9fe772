"""The record beside an engine: it makes results traceable, and shows if the engine is up to date and can run here."""

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError
from rtmpose.files import read_sealed, sha256, write_sealed

INDEX = "files.engine"  # in a folder of --backend files


@dataclass(frozen=True)
class Target:
    """A runtime and a device, on which engines run."""

    package: str  # e.g. tensorrt_rtx
    version: str  # of the package
    device: str  # as --device names it, e.g. cpu or gpu.1
    device_name: str | None  # the device's own, e.g. of the processor; None if engines are built without it
    driver: str | None = None  # of the device
    compute_capability: str | None = None  # of an NVIDIA GPU

    @property
    def runtime(self) -> str:
        """Package and version, for messages."""
        return f"{self.package} {self.version}"

    @property
    def hardware(self) -> str:
        """The device, for messages."""
        capability = f" (compute capability {self.compute_capability})" if self.compute_capability else ""
        return f"{self.device_name}{capability}"


@dataclass(frozen=True, kw_only=True)
class Facts(Target):
    """The inputs of a build; the same facts give the same engine."""

    onnx_sha256: str
    recipe: int  # rtmpose.model.graph.RECIPE
    requested_precision: str  # fp32, fp16, bf16 or int8
    calibration: dict[str, Any]  # rtmpose.model.int8.calibrate.facts; empty unless int8 is requested
    requested_backend: str  # auto or a backend
    input_name: str
    batch: int
    input_size: tuple[int, int]  # width, height in pixels
    backend: str  # e.g. tensorrt, or the path of a Python file
    backend_sha256: str | None  # of that file
    hint: str  # what OpenVINO compiles for: latency or throughput
    optimization_level: int | None  # of TensorRT's builder; None is its own default, and for others
    builds: int  # of which the fastest is kept; 1 for runtimes that build the same engine each time
    inputs: dict[str, Any]  # what --backend files writes (rtmpose.engines.files.describe_inputs); empty for others


@dataclass(frozen=True, kw_only=True)
class Record(Facts):
    """The facts of an engine, and what was built of them."""

    precision: str  # of most convolutions and matrix products in the built graph; int8+bf16 if the rest is BF16
    arithmetic: dict[str, int]  # number of convolutions and matrix products by type
    layers: dict[str, int]  # number of all layers by the type of their output
    executors: dict[str, int]  # number of nodes by what runs them, e.g. CUDAExecutionProvider; empty if it isn't told
    kernels: dict[str, int]  # their number, those fused of several layers, bytes read and written a batch; as executors
    num_keypoints: int
    skeleton: str  # mmpose's name of the keypoints' data set, e.g. coco
    keypoints: tuple[str, ...]  # their names; none if the ONNX file doesn't say
    bins: tuple[int, int]  # number of SimCC bins over x and over y
    measured_fps: dict[str, float]  # persons a second of each backend, precision and build that were compared
    onnx: str  # file name
    source: dict[str, str]  # origin of the ONNX file, written by export.py
    built_at: str  # UTC, ISO 8601
    command: str
    build_seconds: float
    engine_bytes: int
    engine_sha256: str


def find_engine(path: str) -> str:
    """The file of an engine: ``path``, or the index in it if it is a folder of ``--backend files``."""
    return os.path.join(path, INDEX) if os.path.isdir(path) else path


def record_path(engine: str | Path) -> Path:
    """Path of an engine's record."""
    return Path(f"{engine}.json")


def read_record(engine: str | Path) -> Record:
    """The record of an engine. Raises KitError if one of the two is missing, or they don't belong together."""
    path, engine = record_path(engine), Path(engine)
    if not engine.is_file():
        raise KitError(f"{engine}: no such engine; build it with build_engine.py")
    if not path.is_file():
        raise KitError(f"{engine}: has no record {path.name} beside it; build it again with build_engine.py")
    content = read_sealed(path, "record")
    if set(content) != {field.name for field in fields(Record)}:
        raise KitError(f"{path}: is no record of this version of the kit; build the engine again")
    record = Record(**{**content, **{name: tuple(content[name]) for name in ("input_size", "bins", "keypoints")}})
    size = engine.stat().st_size
    if size != record.engine_bytes or sha256(engine) != record.engine_sha256:
        raise KitError(f"{engine}: is not the file that {path.name} describes ({size} bytes, expected "
                       f"{record.engine_bytes}): cut off or replaced; build it again")
    return record


def write_record(engine: str | Path, record: Record) -> None:
    """Write the record of an engine; raises KitError if that fails."""
    write_sealed(record_path(engine), asdict(record))
