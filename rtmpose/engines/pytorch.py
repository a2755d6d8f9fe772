"""PyTorch on its CPU or accelerator: an engine is what AOTInductor compiled for the device, or the graph as it is.

torch is imported only when this backend is asked for.
"""

import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmpose.engines.in_flight import IN_FLIGHT, device_timers, graph_pays, intervals, run_times
from rtmpose.engines.record import Facts, Record, Target
from rtmpose.engines.runtime import Compiled, RuntimeEngine, is_installed, package_version
from rtmpose.errors import first_line
from rtmpose.machine.cpu import count_cores, cpu_name
from rtmpose.machine.gpu import find_gpu
from rtmpose.model.graph import count_types, read_input

if TYPE_CHECKING:
    import torch

COMPILED, EAGER = "AOTInductor", "eager"  # what runs the nodes of an engine

Network = Callable[["torch.Tensor"], Sequence["torch.Tensor"]]


def describe() -> list[Target]:
    """The CPU, and the devices of the one kind of accelerator that this PyTorch was built for, e.g. cuda, cuda.1."""
    if not is_installed("torch"):
        return []
    version = package_version("torch")
    import torch
    targets = [Target("torch", version, "cpu", cpu_name())]
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not torch.accelerator.is_available():
        return targets
    kind = accelerator.type
    if gpu := _nvidia_gpu(kind):
        return [*targets, Target("torch", version, kind, gpu.name, f"for CUDA {gpu.cuda_version}",
                                 gpu.compute_capability)]
    module, hip = torch.get_device_module(kind), torch.version.hip
    for i in range(torch.accelerator.device_count()):
        name = module.get_device_name(i) if hasattr(module, "get_device_name") else kind
        properties = module.get_device_properties(i) if hasattr(module, "get_device_properties") else None
        driver = f"HIP {hip}" if hip else getattr(properties, "driver_version", None)
        targets.append(Target("torch", version, f"{kind}.{i}" if i else kind, name, driver))
    return targets


def _nvidia_gpu(kind: str) -> Any:
    """The NVIDIA GPU that PyTorch runs on; ROCm's devices are named cuda, too."""
    import torch
    return find_gpu() if kind == "cuda" and not torch.version.hip else None


def _find_device(facts: Facts) -> "torch.device":
    """The device of an engine, with settings without which FP32 would be less, or cores of others be used."""
    import torch
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # rounds the operands of FP32 convolutions to 10 bits
    torch.backends.cudnn.benchmark = True  # shapes don't change
    torch.set_num_threads(min(torch.get_num_threads(), count_cores()))
    kind, _, number = facts.device.partition(".")
    gpu = _nvidia_gpu(kind)
    return torch.device(kind) if kind == "cpu" else torch.device(kind, gpu.ordinal if gpu else int(number or 0))


