"""ONNX file -> engine file, with its record beside it."""

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from rtmpose import timing, turns
from rtmpose.data import preprocess
from rtmpose.data.coco import DataSet
from rtmpose.engines import BACKENDS, choose_targets, files, find_backend, headline_timer, open_engine
from rtmpose.engines.record import INDEX, Facts, Record, Target, read_record, record_path, write_record
from rtmpose.errors import KitError, explained
from rtmpose.files import atomic_write, check_output, sha256
from rtmpose.machine.versions import command_line, now
from rtmpose.model import graph
from rtmpose.model.int8 import calibrate, quantize
from rtmpose.model.int8.calibrate import Calibration, CalibrationSet
from rtmpose.model.int8.quantize import Int8Scheme
from rtmpose.model.mixed_precision import HALVES, to_mixed_precision

PRECISIONS = ("fp32", *HALVES, "int8")
HINTS = ("latency", "throughput")  # of OpenVINO
_MOST_ROUNDS, _TURN_SECONDS = 16, 0.05


@dataclass(frozen=True)
class Plan:
    """A build with checked inputs."""

    model: ModelProto
    model_path: Path
    shape: tuple[int, int, int, int]  # of the input: N, 3, H, W
    engine_path: Path
    candidates: list[Facts]  # one for each backend; the fastest engine is kept
    crops: CalibrationSet | None  # only for int8
    note: str | None  # on a GPU that ``auto`` doesn't use


@dataclass(frozen=True)
class Built:
    """An engine that was built."""

    record: Record
    content: bytes  # of the engine file
    macs: dict[str, int]  # multiplications of each convolution and matrix product, by the name in the FP32 graph
    kept: dict[str, list[str]]  # names of operators that stay in FP32 beside FP16 or BF16, by the reason for it
    calibration: Calibration | None  # only for int8
    note: str  # of the backend; may be empty
    decided: bool = True  # whether it is the fastest of several beyond doubt


def plan_build(model_path: str | Path, engine_path: str | Path, batch: int | None, precision: str,
               backend: str = "auto", calibration: DataSet | str | Path | None = None,
               declared: tuple[str, tuple[int, int, int, int]] | None = None, device: str | None = None,
               hint: str = "latency", skeleton: str | None = None, inputs: dict[str, Any] | None = None,
               optimization_level: int | None = None, builds: int = 1) -> Plan:
    """Check all inputs of a build; raises KitError if a file is missing or broken, or the inputs contradict each other.

    ``precision`` is one of :data:`PRECISIONS`; INT8 needs a data set for its ``calibration``.
    ``backend`` is ``auto``, one of :data:`rtmpose.engines.BACKENDS` or the path of a Python file, and ``device`` one of
    the devices that it lists, or None. ``declared`` is the input's name and shape, if the user says them; without it,
    ``batch`` is needed. ``hint`` is one of :data:`HINTS`. ``skeleton`` is None, or "coco" for an ONNX file that doesn't
    name its keypoints. ``inputs`` are those of :func:`rtmpose.engines.files.describe_inputs`, for that backend alone.
    ``optimization_level`` is of TensorRT's builder, 0 to 5. Of several ``builds`` the fastest is kept; a runtime that
    builds the same engine each time builds once.
    """
    model = graph.load_model(model_path)
    input_name, shape = graph.find_input(model, model_path, batch, declared)
    graph.name_outputs(model, shape)
    if skeleton:
        graph.name_keypoints(model, model_path)
    crops = None
    if calibration is not None:
        if graph.read_input(model)[1][0]:
            raise KitError(f"{model_path}: has a fixed batch size, and INT8 is calibrated with another one; use the "
                           "file that export.py wrote, whose batch size is dynamic")
        crops = calibrate.load_calibration_set(calibration, (shape[3], shape[2]))
    if hint != HINTS[0] and backend != "openvino":
        raise KitError(f"--hint {hint}: only OpenVINO has hints; give --backend openvino, or leave it out")
    if (backend == files.NAME) != (inputs is not None):
        raise KitError("--backend files: needs crops, and has no speed here; give it to build_engine.py")
    if backend.endswith(".py"):
        backend = os.path.abspath(backend)
    targets, note = choose_targets(backend, device)
    if optimization_level is not None and "tensorrt" not in {target.package for target in targets.values()}:
        raise KitError(f"--optimization_level {optimization_level}: only TensorRT has levels (TensorRT-RTX builds the "
                       "same engine at each); leave it out")
    if inputs is None:  # else the vendor's tool makes what it likes of the FP32 graph
        targets = keep_able(targets, precision)
    digest = sha256(model_path)
    candidates = [Facts(onnx_sha256=digest, recipe=graph.RECIPE, requested_precision=precision,
                        calibration=calibrate.facts(int8_scheme(name), crops) if crops else {},
                        requested_backend=backend, input_name=input_name, batch=shape[0],
                        input_size=(shape[3], shape[2]), backend=name, hint=hint, inputs=inputs or {},
                        optimization_level=optimization_level, builds=builds if target.package == "tensorrt" else 1,
                        backend_sha256=None if name in BACKENDS else sha256(name), **asdict(target))
                  for name, target in targets.items()]
    return Plan(model, Path(model_path), shape, Path(engine_path), candidates, crops, note)


