"""Processes that work together, one a device: the ranks that torchrun starts, on one machine or several.

Rank 0 keeps a connection to every other one. All that they tell each other goes through it, and a rank that dies is
noticed at once, because its connection ends.
"""

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from rtmpose import startup
from rtmpose.errors import EXIT_USER_ERROR, KitError

_START = 120.0  # seconds until all ranks must have started
_ALIKE = 1.0  # seconds in which the same error of other ranks is waited for
# A machine that is gone counts as dead after 6 s.
_KEEPALIVE = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 4}
_PRINTING = 0.3  # seconds to print which rank died, when torchrun ends the others

Fail = Callable[[object], int]


@dataclass(frozen=True)
class Place:
    """Where this process stands among the ranks, as torchrun says."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    nodes: int

    @classmethod
    def read(cls) -> "Place":
        """Read the environment; raises KitError if it isn't torchrun's."""
        try:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
            return cls(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError) as error:
            raise KitError(f"RANK is set, but not all of torchrun's environment ({error}); start with torchrun, or "
                           "unset RANK") from error


def run(work: Callable[["Ranks"], int], fail: Fail) -> int:
    """Do ``work`` as one of the ranks, and return its exit code.

    Any error ends all ranks: rank 0 prints it by ``fail``, and names the rank unless all have the same. Only rank 0
    prints.
    """
    place = Place.read()
    if place.rank:
        sys.stdout = sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, share_cores(cores, place.local_rank, place.local_world_size))
    ranks = Ranks(place, cores, fail)
    try:
        return work(ranks)
    except KitError as error:
        if ranks.finished:
            raise
        ranks.fail(str(error))
    except Exception as error:
        if ranks.finished:
            raise
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
        ranks.fail(f"{type(error).__name__}: {error}")
    finally:
        ranks.finish()
    return EXIT_USER_ERROR


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


class Ranks:
    """This rank and its connections to the others."""

    def __init__(self, place: Place, cores: set[int], fail: Fail) -> None:
        self.place = place
        self.rank, self.world_size = place.rank, place.world_size
        self._cores, self._fail = cores, fail  # those of all ranks of this machine
        self._peers: dict[int, Connection] = {}
        self._hosts = {place.rank: socket.gethostname()}
        self._inbox: dict[int, SimpleQueue[Any]] = {}
        self._failures: SimpleQueue[tuple[int, str, bool]] = SimpleQueue()
        self._finished = False
        self._connect()
        startup.cleanups.append(self._say_interrupted)
        for rank, peer in self._peers.items():
            self._inbox[rank] = SimpleQueue()
            threading.Thread(target=self._listen, args=(rank, peer), daemon=True).start()
        threading.Thread(target=self._end_all, daemon=True).start()

    def _connect(self) -> None:
        """Connect rank 0 with every other one. torchrun's store says where it waits, and what they prove to be by."""
        try:
            from torch.distributed.rendezvous import rendezvous
        except ImportError as error:
            raise KitError(f"torch can't be imported ({error}), which ranks need; run scripts/setup.sh") from error
        address = os.environ["MASTER_ADDR"] if self.place.nodes > 1 else "127.0.0.1"
        try:
            store = next(rendezvous("env://", timeout=timedelta(seconds=_START)))[0]
            if self.rank == 0:
                key = secrets.token_bytes(32)
                where = ("" if self.place.nodes > 1 else address, 0)
                with Listener(where, backlog=self.world_size, authkey=key) as listener:
                    store.set("rtmpose", f"{listener.address[1]} {key.hex()}")
                    self._accept(listener)
            else:
                port, key = store.get("rtmpose").decode().split()
                connection = Client((address, int(port)), authkey=bytes.fromhex(key))
                connection.send((self.rank, self._hosts[self.rank]))
                self._peers[0] = connection
        except (OSError, EOFError, RuntimeError) as error:
            raise KitError(f"rank {self.rank}: can't reach rank 0 at {address} "
                           f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); check that the "
                           "machines reach each other") from error
        for peer in self._peers.values():
            with socket.socket(fileno=os.dup(peer.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in _KEEPALIVE.items():
                    same.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def _accept(self, listener: Listener) -> None:
        def accept() -> None:
            while len(self._peers) < self.world_size - 1:
                with contextlib.suppress(OSError, EOFError):  # somebody else, without the key
                    peer = listener.accept()
                    rank, host = peer.recv()
                    self._hosts[rank], self._peers[rank] = host, peer

        waiting = threading.Thread(target=accept, daemon=True)
        waiting.start()
        waiting.join(_START)
        if waiting.is_alive():
            missing = sorted(set(range(1, self.world_size)) - set(self._peers))
            raise KitError(f"ranks {', '.join(map(str, missing))}: have not started within {_START:g} s; look at their "
                           "output")

    # Everything below runs in threads of their own, because the main thread is in the engine.

    def _listen(self, rank: int, peer: Connection) -> None:
        """Take what another rank sends, until it has finished, failed or died."""
        while True:
            try:
                kind, content = peer.recv()
            except (OSError, EOFError):
                kind, content = "died", "died: see torchrun's report, or the kernel's log if it ran out of memory"
            if kind == "value":
                self._inbox[rank].put(content)
                continue
            if kind != "finished":
                self._failures.put((rank, content, kind != "failed"))
            return

    def _end_all(self) -> None:
        """Wait for the first failure of any rank, print it, and end all ranks."""
        rank, reason, at_once = self._failures.get()
        if self._finished:
            return
        failed = {rank: reason}
        if self.rank == 0:
            end = time.monotonic() + _ALIKE
            while not at_once and len(failed) < self.world_size and time.monotonic() < end:
                with contextlib.suppress(Empty):
                    other, text, at_once = self._failures.get(timeout=0.05)
                    failed[other] = text
        for clean in startup.cleanups:
            if clean != self._say_interrupted:
                clean()
        # Rank 0 speaks for all. If it is rank 0 that died, rank 1 does.
        if self.rank == 0 or self.rank == 1 and reason.startswith("died"):
            alike = len(failed) == self.world_size and len(set(failed.values())) == 1
            self._fail(reason if alike else f"rank {rank} of {self.world_size} on {self._hosts.get(rank, 'rank 0')}: "
                                            f"{reason}")
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.send(("ended", "ended"))
        os._exit(EXIT_USER_ERROR)

    def _say_interrupted(self) -> None:
        """Tell the others why this rank ends, unless it is because one of them died: its name is being printed."""
        time.sleep(_PRINTING)
        self._finished = True
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.send(("interrupted", "was interrupted by a signal"))

    # The main thread's part.

    def fail(self, reason: str) -> None:
        """End all ranks because of an error of this one; doesn't return."""
        if self.rank:
            with contextlib.suppress(OSError):
                self._peers[0].send(("failed", reason))
        else:
            self._failures.put((0, reason, False))
        time.sleep(60)  # until a thread ends this process
        os._exit(EXIT_USER_ERROR)

    def finish(self) -> None:
        """The others are not needed any more: from now on, no rank ends another one."""
        if not self._finished:
            self._finished = True
            for peer in self._peers.values():
                with contextlib.suppress(OSError):
                    peer.send(("finished", ""))
            if self.rank == 0:
                os.sched_setaffinity(0, self._cores)

    @property
    def finished(self) -> bool:
        """Whether :meth:`finish` was called."""
        return self._finished

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in their order, on every rank; all have to call it."""
        values = self.gather_at_0(value)
        if self.rank:
            values = self._inbox[0].get()
        else:
            for peer in self._peers.values():
                peer.send(("value", values))
        return values

    def gather_at_0(self, value: Any) -> list[Any]:
        """The value of every rank, in their order, on rank 0 only."""
        if self.rank:
            self._peers[0].send(("value", value))
            return []
        return [value, *(self._inbox[rank].get() for rank in range(1, self.world_size))]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.gather(None)

    def describe(self) -> dict[str, Any]:
        """``ranks`` of ``summary.json``, as far as every mode has it."""
        gathered = self.gather((self._hosts[self.rank], sorted(os.sched_getaffinity(0))))
        return {"world_size": self.world_size, "nodes": self.place.nodes, "hosts": [host for host, _ in gathered],
                "cores": len({(host, core) for host, cores in gathered for core in cores})}

    def command(self, command: str) -> str:
        """The command line of all ranks, from this one's."""
        place = self.place
        nodes = f"--nnodes {place.nodes} " if place.nodes > 1 else ""
        return f"torchrun {nodes}--nproc-per-node {place.local_world_size} {command.removeprefix('python3 ')}"
