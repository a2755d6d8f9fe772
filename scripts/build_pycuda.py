"""Build pycuda from its source distribution with g++ and CUDA's headers: no CUDA toolkit, no CURAND, no driver.

    python3 scripts/build_pycuda.py [cu12|cu13]      (default: cu13)

Installs it into the environment of this Python. Standard library only.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

PYCUDA = "pycuda==2026.1"
# The wheel that has the headers of a CUDA version, and the Python package that its folder is in.
WHEELS = {"cu12": ("nvidia-cuda-runtime-cu12", "nvidia.cuda_runtime"), "cu13": ("nvidia-cuda-runtime", "nvidia.cu13")}
SITECONF = """
CUDA_INC_DIR = {include!r}
CUDADRV_LIB_DIR = [{stub!r}]
CUDA_ENABLE_CURAND = False
CXXFLAGS = ["-O1"]
"""
# pycuda includes cudaProfiler.h, which the wheels lack. The kit doesn't use the profiler. pycuda names the type
# CUoutput_mode even for CUDA 13, which has dropped it.
PROFILER_HEADER = """#include <cuda.h>
extern "C" {
typedef enum { CU_OUT_KEY_VALUE_PAIR = 0, CU_OUT_CSV = 1 } CUoutput_mode;
CUresult CUDAAPI cuProfilerInitialize(const char* config, const char* output, CUoutput_mode mode);
CUresult CUDAAPI cuProfilerStart(void);
CUresult CUDAAPI cuProfilerStop(void);
}
"""


class Unavailable(Exception):
    """pycuda can't be built here; the message says why."""


def main() -> int:
    """Build and install."""
    cuda = sys.argv[1] if len(sys.argv) > 1 else "cu13"
    if cuda in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), find_headers(cuda, Path(folder) / "include"))
    except Unavailable as error:
        print(f"build_pycuda.py: {error}", file=sys.stderr)
        return 1
    return 0


def find_headers(cuda: str, extra: Path) -> list[str]:
    """Folders with the headers of ``cu12`` or ``cu13``: the wheel's or the toolkit's.

    Writes the header that the wheels lack into ``extra``. Raises Unavailable if there are none.
    """
    if cuda not in WHEELS:
        raise Unavailable(f"{cuda}: expected cu12 or cu13")
    wheel, package = WHEELS[cuda]
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # no package "nvidia"
        spec = None
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    roots = [*map(Path, spec.submodule_search_locations or () if spec else ()), toolkit]
    for include in (root / "include" for root in roots):
        header = include / "cuda.h"
        if header.is_file() and re.search(rf"#define CUDA_VERSION {cuda[2:]}\d", header.read_text(errors="replace")):
            extra.mkdir(parents=True, exist_ok=True)
            (extra / "cudaProfiler.h").write_text(PROFILER_HEADER)
            return [str(include), str(extra)]
    raise Unavailable(f"needs the headers of CUDA {cuda[2:]}: pip install {wheel}")


def build(folder: Path, include: Sequence[str], target: Path | None = None) -> None:
    """Build pycuda in ``folder`` and install it into ``target``, or else into the environment.

    Raises Unavailable if a tool is missing or a step fails.
    """
    if not shutil.which("g++") or not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        raise Unavailable("needs a C++ compiler and Python's headers (Debian, Ubuntu: apt-get install g++ python3-dev)")
    stub = folder / "stub"
    stub.mkdir(parents=True, exist_ok=True)
    # The linker wants a driver to link with. One function is enough for it to keep the library.
    (stub / "stub.cpp").write_text('extern "C" int cuInit(unsigned) { return 100; }\n')
    run(["g++", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", stub / "libcuda.so", stub / "stub.cpp"])
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", folder, PYCUDA])
    (archive,) = folder.glob("pycuda-*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(folder, filter="data")
    sources_folder = folder / archive.name.removesuffix(".tar.gz")
    (sources_folder / "siteconf.py").write_text(SITECONF.format(include=list(include), stub=str(stub)))
    where = ["--target", target] if target else ["--force-reinstall"]
    run([*pip, "install", "--no-deps", "--no-build-isolation", *where, sources_folder])


def run(command: Sequence[object]) -> str:
    """Output of a command. Raises Unavailable with its first compiler error, or its last line, if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        errors = [line for line in lines if re.search(r"\d: (fatal )?error:", line)]  # the compiler's
        raise Unavailable(f"{Path(str(command[0])).name} failed: {(errors or lines[-1:])[0].strip()[:200]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
