"""The packages that this machine's NVIDIA driver and GPU need, for setup.sh. Needs no package.

    python3 scripts/gpu_packages.py            prints cu12 or cu13, and jetpack (TensorRT is JetPack's), rtx
                                               (TensorRT-RTX supports the GPU) or -; in a second line why
    python3 scripts/gpu_packages.py --hint     prints how to set up for the GPU if there is one and that was not done
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from rtmpose.errors import EXIT_USER_ERROR, KitError
from rtmpose.machine.gpu import RTX_CAPABILITIES, Gpu, find_gpu

JETSON = Path("/etc/nv_tegra_release")  # JetPack's mark
OLDEST_CAPABILITY = (7, 5)  # of TensorRT 10.16


def main() -> int:
    """Print the choice, or the hint."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        gpu = find_gpu()
        if sys.argv[1:] != ["--hint"]:
            print(*choose(gpu), sep="\n")
        elif gpu and not importlib.util.find_spec("pycuda"):
            print(f"{gpu.name} found; to run on it: bash scripts/setup.sh --gpu")
    except KitError as error:
        print(f"setup.sh: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def choose(gpu: Gpu | None) -> tuple[str, str]:
    """The set of packages, and the reason. Raises KitError if there is none for this machine."""
    if gpu is None:
        raise KitError("--gpu: no NVIDIA driver answers (libcuda.so.1), or it finds no GPU; check with nvidia-smi")
    if tuple(map(int, gpu.compute_capability.split("."))) < OLDEST_CAPABILITY:
        raise KitError(f"--gpu: {gpu.name} has compute capability {gpu.compute_capability}, expected "
                       "7.5 or later, as TensorRT needs it")
    version = int(gpu.cuda_version.split(".")[0])
    if version < 12:
        raise KitError(f"--gpu: the driver of {gpu.name} speaks CUDA {gpu.cuda_version}, expected 12 or later; install "
                       "driver 525 or later")
    cuda = "cu13" if version >= 13 else "cu12"
    if JETSON.exists():
        return f"{cuda} jetpack", f"{gpu.name} of a Jetson: {find_jetpack_tensorrt()}"
    rtx = gpu.compute_capability in RTX_CAPABILITIES
    return (f"{cuda} {'rtx' if rtx else '-'}",
            f"{gpu.name}, compute capability {gpu.compute_capability}, driver for CUDA {gpu.cuda_version}: installing "
            f"TensorRT for CUDA {cuda[2:]}" + (", or else TensorRT-RTX" if rtx else ""))


def find_jetpack_tensorrt() -> str:
    """What is installed for a Jetson, whose TensorRT comes with JetPack. Raises KitError if this Python has none."""
    if importlib.util.find_spec("tensorrt") is None:
        raise KitError("--gpu: a Jetson's TensorRT comes with JetPack, for the system's Python, and not from PyPI; "
                       f"Python {sys.version_info.major}.{sys.version_info.minor} of {sys.prefix} has none: sudo "
                       "apt-get install python3-libnvinfer, remove the environment, and re-run with "
                       "PYTHON=/usr/bin/python3")
    return "installing what the kit needs besides JetPack's TensorRT"


if __name__ == "__main__":
    sys.exit(main())
