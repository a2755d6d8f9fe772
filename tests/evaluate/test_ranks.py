"""Ranks that torchrun starts: on one machine, and as two machines that are both this one."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, build_engine, draw_dataset, ran

from rtmpose.data.coco import load_persons
from rtmpose.errors import KitError
from rtmpose.evaluate.coco_eval import METRICS
from rtmpose.evaluate.devices import take_share
from rtmpose.evaluate.ranks import share_cores
from rtmpose.report.compare import incomparable
from rtmpose.report.results import check_summary
from rtmpose.report.summary import format_row, join_modes

TIMEOUT = 120


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "drawn"
    draw_dataset(folder, images=12)
    return folder


@pytest.fixture(scope="module")
def openvino_engine(model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(model_files["onnx"], tmp_path_factory.mktemp("openvino") / "t.engine", 4, "fp32", "openvino")


@contextmanager
def torchrun(ranks: int, *arguments: object, nodes: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
    """One torchrun for each of some machines, all of them here, with so many ranks each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ExitStack() as stack:
        started = []
        for node in range(nodes):
            where = ("--nnodes", nodes, "--node-rank", node, "--master-addr", "127.0.0.1", "--master-port", port)
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", ranks, *where,
                       ROOT / "inference.py", *arguments]
            started.append(stack.enter_context(subprocess.Popen(
                list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"})))
        try:
            yield started
        finally:
            for process in started:
                if process.poll() is None:
                    process.terminate()


def finish(started: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each torchrun."""
    texts = [process.communicate(timeout=TIMEOUT) for process in started]
    return [(process.returncode, *text) for process, text in zip(started, texts, strict=True)]


def find_rank(rank: int, launcher: subprocess.Popen[str]) -> int:
    """Process id of a rank, once it has loaded its engine."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if (parent == launcher.pid and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0")
                        and "onnxruntime_pybind" in (folder / "maps").read_text()):
                    return int(folder.name)
            except OSError:  # it has ended
                continue
        time.sleep(0.1)
    raise AssertionError(f"rank {rank} has not started")


def kit_lines(*texts: str) -> list[str]:
    return [line for text in texts for line in text.splitlines() if line.startswith("inference.py: ")]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "nodes", "backend", "options"), [
    (3, 1, "onnxruntime", ("--flip_test",)), (1, 2, "openvino", ()), (2, 1, "openvino", ("--reference",)),
])
def test_keypoints_are_those_of_one_process(engine_file: Path, openvino_engine: Path, people: Path, tmp_path: Path,
                                            ranks: int, nodes: int, backend: str, options: tuple) -> None:
    engine = engine_file if backend == "onnxruntime" else openvino_engine
    arguments = ["--engine", engine, "--datasets", people, *options]
    if "--reference" in options:
        arguments.append(engine_file)
    ran("inference.py", *arguments, "--output", tmp_path / "one")
    with torchrun(ranks, *arguments, "--output", tmp_path / "all", nodes=nodes) as started:
        done = finish(started)
    assert [code for code, _, _ in done] == [0] * nodes, done
    assert (tmp_path / "one/keypoints.json").read_bytes() == (tmp_path / "all/keypoints.json").read_bytes()
    one, several = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "all"))
    assert {key: one[key] for key in METRICS} == {key: several[key] for key in METRICS}
    assert one.get("agreement") == several.get("agreement")
    assert several["ranks"]["world_size"] == len(several["ranks"]["fps"]) == ranks * nodes
    assert several["ranks"]["nodes"] == nodes and several["machine"] == one["machine"]
    assert done[0][1].count("IoU=") == 10 and not any(out for _, out, _ in done[1:])  # rank 0 alone prints
    check_summary(several, "summary")


