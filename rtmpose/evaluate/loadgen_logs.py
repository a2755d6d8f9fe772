"""LoadGen's logs: its verdict, its figures, and the answers that it logged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.data.batches import Crop
from rtmpose.errors import KitError
from rtmpose.evaluate.predictions import Predictions, to_predictions
from rtmpose.files import read_json

DETAIL, SUMMARY, ACCURACY = "mlperf_log_detail.txt", "mlperf_log_summary.txt", "mlperf_log_accuracy.json"

_RATE = {"offline": "result_samples_per_second", "singlestream": "result_qps_with_loadgen_overhead",
         "server": "result_completed_samples_per_sec"}
_LATENCY = {"mean": "mean", "median": "50.00_percentile", "p90": "90.00_percentile", "p99": "99.00_percentile"}


def read_detail(path: Path, accuracy: bool) -> dict[str, Any]:
    """Read the detail log of an accuracy or a performance run: the last value of each key, and LoadGen's error
    messages as ``errors``. Raises KitError if the log is missing or cut off."""
    last = "effective_accuracy_sample_count" if accuracy else "result_99.90_percentile_latency_ns"
    try:
        entries = [json.loads(line.removeprefix(":::MLLOG ")) for line in path.read_text(encoding="utf-8").splitlines()]
        values = {entry["key"]: entry["value"] for entry in entries}
        if last not in values:
            raise ValueError(f"no {last}")
        errors = [f"{entry['key']}: {entry['value']}" for entry in entries if entry["metadata"]["is_error"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"{path}: was cut off or can't be read ({error}), expected LoadGen's whole log; free some space "
                       "and run it again") from error
    return {**values, "errors": errors}


def describe_run(detail: dict[str, Any], logs: Path) -> dict[str, Any]:
    """LoadGen's version and settings, and the place of its logs."""
    return {
        "version": detail["loadgen_version"],
        "mode": detail["effective_test_mode"],
        "logs": str(logs),
        "samples": detail["effective_accuracy_sample_count"],
        "loaded_samples": detail["effective_performance_sample_count"],
        "errors": detail["errors"],
    }


def describe_performance(detail: dict[str, Any], scenario: str) -> dict[str, Any]:
    """LoadGen's verdict and figures as ``summary.json`` has them."""
    described = {
        "valid": detail["result_validity"] == "VALID",
        "fps": detail[_RATE[scenario]],
        "fps_of": f"LoadGen's {_RATE[scenario]}: crops in memory to keypoints in the crop",
        "latency_ms": {key: detail[f"result_{name}_latency_ns"] / 1e6 for key, name in _LATENCY.items()},
        "latency_of": "LoadGen's: a sample, from its query to its answer",
        "queries": detail["result_query_count"],
        "samples_per_query": detail["effective_samples_per_query"],
        "min_duration_s": detail["effective_min_duration_ms"] / 1e3,
        "target_qps": detail["effective_target_qps"],
    }
    if scenario == "server":
        described["target_latency_ms"] = detail["effective_target_latency_ns"] / 1e6
        described["late_queries"] = detail["result_overlatency_query_count"]
    return described


def read_predictions(path: Path, crops: Sequence[Crop], input_size: tuple[int, int]) -> Predictions:
    """Read the answers for all crops from LoadGen's accuracy log. Raises KitError if one is missing."""
    logged = read_json(path, "LoadGen's accuracy log")
    logged.sort(key=lambda entry: entry["qsl_idx"])
    if [entry["qsl_idx"] for entry in logged] != list(range(len(crops))):
        raise KitError(f"{path}: holds {len(logged)} samples, expected {len(crops)}; run it again")
    answers = b"".join(bytes.fromhex(entry["data"]) for entry in logged)
    found = np.frombuffer(answers, np.float32).reshape(len(crops), -1, 3)
    return to_predictions(crops, found[..., :2], found[..., 2], input_size)
