"""The kit's engine alone against OpenVINO's own benchmark_app: the same ONNX file, batch, FP32 and processor.

    python3 benchmarks/vs_benchmark_app.py --model_path rtmpose-t.onnx --batch 32

For each of OpenVINO's two hints the kit builds an engine, and the two take turns, in a fresh process each time. The
kit's figure is the one of `inference.py --perf_only`, which copies logits out of OpenVINO's memory as well.
"""

from common import Parser, amount, positive, run

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from contest import print_ratio, take_turns

from rtmpose.engines.build import HINTS, build_engine, plan_build
from rtmpose.errors import KitError
from rtmpose.evaluate.repeats import measure_in_new_process

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Measure and print."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="ONNX file that export.py wrote")
    parser.add_argument("--batch", type=positive, default=32, metavar="N", help="crops in one; default: %(default)s")
    parser.add_argument("--duration", type=amount, default=10.0, metavar="S",
                        help="seconds that are timed in each turn; default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="turns a side; default: %(default)s")
    args = parser.parse_args()
    if importlib.util.find_spec("openvino") is None:
        raise KitError("openvino is not installed; run scripts/setup.sh")
    for hint in HINTS:
        with tempfile.TemporaryDirectory() as folder:
            plan = plan_build(args.model_path, f"{folder}/{hint}.engine", args.batch, "fp32", "openvino", hint=hint)
            build_engine(plan)
            sides = {"the kit": partial(time_kit, plan.engine_path, args.duration),
                     "benchmark_app": partial(time_benchmark_app, args.model_path, plan.shape, hint, args.duration)}
            print(f"{hint} hint, batch {args.batch}, {plan.candidates[0].runtime}", flush=True)
            print_ratio(take_turns(sides, args.rounds))
    return 0


def time_kit(engine: Path, duration: float) -> float:
    """Persons a second of `inference.py --perf_only`."""
    script = [str(ROOT / "inference.py"), "--engine", str(engine), "--perf_only", "--duration", str(duration)]
    return float(measure_in_new_process(script)["fps"])


def time_benchmark_app(model: str, shape: Sequence[int], hint: str, duration: float) -> float:
    """Persons a second that benchmark_app reports; raises KitError if it fails.

    Without -infer_precision it computes in BF16 where the processor can.
    """
    command = [sys.executable, "-c", "from openvino.tools.benchmark.main import main; main()", "-m", model, "-d", "CPU",
               "-shape", str(list(shape)).replace(" ", ""), "-hint", hint, "-infer_precision", "f32", "-t",
               str(max(1, round(duration)))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Throughput:\s+([\d.]+) FPS", done.stdout)
    if done.returncode or not found:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["it printed nothing"]
        raise KitError(f"benchmark_app: failed ({lines[-1]}); run it alone")
    return float(found[1])


if __name__ == "__main__":
    run(main)