@pytest.mark.slow
def test_throughput_is_the_sum_of_the_devices(engine_file: Path, tmp_path: Path) -> None:
    with torchrun(2, "--engine", engine_file, "--perf_only", "--warmup", 1, "--iterations", 3, "--duration", 1,
                  "--fps_target", 1e6, "--output", tmp_path) as started:
        ((code, out, err),) = finish(started)
    assert code == 1 and "exitcode  : 4" in err  # torchrun's own code, and that of rank 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    check_summary(summary, "summary")
    ranks = summary["ranks"]
    assert summary["fps"] == pytest.approx(sum(ranks["fps"])) and len(ranks["fps"]) == len(ranks["alone_fps"]) == 2
    assert ranks["efficiency"] == pytest.approx(summary["fps"] / sum(ranks["alone_fps"]))
    assert ranks["cores"] == len(os.sched_getaffinity(0)) == summary["machine"]["cores"]
    assert ranks["window_s"] >= 1
    assert summary["command"].startswith(f"torchrun --nproc-per-node 2 {ROOT / 'inference.py'} --engine ")
    assert "| engine alone, 2 devices, random input |" in out
    assert all(f"rank {rank} on {host}: " in out for rank, host in enumerate(ranks["hosts"]))
    assert "scaling efficiency: " in out

    single = {**summary, "ranks": {}}
    assert not incomparable(summary, summary)
    assert "devices: 1, but 2 in the base" in incomparable(summary, single)
    assert "engine alone, random input" == format_row(single)["Measured"] == format_row(
        join_modes(summary, single))["Measured"]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "nodes", "dead"), [(2, 1, 1), (2, 1, 0), (1, 2, 1)])
def test_a_killed_rank_ends_all(engine_file: Path, tmp_path: Path, ranks: int, nodes: int, dead: int) -> None:
    duration = 100 if nodes == 1 else 4  # of another machine it is noticed at the next exchange
    with torchrun(ranks, "--engine", engine_file, "--perf_only", "--duration", duration, "--output", tmp_path / "out",
                  nodes=nodes) as started:
        rank = find_rank(dead, started[dead // ranks])
        os.kill(rank, signal.SIGKILL)
        killed = time.monotonic()
        done = finish(started)
    assert time.monotonic() - killed < 15
    assert all(code == 1 for code, _, _ in done)
    assert f"Signal 9 (SIGKILL) received by PID {rank}" in done[dead // ranks][2]  # torchrun says so
    assert [line.partition(": rank 0 of 2 on ")[2].partition(": ")[2] for line in kit_lines(done[0][2])] == [
        "another rank has ended; see the output of its torchrun"] * (nodes - 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_error_is_one_line(engine_file: Path, people: Path, tmp_path: Path) -> None:
    for options, message in (
            (("--perf_only", "--repeats", 2), r"--repeats: doesn't work under torchrun: .*"),
            (("--limit", 1), r"\d persons are 1 batch of 4, too few for 2 ranks; start fewer")):
        with torchrun(2, "--engine", engine_file, "--datasets", people, *options, "--output", tmp_path / "out"
                      ) as started:
            ((code, _, err),) = finish(started)
        lines = kit_lines(err)  # that of rank 0, mostly
        pattern = re.compile(rf"inference.py: error: rank \d of 2 on \S+: {message}")
        assert lines and all(map(pattern.fullmatch, lines)), err
        assert code == 1 and "exitcode  : 2" in err
        assert not (tmp_path / "out").exists()


def test_an_error_of_one_rank_names_it(engine_file: Path, people: Path, tmp_path: Path) -> None:
    shutil.copytree(people, tmp_path / "people")
    image = sorted((tmp_path / "people/images/val2017").iterdir())[-1]
    image.unlink()
    with torchrun(2, "--engine", engine_file, "--datasets", tmp_path / "people", "--output", tmp_path / "out"
                  ) as started:
        ((_, _, err),) = finish(started)
    (line,) = kit_lines(err)
    assert re.match(rf"inference.py: error: rank 1 of 2 on \S+: {image}: can't be read", line), err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_shares_are_whole_batches_of_the_set(people: Path, ranks: int) -> None:
    persons = load_persons(people)
    shares = [take_share(persons, rank, ranks, 4) for rank in range(ranks)]
    assert [person for share in shares for person in share] == list(persons)
    assert all(len(share) % 4 == 0 for share in shares[:-1]) and all(map(len, shares))
    with pytest.raises(KitError, match="too few for 100 ranks"):
        take_share(persons, 99, 100, 4)


@pytest.mark.parametrize(("cores", "ranks"), [({0, 1}, 2), ({3, 5, 9}, 2), (set(range(8)), 3), ({4}, 3)])
def test_cores_are_shared_out(cores: set[int], ranks: int) -> None:
    shares = [share_cores(cores, rank, ranks) for rank in range(ranks)]
    assert set().union(*shares) == cores and all(shares)
    assert len(cores) < ranks or sum(map(len, shares)) == len(cores)
    assert np.ptp([len(share) for share in shares]) <= 1