def build(model: onnx.ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """Compile a graph with AOTInductor. Where that can't compile for the device, the graph itself is the engine.

    PyTorch computes in the types that it is given, so types are counted in the graph.
    """
    import torch

    from rtmpose.model.torch_module import OnnxModule
    device = _find_device(facts)
    network, executor, note = OnnxModule(model).to(device), COMPILED, ""
    crops = torch.zeros(read_input(model)[1], device=device)
    try:
        content = _compile(network, crops, path)
    except Exception as error:  # Inductor doesn't know the device, a compiler is missing, and much else
        network(crops)  # raises what compiling isn't needed for
        content, executor = model.SerializeToString(), EAGER
        note = (f"PyTorch runs this engine eagerly, which is slower: AOTInductor can't compile it for {facts.device} "
                f"({type(error).__name__}: {first_line(error)})")
    arithmetic, layers = count_types(model)
    return [Compiled(content, arithmetic, layers, {executor: sum(layers.values())}, note)]


def _compile(network: "torch.nn.Module", crops: "torch.Tensor", path: Path) -> bytes:
    """The package of AOTInductor, which holds machine code and weights."""
    import torch
    import torch._inductor as inductor
    with (tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder,
          torch.no_grad(), warnings.catch_warnings(action="ignore")):
        exported = torch.export.export(network, (crops,))
        # The number of threads is that of the process that runs it, not of this one.
        return Path(inductor.aoti_compile_and_package(exported, package_path=f"{folder}/engine.pt2", inductor_configs={
            "cpp.dynamic_threads": True})).read_bytes()


def load(content: bytes, path: str | Path, record: Record) -> RuntimeEngine:
    import torch
    import torch._inductor as inductor

    from rtmpose.model.torch_module import OnnxModule
    device = _find_device(record)
    if COMPILED in record.executors:
        with warnings.catch_warnings(action="ignore"):
            # Single-threaded: without locks, which a CUDA graph can't have.
            index = -1 if device.index is None else device.index
            network: Network = inductor.aoti_load_package(io.BytesIO(content), run_single_threaded=True,
                                                          device_index=index)
    else:
        network = OnnxModule(onnx.load_from_string(content)).to(device)
    if device.type != "cpu" and hasattr(torch.get_device_module(device), "Stream"):
        return StreamEngine(network, path, record, device)

    def run(crops: np.ndarray) -> list[np.ndarray]:
        return [logits.cpu().numpy() for logits in network(_checked(crops, record).to(device))]

    return RuntimeEngine("PyTorch", path, record, run)


def _checked(crops: np.ndarray, record: Record) -> "torch.Tensor":
    """Crops as a tensor; a compiled engine would read memory of others for a wrong shape."""
    import torch
    expected = (record.batch, 3, *reversed(record.input_size))
    if crops.shape != expected:
        raise ValueError(f"crops are of shape {crops.shape}, expected {expected}")
    return torch.from_numpy(crops)


class _Slot:
    """A stream, and the memory of a batch in flight on it: pinned, and on the device."""

    def __init__(self, network: Network, record: Record, device: "torch.device") -> None:
        import torch
        width, height = record.input_size
        shapes = [(record.batch, record.num_keypoints, bins) for bins in record.bins]
        self.stream = torch.get_device_module(device).Stream(device)
        self.crops = torch.zeros(record.batch, 3, height, width, pin_memory=True)
        self.logits = [torch.zeros(shape, pin_memory=True) for shape in shapes]
        self._crops = torch.zeros_like(self.crops, device=device)
        self._logits = [torch.zeros(shape, device=device) for shape in shapes]
        self._network = network
        self.launch = self.compute
        torch.get_device_module(device).synchronize()  # zeros are written on another stream

    def compute(self) -> None:
        """Enqueue the computation; its results stay where they are until the next one."""
        for kept, logits in zip(self._logits, self._network(self._crops), strict=True):
            kept.copy_(logits)

    def run(self) -> None:
        """Enqueue upload, computation and download."""
        self._crops.copy_(self.crops, non_blocking=True)
        self.launch()
        for pinned, logits in zip(self.logits, self._logits, strict=True):
            pinned.copy_(logits, non_blocking=True)


class StreamEngine(RuntimeEngine):
    """An engine on a device with streams and events. Each batch in flight has a stream, so copies of one and the
    computation of another overlap."""

    def __init__(self, network: Network, path: str | Path, record: Record, device: "torch.device") -> None:
        import torch
        super().__init__("PyTorch", path, record, self._run_one)
        self._device: Any = torch.get_device_module(device)
        self._kind, self._how = device.type.upper(), "kernel by kernel"
        self._slots = [_Slot(network, record, device) for _ in range(IN_FLIGHT)]
        if hasattr(self._device, "CUDAGraph"):
            self._add_graphs()

    def _add_graphs(self) -> None:
        """Let slots launch their computation as a CUDA graph, that is at once, if that works and is not slower."""
        first, graphs = self._slots[0], [self._device.CUDAGraph() for _ in self._slots]
        try:
            for slot, graph in zip(self._slots, graphs, strict=True):
                run_times(partial(self._enqueue, slot, slot.compute), self._wait, runs=3)  # kernels are chosen
                with self._device.graph(graph, stream=slot.stream):
                    slot.compute()
        except RuntimeError:  # a run that waits can't be recorded
            return
        if graph_pays(partial(self._enqueue, first, graphs[0].replay), partial(self._enqueue, first, first.compute),
                      self._wait):
            self._how = "as CUDA graphs"
            for slot, graph in zip(self._slots, graphs, strict=True):
                slot.launch = graph.replay

    def _wait(self) -> None:
        for slot in self._slots:
            slot.stream.synchronize()

    def _enqueue(self, slot: _Slot, work: Callable[[], None]) -> Any:
        """Enqueue work on a slot's stream; returns the event of its end."""
        with self._device.stream(slot.stream):
            work()
            end = self._device.Event(enable_timing=True)
            end.record()
        return end

    def _run_one(self, crops: np.ndarray) -> list[np.ndarray]:
        self._wait()  # a timer may have left a batch in flight
        slot = self._slots[0]
        slot.crops.copy_(_checked(crops, self.record))
        self._enqueue(slot, slot.run)
        self._wait()
        return [logits.numpy().copy() for logits in slot.logits]

    def close(self) -> None:
        self._wait()
        self._slots.clear()
        super().close()

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        self.infer(crops)  # they stay on the device
        first = self._slots[0]
        for slot in self._slots:
            slot.crops.copy_(first.crops)

        def enqueue(i: int) -> Any:
            slot = self._slots[i % IN_FLIGHT]
            return self._enqueue(slot, slot.run)

        def milliseconds(start: Any, end: Any) -> float:
            return start.elapsed_time(end)

        on_device = intervals(self._wait, lambda i: self._enqueue(first, first.launch), milliseconds)
        with_copies = intervals(self._wait, enqueue, milliseconds)
        return device_timers(self._kind, self._how, on_device, with_copies, partial(self.infer, crops))
