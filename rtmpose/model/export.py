"""Torch module -> ONNX file, compared with PyTorch before it is written."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from rtmpose.errors import KitError, explained, one_line
from rtmpose.files import atomic_write, sha256
from rtmpose.model.checkpoint import Network
from rtmpose.model.graph import INPUT, OUTPUTS, simplify, write_metadata

# Largest allowed difference between ONNX Runtime and PyTorch, relative to the largest logit. Both compute in float32,
# but add in another order: at most 1.2e-6 was measured, from RTMPose-t to -x. A wrong graph is off by about 1, one in
# FP16 by about 1e-3 (2**-11 a rounding).
EXPORT_TOLERANCE = 1e-4


def export(network: Network, path: str | Path, source: dict[str, str], simplify_it: bool) -> dict[str, float]:
    """Write a network as one ONNX file with a dynamic batch, after comparing it with PyTorch.

    The file keeps skeleton and source, and onnxsim simplifies the graph if ``simplify_it``. Returns the differences of
    :func:`compare_with_torch`; raises KitError, and writes nothing, if one exceeds :data:`EXPORT_TOLERANCE`.
    """
    width, height = network.input_size
    with atomic_write(path) as temporary:
        file: Any = io.BytesIO()  # torch takes no name that is not valid UTF-8
        # The tracing exporter: its graph is smaller than the newer exporter's, and it needs no onnxscript.
        with (explained(f"{path}: not written, PyTorch can't run or export the network",
                        "check the sizes in the config"), warnings.catch_warnings(action="ignore")):
            torch.onnx.export(network.module, (torch.zeros(1, 3, height, width),), file, dynamo=False,
                              opset_version=17, input_names=[INPUT], output_names=list(OUTPUTS),
                              dynamic_axes={name: {0: "batch"} for name in (INPUT, *OUTPUTS)})
        model = onnx.load_from_string(file.getvalue())
        if simplify_it:
            model = simplify(model)
        write_metadata(model, network.skeleton, source)
        onnx.save(model, temporary)
        differences = compare_with_torch(network, temporary)
        worst = float(np.max([*differences.values()]))  # NaN if any is
        if not worst <= EXPORT_TOLERANCE:
            raise KitError(f"{path}: not written, ONNX Runtime differs from PyTorch by {worst:.1e} of the largest "
                           f"logit, expected at most {EXPORT_TOLERANCE:.0e}; check the checkpoint for NaN and for "
                           "weights that are all zero")
    return differences


def compare_with_torch(network: Network, path: str | Path) -> dict[str, float]:
    """Largest difference between ONNX Runtime and PyTorch, relative to the largest logit, by output and batch size."""
    session = onnxruntime.InferenceSession(Path(path).read_bytes(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    differences = {}
    for batch in (1, 3):
        crops = random.standard_normal((batch, 3, *network.input_size[::-1]), dtype=np.float32)
        with torch.inference_mode():
            expected = [output.numpy() for output in network.module(torch.from_numpy(crops))]
        for name, given, wanted in zip(OUTPUTS, session.run(list(OUTPUTS), {INPUT: crops}), expected, strict=True):
            with np.errstate(invalid="ignore"):  # weights of zero give logits of zero
                differences[f"{name}, batch {batch}"] = float(np.abs(given - wanted).max() / np.abs(wanted).max())
    return differences


def describe_source(config: str | Path, weights: str | Path) -> dict[str, str]:
    """Source of an exported graph, for its metadata."""
    return {"config": one_line(Path(config).name), "config_sha256": sha256(config),
            "checkpoint": one_line(Path(weights).name), "checkpoint_sha256": sha256(weights)}
