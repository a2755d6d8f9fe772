"""LoadGen mode: MLPerf's own load generator asks for persons, the engine answers, and LoadGen's logs say how well.

The system under test (SUT) takes crops in memory and answers with keypoints in the crop: forming batches and decoding
are timed, reading, cropping and normalising are not. It is the same in performance and in accuracy mode.
"""

import importlib.util
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rtmpose import timing
from rtmpose.data import preprocess
from rtmpose.data.dataset import PersonSet
from rtmpose.data.loader import Crop, cut_image
from rtmpose.engines import Engine
from rtmpose.errors import KitError
from rtmpose.evaluate.accuracy import Score, describe_persons, score
from rtmpose.evaluate.loadgen_logs import (
    ACCURACY,
    DETAIL,
    clear_logs,
    describe_performance,
    describe_run,
    read_detail,
    read_predictions,
)
from rtmpose.evaluate.predictions import decode
from rtmpose.files import make_folder

SCENARIOS = {"offline": "Offline", "singlestream": "SingleStream", "server": "Server"}
"""LoadGen's name of each scenario."""

LOADED_SAMPLES = 1024
"""Normalised crops in memory at a time, as MLPerf has it for image classification: 0.6 GB at 256x192."""

OFFLINE_SAMPLES = 24576
"""Samples of an offline run by MLPerf's rules; the whole set where it is smaller."""

SERVER_QUERIES = 662
"""The smallest number of queries of which one may be late at LoadGen's 99th percentile and 99 % confidence."""

SERVER_LOAD = 0.5
"""Default rate of the server scenario, as a share of what full batches reach in a short measurement."""

HEADROOM = 1.2
"""Expected rate of the other scenarios over what full batches reach in a short measurement: LoadGen prepares so many
queries, and a run that outruns them is INVALID."""


@dataclass(frozen=True)
class LoadGenConfig:
    """Settings of a LoadGen run.

    Attributes:
        scenario: one of :data:`SCENARIOS`.
        accuracy: every sample once, for AP; else performance.
        min_duration: least seconds of a performance run.
        target_qps: samples a second, asked of server, expected of offline; None: by a short measurement of the engine.
        target_latency: milliseconds in which the server must answer 99 % of the queries.
    """

    scenario: str
    accuracy: bool
    min_duration: float
    target_qps: float | None
    target_latency: float


class SampleLibrary:
    """The query sample library (QSL): every crop as 8-bit pixels, and the loaded ones normalised as well.

    Args:
        pixels: of every sample, uint8 (H, W, 3), BGR.
    """

    def __init__(self, pixels: Sequence[np.ndarray]) -> None:
        self._pixels = pixels
        self._loaded: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._pixels)

    def load(self, indices: list[int]) -> None:
        """Normalise samples: LoadGen calls it before it asks for them."""
        for index in indices:
            self._loaded[index] = preprocess.normalize(self._pixels[index])

    def unload(self, indices: list[int]) -> None:
        """Forget normalised samples."""
        for index in indices:
            del self._loaded[index]

    def batch(self, indices: Sequence[int], out: np.ndarray) -> None:
        """Fill ``out``, float32 (batch, 3, H, W), with loaded samples, and what is left with the first of them."""
        padding = [indices[0]] * (len(out) - len(indices))
        np.stack([self._loaded[index] for index in (*indices, *padding)], out=out)


