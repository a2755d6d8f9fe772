"""Signals, streams and --help of the scripts, whatever the streams are and whatever is installed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ROOT, run_script

from rtmpose.errors import KitError, one_line
from rtmpose.files import atomic_write, write_sealed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SCRIPTS = ("export.py", "build_engine.py", "inference.py", "scripts/sweep.py", "table.py", "scripts/check_gpu.py",
           "scripts/compare.py", "demo/make_dataset.py", "demo/train.py")
BENCHMARKS = [f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")
              if "__main__" in path.read_text()]
WAITS = """
import common, subprocess, sys, time

def main():
    if sys.argv[1:]:
        subprocess.run([sys.executable, "-c", sys.argv[1]])
        print("went on after its child")
    time.sleep(60)

common.run(main)
"""


@pytest.fixture
def waits(tmp_path: Path) -> Path:
    """A script that waits, or runs Python code in a child."""
    path = tmp_path / "waits.py"
    path.write_text(WAITS)
    return path


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)


def catches_signals(pid: int) -> bool:
    """Whether a process catches SIGHUP, which Python itself never does."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return bool(int(caught, 16) & 1 << signal.SIGHUP - 1)


def interrupt(process: subprocess.Popen, number: int) -> None:
    """Send a signal, and check that the process ends in time with the right code."""
    process.send_signal(number)
    try:
        assert process.wait(timeout=2) == 128 + number
    finally:
        process.kill()


