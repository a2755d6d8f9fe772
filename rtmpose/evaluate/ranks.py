"""Processes that work together, one a device: the ranks that torchrun starts, on one machine or several."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from rtmpose.errors import KitError

_PATIENCE = timedelta(days=1)  # that a rank waits for another; torchrun notices the end of one at once
_GRACE = 2.0  # seconds in which torchrun ends a rank because of another one, before it speaks for itself


class Ranks:
    """This rank's place among all that torchrun started, and what they exchange, by PyTorch's gloo.

    Raises KitError if the environment isn't torchrun's.
    """

    def __init__(self) -> None:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
        try:
            self.rank, self.world_size, self.local_rank, self.local_world_size, self.nodes = (
                int(os.environ[name]) for name in names)
        except (KeyError, ValueError) as error:
            raise KitError(f"RANK is set, but not all of torchrun's environment ({error}); start with torchrun, or "
                           "unset RANK") from error
        self.host = socket.gethostname()
        self._cores = os.sched_getaffinity(0)  # of all ranks of this machine
        self._group: Any = None  # torch.distributed, once joined

    def join(self) -> None:
        """Take this rank's share of the cores, and connect with the others."""
        os.sched_setaffinity(0, share_cores(self._cores, self.local_rank, self.local_world_size))
        if self.nodes == 1:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        try:
            import torch.distributed
            torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
        except (ImportError, ValueError, RuntimeError) as error:
            raise KitError(f"can't join the other ranks ({str(error).splitlines()[0]}); check that the machines reach "
                           "each other, and set GLOO_SOCKET_IFNAME to the network interface between them") from error
        self._group = torch.distributed

    def finish(self) -> None:
        """Leave the others, which may end from now on, and take all cores again."""
        self._group.destroy_process_group()
        os.sched_setaffinity(0, self._cores)

    def all_gather(self, value: Any) -> list[Any]:
        """The value of every rank, in their order. This and what follows has to be called by all."""
        values = [None] * self.world_size
        try:
            self._group.all_gather_object(values, value)
        except RuntimeError as error:
            time.sleep(_GRACE)  # on the same machine, torchrun names it and ends this one
            raise KitError("another rank has ended; see the output of its torchrun") from error
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.all_gather(None)

    def describe(self) -> dict[str, Any]:
        """``ranks`` of ``summary.json``, as far as every mode has it."""
        gathered = self.all_gather((self.host, sorted(os.sched_getaffinity(0))))
        return {"world_size": self.world_size, "nodes": self.nodes, "hosts": [host for host, _ in gathered],
                "cores": len({(host, core) for host, cores in gathered for core in cores})}

    def command(self, command: str) -> str:
        """The command line of all ranks, from this one's."""
        nodes = f"--nnodes {self.nodes} " if self.nodes > 1 else ""
        return f"torchrun {nodes}--nproc-per-node {self.local_world_size} {command.removeprefix('python3 ')}"


def run_as_rank(work: Callable[[Ranks], int]) -> int:
    """Do ``work`` as one of the ranks, and return its exit code. Only rank 0 prints.

    A KitError names the rank. torchrun ends the other ranks of its machine, mostly before they print the same error.
    """
    ranks = Ranks()
    with (open(os.devnull, "w") as null, contextlib.redirect_stdout(null if ranks.rank else sys.stdout),
          contextlib.redirect_stderr(null if ranks.rank else sys.stderr)):
        try:
            ranks.join()
            return work(ranks)
        except KitError as error:
            if ranks.rank:
                time.sleep(_GRACE)
            raise KitError(f"rank {ranks.rank} of {ranks.world_size} on {ranks.host}: {error}") from error


def share_cores(cores: set[int], number: int, of: int) -> set[int]:
    """The ``number``-th of ``of`` shares of some cores. Threads of one core stay together."""
    ordered = sorted(cores, key=_topology)
    if len(ordered) < of:
        return {ordered[number % len(ordered)]}
    return set(ordered[number * len(ordered) // of:(number + 1) * len(ordered) // of])


def _topology(core: int) -> tuple[int, ...]:
    """Package and physical core of a logical core, as Linux numbers them, and itself."""
    folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    with contextlib.suppress(OSError, ValueError):
        return *(int((folder / name).read_text()) for name in ("physical_package_id", "core_id")), core
    return 0, core, core
