"""The packages that this machine's NVIDIA driver and GPU need, for setup.sh. Needs no package.

    python3 scripts/gpu_packages.py            prints "cu12 rtx", "cu12 -", "cu13 rtx" or "cu13 -", then why
    python3 scripts/gpu_packages.py --hint     prints how to set up for the GPU if there is one and that was not done
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from rtmpose.environment import Gpu, find_gpu
from rtmpose.errors import EXIT_USER_ERROR, KitError

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # those that TensorRT-RTX lists
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
    rtx = gpu.compute_capability in RTX_CAPABILITIES
    return (f"{cuda} {'rtx' if rtx else '-'}",
            f"{gpu.name}, compute capability {gpu.compute_capability}, driver for CUDA {gpu.cuda_version}: installing "
            f"TensorRT for CUDA {cuda[2:]}" + (", or else TensorRT-RTX" if rtx else ""))


if __name__ == "__main__":
    sys.exit(main())
