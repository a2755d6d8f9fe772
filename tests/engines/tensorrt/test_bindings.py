"""The stand-in of tests/software_gpu takes only what TensorRT's and TensorRT-RTX's own bindings take: the same classes,
functions, parameters and flags. So whatever the kit calls on the software GPU exists in the real packages. Names that
stand in its code exist there too, whether or not a test runs the line.

The bindings import without TensorRT's libraries once the nine functions that they link against are there.
"""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow

VERSIONS = sorted(set(re.findall(r"^tensorrt-cu13-bindings==([\d.]+)",
                                 (ROOT / "requirements/tensorrt-cu13.txt").read_text(), re.MULTILINE)))
NAMES = {"_Layer": "ILayer", "_Tensor": "ITensor", "_Network": "INetworkDefinition", "_Config": "IBuilderConfig",
         "_Engine": "ICudaEngine", "_Context": "IExecutionContext", "_RuntimeConfig": "IRuntimeConfig",
         "_RuntimeCache": "IRuntimeCache", "_Inspector": "EngineInspector", "_ParserError": "ParserError"}
RTX_ONLY = ("IRuntimeConfig", "IRuntimeCache", "ICudaEngine.create_runtime_config",
            "ICudaEngine.create_execution_context(runtime_config)", "BuilderFlag.REQUIRE_USER_ALLOCATION")
LINKED = ("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
          "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
          "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins")

# A package ("") and its classes as JSON, with the docstring of each member, which pybind11 begins with the signature.
REAL = """
import importlib, json, sys
package = importlib.import_module(sys.argv[1])
owners = {"": package}
for owner in (package, package.ILogger):
    owners.update({kind.__qualname__: kind for kind in vars(owner).values() if isinstance(kind, type)})
print(json.dumps({name: {member: getattr(owner, member).__doc__ for member in dir(owner)}
                  for name, owner in owners.items()}))
"""
# Classes of the stand-in as JSON, with the parameters of functions that the kit calls and None for other members. The
# kit makes objects of those classes whose names begin with no underscore.
STAND_IN = """
import inspect, json, tensorrt
def called(kind, member, value):
    return member[0] != "_" or getattr(value, "__module__", "") == "tensorrt" and (
        member == "__str__" or member == "__init__" and kind.__name__[0] != "_")
kinds = [kind for owner in (tensorrt, tensorrt.ILogger) for kind in vars(owner).values()
         if inspect.isclass(kind) and kind.__module__ == "tensorrt"]
print(json.dumps({kind.__qualname__: {
    member: [*inspect.signature(value).parameters] if inspect.isroutine(value) else None
    for member, value in {**vars(kind), **getattr(kind, "__members__", {})}.items() if called(kind, member, value)}
    for kind in kinds}))
"""


def describe(script: str, *arguments: object, **variables: str) -> dict[str, dict]:
    """What a script prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], env={**os.environ, **variables},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def stand_in(software_gpu: dict[str, str]) -> list[str]:
    """Whatever the stand-in has, by TensorRT's names: ``Class``, ``Class.function``, ``Class.function(parameter)``."""
    names = []
    for kind, members in describe(STAND_IN, **software_gpu).items():
        kind = NAMES.get(kind, kind)
        names.append(kind)
        for member, parameters in members.items():
            names += [f"{kind}.{member}", *(f"{kind}.{member}({parameter})" for parameter in parameters or ())]
    return names


@pytest.fixture(scope="module", params=[*VERSIONS, "tensorrt_rtx"])
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Classes of a package's own bindings."""
    if request.param == "tensorrt_rtx":
        pytest.importorskip("tensorrt_rtx")
        return describe(REAL, "tensorrt_rtx")
    folder = tmp_path_factory.mktemp("bindings")
    fetched = subprocess.run([
        Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable,
        "--target", folder, f"tensorrt-cu13-bindings=={request.param}"], check=False)
    if fetched.returncode:
        pytest.skip("needs a package index")
    (folder / "linked.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in LINKED))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / f"lib{library}.so.{request.param.partition('.')[0]}",
                        folder / "linked.c"], check=True)
    return describe(REAL, "tensorrt_bindings", LD_LIBRARY_PATH=str(folder), PYTHONPATH=str(folder))


def names_of_the_kit() -> set[str]:
    """What the kit's code takes from TensorRT's package, and the types of layers and tensors that it looks for."""
    names = {f"DataType.{name}" for name in importlib.import_module("rtmpose.engines.tensorrt.build")._TYPES}
    for path in (ROOT / "rtmpose/engines/tensorrt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node).replace("base.", "trt.ILogger.")  # its name where the kit's logger is made
            if isinstance(node, ast.Attribute):
                names.update(re.findall(r"^(?:trt|import_package\(.*\))\.([\w.]+)$", text))
            elif isinstance(node, ast.Call):
                names.update(map(".".join, re.findall(r"^getattr\(trt\.(\w+), '(\w+)', None\)$", text)))
            elif isinstance(node, ast.Compare) and text.startswith("layer.type.name "):
                names.update(f"LayerType.{name}" for name in re.findall(r"'(\w+)'", text))
    return names


def test_stand_in_takes_only_what_the_real_bindings_take(stand_in: list[str], bindings: dict[str, dict[str, str]]
                                                         ) -> None:
    assert missing(bindings, stand_in) == [] and len(stand_in) > 90


def test_real_bindings_have_every_name_of_the_kit(bindings: dict[str, dict[str, str]]) -> None:
    names = names_of_the_kit()
    assert missing(bindings, names) == [] and {
        "__version__", "OnnxParser", "ILogger.Severity.WARNING", "ProfilingVerbosity.NONE", "LayerType.DEQUANTIZE",
        "LayerType.MATRIX_MULTIPLY", "DataType.HALF", "BuilderFlag.REQUIRE_USER_ALLOCATION"} < names


def missing(bindings: dict[str, dict[str, str]], names: Iterable[str]) -> list[str]:
    """Those of the names that bindings lack; TensorRT may lack what only TensorRT-RTX has."""
    return [name for name in names if ("IRuntimeCache" in bindings or not name.startswith(RTX_ONLY))
            and not has(bindings, name)]


def has(bindings: dict[str, dict[str, str]], name: str) -> bool:
    """Whether bindings have ``Class``, ``Class.member`` or ``Class.function(parameter)``."""
    path, _, parameter = name.rstrip(")").partition("(")
    kind, _, member = path.rpartition(".")
    members = bindings.get(kind, {})
    signatures = re.findall(rf"{member}(\(self: .*\)) ->", members.get(member) or "")
    return member in members and (
        not parameter or any(re.search(rf"[( ]{parameter}: ", signature) for signature in signatures))
