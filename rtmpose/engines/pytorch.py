"""PyTorch on its CPU or accelerator: an engine is what AOTInductor compiled for the device, or the graph as it is.

torch is imported where it is used, because that takes seconds.
"""

import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rtmpose.engines.in_flight import IN_FLIGHT, BatchTimer, graph_pays, name_timers, seconds
from rtmpose.engines.record import Facts, Record, Target
from rtmpose.engines.runtime import Compiled, RuntimeEngine, is_installed, package_version
from rtmpose.errors import first_line
from rtmpose.machine.cpu import count_cores, cpu_name
from rtmpose.machine.gpu import Gpu, find_gpu
from rtmpose.model.graph import count_types, read_input

COMPILED, EAGER = "AOTInductor", "eager"  # what runs the nodes of an engine

Network = Callable[[Any], Sequence[Any]]  # torch tensors: crops to logits


def describe() -> list[Target]:
    """The CPU, and the devices of the one kind of accelerator that this PyTorch has, e.g. xpu and xpu.1."""
    if not is_installed("torch"):
        return []
    target = partial(Target, "torch", package_version("torch"))
    import torch
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return [target("cpu", cpu_name())]
    kind, module = accelerator.type, torch.get_device_module(accelerator)
    if gpu := _nvidia_gpu(kind):
        others = [target(kind, gpu.name, f"for CUDA {gpu.cuda_version}", gpu.compute_capability)]
    else:
        name = getattr(module, "get_device_name", lambda i: kind)
        driver = f"HIP {torch.version.hip}" if torch.version.hip else None
        others = [target(f"{kind}.{i}" if i else kind, name(i), driver)
                  for i in range(torch.accelerator.device_count())]
    return [target("cpu", cpu_name()), *others]


def _nvidia_gpu(kind: str) -> Gpu | None:
    """The NVIDIA GPU that engines run on; devices of ROCm's PyTorch are named cuda, too."""
    import torch
    return find_gpu() if kind == "cuda" and not torch.version.hip else None


def _find_device(name: str) -> Any:
    """The torch.device, and settings: FP32 that is FP32, and no cores of others."""
    import torch
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # on by default, it rounds the operands of FP32 convolutions to 10 bits
    torch.backends.cudnn.benchmark = True  # shapes don't change
    torch.set_num_threads(min(torch.get_num_threads(), count_cores()))
    kind, _, number = name.partition(".")
    gpu = _nvidia_gpu(kind)
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, gpu.ordinal if gpu else int(number or 0))