def keep_able(targets: Mapping[str, Target], precision: str) -> dict[str, Target]:
    """The backends that can compute in a precision on their device; raises KitError if none can."""
    obstacles = {name: _find_obstacle(name, target, precision) for name, target in targets.items()}
    if all(obstacles.values()):
        other = "fp16" if "tensorrt" in targets else "fp32"
        raise KitError(f"--precision {precision}: {'; '.join(filter(None, obstacles.values()))}; use --precision "
                       f"{other}")
    return {name: target for name, target in targets.items() if obstacles[name] is None}


def _find_obstacle(name: str, target: Target, precision: str) -> str | None:
    backend: Any = find_backend(name)
    if precision == "int8" and not hasattr(backend, "INT8_SCHEME"):
        return f"{name} takes no INT8 graphs"
    return backend.find_precision_obstacle(target.device, precision) if hasattr(
        backend, "find_precision_obstacle") else None


def int8_scheme(name: str) -> Int8Scheme:
    """How a backend that takes INT8 graphs wants them to be quantized."""
    backend: Any = find_backend(name)
    return backend.INT8_SCHEME


def is_built(plan: Plan) -> bool:
    """Whether the engine is there already, intact and built for the same facts."""
    try:
        record = read_record(plan.engine_path)
    except KitError:
        return False
    return record.keypoints == graph.read_metadata(plan.model)[0].keypoints and any(
        asdict(facts).items() <= asdict(record).items() for facts in plan.candidates)


def build_engine(plan: Plan) -> Built:
    """Build all candidates, and keep the one that is fastest here; raises KitError if a step of it fails."""
    for path in (plan.engine_path, record_path(plan.engine_path)):
        check_output(path, plan.model_path, parents=path.name.startswith(INDEX))
    graph.check_runs(plan.model, plan.model_path, plan.shape)
    fixed = graph.simplify(plan.model, plan.shape)
    asked = plan.candidates[0].requested_precision
    rivals = [replace(facts, requested_precision="fp16" if int8_scheme(facts.backend).rest_fp16 else "fp32")
              for facts in plan.candidates if plan.crops]  # what INT8 must beat
    built = [one for facts in (*plan.candidates, *rivals) for one in build_candidate(plan, facts, fixed)]
    best = choose_fastest(plan.engine_path, built) if len(built) > 1 else built[0]
    best = replace(best, record=replace(best.record, requested_precision=asked))
    with atomic_write(plan.engine_path) as file:
        file.write_bytes(best.content)
        record_path(plan.engine_path).unlink(missing_ok=True)  # an old record must not stand beside a new engine
    write_record(plan.engine_path, best.record)
    return best


def build_candidate(plan: Plan, facts: Facts, fixed: ModelProto) -> list[Built]:
    """Build the engines of a backend from the simplified graph, in the requested precision."""
    start = perf_counter()
    spec = graph.read_spec(fixed, plan.model_path)
    with explained(f"{plan.model_path}: can't be converted to {facts.requested_precision}",
                   "expected a graph that export.py wrote"):  # another graph can lack anything
        macs = graph.count_macs(fixed)
        if not sum(macs.values()):
            raise KitError(f"{plan.model_path}: has no convolutions and no matrix products; export it again")
        typed, kept, calibration = set_precision(plan, facts, fixed)
    with explained(f"{plan.engine_path}: {facts.runtime} can't build it",
                   "check the graph, and the space left in the engine's folder"):
        compiled = find_backend(facts.backend).build(typed, plan.engine_path, facts)
    common = {**asdict(facts), "num_keypoints": spec.num_keypoints, "skeleton": spec.skeleton.name,
              "keypoints": spec.skeleton.keypoints, "bins": spec.bins, "measured_fps": {}, "onnx": plan.model_path.name,
              "source": spec.source, "built_at": now(), "command": command_line(),
              "build_seconds": round(perf_counter() - start, 3)}
    return [Built(Record(**common, precision=name_precision(arithmetic), arithmetic=arithmetic, layers=layers,
                         executors=executors, kernels=kernels, engine_bytes=len(content),
                         engine_sha256=hashlib.sha256(content).hexdigest()),
                  content, macs, kept, calibration, note)
            for content, arithmetic, layers, executors, note, kernels in compiled]