def dead_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_pipe() -> int:
    """A pipe that nobody reads, filled up."""
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while os.write(writer, b"x" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(writer, True)
    return writer


STREAMS = {"/dev/full": lambda: os.open("/dev/full", os.O_WRONLY), "dead pipe": dead_pipe, "full pipe": full_pipe}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("stream", [*STREAMS, "closed"])
def test_signal_ends_a_script_whatever_its_streams_are(waits: Path, stream: str, number: int) -> None:
    handle = STREAMS[stream]() if stream in STREAMS else None
    with subprocess.Popen([sys.executable, waits], stdout=handle, stderr=handle, env=with_kit(),
                          preexec_fn=None if handle else lambda: os.closerange(0, 3)) as process:
        wait_for(lambda: catches_signals(process.pid), process)
        interrupt(process, number)


@pytest.fixture
def child_code(tmp_path: Path) -> str:
    """Python code of a child that says its process id and waits."""
    return f"import os, time; open({str(tmp_path / 'child')!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(60)"


@pytest.mark.parametrize("stubborn", [False, True])
def test_signal_ends_children_first(waits: Path, child_code: str, tmp_path: Path, stubborn: bool) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " * stubborn + child_code
    child = tmp_path / "child"
    with subprocess.Popen([sys.executable, waits, code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=with_kit()) as process:
        wait_for(lambda: child.exists() and child.read_text().endswith(" "), process)
        interrupt(process, signal.SIGTERM)
        stat = Path(f"/proc/{child.read_text().strip()}/stat")
        assert not stat.exists() or stat.read_text().split()[2] == "Z"  # nobody has asked for its exit code
        assert process.communicate(timeout=5) == ("", "\nwaits.py: interrupted\n")


def test_nohup_is_respected(waits: Path) -> None:
    with subprocess.Popen(["nohup", sys.executable, waits], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          env=with_kit()) as process:
        time.sleep(1)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        interrupt(process, signal.SIGTERM)


def with_kit(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


@pytest.mark.parametrize("script", SCRIPTS)
def test_interrupt_while_a_script_imports(script: str) -> None:
    with subprocess.Popen([sys.executable, ROOT / script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          ) as process:
        wait_for(lambda: catches_signals(process.pid), process)
        interrupt(process, signal.SIGINT)
        assert process.communicate() == ("", f"\n{Path(script).name}: interrupted\n")


def test_importing_a_script_keeps_the_signals() -> None:
    """As pytest does it."""
    code = "import signal; before = signal.getsignal(2); import inference; print(signal.getsignal(2) is before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=with_kit())
    assert done.stdout == "True\n"


def test_forked_child_has_no_signal_handlers_of_the_script(tmp_path: Path) -> None:
    """Its signal must not end the parent, whose pipe it shares."""
    (tmp_path / "forks.py").write_text(
        "import common, os, signal, time\n"
        "def main():\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        time.sleep(60)\n"
        "    time.sleep(0.2)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    print(os.WTERMSIG(os.waitpid(child, 0)[1]))\n"
        "    time.sleep(0.2)\n"
        "    return 0\n"
        "common.run(main)\n")
    done = subprocess.run([sys.executable, tmp_path / "forks.py"], capture_output=True, text=True, env=with_kit())
    assert (done.returncode, done.stdout, done.stderr) == (0, "15\n", "")


@pytest.mark.parametrize("arguments", [("table.py", "--help"), ("table.py", "a.json", "b.json")])
def test_output_that_cannot_be_written(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    for name, mode in (("a", "accuracy"), ("b", "throughput")):
        write_sealed(tmp_path / f"{name}.json", {
            "mode": mode, "engine": {"sha256": "", "onnx": "a.onnx", "source": {}}, "batch": 1, "precision": "fp32",
            "requested_precision": "fp32", "backend": "b", "machine": {"cpu": "c", "cores": 1}})

    def run(**streams: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, ROOT / arguments[0], *arguments[1:]], cwd=tmp_path, text=True, **streams)

    assert run(stdout=subprocess.DEVNULL).returncode == 0
    with open("/dev/full", "w") as full:
        done = run(stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (2, "table.py: error: the output: No space left on device\n")
        assert run(stdout=full, stderr=full).returncode == 2
    with os.fdopen(dead_pipe(), "w") as dead:
        done = run(stdout=dead, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (141, "")
    assert run(preexec_fn=lambda: os.closerange(0, 3)).returncode == 0


def test_error_that_nobody_can_read() -> None:
    with open("/dev/full", "w") as full:
        for arguments in (["--nothing"], ["a", "b"]):
            assert subprocess.run([sys.executable, ROOT / "table.py", *arguments], stderr=full).returncode == 2
    assert subprocess.run([sys.executable, ROOT / "table.py", "a", "b"],
                          preexec_fn=lambda: os.closerange(0, 3)).returncode == 2


@pytest.fixture(params=["\u00fc\u4eba", os.fsdecode(b"bad\xff")], ids=["unicode", "not-utf-8"])
def odd_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / request.param
    folder.mkdir()
    return folder


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"},
                                       {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
                         ids=["ascii streams", "C", "C without UTF-8"])
def test_names_that_a_stream_cannot_encode(odd_folder: Path, variables: dict[str, str]) -> None:
    command = ["demo/make_dataset.py", "--images", 1, "--output", odd_folder / "people"]
    done = run_script(*command, env={**os.environ, **variables})
    assert (done.returncode, done.stderr) == (0, "")
    assert (odd_folder / "people/annotations").is_dir() and "1 images" in done.stdout
    done = run_script("table.py", odd_folder / "a", odd_folder / "b", env={**os.environ, **variables})
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_whole_run_with_names_that_are_not_utf_8(tmp_path: Path, model_files: dict[str, Path], drawn: Path) -> None:
    odd_folder = tmp_path / os.fsdecode(b"bad\xff")
    odd_folder.mkdir()
    (odd_folder / "drawn").symlink_to(drawn)
    names = [os.path.basename(odd_folder) + suffix for suffix in (".pth", ".py")]
    for name, kind in zip(names, ("checkpoint", "config"), strict=True):
        (odd_folder / name).symlink_to(model_files[kind])
    for command in (
            ["export.py", "--weight", names[0], "--cfg", names[1], "--output", "a.onnx"],
            ["scripts/sweep.py", "--model", "a.onnx", "--datasets", odd_folder / "drawn", "--precisions", "fp32",
             "--batches", 2, "--output", odd_folder / "sweep", "--", "--duration", 0.1],
            ["inference.py", "--engine", odd_folder / "sweep/engines/fp32_bs2.engine", "--datasets", "drawn",
             "--output", odd_folder / "out", "--scenario", "offline"]):
        done = run_script(*command, cwd=odd_folder)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_control_characters_are_escaped() -> None:
    assert one_line("a\nb\x1b[2J\u2028 \u00fc") == r"a\nb\x1b[2J\u2028 " + "\u00fc"
    assert str(KitError("a\nb")) == r"a\nb"
    for arguments in (["a\n\x1b[2Jb", "c"], ["a", "b", "c\n\x1b[2Jd"]):
        done = run_script("table.py", *arguments)
        assert done.returncode == 2 and r"\n\x1b[2J" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", [*SCRIPTS, *BENCHMARKS])
def test_help_outside_the_environment(script: str) -> None:
    """Without site-packages, the kit's own scripts the same text."""
    variables = {"COLUMNS": "80", **({"PYTHONPATH": str(ROOT)} if script in BENCHMARKS else {})}
    environment = {"PATH": os.environ["PATH"], **variables}

    def show(*options: str) -> str:
        return subprocess.run([sys.executable, *options, ROOT / script, "--help"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env=environment, check=True).stdout

    bare = show("-S")
    assert f"python3 {script}" in bare and "Traceback" not in bare
    assert script in BENCHMARKS or bare == show()


def test_help_for_another_script_is_no_help() -> None:
    """Outside the environment: what follows -- is for inference.py."""
    done = subprocess.run([sys.executable, "-S", ROOT / "scripts/sweep.py", "--model", "a", "--datasets", "b",
                           "--precisions", "fp32", "--batches", "1", "--output", "c", "--", "--help"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and "not installed" in done.stderr


def test_options_are_not_abbreviated() -> None:
    done = run_script("demo/make_dataset.py", "--out", "nowhere")
    assert done.returncode == 2 and "--output" in done.stderr


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    target = tmp_path / "a.engine"
    code = (f"import os, signal; from rtmpose.files import temporary_beside\n"
            f"with temporary_beside({str(target)!r}): os.kill(os.getpid(), signal.SIGKILL)")
    subprocess.run([sys.executable, "-c", code], env=with_kit(), check=False)
    (leftover,) = tmp_path.iterdir()
    with atomic_write(tmp_path / "b.engine") as other, atomic_write(target) as first:
        assert not leftover.exists()
        with atomic_write(target) as second:  # others write the same file, and are not disturbed
            assert {*tmp_path.iterdir()} == {other, first, second}