def build(model: onnx.ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """Compile a graph with AOTInductor. Where that can't, the graph is the engine, if PyTorch can run it eagerly.

    PyTorch computes in the types that it is given, so types are counted in the graph.
    """
    import torch

    from rtmpose.model.torch_module import OnnxModule
    device = _find_device(facts.device)
    network, crops = OnnxModule(model).to(device), torch.zeros(read_input(model)[1], device=device)
    arithmetic, layers = count_types(model)
    nodes = sum(layers.values())
    try:
        return [Compiled(_compile(network, crops, path), arithmetic, layers, {COMPILED: nodes})]
    except Exception as error:  # Inductor doesn't know the device, a compiler is missing, and much else
        network(crops)
        return [Compiled(model.SerializeToString(), arithmetic, layers, {EAGER: nodes}, (
            f"PyTorch runs this engine eagerly, which is slower: AOTInductor can't compile it for {facts.device} "
            f"({type(error).__name__}: {first_line(error)})"))]


def _compile(network: Any, crops: Any, path: Path) -> bytes:
    """AOTInductor's package: machine code and weights."""
    import torch
    import torch._inductor as inductor
    with (tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder,
          warnings.catch_warnings(action="ignore"), torch.no_grad()):
        # Threads are those of the process that runs it, not of this one.
        return Path(inductor.aoti_compile_and_package(
            torch.export.export(network, (crops,)), package_path=f"{folder}/engine.pt2",
            inductor_configs={"cpp.dynamic_threads": True})).read_bytes()


def load(content: bytes, path: str | Path, record: Record) -> RuntimeEngine:
    import torch
    import torch._inductor as inductor

    from rtmpose.model.torch_module import OnnxModule
    device, shape = _find_device(record.device), (record.batch, 3, *reversed(record.input_size))
    if COMPILED in record.executors:  # without its locks, which a CUDA graph can't have
        network: Network = inductor.aoti_load_package(io.BytesIO(content), run_single_threaded=True,
                                                      device_index=-1 if device.index is None else device.index)
    else:
        network = OnnxModule(onnx.load_from_string(content)).to(device)
    streams = None
    if device.type != "cpu" and hasattr(torch.get_device_module(device), "Stream"):
        streams = Streams(network, shape, [(record.batch, record.num_keypoints, bins) for bins in record.bins], device)

    def run(crops: np.ndarray) -> list[np.ndarray]:
        if crops.shape != shape:  # a compiled network would read beyond them
            raise ValueError(f"crops are of shape {crops.shape}, expected {shape}")
        given = torch.from_numpy(crops)
        return [logits.cpu().numpy() for logits in (streams.run(given) if streams else network(given.to(device)))]

    def timers(crops: np.ndarray) -> dict[str, Callable[[], float]]:
        return streams.timers(torch.from_numpy(crops)) if streams else {}

    return RuntimeEngine("PyTorch", path, record, run, timers)


class _Slot:
    """The stream of a batch in flight, and its memory: pinned, and on the device."""

    def __init__(self, network: Network, shape: Sequence[int], logits: Sequence[Sequence[int]], device: Any) -> None:
        import torch
        self.stream: Any = torch.get_device_module(device).Stream(device)
        self.crops, self.logits = torch.zeros(shape, pin_memory=True), [torch.zeros(s, pin_memory=True) for s in logits]
        self.on_device = torch.zeros(shape, device=device)
        self.launch = partial(network, self.on_device)

    def run(self) -> None:
        """Enqueue upload, computation and download."""
        self.on_device.copy_(self.crops, non_blocking=True)
        for pinned, logits in zip(self.logits, self.launch(), strict=True):
            pinned.copy_(logits, non_blocking=True)


class Streams:
    """A network on a device with streams. Each batch in flight has one, so copies of a batch and the computation of
    another overlap."""

    def __init__(self, network: Network, shape: Sequence[int], logits: Sequence[Sequence[int]], device: Any) -> None:
        import torch
        self._device: Any = torch.get_device_module(device)
        self._events, self._how = device.type.upper(), "kernel by kernel"
        self._device.set_device(device)  # for what takes the current one
        self._slots = [_Slot(network, shape, logits, device) for _ in range(IN_FLIGHT)]
        self._device.synchronize()  # zeros are written on another stream
        if hasattr(self._device, "CUDAGraph"):
            self._add_graphs()

    def _add_graphs(self) -> None:
        """Let slots launch their computation as a CUDA graph, that is at once, if that works and is not slower."""
        graphs = []
        try:
            for slot in self._slots:
                seconds(partial(self._enqueue, slot, slot.launch), self._wait)  # kernels are loaded and chosen
                graph = self._device.CUDAGraph()
                with self._device.graph(graph, stream=slot.stream):
                    logits = slot.launch()
                graphs.append(partial(_replay, graph, logits))
        except RuntimeError:  # a run that waits can't be recorded
            return
        first = self._slots[0]
        as_graph, as_kernels = (partial(self._enqueue, first, work) for work in (graphs[0], first.launch))
        if graph_pays(as_graph, as_kernels, self._wait):
            self._how = "as CUDA graphs"
            for slot, launch in zip(self._slots, graphs, strict=True):
                slot.launch = launch

    def _wait(self) -> None:
        for slot in self._slots:
            slot.stream.synchronize()

    def _enqueue(self, slot: _Slot, work: Callable[[], object]) -> tuple[Any, Any]:
        """Enqueue work on a slot's stream; returns the events of its start and end."""
        start, end = (self._device.Event(enable_timing=True) for _ in range(2))
        with self._device.stream(slot.stream):
            start.record()
            work()
            end.record()
        return start, end

    def run(self, crops: Any) -> Sequence[Any]:
        """Logits of a batch, as tensors of their own."""
        self._wait()  # a timer may have left a batch in flight
        slot = self._slots[0]
        slot.crops.copy_(crops)
        self._enqueue(slot, slot.run)[1].synchronize()
        return [logits.clone() for logits in slot.logits]

    def timers(self, crops: Any) -> dict[str, Callable[[], float]]:
        """Timers of a batch by the device's events."""
        self.run(crops)  # they stay on the device
        for slot in self._slots:
            slot.crops.copy_(crops)
        first = self._slots[0]
        return name_timers(self._events, self._how, self._timer([(first, first.launch)]),
                           self._timer([(slot, slot.run) for slot in self._slots]))

    def _timer(self, works: Sequence[tuple[_Slot, Callable[[], object]]]) -> BatchTimer:
        """A timer of works, which take turns."""
        return BatchTimer(self._wait, lambda i: self._enqueue(*works[i % len(works)]),
                          lambda start, end: start.elapsed_time(end))


def _replay(graph: Any, logits: Sequence[Any]) -> Sequence[Any]:
    """Launch a CUDA graph; its results are always in the same memory."""
    graph.replay()
    return logits
