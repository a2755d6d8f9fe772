"""Build pycuda and the software CUDA driver once, into the Python environment that runs the tests."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = (HERE / "core.h", HERE / "driver.cpp", ROOT / "tests/engines/cuda_on_cpu.cpp",
           ROOT / "rtmpose/engines/cuda_kernels.cu", Path(__file__))
PYCUDA = "pycuda==2026.1"
SITECONF = """
BOOST_INC_DIR = []
BOOST_LIB_DIR = []
CUDART_LIB_DIR = []
CUDART_LIBNAME = []
CURAND_LIB_DIR = []
CURAND_LIBNAME = []
BOOST_COMPILER = "gcc43"
USE_SHIPPED_BOOST = True
BOOST_PYTHON_LIBNAME = ["boost_python"]
BOOST_THREAD_LIBNAME = ["boost_thread"]
CUDA_TRACE = CUDA_ENABLE_GL = CUDA_ENABLE_CURAND = False
CUDA_ROOT = CUDA_PRETEND_VERSION = None
CUDA_INC_DIR = {include!r}
CUDADRV_LIB_DIR = [{stub!r}]
CUDADRV_LIBNAME = ["cuda"]
CXXFLAGS = ["-O1"]
LDFLAGS = []
"""


class Unavailable(Exception):
    """The software driver can't be built here; the message says why."""


def build() -> dict[str, str]:
    """Environment variables with which a Python process sees the software GPU.

    Raises Unavailable if a compiler or CUDA's headers are missing, or if pycuda can't be built.
    """
    for tool in ("g++", "nm"):
        if not shutil.which(tool):
            raise Unavailable(f"needs {tool}")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:12]
    cache = Path(sys.prefix) / "software_gpu"
    site, library = cache / "site", cache / digest
    include = find_headers(cache)
    if not (site / "pycuda").is_dir():
        build_pycuda(cache, site, include)
    if not (library / "libcuda.so.1").is_file():
        build_driver(library, site, include)
    return {"LD_LIBRARY_PATH": str(library), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, (HERE, site, ROOT)))}


def find_headers(cache: Path) -> list[str]:
    """Folders of CUDA's headers: the toolkit's, or those of the nvidia-cuda-runtime wheel."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    if (toolkit / "cuda.h").is_file() and (toolkit / "cudaProfiler.h").is_file():
        return [str(toolkit)]
    spec = importlib.util.find_spec("nvidia.cu13")
    wheel = Path(next(iter(spec.submodule_search_locations or ()))) / "include" if spec else None
    if wheel is None or not (wheel / "cuda.h").is_file():
        raise Unavailable("needs CUDA's headers: a toolkit, or pip install nvidia-cuda-runtime")
    # The wheel lacks this header; pycuda includes it and the kit does not use it.
    extra = cache / "include"
    extra.mkdir(parents=True, exist_ok=True)
    (extra / "cudaProfiler.h").write_text('#include <cuda.h>\nextern "C" { CUresult CUDAAPI cuProfilerStart(void); '
                                          'CUresult CUDAAPI cuProfilerStop(void); }\n')
    return [str(wheel), str(extra)]


def build_pycuda(cache: Path, site: Path, include: list[str]) -> None:
    """Build pycuda from its source distribution, without CURAND and without a driver to link with."""
    stub = cache / "stub"
    stub.mkdir(parents=True, exist_ok=True)
    # One function is enough for the linker to keep the library.
    (stub / "stub.c").write_text("int cuInit(unsigned flags) { return 100 + 0 * flags; }\n")
    run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", stub / "libcuda.so", stub / "stub.c"])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", cache, PYCUDA])
    (archive,) = cache.glob("pycuda-*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(cache, filter="data")
    folder = cache / archive.name.removesuffix(".tar.gz")
    (folder / "siteconf.py").write_text(SITECONF.format(include=include, stub=str(stub)))
    run([*pip, "install", "--no-deps", "--no-build-isolation", "--target", cache / "site.part", folder])
    (cache / "site.part").rename(site)


def build_driver(library: Path, site: Path, include: list[str]) -> None:
    """Compile the driver with the kit's kernels, and with a stub for each function that only pycuda's import needs."""
    part = library.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    flags = ["g++", "-std=c++17", "-O1", "-g", "-fPIC", *(f"-I{folder}" for folder in include)]
    run([*flags, "-c", HERE / "driver.cpp", "-o", part / "driver.o"])
    run([*flags, "-O2", "-ffp-contract=off", f"-I{ROOT / 'rtmpose/engines'}", "-c", SOURCES[2], "-o",
         part / "kernels.o"])
    (pycuda,) = (site / "pycuda").glob("_driver*.so")
    wanted = {line.split()[-1] for line in run(["nm", "-D", "--undefined-only", pycuda]).splitlines()}
    defined = {line.split()[-1] for line in run(["nm", part / "driver.o"]).splitlines() if " T " in line}
    missing = sorted(name for name in wanted - defined if name.startswith("cu"))
    (part / "stubs.c").write_text("#include <stdio.h>\n" + "".join(
        f'int {name}(void) {{ fprintf(stderr, "SOFTGPU: {name} is missing\\n"); return 801; }}\n' for name in missing))
    run(["gcc", "-fPIC", "-c", part / "stubs.c", "-o", part / "stubs.o"])
    run(["g++", "-shared", "-Wl,-soname,libcuda.so.1", "-o", part / "libcuda.so.1", part / "driver.o",
         part / "kernels.o", part / "stubs.o", "-lpthread"])
    part.rename(library)


def run(command: list[object]) -> str:
    """Output of a command. Raises Unavailable with its last line if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise Unavailable(f"{command[0]} failed: {lines[-1][:200]}")
    return done.stdout
