"""The host's cost of the GPU path in microseconds a person: main, GPU and reading threads, and LoadGen mode.

    python3 benchmarks/host_cost.py --model_path rtmpose-t.onnx --datasets unseen

It measures the host only: the GPU is the software driver of tests/software_gpu, whose copies, kernels and network do
nothing here. Times are those that threads spend on a core, not waiting. Set-up is not included: compiling kernels,
allocating pinned memory, capturing CUDA graphs. A driver call costs about a microsecond here, and a few on a GPU; a
batch takes about ten, in LoadGen mode one more for each sample.
"""

from common import Parser, positive, run

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.engines import Engine, load_engine
from rtmpose.errors import KitError
from rtmpose.evaluate import loadgen, predict_gpu
from rtmpose.evaluate.predictions import Predictions

ROOT = Path(__file__).resolve().parents[1]
CARDS = (10_000, 20_000, 40_000)  # persons a second
NOTE = "This is the host's cost only, measured on a GPU in software that computes nothing."
REST, TOTAL = "main thread: boxes, keypoints to the image, the rest", "main thread, total"
READING, READERS = "reading threads: read and decode images", "reading threads, total"
SUT, QUERIES = "LoadGen: threads of the SUT", "LoadGen: its own thread"


class Stages:
    """Seconds that threads spent on a core, by stage; a stage includes those that it calls."""

    def __init__(self) -> None:
        self._samples: list[tuple[str, float]] = []  # several threads append to it

    def totals(self) -> Counter[str]:
        """Seconds by stage."""
        totals: Counter[str] = Counter()
        for name, seconds in self._samples:
            totals[name] += seconds
        return totals

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that adds its time to a stage."""
        def call(*args: Any, **options: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                self._samples.append((name, time.thread_time() - start))

        return call


def measure_prediction(engine: Engine, persons: PersonSet, rounds: int) -> dict[str, float]:
    """Microseconds a person of each stage from files to keypoints, the median of some rounds."""
    samples: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        stages, started, ended = Stages(), 0.0, 0.0

        class Runner(predict_gpu.KeypointRunner):
            def __init__(self, *args: Any) -> None:
                nonlocal started
                super().__init__(*args)
                started = time.thread_time()

            infer_images = stages.timed("GPU threads: uploads, launch, wait, download",
                                        predict_gpu.KeypointRunner.infer_images)

        def finish(*args: Any) -> Predictions:
            nonlocal ended
            ended = time.thread_time()
            return Predictions(*args)

        with (patch.multiple(
                predict_gpu, KeypointRunner=Runner, Predictions=finish,
                start_reading=stages.timed("main thread: hand out images", predict_gpu.start_reading),
                read_image=stages.timed(READING, predict_gpu.read_image),
                fill_part=stages.timed(READERS, predict_gpu.fill_part))):
            predict_gpu.predict_persons_on_gpu(engine, persons)
        totals, main_total = stages.totals(), ended - started
        totals[REST] = main_total - sum(seconds for name, seconds in totals.items() if name.startswith("main"))
        totals[TOTAL] = main_total
        samples.append({name: seconds / len(persons) * 1e6 for name, seconds in totals.items()})
    names = sorted(samples[0], key=lambda name: (name.startswith("reading"), name in (TOTAL, READERS)))
    return {name: float(np.median([sample[name] for sample in samples[1:]])) for name in names}


def measure_loadgen(engine: Engine, persons: PersonSet, seconds: float) -> dict[str, float]:
    """Microseconds a sample in an offline run; loading samples is not included."""
    stages, number = Stages(), 0
    config = loadgen.LoadGenConfig("offline", False, seconds, None, 100)
    runner = loadgen.QueueRunner(engine, config, persons)

    def complete(samples: list[Any], answers: np.ndarray) -> None:
        nonlocal number
        number += len(samples)
        complete_samples(samples, answers)

    complete_samples = loadgen.complete
    answer_queries = stages.timed(SUT, runner._answer_queries)
    with (patch.object(runner, "_answer_queries", answer_queries), patch.object(loadgen, "complete", complete),
          patch.object(runner, "load", stages.timed("load", runner.load)),
          tempfile.TemporaryDirectory() as folder):
        run_scenario = stages.timed("run", loadgen.run_scenario)
        run_scenario(runner, None, Path(folder))
    totals = stages.totals()
    return {SUT: totals[SUT] / number * 1e6, QUERIES: (totals["run"] - totals["load"]) / number * 1e6}


def table(costs: dict[str, float]) -> str:
    """A Markdown table of microseconds a person by stage."""
    lines = ["| Stage | us a person | persons a second of one core |"
             + "".join(f" cores for {card:,} a second |" for card in CARDS), "|---|" + "---|" * (2 + len(CARDS))]
    lines += [f"| {name} | {cost:.1f} | {1e6 / cost:,.0f} |" + "".join(f" {card * cost / 1e6:.2f} |" for card in CARDS)
              for name, cost in costs.items()]
    return "\n".join(lines)


def measure(engine_path: str, datasets: str, rounds: int) -> None:
    """Measure and print; the process sees the software GPU."""
    engine, persons = load_engine(engine_path), load_persons(datasets)
    costs = measure_prediction(engine, persons, rounds)
    costs |= measure_loadgen(engine, persons, 2.0)
    batch = engine.record.batch
    print(f"{len(persons)} persons in {len(persons.images)} images, batch {batch}. {NOTE}\n\n{table(costs)}\n\n"
          f"LoadGen, threads of the SUT: {costs[SUT] * batch / 1e3:.2f} ms a batch; "
          f"load average {os.getloadavg()[0]:.1f}")


def main() -> int:
    """Build an engine for the software GPU, and run this script on it."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="ONNX file that export.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="data set whose images are read")
    parser.add_argument("--batch", type=positive, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=9, metavar="N", help="default: %(default)s")
    args = parser.parse_args()
    if "SOFTGPU_COMPUTE" in os.environ:
        measure(args.model_path, args.datasets, args.rounds)
        return 0
    sys.path.insert(1, str(ROOT / "tests/software_gpu"))
    import build
    try:
        environment = {**os.environ, **build.build(), "SOFTGPU_COMPUTE": "0", "SOFTGPU_DELAY_US": "0"}
    except build.Unavailable as error:
        raise KitError(f"the software GPU can't be built: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        engine = f"{folder}/software.engine"
        building = ("build_engine.py", "--model_path", args.model_path, "--input", f"input:{args.batch},3,256,192",
                    "--precision", "fp32", "--backend", "tensorrt", "--engine_path", engine)
        measuring = ("benchmarks/host_cost.py", "--model_path", engine, "--datasets", args.datasets, "--rounds",
                     str(args.rounds))
        for (script, *options), output in ((building, subprocess.DEVNULL), (measuring, None)):
            done = subprocess.run([sys.executable, str(ROOT / script), *options], env=environment, check=False,
                                  stdout=output)
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    run(main)
