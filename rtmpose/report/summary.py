"""Rows and tables for people, summary.json for programs."""

import contextlib
import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rtmpose.data.coco import GROUND_TRUTH
from rtmpose.engines.record import Record
from rtmpose.errors import KitError
from rtmpose.files import read_sealed, sha256
from rtmpose.machine.versions import command_line, describe_machine, describe_versions, now, peak_memory_mib

SCHEMA = 1
"""Version of summary.schema.json; it counts up when a key is renamed, removed or means something else."""

HEADER = ("BatchSize", "Precision", "Backend", "Measured", "FPS", "AP@0.5", "AP@0.5:0.95", "Conditions")
WRITTEN = ("summary.json", "keypoints.json", "pictures/worst_*.jpg", "pictures/best_*.jpg", "pictures/overview.jpg",
           "agreement/overview.jpg", "loadgen/mlperf_log_*", "skeleton.jpg")
"""Files that inference.py writes into ``--output``."""

NOT_A_RESULT = ("busy", "throttled")
"""Conditions under which a speed says nothing about the machine."""


def summarize(record: Record, engine: str | Path, measured: dict[str, Any], inputs: Iterable[str | Path]
              ) -> dict[str, Any]:
    """One result with everything needed to trace it: engine, command, input files, machine and versions.

    Args:
        record, engine: the engine's record and its file.
        measured: the figures of this run.
        inputs: files that the result depends on.
    """
    return {
        "schema": SCHEMA,
        **measured,
        "batch": record.batch,
        "precision": record.precision,
        "requested_precision": record.requested_precision,
        "backend": record.backend,
        "engine": {"path": str(engine), "sha256": record.engine_sha256, "runtime": record.runtime,
                   "device": record.device, "input_size": record.input_size, "bins": record.bins, "onnx": record.onnx,
                   "onnx_sha256": record.onnx_sha256, "source": record.source, "built_at": record.built_at,
                   "command": record.command, "calibration": record.calibration, "measured_fps": record.measured_fps,
                   "bytes": record.engine_bytes},
        "command": command_line(),
        "measured_at": now(),
        "inputs": {str(path): sha256(path) for path in inputs},
        "peak_memory_mib": peak_memory_mib(),
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def read_summary(path: str | Path, mode: str) -> dict[str, Any]:
    """Read a ``summary.json`` of a mode. Raises KitError if it is broken, of another mode, or was edited."""
    found = read_sealed(path, "summary.json")
    if found.get("mode") != mode:
        raise KitError(f"{path}: is no summary of the mode {mode}, expected what inference.py --output wrote")
    return found


def join_modes(accuracy: dict[str, Any], throughput: dict[str, Any]) -> dict[str, Any]:
    """AP of one summary and FPS of the other, as one. How many devices predicted doesn't change AP."""
    return {**accuracy, "ranks": {}, **throughput}


def notes(summary: dict[str, Any]) -> list[str]:
    """What a reader must know beside the figures: missed targets, and INT8 calibrated on the measured set."""
    lines = [f"missed {missed}" for missed in summary["missed_targets"]]
    if summary["engine"]["calibration"].get("annotations_sha256") in summary["inputs"].values():
        lines.append("calibrated on the data set that it is measured on; its AP on others may be lower")
    return lines


def clear_output(folder: Path) -> None:
    """Remove everything that an earlier run wrote into its ``--output``. Raises KitError if that fails."""
    try:
        for pattern in WRITTEN:
            for path in folder.glob(pattern):
                path.unlink()
        for name in {Path(pattern).parent for pattern in WRITTEN} - {Path()}:
            with contextlib.suppress(OSError):  # not there, or with files of others
                (folder / name).rmdir()
    except OSError as error:
        raise KitError(f"{error.filename}: can't be removed ({error.strerror}); choose another --output") from error


def table(*summaries: dict[str, Any]) -> str:
    """A Markdown table in the shape of the published results, one row per summary, under model and machine."""
    return f"{model_name(summaries[0])} on {machine_name(summaries[0])}\n\n{markdown(table_rows(summaries))}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first line is its header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in ruled)


def table_rows(summaries: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Header and rows of a table. Of several rows, each has its speed's ratio to the first one's, if the two measure
    the same, and the highest speed that is a result is marked."""
    rows = list(map(row, summaries))
    if len(rows) == 1:
        return [HEADER, *rows]
    first, fps = summaries[0], HEADER.index("FPS")
    results = [one for one in summaries if "fps" in one and one["conditions"]["verdict"] not in NOT_A_RESULT]
    best = max(results, key=lambda one: one["fps"], default=None)
    lines = [(*HEADER[:fps + 1], "Ratio", *HEADER[fps + 1:])]
    for one, cells in zip(summaries, rows, strict=True):
        alike = "fps" in one and cells[HEADER.index("Measured")] == rows[0][HEADER.index("Measured")]
        ratio = f"{one['fps'] / first['fps']:.2f}" if alike else "-"
        lines.append((*cells[:fps], cells[fps] + " (best)" * (one is best), ratio, *cells[fps + 1:]))
    return lines


def csv_text(summaries: Iterable[dict[str, Any]]) -> str:
    """The table as CSV: unrounded numbers, and the latency of a batch in milliseconds."""
    latencies = ("mean", "median", "p90", "p99")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("Model", *HEADER, *(f"{name} ms" for name in latencies), "FPS low", "FPS high"))
    for summary in summaries:
        *names, _, _, _, verdict = row(summary)
        writer.writerow((model_name(summary), *names, *(summary[key] for key in ("fps", "AP50", "AP")), verdict,
                         *(summary["latency_ms"][name] for name in latencies),
                         *summary.get("repeats", {}).get("interval", ("", ""))))
    return text.getvalue()


def row(summary: dict[str, Any]) -> tuple[str, ...]:
    """A summary's cells under :data:`HEADER`; a dash where nothing was measured."""
    figures = (f"{summary[key]:.3f}" if key in summary else "-" for key in ("AP50", "AP"))
    verdict = summary["conditions"]["verdict"] if "conditions" in summary else "-"
    measured = ", ".join([measurement(summary), *settings(summary)])
    return str(summary["batch"]), precision(summary), summary["backend"], measured, speed(summary), *figures, verdict


def model_name(summary: dict[str, Any]) -> str:
    """Name of the config, or of the ONNX file if that doesn't name one."""
    return Path(summary["engine"]["source"].get("config", summary["engine"]["onnx"])).stem


def machine_name(summary: dict[str, Any]) -> str:
    """What a summary's speed belongs to: the GPU, or cores and instruction sets of the processor."""
    machine = summary["machine"]
    if summary["backend"] == "tensorrt":
        return str(machine["gpu"])
    sets, cores = machine.get("instruction_sets"), machine["cores"]
    return f"{cores} core{'s' * (cores != 1)} of {machine['cpu']}" + (f" ({sets})" if sets else "")


def measurement(summary: dict[str, Any]) -> str:
    """What a summary's speed is the speed of."""
    if "scenario" in summary:
        return f"LoadGen {summary['scenario']}"
    return {"throughput": "engine alone", "accuracy": "files to keypoints"}[summary["mode"]]


def count_devices(summary: dict[str, Any]) -> int:
    """Number of devices that a speed is of."""
    return int(summary.get("ranks", {}).get("world_size", 1))


def settings(summary: dict[str, Any]) -> list[str]:
    """The options without which speed or AP would mean something else."""
    limit, number = summary.get("limit"), count_devices(summary)
    return [name for name, holds in (
        (f"{number} devices", number > 1),
        ("random input", summary.get("input") == "random pixels"), ("flip test", summary.get("flip_test")),
        ("detector's boxes", summary.get("boxes", GROUND_TRUTH) != GROUND_TRUTH),
        (f"first {limit} image{'s' * (limit != 1)}", limit)) if holds]


def speed(summary: dict[str, Any]) -> str:
    """Persons a second, as ``351.51``; of several processes as ``351 ± 4``, which spans their whole interval."""
    if "repeats" not in summary:
        return f"{summary['fps']:.2f}" if "fps" in summary else "-"
    median, (low, high) = summary["fps"], summary["repeats"]["interval"]
    reach = max(median - low, high - median)
    digits = min(2, max(0, -math.floor(math.log10(reach)))) if reach else 2
    return f"{median:.{digits}f} ± {reach:.{digits}f}"


def precision(summary: dict[str, Any]) -> str:
    """The precision that the engine computes in, and the requested one if it differs."""
    computed, requested = summary["precision"], summary["requested_precision"]
    return computed if computed in (requested, "int8+bf16") else f"{computed} (asked: {requested})"
