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
from rtmpose.files import sha256
from rtmpose.machine.versions import command_line, describe_machine, describe_versions, now, peak_memory_mib
from rtmpose.turns import Ratio, paired_ratio

SCHEMA = 2
"""Version of summary.schema.json; it counts up when a key is renamed, removed or means something else."""

HEADER = ("BatchSize", "Precision", "Backend", "Measured", "FPS", "Ratio", "AP@0.5", "AP@0.5:0.95", "Conditions")
WRITTEN = ("summary.json", "keypoints.json", "pictures/worst_*.jpg", "pictures/best_*.jpg", "pictures/overview.jpg",
           "agreement/overview.jpg", "loadgen/mlperf_log_*", "skeleton.jpg")
"""Files that inference.py writes into ``--output``."""

NOT_A_RESULT = ("busy", "throttled", "unsteady", "not measured")
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
        **{name: getattr(record, name) for name in ("batch", "precision", "requested_precision")},
        "backend": Path(record.backend).name,
        "engine": {"path": str(engine), "sha256": record.engine_sha256, "bytes": record.engine_bytes, **{
            name: getattr(record, name) for name in (
                "runtime", "device", "device_name", "driver", "hint", "optimization_level", "builds", "executors",
                "input_size", "bins", "onnx",
                "onnx_sha256", "source", "built_at", "command", "calibration", "measured_fps")}},
        "command": command_line(),
        "measured_at": now(),
        "inputs": {str(path): sha256(path) for path in inputs},
        "peak_memory_mib": peak_memory_mib(),
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def clear_output(folder: Path) -> None:
    """Remove everything that an earlier run wrote into its ``--output``. Raises OSError if that fails."""
    for path in [path for pattern in WRITTEN for path in folder.glob(pattern)]:
        path.unlink()
    for name in {Path(pattern).parent for pattern in WRITTEN} - {Path()}:
        with contextlib.suppress(OSError):  # not there, or with files of others
            (folder / name).rmdir()


def join_modes(accuracy: dict[str, Any], throughput: dict[str, Any]) -> dict[str, Any]:
    """AP of one summary and speed of the other, as one; either may be empty."""
    if not throughput:
        return accuracy
    # How many devices predicted and whether LoadGen asked for it doesn't change AP.
    return {key: value for key, value in accuracy.items() if key not in ("ranks", "scenario")} | throughput


