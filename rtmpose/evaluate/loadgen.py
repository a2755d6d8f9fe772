"""LoadGen mode: MLPerf's load generator queries the engine, and its logs hold the verdict, the figures and the answers.

The system under test (SUT) takes crops in memory and answers with keypoints in the crop: forming batches and decoding
are timed; reading, cropping and normalising are not. It is the same in performance and in accuracy mode.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from tqdm import tqdm

from rtmpose import timing
from rtmpose.data import preprocess
from rtmpose.data.batches import Crop, cut_image
from rtmpose.data.coco import PersonSet
from rtmpose.engines import Engine, monitor
from rtmpose.engines.in_flight import IN_FLIGHT
from rtmpose.engines.tensorrt.engine import TensorRTEngine
from rtmpose.engines.tensorrt.stream import KeypointRunner
from rtmpose.errors import KitError
from rtmpose.evaluate import loadgen_logs
from rtmpose.evaluate.accuracy import describe_persons
from rtmpose.evaluate.coco_eval import score
from rtmpose.evaluate.predictions import check_and_decode, check_finite
from rtmpose.files import check_output, make_folder

SCENARIOS = {"offline": "Offline", "singlestream": "SingleStream", "server": "Server"}  # option: LoadGen's name
LOADED_SAMPLES = 1024  # normalised crops in memory, MLPerf's number for image classification: 0.6 GB at 256x192
OFFLINE_SAMPLES = 24576  # MLPerf's minimum for an offline run; the whole set where it is smaller
SERVER_QUERIES = 662  # the fewest of which one may be late at LoadGen's 99th percentile and 99 % confidence
# Default rates, as shares of the measured throughput of full batches. LoadGen prepares queries for the expected rate
# of a scenario other than server, and a run that uses them up is INVALID.
SERVER_LOAD = 0.5
HEADROOM = 1.2


@dataclass(frozen=True)
class LoadGenConfig:
    """Settings of a LoadGen run."""

    scenario: str  # one of SCENARIOS
    accuracy: bool  # query every sample once, for AP; else performance
    min_duration: float  # minimum seconds of a performance run
    target_qps: float | None  # samples a second: server's rate, offline's expected one; None: measure the engine
    target_latency: float  # milliseconds in which the server must answer 99 % of the queries


class QueueRunner:
    """MLPerf's system under test and sample library: an engine behind a queue. Threads, one a batch in flight, take up
    to a batch of queued samples and answer them.

    The answer to a sample is float32 (K, 3): x and y in crop pixels, and the score.
    """

    def __init__(self, engine: Engine, config: LoadGenConfig, persons: PersonSet | None) -> None:
        """Crop the persons, or take random input if there are none, and measure the engine for a second.

        Raises KitError if LoadGen is not installed, an image can't be used, the engine returns NaN or infinity, or a
        server run can't be VALID.
        """
        if importlib.util.find_spec("mlperf_loadgen") is None:
            raise KitError(f"--scenario: MLPerf's LoadGen is not installed for {sys.executable}; scripts/setup.sh "
                           "installs it for Python 3.11 to 3.13 on x86-64, the only ones that it has wheels for")
        record = engine.record
        self.engine, self.config = engine, config
        self.crops = cut_crops(persons, record.input_size) if persons else []  # of all persons, not normalised
        width, height = record.input_size
        self.pixels = [crop.pixels for crop in self.crops] or list(  # uint8 (H, W, 3)
            np.random.default_rng(0).integers(0, 256, (LOADED_SAMPLES, height, width, 3), np.uint8))
        self.loaded: dict[int, np.ndarray] = {}  # normalised crops, which lie in _memory
        number, shape = min(LOADED_SAMPLES, len(self.pixels)), (3, height, width)
        if isinstance(engine, TensorRTEngine):
            self._infer, self._in_flight = KeypointRunner(engine).infer_crops, IN_FLIGHT
            self._memory = engine.pinned((number, *shape), np.float32)
        else:
            self._infer = partial(infer_on_host, engine, np.empty((record.batch, *shape), np.float32))
            self._in_flight, self._memory = 1, np.empty((number, *shape), np.float32)
        # Milliseconds a batch (singlestream: a single sample); samples a second: server's rate, offline's expected one.
        self.batch_ms = self._fastest_batch_ms(1 if config.scenario == "singlestream" else record.batch)
        load = SERVER_LOAD if config.scenario == "server" else HEADROOM
        self.target_qps = config.target_qps or load * record.batch / self.batch_ms * 1e3
        if config.scenario == "server" and not config.accuracy:
            check_server(config, self.batch_ms, record.batch, self.target_qps)
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._error: Exception | None = None  # in LoadGen it would crash the process

    def load(self, indices: list[int]) -> None:
        """Normalise samples, which LoadGen is about to query; they replace those of the last call."""
        self.loaded = {index: preprocess.normalize(self.pixels[index], out)
                       for index, out in zip(indices, self._memory, strict=False)}

    def infer(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Answers, float32 (N, K, 3), to up to a batch of normalised crops, by at most one thread for each batch in
        flight. Raises KitError if the engine returns NaN or infinity."""
        answers = self._infer(crops)
        check_finite(~np.isnan(answers[..., 2]).any(axis=1))
        return answers

    def _fastest_batch_ms(self, samples: int) -> float:
        """Milliseconds a batch of ``samples``, the fastest of a second; a full one with others in flight."""
        self.load(list(range(min(samples, len(self._memory)))))
        crops = list(islice(cycle(self.loaded.values()), samples))
        self.infer(crops)  # checks the logits before LoadGen starts
        in_flight = self._in_flight if samples == self.engine.record.batch else 1
        number = 1 if in_flight == 1 else 8 * in_flight  # batches a timing
        with ThreadPoolExecutor(in_flight) as pool:
            timer = timing.wall_clock(lambda: list(pool.map(self._infer, [crops] * number)))
            runs = timing.measure(timer, -(-2 // number), -(-10 // number), 1.0, "Warming up")
        return float(runs.min()) / number

    def run_test(self, logs: Path) -> None:
        """Run LoadGen's test to its end; it writes into the folder ``logs``. Raises the first error, if any."""
        import mlperf_loadgen
        log_settings = mlperf_loadgen.LogSettings()
        log_settings.log_output.outdir = os.fsencode(logs)
        log_settings.enable_trace = False
        seconds = 0.0 if self.config.accuracy else self.config.min_duration
        with (timing.Countdown(seconds, unit="sample", desc="LoadGen") as bar,
              ThreadPoolExecutor(self._in_flight) as pool):
            for _ in range(self._in_flight):
                pool.submit(self._answer_queries, bar)
            sut = mlperf_loadgen.ConstructSUT(self._enqueue, lambda: None)
            qsl = mlperf_loadgen.ConstructQSL(len(self.pixels), len(self._memory), self.load, lambda indices: None)
            try:
                mlperf_loadgen.StartTestWithLogSettings(sut, qsl, make_settings(self), log_settings)
            finally:  # else leaving the pool would wait for its threads for ever
                self._enqueue([None] * self._in_flight)
        mlperf_loadgen.DestroyQSL(qsl)
        mlperf_loadgen.DestroySUT(sut)
        if self._error:
            raise self._error

    def _enqueue(self, samples: list[Any]) -> None:
        """Queue the ``QuerySample`` objects of a query; None ends a thread that answers."""
        for sample in samples:
            self._queue.put(sample)

    def _answer_queries(self, bar: tqdm) -> None:
        """Answer queued samples until there is None. After an error the answers are empty, so that LoadGen finishes."""
        while sample := self._queue.get():
            samples = [sample]
            with contextlib.suppress(Empty):
                while len(samples) < self.engine.record.batch:
                    samples.append(self._queue.get_nowait())
            answers = np.empty((len(samples), 0), np.float32)
            if self._error is None:
                try:
                    answers = self.infer([self.loaded[sample.index] for sample in samples])
                except Exception as error:
                    self._error = error
            complete(samples, answers)
            bar.update(len(samples))


def infer_on_host(engine: Engine, batch: np.ndarray, crops: Sequence[np.ndarray]) -> np.ndarray:
    """Copy crops into a batch, padded with the first, run any engine, and decode its logits: float32 (N, K, 3)."""
    for row, crop in zip(batch, crops, strict=False):
        row[...] = crop
    batch[len(crops):] = batch[0]
    simcc_x, simcc_y = engine.infer(batch)
    return np.dstack(check_and_decode(simcc_x[:len(crops)], simcc_y[:len(crops)], engine.record.input_size))


def complete(samples: list[Any], answers: np.ndarray) -> None:
    """Give LoadGen the answer to each sample, a row of ``answers``, which it copies."""
    import mlperf_loadgen
    address, size = answers.ctypes.data, answers[0].nbytes
    mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(sample.id, address + row * size, size)
                                         for row, sample in enumerate(samples)])


