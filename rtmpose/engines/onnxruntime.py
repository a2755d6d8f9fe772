"""ONNX Runtime: an engine is the graph as ONNX Runtime optimized it for this processor and batch size; for another
device, what the device's execution provider compiled of the graph, or the graph itself."""

import importlib
import json
import os
import pkgutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rtmpose.engines import openvino
from rtmpose.engines.record import Facts, Record, Target
from rtmpose.engines.runtime import Compiled, RuntimeEngine, is_installed, package_version
from rtmpose.errors import KitError
from rtmpose.machine.cpu import cpu_name
from rtmpose.machine.gpu import find_gpu
from rtmpose.model.graph import OUTPUTS, count_types, open_session
from rtmpose.model.int8.quantize import Int8Scheme
from rtmpose.timing import wall_clock

# Its INT8 convolution has INT8 inputs and outputs; on x86 it is fast with unsigned activations only. Equalized channels
# cost a fifth of the speed, because it doesn't fuse their multiplications, and bring no AP.
INT8_SCHEME = Int8Scheme(signed=False, outputs=True, equalized=False, rest_fp16=False)

_CPU = "CPUExecutionProvider"
# Settings without which a provider computes FP32 in TF32 or FP16. Those of OpenVINO's are OpenVINO's own.
_SETTINGS = {"cuda": {"use_tf32": "0"}, "cann": {"precision_mode": "must_keep_origin_dtype"},
             "coreml": {"ModelFormat": "MLProgram"}, "qnn": {"enable_htp_fp16_precision": "0"}}


def describe() -> list[Target]:
    if not is_installed("onnxruntime"):
        return []
    version = package_version("onnxruntime")
    targets = [Target("onnxruntime", version, "cpu", cpu_name())]
    for device, (provider, plugged) in _list_providers().items():
        gpu = find_gpu() if device in ("cuda", "tensorrt", "nvtensorrtrtx") else None
        told = plugged.ep_metadata if plugged else {}
        name = gpu.name if gpu else told.get("FULL_DEVICE_NAME", f"what {provider} finds")
        targets.append(Target("onnxruntime", version, device, name, told.get("version"),
                              gpu.compute_capability if gpu else None))
    return targets


@cache
def _list_providers() -> dict[str, tuple[str, Any]]:
    """Execution providers but the CPU's: name, and onnxruntime's OrtEpDevice unless it is built in, by device.

    A device is e.g. ``cuda``; another one of the same provider is ``cuda.1``. Providers that are packages of their own
    are registered, with the two functions that all of these have.
    """
    import onnxruntime
    for package in [module.name for module in pkgutil.iter_modules() if module.name.startswith("onnxruntime_")]:
        with suppress(Exception):  # it is no provider, or has no driver here
            plugin = importlib.import_module(package)
            onnxruntime.register_execution_provider_library(plugin.get_ep_names()[0], plugin.get_library_path())
    plugged = [(device.ep_name, device) for device in onnxruntime.get_ep_devices()]
    built_in = [(name, None) for name in onnxruntime.get_available_providers() if name not in dict(plugged)]
    found: dict[str, tuple[str, Any]] = {}
    for name, device in plugged + built_in:
        # Azure's runs no graphs. A name with a dot, e.g. OpenVINOExecutionProvider.AUTO, is of several devices at once.
        if name not in (_CPU, "AzureExecutionProvider") and "." not in name:
            number = sum(name == other for other, _ in found.values())
            found[name.removesuffix("ExecutionProvider").lower() + (f".{number}" if number else "")] = name, device
    return found


def _openvino_device(device: str) -> str:
    """OpenVINO's name of a device that its plugin runs, e.g. ``npu``; empty for another."""
    plugged = _list_providers()[device][1]
    return plugged.ep_metadata.get("ov_device", "").lower() if plugged else ""


def find_precision_obstacle(device: str, precision: str) -> str | None:
    if device == "cpu":
        return "ONNX Runtime has no BF16 on CPUs" if precision == "bf16" else None
    if precision == "int8":
        return f"ONNX Runtime doesn't tell what {device} computes in it"
    name = _openvino_device(device)
    return openvino.find_precision_obstacle(name, precision) if name else None


