"""The stand-in of tests/software_gpu takes only what TensorRT's and TensorRT-RTX's own bindings take: the same classes,
functions, parameters and flags. So whatever the kit calls on the software GPU exists in the real packages.

The bindings import without TensorRT's libraries once the nine functions that they link against are there.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow

VERSIONS = sorted(set(re.findall(r"^tensorrt-cu13-bindings==([\d.]+)",
                                 (ROOT / "requirements/tensorrt-cu13.txt").read_text(), re.MULTILINE)))
NAMES = {"_Layer": "ILayer", "_Tensor": "ITensor", "_Network": "INetworkDefinition", "_Config": "IBuilderConfig",
         "_Engine": "ICudaEngine", "_Context": "IExecutionContext", "_RuntimeConfig": "IRuntimeConfig",
         "_RuntimeCache": "IRuntimeCache"}
RTX_ONLY = ("IRuntimeConfig", "IRuntimeCache", "ICudaEngine.create_runtime_config",
            "ICudaEngine.create_execution_context(runtime_config)")
LINKED = ("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
          "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
          "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins")

# Classes of a package as JSON, with the docstring of each member, which pybind11 begins with the signature.
REAL = """
import importlib, importlib.util, json, sys
if sys.argv[1].endswith(".so"):
    spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
    package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
else:
    package = importlib.import_module(sys.argv[1])
print(json.dumps({name: {member: getattr(kind, member).__doc__ for member in dir(kind)}
                  for name, kind in vars(package).items() if isinstance(kind, type)}))
"""
# Public classes and functions of the stand-in as JSON, with the names of their parameters; None for anything else.
STAND_IN = """
import inspect, json, tensorrt
print(json.dumps({name: {member: [*inspect.signature(value).parameters] if inspect.isroutine(value) else None
                         for member, value in vars(kind).items() if member[0] != "_"}
                  for name, kind in vars(tensorrt).items() if inspect.isclass(kind) and kind.__module__ == "tensorrt"
                  and name != "_Named"}))
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
            names += [f"{kind}.{member}", *(f"{kind}.{member}({parameter})" for parameter in (parameters or ())[1:])]
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
    return describe(REAL, folder / "tensorrt_bindings/tensorrt.so", LD_LIBRARY_PATH=str(folder))


def test_stand_in_takes_only_what_the_real_bindings_take(stand_in: list[str], bindings: dict[str, dict[str, str]]
                                                         ) -> None:
    real = [name for name in stand_in if "IRuntimeCache" in bindings or not name.startswith(RTX_ONLY)]
    assert [name for name in real if not has(bindings, name)] == [] and len(real) > 40


def has(bindings: dict[str, dict[str, str]], name: str) -> bool:
    """Whether bindings have ``Class``, ``Class.function`` or ``Class.function(parameter)``."""
    kind, _, rest = name.partition(".")
    member, _, parameter = rest.rstrip(")").partition("(")
    members = bindings.get(kind, {})
    signatures = re.findall(rf"{member}\(self: .*\) ->", members.get(member) or "")
    return kind in bindings and (not member or member in members) and (
        not parameter or any(f" {parameter}: " in signature for signature in signatures))