def check_server(config: LoadGenConfig, batch_ms: float, batch: int, target_qps: float) -> None:
    """Raise KitError if a server run can't be VALID even at the fastest speed measured: every answer takes a batch, and
    at a rate that the engine can't keep up with, the queue grows to the end."""
    limit, throughput = config.target_latency, batch / batch_ms * 1e3
    if batch_ms > limit:
        raise KitError(f"--target_latency {limit:g}: a batch of {batch} takes {batch_ms:.3g} ms, so that every answer "
                       "would be late; allow more, or build the engine for a smaller batch")
    # 1 % of the queries may be late.
    queries = 0.99 * max(SERVER_QUERIES, target_qps * config.min_duration)
    if queries * (1 / throughput - 1 / target_qps) * 1e3 > limit:
        raise KitError(f"--target_qps {target_qps:g}: the engine answers at most {throughput:.4g} persons a second, so "
                       f"that its queue would grow beyond the {limit:g} ms of --target_latency; ask for fewer")


def cut_crops(persons: PersonSet, input_size: tuple[int, int]) -> list[Crop]:
    """Every person's crop, not normalised: 147 KB each at 256x192, 0.9 GB for COCO val2017."""
    with ThreadPoolExecutor() as pool:
        by_image = tqdm(pool.map(partial(cut_image, input_size=input_size), persons.images), desc="Cropping",
                        total=len(persons.images), unit="image", disable=None, leave=False)
        return list(chain.from_iterable(by_image))


