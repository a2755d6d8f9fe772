"""LoadGen mode: MLPerf's own load generator asks for persons, the engine answers, and LoadGen's logs say how well.

The system under test takes crops in memory and answers with keypoints in the crop: forming batches and decoding are
timed, reading, cropping and normalising are not. It is the same in performance and in accuracy mode.
"""

import importlib.util
import json
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

from rtmpose import crop, pipeline, timing
from rtmpose.accuracy import score_estimates
from rtmpose.coco import PersonSet
from rtmpose.engines import Engine
from rtmpose.errors import KitError
from rtmpose.files import make_folder, read_json
from rtmpose.score import Estimate

SCENARIOS = {"offline": "Offline", "singlestream": "SingleStream", "server": "Server"}
"""What each of the scenarios is called by LoadGen."""

LOADED_SAMPLES = 1024
"""Normalised crops in memory at a time, as MLPerf has it for image classification: 0.6 GB at 256x192."""

_OFFLINE_SAMPLES = 24576  # MLPerf: offline runs over so many samples, or over the whole set where that is smaller
_SERVER_QUERIES = 662  # the fewest of which one may be late at LoadGen's 99th percentile and 99 % confidence
# By default, as a share of what full batches reach in a short measurement: what the server is asked for, and what is
# expected otherwise. A run that outruns its prepared queries is INVALID, so more is expected than was measured.
_SERVER_LOAD = 0.5
_EXPECTED = 1.2


@dataclass(frozen=True)
class Load:
    """What LoadGen is asked for.

    Attributes:
        scenario: one of :data:`SCENARIOS`.
        accuracy: every sample once, for AP; else performance.
        min_duration: seconds that a performance run takes at least.
        target_qps: samples a second, that the server is asked for, or that offline is expected to reach; None: by
            a short measurement of the engine.
        target_latency: milliseconds in which the server must answer 99 % of the queries.
    """

    scenario: str
    accuracy: bool
    min_duration: float
    target_qps: float | None
    target_latency: float