class SystemUnderTest:
    """The engine behind a queue: one thread takes as many waiting samples as fit a batch, and answers them.

    A sample's answer is float32 (K, 3): x and y in crop pixels, and score.

    Attributes:
        error: the first exception in the thread. It must not reach LoadGen, which would crash: from then on every
            sample gets an empty answer, so that LoadGen comes to its end.
    """

    def __init__(self, engine: Engine, library: SampleLibrary, bar: tqdm) -> None:
        record = engine.record
        self.error: Exception | None = None
        self._engine, self._library, self._bar = engine, library, bar
        self._crops = np.empty((record.batch, 3, *record.input_size[::-1]), np.float32)
        self._waiting: deque[Any] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def issue(self, samples: list[Any]) -> None:
        """Queue LoadGen's ``QuerySample``s: LoadGen calls it."""
        with self._changed:
            self._waiting.extend(samples)
            self._changed.notify()

    def close(self) -> None:
        """End the thread, once nothing waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while samples := self._take():
            try:
                answers = self._answer(samples) if self.error is None else None
            except Exception as error:
                self.error, answers = error, None
            _complete(samples, answers)
            self._bar.update(len(samples))

    def _take(self) -> list[Any]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return [self._waiting.popleft() for _ in range(min(len(self._crops), len(self._waiting)))]

    def _answer(self, samples: list[Any]) -> np.ndarray:
        self._library.batch([sample.index for sample in samples], self._crops)
        logits = self._engine.infer(self._crops)
        found = decode(*(axis[:len(samples)] for axis in logits), self._engine.record.input_size)
        return _pack(*found)


@dataclass(frozen=True)
class Plan:
    """A LoadGen run that is ready to start.

    Attributes:
        config: its settings.
        crops: of all persons, not normalised; empty where the input is random.
        library: the samples.
        batch_ms: milliseconds of a full batch in a short measurement.
        target_qps: samples a second, asked of server, expected of offline.
    """

    config: LoadGenConfig
    crops: list[Crop]
    library: SampleLibrary
    batch_ms: float
    target_qps: float


def plan_run(engine: Engine, config: LoadGenConfig, persons: PersonSet | None) -> Plan:
    """Cut out the samples, and measure the engine for a moment.

    Args:
        engine: to be measured; for 17 keypoints where AP is wanted.
        config: LoadGen's settings.
        persons: the persons; None: random input, for performance only.

    Raises:
        KitError: LoadGen is not installed, an image can't be used, or the engine gives something else than numbers.
    """
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise KitError(f"--scenario: MLPerf's LoadGen is not installed for {sys.executable}; "
                       "pip install -r requirements.txt, or at least mlcommons-loadgen")
    crops = cut_crops(engine, persons) if persons else []
    library = SampleLibrary([crop.pixels for crop in crops] if persons else random_samples(engine.record.input_size))
    batch_ms = fastest_batch(engine, library)
    reached = engine.record.batch / batch_ms * 1e3
    target_qps = config.target_qps or reached * (SERVER_LOAD if config.scenario == "server" else HEADROOM)
    return Plan(config, crops, library, batch_ms, target_qps)


@dataclass(frozen=True)
class LoadGenResult:
    """Result of a LoadGen run.

    Attributes:
        summary: as ``summary.json`` has it.
        score: in accuracy mode, COCO's judgement of the answers that LoadGen logged.
    """

    summary: dict[str, Any]
    score: Score | None


def run_scenario(engine: Engine, plan: Plan, persons: PersonSet | None, output: Path) -> LoadGenResult:
    """Let LoadGen drive the engine; its logs are written into ``output``/loadgen.

    Args:
        engine, persons: as for :func:`plan_run`.
        plan: of the run.
        output: an existing folder.

    Raises:
        KitError: LoadGen wrote no log, or the engine gives something else than numbers.
    """
    logs = clear_logs(make_folder(output / "loadgen"))
    drive(engine, plan, logs)
    config = plan.config
    detail = read_detail(logs / DETAIL, config.accuracy)
    common = {"scenario": config.scenario, "loadgen": describe_run(detail, logs)}
    if persons and config.accuracy:
        predictions = read_predictions(logs / ACCURACY, plan.crops, engine.record.input_size)
        scored = score(predictions, persons)
        measured = {"mode": "accuracy", **scored.metrics, **common, **describe_persons(persons, flip_test=False)}
        return LoadGenResult(measured, scored)
    source = f"crops of {len(persons)} persons, {persons.boxes}" if persons else "random pixels"
    measured = {"mode": "throughput", **common, **describe_performance(detail, config.scenario), "input": source}
    return LoadGenResult(measured, None)


def cut_crops(engine: Engine, persons: PersonSet) -> list[Crop]:
    """Every person, not normalised: 147 KB each at 256x192, 0.9 GB for COCO val2017."""
    cut = partial(cut_image, input_size=engine.record.input_size)
    with ThreadPoolExecutor() as pool:
        crops = tqdm(pool.map(cut, persons.images), total=len(persons.images), unit="image", desc="Cropping",
                     disable=None, leave=False)
        return list(chain.from_iterable(crops))


def random_samples(input_size: tuple[int, int]) -> np.ndarray:
    """Random pixels, as many samples as are loaded at a time, uint8 (N, H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (LOADED_SAMPLES, *input_size[::-1], 3), np.uint8)