def run_scenario(runner: QueueRunner, persons: PersonSet | None, output: Path
                 ) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """Run the runner's scenario; LoadGen writes its logs into ``output``/loadgen.

    Returns the result as ``summary.json`` has it; and of the answers that LoadGen logged in accuracy mode (else empty)
    COCO's results and pycocotools' lines, as :func:`rtmpose.evaluate.coco_eval.score` does. Raises KitError if LoadGen
    wrote no log or the engine returns NaN or infinity.
    """
    config, logs = runner.config, make_folder(output / "loadgen")
    check_output(logs / loadgen_logs.SUMMARY)  # LoadGen crashes where it can't open its logs
    with monitor(runner.engine) as watched:
        runner.run_test(logs)
    detail = loadgen_logs.read_detail(logs / loadgen_logs.DETAIL, config.accuracy)
    common = {"scenario": config.scenario, "loadgen": loadgen_logs.describe_run(detail, logs)}
    if persons and config.accuracy:
        predictions = loadgen_logs.read_predictions(logs / loadgen_logs.ACCURACY, runner.crops,
                                                    runner.engine.record.input_size)
        results, metrics, lines = score(predictions, persons)
        return {"mode": "accuracy", **metrics, **common, **describe_persons(persons, flip_test=False)}, results, lines
    source = f"crops of {len(persons)} persons, {persons.boxes}" if persons else "random pixels"
    performance = loadgen_logs.describe_performance(detail, config.scenario)
    costs = watched.costs(performance["queries"] * performance["samples_per_query"])
    return {"mode": "throughput", **common, **performance, "input": source, "conditions": watched.conditions,
            **costs}, [], ""


def make_settings(runner: QueueRunner) -> Any:
    """LoadGen's ``TestSettings``: its defaults, MLPerf's rules and the runner's configuration."""
    import mlperf_loadgen
    config = runner.config
    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, SCENARIOS[config.scenario])
    settings.mode = getattr(mlperf_loadgen.TestMode, "AccuracyOnly" if config.accuracy else "PerformanceOnly")
    settings.min_duration_ms = round(config.min_duration * 1e3)
    settings.offline_expected_qps = settings.server_target_qps = runner.target_qps
    settings.single_stream_expected_latency_ns = runner.batch_ms / HEADROOM * 1e6
    settings.server_target_latency_ns = round(config.target_latency * 1e6)
    if config.scenario == "offline":
        settings.min_query_count = min(OFFLINE_SAMPLES, len(runner.pixels))
    if config.scenario == "server":
        settings.min_query_count = SERVER_QUERIES
    return settings
