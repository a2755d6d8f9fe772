"""Rows and tables for people, summary.json for programs."""

import contextlib
import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rtmpose.engines.record import Record
from rtmpose.environment import command_line, describe_machine, describe_versions, now, peak_memory_mib
from rtmpose.errors import KitError
from rtmpose.files import read_sealed, sha256

HEADER = ("Model", "BatchSize", "Precision", "Backend", "FPS", "AP@0.5", "AP@0.5:0.95")
WRITTEN = ("summary.json", "keypoints.json", "pictures/worst_*.jpg", "pictures/best_*.jpg", "pictures/overview.jpg",
           "agreement/overview.jpg", "loadgen/mlperf_log_*")
"""Files that inference.py writes into ``--output``."""


def summarize(record: Record, engine: str | Path, measured: dict[str, Any], inputs: Iterable[str | Path]
              ) -> dict[str, Any]:
    """One result with everything needed to trace it: engine, command, input files, machine and versions.

    Args:
        record, engine: the engine's record and its file.
        measured: the figures of this run.
        inputs: files that the result depends on.
    """
    return {
        **measured,
        "batch": record.batch,
        "precision": record.precision,
        "requested_precision": record.requested_precision,
        "backend": record.backend,
        "engine": {"path": str(engine), "sha256": record.engine_sha256, "runtime": record.runtime,
                   "device": record.device, "onnx": record.onnx, "onnx_sha256": record.onnx_sha256,
                   "source": record.source, "built_at": record.built_at, "command": record.command,
                   "calibration": record.calibration, "measured_fps": record.measured_fps,
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
    """A Markdown table in the shape of the published results, one row per summary."""
    rows = [HEADER, *map(row, summaries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def csv_text(summaries: Iterable[dict[str, Any]]) -> str:
    """The table as CSV: unrounded numbers, and the latency of a batch in milliseconds."""
    latencies = ("mean", "median", "p90", "p99")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*HEADER, *(f"{name} ms" for name in latencies)))
    for summary in summaries:
        writer.writerow((*row(summary)[:4], *(summary[key] for key in ("fps", "AP50", "AP")),
                         *(summary["latency_ms"][name] for name in latencies)))
    return text.getvalue()


def row(summary: dict[str, Any]) -> tuple[str, ...]:
    """A summary's cells under :data:`HEADER`; a dash where nothing was measured."""
    model = Path(summary["engine"]["source"].get("config", summary["engine"]["onnx"])).stem
    figures = (f"{summary[key]:.{digits}f}" if key in summary else "-"
               for key, digits in (("fps", 2), ("AP50", 3), ("AP", 3)))
    return model, str(summary["batch"]), precision(summary), summary["backend"], *figures


def precision(summary: dict[str, Any]) -> str:
    """The precision that the engine computes in, and the requested one if it differs."""
    computed, requested = summary["precision"], summary["requested_precision"]
    return computed if computed in (requested, "int8+bf16") else f"{computed} (asked: {requested})"
