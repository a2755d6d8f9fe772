"""ONNX file -> engine file, with its record beside it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import ModuleType

import numpy as np
from onnx import ModelProto

from rtmpose.data import preprocess
from rtmpose.engines import Engine, choose_backends, headline_timer
from rtmpose.engines.record import Record, find_built, record_path, write_record
from rtmpose.environment import command_line, now
from rtmpose.errors import KitError
from rtmpose.files import put_in_place, sha256, temporary_beside
from rtmpose.model import calibration, graph, int8
from rtmpose.model.calibration import Calibration, CalibrationSet
from rtmpose.model.fp16 import Kept, to_fp16

TURNS = 4
"""Number of turns of each candidate where several are compared."""


@dataclass(frozen=True)
class Plan:
    """A build whose inputs were checked.

    Attributes:
        model: the ONNX graph.
        model_path: its file.
        shape: of the input: N, 3, H, W.
        engine_path: the engine to write.
        candidates: each backend that is to be tried, with the facts of its engine.
        crops: to calibrate INT8 with, else None.
    """

    model: ModelProto
    model_path: Path
    shape: tuple[int, int, int, int]
    engine_path: Path
    candidates: list[tuple[ModuleType, Record]]
    crops: CalibrationSet | None


@dataclass(frozen=True)
class Built:
    """An engine that was built.

    Attributes:
        record: what is written beside it.
        fixed: the simplified FP32 graph with the engine's batch size.
        kept: operators that stay in FP32 where the rest is FP16.
        calibration: of INT8, else None.
    """

    record: Record
    fixed: ModelProto
    kept: list[Kept]
    calibration: Calibration | None


def plan_build(model_path: str | Path, engine_path: str | Path, input_name: str, shape: tuple[int, int, int, int],
               precision: str, backend: str = "auto", calibration_folder: str | Path | None = None) -> Plan:
    """Check all inputs of a build.

    Args:
        model_path: what export.py wrote.
        engine_path: the engine to write.
        input_name, shape: of the input; N, 3, H, W.
        precision: ``fp32``, ``fp16`` or ``int8``.
        backend: one of :data:`rtmpose.engines.BACKENDS`, or ``auto``.
        calibration_folder: for ``int8``, a set in COCO's layout.

    Raises:
        KitError: a file is missing or broken, or the inputs contradict each other.
    """
    model = graph.load(model_path)
    graph.check_input(model, model_path, input_name, shape)
    crops = None
    if calibration_folder:
        if graph.read_input(model)[1][0]:
            raise KitError(f"{model_path}: has a fixed batch size, and INT8 is calibrated with another; give the file "
                           "that export.py wrote, whose batch is dynamic")
        crops = calibration.load_calibration_set(calibration_folder, (shape[3], shape[2]))
    digest = sha256(model_path)
    candidates = [(module, Record(
        onnx_sha256=digest, recipe=graph.RECIPE, requested_precision=precision, requested_backend=backend,
        calibration=calibration.facts(module.INT8_SCHEME, crops) if crops else {}, input_name=input_name,
        batch=shape[0], input_size=(shape[3], shape[2]), **module.describe())) for module in choose_backends(backend)]
    return Plan(model, Path(model_path), shape, Path(engine_path), candidates, crops)


def is_built(plan: Plan) -> bool:
    """Whether the engine is there already, built from the same ONNX file for the same facts."""
    return any(find_built(plan.engine_path, record) for _, record in plan.candidates)


def build_engine(plan: Plan) -> Built:
    """Build with every candidate, keep the engine that is fastest here, and write it and its record.

    Raises:
        KitError: a runtime refuses the graph, or a file can't be written.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(temporary_beside(plan.engine_path)) for _ in plan.candidates]
        built = [build_candidate(plan, backend, wanted, file)
                 for (backend, wanted), file in zip(plan.candidates, files, strict=True)]
        best = choose_fastest(plan, files, built) if len(built) > 1 else 0
        # An old record must not stand beside a new engine.
        record_path(plan.engine_path).unlink(missing_ok=True)
        put_in_place(files[best], plan.engine_path)
    write_record(plan.engine_path, built[best].record)
    return built[best]


def choose_fastest(plan: Plan, files: Sequence[Path], built: Sequence[Built]) -> int:
    """Index of the fastest candidate; its record gets the speed of each."""
    engines = [backend.load(file, one.record)
               for (backend, _), file, one in zip(plan.candidates, files, built, strict=True)]
    fps = compare_fps(engines)
    best = fps.index(max(fps))
    built[best].record.measured_fps.update(
        {engine.record.backend: value for engine, value in zip(engines, fps, strict=True)})
    return best


def compare_fps(engines: Sequence[Engine]) -> list[float]:
    """Persons a second of engines for the same random input, by the median of batches.

    The engines take turns. The first turn of each only warms up.
    """
    record = engines[0].record
    crops = preprocess.random_input(record.batch, record.input_size)
    timers = [headline_timer(engine, crops) for engine in engines]
    turns = np.array([[_take_turn(timer) for timer in timers] for _ in range(TURNS)])
    batch_ms = np.median(turns[1:], axis=(0, 2))
    return [record.batch / float(ms) * 1e3 for ms in batch_ms]


def _take_turn(timer: Callable[[], float]) -> tuple[float, float]:
    """Milliseconds of two batches, after one that is not counted: the threads of the engine before may still be
    waiting for work at full speed."""
    timer()
    return timer(), timer()


def build_candidate(plan: Plan, backend: ModuleType, wanted: Record, file: Path) -> Built:
    """Simplify the graph, give it its precision, and build an engine into a file."""
    start = perf_counter()
    fixed = graph.simplify(plan.model, plan.shape)
    spec = graph.read_spec(fixed, plan.model_path)
    typed, kept, calibrated = set_precision(plan, fixed, wanted, backend)
    arithmetic, layers = backend.build(typed, file, plan.engine_path)
    record = replace(wanted, precision=max(arithmetic, key=arithmetic.get), arithmetic=arithmetic, layers=layers,
                     num_keypoints=spec.num_keypoints, bins=spec.bins, onnx=plan.model_path.name,
                     source=graph.read_metadata(plan.model), built_at=now(), command=command_line(),
                     build_seconds=round(perf_counter() - start, 3), engine_bytes=file.stat().st_size,
                     engine_sha256=sha256(file))
    return Built(record, fixed, kept, calibrated)


def set_precision(plan: Plan, fixed: ModelProto, wanted: Record, backend: ModuleType
                  ) -> tuple[ModelProto, list[Kept], Calibration | None]:
    """Write the wanted precision into a graph.

    Args:
        plan: of the build.
        fixed: the simplified graph with the engine's batch size.
        wanted: the engine's facts.
        backend: the runtime's module.

    Returns:
        The graph, the operators that stay in FP32 where the rest is FP16, and the calibration of INT8.
    """
    calibrated = None
    mixed_fp16 = wanted.requested_precision == "fp16"
    if plan.crops:
        scheme = backend.INT8_SCHEME
        cache = plan.engine_path.parent / f"rtmpose_{wanted.onnx_sha256[:8]}_{wanted.backend}.calibration.json"
        calibrated = calibration.calibrate(plan.model, wanted.onnx_sha256, scheme, plan.crops, cache)
        fixed = int8.quantize(fixed, calibrated.ranges, scheme, calibrated.blocks)
        mixed_fp16 = scheme.rest_fp16
    return (*to_fp16(fixed), calibrated) if mixed_fp16 else (fixed, [], calibrated)
