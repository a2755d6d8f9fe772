"""What a run says: the summary for programs, the table row for people."""

from pathlib import Path
from typing import Any

from rtmpose.engines.record import Record
from rtmpose.machine import describe_machine, describe_versions

_HEADER = ("Model", "BatchSize", "Precision", "Backend", "FPS", "AP@0.5", "AP@0.5:0.95")


def summarize(record: Record, engine: str | Path, measured: dict[str, Any]) -> dict[str, Any]:
    """One result with all that it takes to trace it: engine, machine and versions.

    Args:
        record: of the engine that ran.
        engine: its file.
        measured: what this run measured.
    """
    return {
        **measured,
        "batch": record.batch,
        "precision": record.precision,
        "requested_precision": record.requested_precision,
        "backend": record.backend,
        "engine": {"path": str(engine), "sha256": record.engine_sha256, "runtime": record.runtime,
                   "device": record.device, "onnx": record.onnx, "onnx_sha256": record.onnx_sha256,
                   "source": record.source, "built_at": record.built_at, "command": record.command},
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def describe_precision(record: Record) -> str:
    """What the engine computes in, and what was asked for where that is another."""
    if record.precision == record.requested_precision:
        return record.precision
    return f"{record.precision} (asked: {record.requested_precision})"


def table(record: Record, summary: dict[str, Any]) -> str:
    """A Markdown table with one row, in the shape of the published results; what was not measured is a dash."""
    model = Path(record.source.get("config", record.onnx)).stem
    cells = (model, str(record.batch), describe_precision(record), record.backend, f"{summary['fps']:.2f}",
             *(f"{summary[key]:.3f}" if key in summary else "-" for key in ("AP50", "AP")))
    widths = [max(map(len, column)) for column in zip(_HEADER, cells, strict=True)]
    rows = (_HEADER, tuple("-" * width for width in widths), cells)
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows)


