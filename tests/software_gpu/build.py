"""Build pycuda and the software CUDA driver once, into the Python environment that runs the tests."""

import fcntl
import hashlib
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[2] / "scripts"))

import build_pycuda
from build_pycuda import Unavailable, run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = ROOT / "tests/engines/tensorrt/cuda_on_cpu.cpp"
SOURCES = (HERE / "core.h", HERE / "driver.cpp", HERE / "nvml.c", KERNELS, ROOT / "rtmpose/engines/tensorrt/kernels.cu",
           Path(__file__))


def build() -> dict[str, str]:
    """Environment variables with which a Python process sees the software GPU; one process builds, the others wait.

    Raises Unavailable if a compiler or CUDA's headers are missing, or if pycuda can't be built.
    """
    for tool in ("g++", "nm"):
        if not shutil.which(tool):
            raise Unavailable(f"needs {tool}")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:12]
    cache = Path(sys.prefix) / "software_gpu"
    cache.mkdir(exist_ok=True)
    site, library = cache / "site", cache / digest
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        include = build_pycuda.find_headers("cu13", cache / "include")
        if not (site / "pycuda").is_dir():
            build_pycuda.build(cache, include, cache / "site.part")
            (cache / "site.part").rename(site)
        if not (library / "libcuda.so.1").is_file():
            build_driver(library, site, include)
    return {"LD_LIBRARY_PATH": str(library), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, (HERE / "packages", site, ROOT)))}


def build_driver(library: Path, site: Path, include: list[str]) -> None:
    """Compile the driver with the kit's kernels, and with a stub for each function that only pycuda's import needs."""
    part = library.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    flags = ["g++", "-std=c++17", "-O1", "-g", "-fPIC", *(f"-I{folder}" for folder in include)]
    run([*flags, "-c", HERE / "driver.cpp", "-o", part / "driver.o"])
    run([*flags, "-O2", "-ffp-contract=off", f"-I{ROOT / 'rtmpose/engines/tensorrt'}", "-c", KERNELS, "-o",
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
    (part / "nvml").mkdir()
    run(["gcc", "-shared", "-fPIC", "-Wall", "-o", part / "nvml/libnvidia-ml.so.1", HERE / "nvml.c"])
    part.rename(library)
