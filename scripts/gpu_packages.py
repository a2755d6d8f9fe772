"""The packages that this machine's NVIDIA driver and GPU need, for setup.sh. Standard library only.

    python3 scripts/gpu_packages.py            prints "cu12 rtx", "cu12 -", "cu13 rtx" or "cu13 -", then why
    python3 scripts/gpu_packages.py --hint     prints how to set up for the GPU if there is one and that was not done
"""

import ctypes
import importlib.util
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from rtmpose.environment import Gpu, find_gpu

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # those that TensorRT-RTX lists
OLDEST_CAPABILITY = (7, 5)  # of TensorRT 10.16


def main() -> int:
    """Print the choice, or the hint."""
    gpu = find_gpu()
    if sys.argv[1:] == ["--hint"]:
        if gpu and not importlib.util.find_spec("pycuda"):
            print(f"{gpu.name} found: to run on it, set up with: bash scripts/setup.sh --gpu")
        return 0
    try:
        print(*choose(gpu, cuda_version()), sep="\n")
    except ValueError as error:
        print(f"setup.sh: --gpu: {error}", file=sys.stderr)
        return 2
    return 0


def cuda_version() -> int:
    """The newest CUDA that the driver speaks, e.g. 12040 for 12.4; 0 without a driver."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return 0
    return 0 if failed else version.value


def choose(gpu: Gpu | None, version: int) -> tuple[str, str]:
    """The set of packages, and the reason. Raises ValueError if there is none for this machine."""
    speaks = f"{version // 1000}.{version % 1000 // 10}"
    if not version:
        raise ValueError("no NVIDIA driver answers (libcuda.so.1); install one, and check it with nvidia-smi")
    if gpu is None:
        raise ValueError(f"the driver speaks CUDA {speaks}, but it finds no GPU; check it with nvidia-smi, and see "
                         "CUDA_VISIBLE_DEVICES")
    if tuple(map(int, gpu.compute_capability.split("."))) < OLDEST_CAPABILITY:
        raise ValueError(f"{gpu.name} has compute capability {gpu.compute_capability}, and TensorRT needs 7.5 or later")
    if version < 12000:
        raise ValueError(f"the driver speaks CUDA {speaks}, expected 12 or later; install driver 525 or later, best "
                         "580 or later")
    cuda = "cu13" if version >= 13000 else "cu12"
    rtx = gpu.compute_capability in RTX_CAPABILITIES
    return (f"{cuda} {'rtx' if rtx else '-'}",
            f"{gpu.name}, compute capability {gpu.compute_capability}, driver for CUDA {speaks}: TensorRT for CUDA "
            f"{cuda[2:]}{'' if rtx else '; TensorRT-RTX does not support this GPU'}")


if __name__ == "__main__":
    sys.exit(main())
