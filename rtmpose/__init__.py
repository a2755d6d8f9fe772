"""Benchmark kit for RTMPose: data <- model <- engines <- evaluate <- report, each room knowing those before it."""

import os
import sys

# Both runtimes report to their makers what runs here, in threads beside those that are timed: ONNX Runtime from 1.29
# on, OpenVINO as soon as it is imported. It does without the package that it reports with.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
