"""Benchmark kit for RTMPose: data <- model <- engines <- evaluate <- report, each room knowing those before it."""

import os
import sys

# Both runtimes report to their makers what runs here, in threads beside those that are timed: ONNX Runtime from 1.29
# on, OpenVINO when it imports its converter, without which it starts faster, too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
