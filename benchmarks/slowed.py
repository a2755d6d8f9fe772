"""A backend for verdicts.py: OpenVINO with a wait after each batch, in `slowed_3.engine` of 3 % of the batch's time."""

from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from rtmpose.engines import openvino
from rtmpose.engines.record import Record
from rtmpose.engines.runtime import RuntimeEngine

describe, build = openvino.describe, openvino.build


def load(content: bytes, path: str | Path, record: Record) -> RuntimeEngine:
    engine, share = openvino.load(content, path, record), float(Path(path).stem.rpartition("_")[2]) / 100

    def run(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = perf_counter()
        logits = engine.infer(crops)
        sleep(share * (perf_counter() - start))
        return logits

    return RuntimeEngine("OpenVINO", path, record, run)