class SampleLibrary:
    """The crops that LoadGen may ask for, all of them as 8-bit pixels, those that it has loaded normalised.

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
            self._loaded[index] = crop.normalize(self._pixels[index])

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
        error: what went wrong in the thread. An exception must not reach LoadGen, which crashes of it: from then on
            every sample is answered with nothing, so that LoadGen comes to its end.
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
        found = pipeline.decode(*(axis[:len(samples)] for axis in logits), self._engine.record.input_size)
        return _pack(*found)


def measure_scenario(engine: Engine, load: Load, persons: PersonSet | None, output: Path) -> dict[str, Any]:
    """Let LoadGen drive the engine, and print what it found. Its logs are written into ``output``/loadgen.

    Args:
        engine: to be measured; for 17 keypoints where AP is wanted.
        load: what LoadGen is asked for.
        persons: whom; None: noise, for performance only.
        output: folder for LoadGen's logs and, in accuracy mode, ``keypoints.json``.

    Returns:
        Scenario and, from LoadGen's own log, ``valid``, ``fps`` and ``latency_ms``, or the ten COCO numbers of the
        answers that LoadGen logged.

    Raises:
        KitError: LoadGen is not installed or wrote no log, an image can't be used, or the engine gives something else
            than numbers.
    """
    check_installed()
    logs = clear_logs(make_folder(output / "loadgen"))
    crops = cut_crops(engine, persons) if persons else []
    library = SampleLibrary([one.pixels for one in crops] if persons else noise(engine.record.input_size))
    batch_ms = fastest_batch(engine, library)
    target_qps = choose_target_qps(load, engine.record.batch, batch_ms)
    print_plan(load, engine.record.batch, batch_ms, target_qps)
    drive(engine, library, load, target_qps, batch_ms, logs)
    detail = read_detail(logs / "mlperf_log_detail.txt", load)
    measured = {"scenario": load.scenario, "loadgen": describe_run(detail, logs)}
    if load.accuracy:
        estimates = read_estimates(logs / "mlperf_log_accuracy.json", crops, engine.record.input_size)
        return {"mode": "accuracy", **score_estimates(estimates, persons, output), **measured,
                "persons": persons.number, "images": len(persons.images), "boxes": persons.boxes, "flip_test": False}
    measured = {"mode": "throughput", **measured, **describe_performance(detail, load),
                "input": f"crops of {persons.number} persons, {persons.boxes}" if persons else "random pixels"}
    print_performance(measured, logs / "mlperf_log_summary.txt")
    return measured


def check_installed() -> None:
    """Make sure that LoadGen is there.

    Raises:
        KitError: it is not.
    """
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise KitError(f"--scenario: MLPerf's LoadGen is not installed for {sys.executable}; "
                       "pip install -r requirements.txt, or at least mlcommons-loadgen")


def clear_logs(folder: Path) -> Path:
    """Remove the logs of an earlier run, so that none can be taken for this run's; gives the folder back.

    Raises:
        KitError: the folder can't be written.
    """
    try:
        for log in folder.glob("mlperf_log_*"):
            log.unlink()
        # LoadGen crashes where it can't open its logs.
        (folder / "mlperf_log_summary.txt").touch()
    except OSError as error:
        raise KitError(f"{error.filename}: can't be written ({error.strerror}); choose another --output") from error
    return folder


def cut_crops(engine: Engine, persons: PersonSet) -> list[pipeline.Crop]:
    """Every person, not normalised: 147 KB each at 256x192, 0.9 GB for COCO val2017."""
    cut = partial(pipeline.cut_image, input_size=engine.record.input_size)
    with ThreadPoolExecutor() as pool:
        crops = tqdm(pool.map(cut, persons.images), total=len(persons.images), unit="image", desc="Cropping",
                     disable=None, leave=False)
        return list(chain.from_iterable(crops))


def noise(input_size: tuple[int, int]) -> np.ndarray:
    """As many samples as are loaded at a time, uint8 (N, H, W, 3)."""
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
        pipeline.decode(*logits, record.input_size)
        return elapsed

    return float(timing.measure(run, 2, 10, 1.0, "Warming up").min())


def choose_target_qps(load: Load, batch: int, batch_ms: float) -> float:
    """Samples a second: as asked, else by what full batches of ``batch_ms`` milliseconds reach."""
    return load.target_qps or batch / batch_ms * 1e3 * (_SERVER_LOAD if load.scenario == "server" else _EXPECTED)


def print_plan(load: Load, batch: int, batch_ms: float, target_qps: float) -> None:
    """What LoadGen will be asked for, and what to know of it before."""
    wanted = "accuracy, every sample once" if load.accuracy else f"performance, at least {load.min_duration:g} s"
    rate = f", {target_qps:.4g} queries a second" if load.scenario == "server" else ""
    print(f"LoadGen: {load.scenario}, {wanted}{rate}", flush=True)
    if load.accuracy:
        return
    if load.scenario == "singlestream" and batch > 1:
        print(f"Each query is one person in a batch padded to {batch}: for the latency of one, build the engine for "
              "batch 1")
    # A query may have to wait for one batch and is in the next.
    if load.scenario == "server" and 2 * batch_ms > load.target_latency:
        print(f"A batch of {batch} takes {batch_ms:.3g} ms, and a query may wait for one and be in the next: "
              f"{load.target_latency:g} ms are too few at any rate; build the engine for a smaller batch, or see "
              "--target_latency")


def drive(engine: Engine, library: SampleLibrary, load: Load, target_qps: float, batch_ms: float, logs: Path) -> None:
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
        system = SystemUnderTest(engine, library, bar)
        sut = mlperf_loadgen.ConstructSUT(system.issue, lambda: None)
        qsl = mlperf_loadgen.ConstructQSL(len(library), min(LOADED_SAMPLES, len(library)), library.load, library.unload)
        settings = make_settings(load, len(library), target_qps, batch_ms)
        mlperf_loadgen.StartTestWithLogSettings(sut, qsl, settings, log_settings)
        system.close()
    mlperf_loadgen.DestroyQSL(qsl)
    mlperf_loadgen.DestroySUT(sut)
    if system.error:
        raise system.error


def make_settings(load: Load, samples: int, target_qps: float, batch_ms: float) -> Any:
    """LoadGen's ``TestSettings``: its defaults, and what MLPerf's rules and ``load`` say."""
    import mlperf_loadgen

    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, SCENARIOS[load.scenario])
    mode = mlperf_loadgen.TestMode
    settings.mode = mode.AccuracyOnly if load.accuracy else mode.PerformanceOnly
    settings.min_duration_ms = round(load.min_duration * 1e3)
    settings.offline_expected_qps = settings.server_target_qps = target_qps
    settings.single_stream_expected_latency_ns = batch_ms / _EXPECTED * 1e6
    settings.server_target_latency_ns = round(load.target_latency * 1e6)
    if load.scenario == "offline":
        settings.min_query_count = min(_OFFLINE_SAMPLES, samples)
    if load.scenario == "server":
        settings.min_query_count = _SERVER_QUERIES
    return settings


def read_detail(path: Path, load: Load) -> dict[str, Any]:
    """LoadGen's detail log, its last value by key, and under ``errors`` the messages that LoadGen marked as errors.

    Raises:
        KitError: the log is missing or cut off.
    """
    values: dict[str, Any] = {"errors": []}
    last = "effective_accuracy_sample_count" if load.accuracy else "result_99.90_percentile_latency_ns"
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line.removeprefix(":::MLLOG "))
            values[entry["key"]] = entry["value"]
            if entry["metadata"]["is_error"]:
                values["errors"].append(f"{entry['key']}: {entry['value']}")
        if last not in values:
            raise ValueError(f"no {last}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"{path}: was cut off or can't be read ({error}), expected LoadGen's whole log; free some space "
                       "and run it again") from error
    return values


def describe_run(detail: dict[str, Any], logs: Path) -> dict[str, Any]:
    """Which LoadGen ran, with what settings, and where its logs are."""
    return {
        "version": detail["loadgen_version"],
        "mode": detail["effective_test_mode"],
        "logs": str(logs),
        "samples": detail["effective_accuracy_sample_count"],
        "loaded_samples": detail["effective_performance_sample_count"],
        "errors": detail["errors"],
    }


def describe_performance(detail: dict[str, Any], load: Load) -> dict[str, Any]:
    """Whether the run was valid, and its figures."""
    names = {"offline": "result_samples_per_second", "singlestream": "result_qps_with_loadgen_overhead",
             "server": "result_completed_samples_per_sec"}
    nanoseconds = {"mean": "mean", "median": "50.00_percentile", "p90": "90.00_percentile", "p99": "99.00_percentile"}
    described = {
        "valid": detail["result_validity"] == "VALID",
        "fps": detail[names[load.scenario]],
        "fps_of": f"LoadGen's {names[load.scenario]}: crops in memory to keypoints in the crop",
        "latency_ms": {key: detail[f"result_{name}_latency_ns"] / 1e6 for key, name in nanoseconds.items()},
        "latency_of": "LoadGen's: a sample, from its query to its answer",
        "queries": detail["result_query_count"],
        "samples_per_query": detail["effective_samples_per_query"],
        "min_duration_s": detail["effective_min_duration_ms"] / 1e3,
        "target_qps": detail["effective_target_qps"],
    }
    if load.scenario == "server":
        described["target_latency_ms"] = detail["effective_target_latency_ns"] / 1e6
        described["late_queries"] = detail["result_overlatency_query_count"]
    return described


def print_performance(measured: dict[str, Any], summary: Path) -> None:
    """LoadGen's verdict in its own words, with what it recommends, and the figures in ours."""
    verdict = summary.read_text(encoding="utf-8").split("Additional Stats")[0]
    print("\n".join(line for line in verdict.splitlines() if line and not line.startswith("===")))
    for error in measured["loadgen"]["errors"]:
        print(f"LoadGen's error: {error}")
    latency = measured["latency_ms"]
    print(f"* LoadGen {measured['loadgen']['version']}, {measured['scenario']}: "
          f"{'VALID' if measured['valid'] else 'INVALID'}, {measured['fps']:.2f} persons a second")
    print(f"  latency: mean {latency['mean']:.3f} ms, median {latency['median']:.3f} ms, p90 {latency['p90']:.3f} ms, "
          f"p99 {latency['p99']:.3f} ms")
    print(f"  queries: {measured['queries']}, samples a query: {measured['samples_per_query']}; input: "
          f"{measured['input']}; reading, cropping and normalising not included")
    print(f"  logs: {summary.parent}")


def read_estimates(path: Path, crops: list[pipeline.Crop], input_size: tuple[int, int]) -> list[Estimate]:
    """What LoadGen's accuracy log holds of each sample.

    Args:
        path: ``mlperf_log_accuracy.json``.
        crops: of all samples.
        input_size: width and height of the crop in pixels.

    Raises:
        KitError: an answer is missing.
    """
    logged = read_json(path, "LoadGen's accuracy log")
    answers = {entry["qsl_idx"]: np.frombuffer(bytes.fromhex(entry["data"]), np.float32) for entry in logged}
    if sorted(answers) != list(range(len(crops))):
        raise KitError(f"{path}: holds {len(answers)} samples, expected {len(crops)}; run it again")
    found = np.stack([answers[index] for index in range(len(crops))]).reshape(len(crops), -1, 3)
    return pipeline.to_estimates(crops, found[..., :2], found[..., 2], input_size)


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