def fastest_batch(engine: Engine, library: SampleLibrary) -> float:
    """Milliseconds of the fastest of ten batches, or of a second: a first guess at the engine's speed."""
    record = engine.record
    crops = np.empty((record.batch, 3, *record.input_size[::-1]), np.float32)
    indices = list(range(min(record.batch, len(library))))
    library.load(indices)
    library.batch(indices, crops)
    library.unload(indices)

    def run() -> float:
        start = time.perf_counter()
        logits = engine.infer(crops)
        elapsed = (time.perf_counter() - start) * 1e3
        decode(*logits, record.input_size)
        return elapsed

    return float(timing.measure(run, 2, 10, 1.0, "Warming up").min())


def drive(engine: Engine, plan: Plan, logs: Path) -> None:
    """Run LoadGen's test from beginning to end; it writes its logs into the folder ``logs``.

    Raises:
        KitError: the engine gives something else than numbers.
    """
    import mlperf_loadgen

    output = mlperf_loadgen.LogOutputSettings()
    output.outdir = str(logs)
    log_settings = mlperf_loadgen.LogSettings()
    log_settings.log_output = output
    log_settings.enable_trace = False
    with tqdm(unit="sample", desc="LoadGen", disable=None) as bar:
        system = SystemUnderTest(engine, plan.library, bar)
        sut = mlperf_loadgen.ConstructSUT(system.issue, lambda: None)
        samples = len(plan.library)
        qsl = mlperf_loadgen.ConstructQSL(samples, min(LOADED_SAMPLES, samples), plan.library.load, plan.library.unload)
        mlperf_loadgen.StartTestWithLogSettings(sut, qsl, make_settings(plan), log_settings)
        system.close()
    mlperf_loadgen.DestroyQSL(qsl)
    mlperf_loadgen.DestroySUT(sut)
    if system.error:
        raise system.error


def make_settings(plan: Plan) -> Any:
    """LoadGen's ``TestSettings``: its defaults, MLPerf's rules and the plan."""
    import mlperf_loadgen

    config, mode = plan.config, mlperf_loadgen.TestMode
    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, SCENARIOS[config.scenario])
    settings.mode = mode.AccuracyOnly if config.accuracy else mode.PerformanceOnly
    settings.min_duration_ms = round(config.min_duration * 1e3)
    settings.offline_expected_qps = settings.server_target_qps = plan.target_qps
    settings.single_stream_expected_latency_ns = plan.batch_ms / HEADROOM * 1e6
    settings.server_target_latency_ns = round(config.target_latency * 1e6)
    if config.scenario == "offline":
        settings.min_query_count = min(OFFLINE_SAMPLES, len(plan.library))
    if config.scenario == "server":
        settings.min_query_count = SERVER_QUERIES
    return settings


def _pack(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Keypoints (N, K, 2) and scores (N, K) as float32 (N, K, 3)."""
    return np.concatenate([keypoints, scores[..., None]], axis=-1)


def _complete(samples: list[Any], answers: np.ndarray | None) -> None:
    """Hand answers, float32 (N, K, 3), to LoadGen, which copies them; None: samples are done, but without answer."""
    import mlperf_loadgen

    size = 0 if answers is None else answers[0].nbytes
    start = 0 if answers is None else answers.ctypes.data
    mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(sample.id, start + i * size, size)
                                         for i, sample in enumerate(samples)])
