"""The layers of an engine as TensorRT built it, a kernel each: what is fused in them, and what they read and write.

This reads the engine inspector's text of detailed verbosity, a line a layer; TensorRT-RTX logs the same lines at the
end of a build, which needs no GPU. TensorRT 10's types as sentences, and weights apart, are known from trtexec's logs.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

_TYPES = {"bfloat16": ("bf16", 2), "bf16": ("bf16", 2), "half": ("fp16", 2), "fp16": ("fp16", 2), "float": ("fp32", 4),
          "fp32": ("fp32", 4), "int8": ("int8", 1), "int32": ("int32", 4), "int64": ("int64", 8), "bool": ("bool", 1)}
_TYPE = f"({'|'.join(_TYPES)})"
_LAYER = re.compile(r"Name: (.*?), LayerType: (\w+), (.*), Outputs: \[(.*)")
_TENSOR = re.compile(rf"Dimensions: \[([\d,]*)\][^}}]*?Datatype: [^,}}]*?{_TYPE}", re.IGNORECASE)
_WEIGHTS = re.compile(rf'"Type": "{_TYPE}", "Count": (\d+)', re.IGNORECASE)


class Kernel(NamedTuple):
    """A layer of an engine."""

    name: str
    operators: list[str]  # names of the network's layers that it computes, of which TensorRT-RTX leaves out some
    fused: bool  # whether it computes several
    reads: list[tuple[str, int]]  # type and bytes of each tensor, weights included
    writes: list[tuple[str, int]]

    def type(self, products: Mapping[str, str]) -> str:
        """Type of a product in it, if it reads two operands of it; else of most of what it reads."""
        types = Counter(kind for kind, _ in self.reads)
        return next((products[name] for name in self.operators if types[products.get(name, "")] > 1),
                    max(self.reads or self.writes, key=lambda tensor: tensor[1])[0])


def read_kernels(text: str) -> list[Kernel]:
    """Kernels of an engine; none if the text is of a form that isn't known."""
    kernels = []
    for name, layer_type, read, written in _LAYER.findall(text):
        reads, writes = ([_measure(*tensor) for tensor in _TENSOR.findall(part)] for part in (read, written))
        if len(reads + writes) != f"{read}{written}".count("Dimensions: "):
            return []
        reads += [_measure(count, kind) for kind, count in _WEIGHTS.findall(written)]
        operators = re.findall(r"\[ONNX Layer: (.*?)\]", written) or name.split(" + ")
        if reads or writes:  # else it only waits for another stream
            kernels.append(Kernel(name, operators, layer_type == "runtime_fusion" or len(operators) > 1, reads, writes))
    return kernels


def _measure(shape: str, words: str) -> tuple[str, int]:
    kind, size = _TYPES[words.lower()]
    return kind, size * prod(int(length) for length in shape.split(",") if length)


def summarize(kernels: Sequence[Kernel], products: Mapping[str, str]) -> tuple[dict[str, int], ...]:
    """Number of products by the type that they compute in; of kernels by type; of kernels, fused ones, and bytes that
    they read and write a batch, or nothing if there are no kernels.

    ``products`` are the types of convolutions and matrix products in the network, by name.
    """
    built = [(kernel.type(products), kernel.operators) for kernel in kernels]
    found = {name: [kind for kind, operators in built if name in operators] or [products[name]] for name in products}
    arithmetic = Counter(kind if kind in found[name] else found[name][-1] for name, kind in products.items())
    counts = {"number": len(kernels), "fused": sum(kernel.fused for kernel in kernels),
              "bytes": sum(size for kernel in kernels for _, size in kernel.reads + kernel.writes)}
    return dict(arithmetic), dict(Counter(kind for kind, _ in built)), counts if kernels else {}