def build(model: onnx.ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """Optimize a graph for the CPU, or compile it for another device.

    On the CPU types are counted in the result: FP16 becomes FP32, for which alone it has kernels.
    """
    if facts.device != "cpu":
        return [_compile(model, facts)]
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        options.optimized_model_filepath = os.fsencode(f"{folder}/optimized")  # as text it would have to be valid UTF-8
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[_CPU])
        content = Path(folder, "optimized").read_bytes()
    open_session(content)  # it refuses some graphs that it wrote itself
    optimized = onnx.load_from_string(content)
    return [Compiled(content, *count_types(optimized), {_CPU: len(optimized.graph.node)})]


def _compile(model: onnx.ModelProto, facts: Facts) -> Compiled:
    """Compile a graph for another device. Raises KitError if the CPU would run a part of it."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder, "compiled.onnx")  # not every provider writes it
        session = _open_on_device(model.SerializeToString(), facts, f"{folder}/profile", {
            "ep.context_enable": "1", "ep.context_embed_mode": "1", "ep.context_file_path": str(compiled),
            "session.record_ep_graph_assignment_info": "1"})
        executors = _count_nodes(session, facts)
        content = compiled.read_bytes() if compiled.exists() else model.SerializeToString()
    # OpenVINO has no FP16 on processors, and nothing else on NPUs.
    others = {"cpu": {"fp16": "fp32"}, "npu": {"fp32": "fp16"}}.get(_openvino_device(facts.device), {})
    arithmetic, layers = (Counter(others.get(kind, kind) for kind in Counter(types).elements())
                          for types in count_types(model))
    return Compiled(content, dict(arithmetic), dict(layers), executors)


def _open_on_device(content: bytes, facts: Facts, profile: str | None, entries: dict[str, str]) -> Any:
    """A session on another device than the CPU, with entries of its configuration and perhaps a profile's path."""
    import onnxruntime
    provider, plugged = _list_providers()[facts.device]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling, options.profile_file_prefix = profile is not None, profile or ""
    for key, entry in entries.items():
        options.add_session_config_entry(key, entry)
    settings = _SETTINGS.get(facts.device.split(".")[0], {})
    if name := _openvino_device(facts.device):
        settings = {"load_config": json.dumps({name.upper(): openvino.make_config(name, facts.requested_precision)})}
    if plugged:
        options.add_provider_for_devices([plugged], settings)
    elif gpu := find_gpu() if facts.compute_capability else None:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # TensorRT's provider has no setting for it
        onnxruntime.preload_dlls()  # of NVIDIA's Python packages
        settings = {**settings, "device_id": str(gpu.ordinal)}
    # Its Python class goes on with the CPU where a provider fails, unless it is told not to.
    return onnxruntime.InferenceSession(content, options, None if plugged else [(provider, settings)],
                                        enable_fallback=0)


def _count_nodes(session: Any, facts: Facts) -> dict[str, int]:
    """Number of nodes by execution provider, of a run on zeros. Raises KitError if the CPU runs some.

    The profile names the kernels. One that was compiled of several nodes of the graph counts as these; that list alone
    lacks the nodes whose layout a provider has changed.
    """
    width, height = facts.input_size
    session.run(None, {facts.input_name: np.zeros((facts.batch, 3, height, width), np.float32)})
    events = [event["args"] for event in json.loads(Path(session.end_profiling()).read_bytes())
              if "provider" in event["args"]]
    if left := [event["op_name"] for event in events if event["provider"] == _CPU]:
        operators = ", ".join(f"{number} {operator}" for operator, number in Counter(left).most_common(3))
        raise KitError(f"--device {facts.device}: leaves {len(left)} of {len(events)} kernels to the CPU "
                       f"({operators}); check its driver and libraries, or choose another device")
    nodes = Counter(event["provider"] for event in events)
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes()) - 1
    return dict(+nodes)


def load(content: bytes, path: str | Path, record: Record) -> RuntimeEngine:
    session: Any = open_session(content) if record.device == "cpu" else _open_on_device(
        content, record, None, {"session.disable_cpu_ep_fallback": "1"})

    def device_timers(crops: np.ndarray) -> dict[str, Callable[[], float]]:
        """With crops in the memory of the device, if it has one. Only when logits come back every device is done."""
        if session.get_input_memory_infos()[0].name == "Cpu":
            return {}
        binding = session.io_binding()
        binding.bind_cpu_input(record.input_name, crops)  # copies them to the device, once
        for name in OUTPUTS:
            binding.bind_output(name)  # in ordinary memory
        return {"crops in its memory": wall_clock(lambda: session.run_with_iobinding(binding))}

    return RuntimeEngine("ONNX Runtime", path, record, lambda crops: session.run(OUTPUTS, {record.input_name: crops}),
                         device_timers)
