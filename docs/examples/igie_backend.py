"""RTMPose in IGIE, Iluvatar's build of TVM, on an MR-V100. THIS HAS NEVER RUN: no such card was at hand.

    python3 build_engine.py --model_path rtmpose_opt.onnx --batch 32 --precision fp16 \
        --backend docs/examples/igie_backend.py --engine_path igie.engine

Names and arguments are those of Iluvatar's own scripts for IGIE (deep-spark/DeepSparkInference).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rtmpose.engines.record import Facts, Record, Target
from rtmpose.engines.runtime import Compiled, RuntimeEngine, is_installed, package_version
from rtmpose.model.graph import OUTPUTS, count_types

TARGET = {"model": "MR", "options": "-libs=cudnn,cublas,ixinfer"}


def describe() -> list[Target]:
    return [Target("tvm", package_version("tvm"), "iluvatar", "Iluvatar MR-V100")] if is_installed("tvm") else []


def build(model: onnx.ModelProto, path: Path, facts: Facts) -> list[Compiled]:
    """IGIE gets the typed graph, so that the operators that need FP32 keep it."""
    import tvm
    from tvm.relay.import_model import import_model_to_igie
    width, height = facts.input_size
    with tempfile.TemporaryDirectory() as folder:
        graph, library = Path(folder, "typed.onnx"), Path(folder, "engine.so")
        onnx.save(model, graph)
        shapes = {facts.input_name: (facts.batch, 3, height, width)}
        module, parameters = import_model_to_igie(str(graph), shapes, backend="igie")
        built = tvm.relay.build(module, target=tvm.target.iluvatar(**TARGET), params=parameters,
                                precision=facts.requested_precision)
        built.export_library(str(library))
        return [Compiled(library.read_bytes(), *count_types(model))]


class IgieEngine(RuntimeEngine):
    """An engine whose headline is TVM's own time on the device, as Iluvatar's figure is."""

    def __init__(self, content: bytes, path: str | Path, record: Record) -> None:
        import tvm
        self._device = tvm.device(tvm.target.iluvatar(**TARGET).kind.name, 0)
        with tempfile.NamedTemporaryFile(suffix=".so") as library:
            library.write(content)
            library.flush()
            self._module: Any = tvm.contrib.graph_executor.GraphModule(
                tvm.runtime.load_module(library.name)["default"](self._device))
        self._array = tvm.nd.array
        super().__init__("IGIE", path, record, self._run_batch)

    def _run_batch(self, crops: np.ndarray) -> list[np.ndarray]:
        self._module.set_input(self.record.input_name, self._array(crops, self._device))
        self._module.run()
        return [self._module.get_output(i).asnumpy().astype(np.float32) for i in range(len(OUTPUTS))]

    def timers(self, crops: np.ndarray) -> dict[str, Callable[[], float]]:
        self.infer(crops)
        evaluate = self._module.module.time_evaluator("run", self._device, number=1, repeat=1)
        return {"device time by TVM's time_evaluator, crops on the device": lambda: evaluate().mean * 1e3,
                **super().timers(crops)}


load = IgieEngine