def name_precision(arithmetic: Mapping[str, int]) -> str:
    """The precision of an engine by its convolutions and matrix products."""
    most = max(arithmetic, key=lambda kind: arithmetic[kind])
    return "int8+bf16" if most == "int8" and "bf16" in arithmetic else most


def set_precision(plan: Plan, facts: Facts, fixed: ModelProto
                  ) -> tuple[ModelProto, dict[str, list[str]], Calibration | None]:
    """The graph in the requested precision, the operators that stay in FP32 beside 16-bit ones, INT8's calibration."""
    if facts.requested_precision in HALVES and facts.backend != files.NAME:
        return *to_mixed_precision(fixed, facts.requested_precision), None
    if plan.crops is None or facts.requested_precision != "int8":
        return fixed, {}, None
    scheme = int8_scheme(facts.backend)
    cache = plan.engine_path.parent / f"rtmpose_{facts.onnx_sha256[:8]}_{Path(facts.backend).stem}.calibration.json"
    calibrated = calibrate.calibrate(plan.model, facts.onnx_sha256, scheme, plan.crops, cache)
    quantized = quantize.quantize(fixed, calibrated.factors, calibrated.ranges, scheme)
    mixed, kept = to_mixed_precision(quantized, "fp16") if scheme.rest_fp16 else (quantized, {})
    return mixed, kept, calibrated


def save_onnx(plan: Plan, record: Record, path: str | Path) -> None:
    """Write the graph of an engine, with its types and batch size, as an ONNX file with the source's metadata.

    It is made again, so that the engine may be an old one. Raises KitError if the file can't be written.
    """
    fixed = graph.simplify(plan.model, plan.shape)
    if plan.crops and record.precision == "fp16":  # which is faster
        record = replace(record, requested_precision="fp16")
    typed, *_ = set_precision(plan, record, fixed)
    graph.write_metadata(typed, *graph.read_metadata(fixed))
    with explained(f"{path}: not written, ONNX's checker refuses the graph", "leave out --save_onnx"):
        onnx.checker.check_model(typed, full_check=True)
    with atomic_write(path) as file:
        onnx.save(typed, file)


def choose_fastest(engine_path: Path, built: Sequence[Built]) -> Built:
    """The fastest engine; its record names the speed of all. Beside INT8, FP32 is only measured.

    They take turns on the same random input, until the fastest is known by its intervals, for at most 16 rounds. The
    round before is a warm-up, and so is the first batch of a turn: threads of the engine before may still spin.
    """
    batch = built[0].record.batch
    crops = preprocess.random_input(batch, built[0].record.input_size)
    engines = [open_engine(one.content, engine_path, one.record) for one in built]

    def take_turn(timer: Callable[[], float]) -> float:
        milliseconds = timing.measure(timer, 1, 1, _TURN_SECONDS, "Comparing")
        timing.finish(timer)
        return batch / float(np.median(milliseconds)) * 1e3

    rounds = turns.take_turns([partial(take_turn, headline_timer(engine, crops)) for engine in engines])
    next(rounds)
    allowed = (built[0].record.requested_precision, "fp16")
    able = [i for i, one in enumerate(built) if one.record.requested_precision in allowed]
    speeds: list[list[float]] = []
    for found in itertools.islice(rounds, _MOST_ROUNDS):
        speeds.append(found)
        sides, fps = np.transpose(speeds), np.median(speeds, axis=0).tolist()
        best = max(able, key=lambda i: fps[i])
        decided = all(turns.paired_ratio(sides[best], sides[i]).verdict == "slower" for i in able if i != best)
        if decided and len(speeds) >= turns.LEAST_ROUNDS:
            break
    for engine in engines:
        engine.close()
    measured = dict(zip(_name_all(built), fps, strict=True))
    return replace(built[best], decided=decided, record=replace(built[best].record, measured_fps=measured))


def _name_all(built: Sequence[Built]) -> list[str]:
    """A name for each engine: its backend and precision, and the number of its build if others have the same."""
    names = [f"{one.record.backend} {one.record.precision}" for one in built]
    return [f"{name} build {names[:i].count(name) + 1}" if names.count(name) > 1 else name
            for i, name in enumerate(names)]