def flatten(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary as one row of unrounded figures; None where nothing was measured."""
    latency = summary.get("latency_ms", {})
    low, high = summary.get("repeats", {}).get("interval", (None, None))
    return {"Model": model_name(summary), "BatchSize": summary["batch"], "Precision": precision(summary),
            "Backend": backend(summary), "Measured": ", ".join([run_name(summary), *settings(summary)]),
            "FPS": summary.get("fps"), "AP@0.5": summary.get("AP50"), "AP@0.5:0.95": summary.get("AP"),
            "Conditions": summary.get("conditions", {}).get("verdict"),
            **{f"{name} ms": latency.get(name) for name in ("mean", "median", "p90", "p99")},
            "FPS low": low, "FPS high": high}


def csv_text(summaries: Iterable[dict[str, Any]]) -> str:
    """Summaries as CSV: unrounded numbers, and the latency of a batch in milliseconds."""
    rows, text = list(map(flatten, summaries)), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table(*summaries: dict[str, Any]) -> str:
    """A Markdown table in the shape of the published results, one row per summary, under model and machine."""
    return f"{model_name(summaries[0])} on {machine_name(summaries[0])}\n\n{markdown(table_rows(summaries))}"


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table of rows with the same names, which are its header."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def table_rows(summaries: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of a table as text. Of several rows, each has its speed's ratio to the first one's, if the two measure the
    same, and the highest speed that is a result is marked, with those that rounds can't tell apart from it; none is if
    another was faster in turns."""
    rows = list(map(format_row, summaries))
    best, verdicts = find_fastest(summaries)
    for one, row, verdict in zip(summaries, rows, verdicts, strict=True):
        alike = "fps" in one and row["Measured"] == rows[0]["Measured"]
        row["Ratio"] = ratio_text(summaries[0], one) if alike else "-"
        tied = one is best or is_result(one) and verdict == "can't tell"
        row["FPS"] += " (best)" * (tied and len(rows) > 1 and "faster" not in verdicts)
    return [{name: row[name] for name in HEADER if name != "Ratio" or len(rows) > 1} for row in rows]


def find_fastest(summaries: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The highest speed that is a result, empty without one, and each speed's verdict beside it in turns, if any."""
    best = max(filter(is_result, summaries), key=lambda one: one["fps"], default={})
    return best, [ratio.verdict if (ratio := ratio_of_rounds(best, one)) else "" for one in summaries]


def format_row(summary: dict[str, Any]) -> dict[str, str]:
    """:func:`flatten` as text, with AP to three digits; a dash where nothing was measured."""
    return {name: figure(value, ".3f" if name.startswith("AP") else "") for name, value in flatten(summary).items()
            } | {"FPS": speed(summary)}


def figure(value: Any, form: str, interval: Sequence[float] | None = None) -> str:
    """A figure as text, with the ends of its interval, if it has one; a dash for None."""
    text = "-" if value is None else format(value, form)
    return f"{text} [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else text


def is_result(summary: dict[str, Any]) -> bool:
    """Whether a summary has a speed that says something about the machine."""
    return "fps" in summary and summary["conditions"]["verdict"] not in NOT_A_RESULT


def model_name(summary: dict[str, Any]) -> str:
    """Name of the config, or of the ONNX file if that doesn't name one."""
    return Path(summary["engine"]["source"].get("config", summary["engine"]["onnx"])).stem


def machine_name(summary: dict[str, Any]) -> str:
    """What a summary's speed belongs to: a device, or cores and instruction sets of the processor."""
    machine = summary["machine"]
    if summary["backend"] == "files":
        return f"the device that wrote {Path(summary['engine']['path']).with_name('outputs')}"
    name = summary["engine"]["device_name"] or machine["gpu"]
    if summary["engine"]["device"] != "cpu" and name not in (None, machine["cpu"]):
        return str(name)
    sets, cores = machine.get("instruction_sets"), machine["cores"]
    return f"{cores} core{'s' * (cores != 1)} of {machine['cpu']}" + (f" ({sets})" if sets else "")


def run_name(summary: dict[str, Any]) -> str:
    """What a summary's speed is the speed of; only runs of one name can be compared."""
    if summary["backend"] == "files":
        return "AP; FPS reported by the vendor's tool" if "fps" in summary else "AP"
    if "scenario" in summary:
        return f"LoadGen {summary['scenario']}, {summary['mode']}"
    return {"throughput": "engine alone", "accuracy": "files to keypoints"}[summary["mode"]]


def count_devices(summary: dict[str, Any]) -> int:
    """Number of devices that a speed is of."""
    return int(summary.get("ranks", {}).get("world_size", 1))


def settings(summary: dict[str, Any]) -> list[str]:
    """The options without which speed or AP would mean something else."""
    limit, number, streams = summary.get("limit"), count_devices(summary), summary.get("streams", 1)
    return [name for name, holds in (
        (f"{number} devices", number > 1), (f"{streams} streams", streams > 1),
        ("throughput hint", summary["engine"].get("hint") == "throughput"),
        ("random input", summary.get("input") == "random pixels"), ("flip test", summary.get("flip_test")),
        ("detector's boxes", summary.get("boxes", GROUND_TRUTH) != GROUND_TRUTH),
        (f"first {limit} image{'s' * (limit != 1)}", limit)) if holds]


def speed(summary: dict[str, Any]) -> str:
    """Persons a second, as ``351.51``; of several processes as ``351 ± 4``, which spans their whole interval."""
    if "repeats" not in summary:
        return figure(summary.get("fps"), ".2f")
    median, (low, high) = summary["fps"], summary["repeats"]["interval"]
    reach = max(median - low, high - median)
    digits = min(2, max(0, -math.floor(math.log10(reach)))) if reach else 2
    return f"{median:.{digits}f} ± {reach:.{digits}f}"


def ratio_of_rounds(base: dict[str, Any], other: dict[str, Any]) -> Ratio | None:
    """The ratio of two speeds that were measured in the same rounds of a sweep; None if they were not."""
    one, two = (summary.get("repeats", {}) for summary in (base, other))
    in_turns = one.get("rounds") and one["rounds"] == two.get("rounds")
    return paired_ratio(one["values"], two["values"]) if in_turns else None


def ratio_text(base: dict[str, Any], other: dict[str, Any]) -> str:
    """The ratio of two speeds, with its interval if both took turns in the same rounds."""
    ratio = ratio_of_rounds(base, other) if base is not other else None
    return figure(ratio.value, ".2f", ratio.interval) if ratio else figure(other["fps"] / base["fps"], ".2f")


def joules(summary: dict[str, Any]) -> float | None:
    """Joules a person; None where no energy was measured."""
    return summary.get("energy", {}).get("joules_per_person")


def describe_speed(summary: dict[str, Any]) -> str:
    """:func:`speed`, and what was timed unless it is the engine alone."""
    name = run_name(summary)
    return speed(summary) if name == "engine alone" else f"{speed(summary)} ({name})"


def precision(summary: dict[str, Any]) -> str:
    """The precision that the engine computes in, and the requested one if it differs."""
    computed, requested = summary["precision"], summary["requested_precision"]
    alike = (requested, f"{requested} (reported)", "int8+bf16", "unknown")
    return computed if computed in alike else f"{computed} (asked: {requested})"


def backend(summary: dict[str, Any]) -> str:
    """The backend, and whether it runs a graph that it could not compile."""
    return summary["backend"] + " (eager)" * ("eager" in summary["engine"]["executors"])


def notes(summary: dict[str, Any]) -> list[str]:
    """What a reader must know beside the figures: missed targets, a device that the host starves (trtexec's limits),
    INT8 calibrated on the measured set, and what was left out of its files or looks wrong in them."""
    lines = [f"missed {missed}" for missed in summary["missed_targets"]]
    interval, busy, enqueue = (summary.get(name, {}).get("mean") for name in (
        "latency_ms", "request_latency_ms", "enqueue_ms"))
    share = busy / summary.get("streams", 1) if enqueue else None  # of the device's time
    if share and (interval > 1.05 * share or enqueue > 0.8 * share):
        lines.append(f"the host is the limit: a batch takes the device {busy:.3f} ms and the host {enqueue:.3f} ms to "
                     f"enqueue, and one ends every {interval:.3f} ms")
    lines += [f"{number} {note}" for note, number in summary.get("notes", {}).items()]
    if summary["engine"]["calibration"].get("annotations_sha256") in summary["inputs"].values():
        lines.append("calibrated on the data set that it is measured on; its AP on others may be lower")
    return lines
