"""Signals, streams and --help of the scripts, whatever the streams are and whatever is installed."""

import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import ROOT, ran, refused

from rtmpose.errors import KitError, one_line

SCRIPTS = ("export.py", "build_engine.py", "inference.py", "scripts/sweep.py", "scripts/compare.py",
           "scripts/check_gpu.py", "demo/make_dataset.py", "demo/train.py")
BENCHMARKS = [f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")
              if "__main__" in path.read_text()]
WAITS = """
import common, hashlib, subprocess, sys, time
from rtmpose import startup

def main():
    if sys.argv[1:]:
        subprocess.run(startup.child([sys.executable, *sys.argv[1:]]))
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 ** 31 - 1)

common.run(main)
"""
PRINTS = """
import common

def main():
    parser = common.Parser("Print an argument to help a test.")
    parser.add_argument("text")
    print(parser.parse_args().text)
    return 0

common.run(main)
"""


@pytest.fixture
def waits(tmp_path: Path) -> Path:
    """A script that is in native code for minutes, or runs Python with its arguments as a child."""
    path = tmp_path / "waits.py"
    path.write_text(WAITS)
    return path


@contextmanager
def started(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A script whose signals are set up; it starts with SIGINT ignored, as bash starts what is in the background."""
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=with_kit(), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) as process:
        try:
            wait_for(lambda: not ignores(process.pid, signal.SIGINT))
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def ignores(pid: int, number: int) -> bool:
    ignored = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return bool(int(ignored, 16) & 1 << number - 1)


def has_ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().split()[2] == "Z"  # nobody has asked for its exit code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_native_code_at_once(waits: Path, number: int) -> None:
    with started(sys.executable, waits) as process:
        time.sleep(0.5)
        process.send_signal(number)
        assert process.communicate(timeout=2) == ("", "")
        assert process.returncode == -number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_children_end_with_a_script(waits: Path, tmp_path: Path, number: int) -> None:
    child = tmp_path / "child"
    code = f"import os, time; open({str(child)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(60)"
    with started(sys.executable, waits, "-c", code) as process:
        wait_for(lambda: child.exists() and child.read_text().endswith(" "))
        process.send_signal(number)
        assert process.wait(2) == -number
        wait_for(lambda: has_ended(int(child.read_text())), 2)


def test_nohup_is_respected(waits: Path) -> None:
    with started("nohup", sys.executable, waits) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None


def with_kit(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


@pytest.mark.parametrize("script", SCRIPTS)
def test_interrupt_while_a_script_imports(script: str) -> None:
    with started(sys.executable, ROOT / script) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=2) == ("", "")
        assert process.returncode == -signal.SIGINT


@pytest.fixture
def prints(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script that prints its argument, with these streams."""
    script = tmp_path / "prints.py"
    script.write_text(PRINTS)

    def run(*arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, script, *arguments], text=True, env=with_kit(), **streams)

    return run


@pytest.mark.parametrize("argument", ["--help", "word"])
def test_output_that_cannot_be_written(prints: Callable, argument: str) -> None:
    assert argument.strip("-") in prints(argument, stdout=subprocess.PIPE).stdout
    with open("/dev/full", "w") as full:
        done = prints(argument, stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (2, "prints.py: error: the output: No space left on device\n")
        assert prints(argument, stdout=full, stderr=full).returncode == 2
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as dead:
        done = prints(argument, stdout=dead, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (141, "")
    assert prints(argument, preexec_fn=lambda: os.closerange(0, 3)).returncode == 0


def test_error_that_nobody_can_read(prints: Callable) -> None:
    with open("/dev/full", "w") as full:
        assert prints("--nothing", stderr=full).returncode == 2
    assert prints("--nothing", preexec_fn=lambda: os.closerange(0, 3)).returncode == 2


ODD = "\u00fc\u4eba" + os.fsdecode(b"bad\xff")  # a name that no encoding of a stream has


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"},
                                       {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
                         ids=["ascii streams", "C", "C without UTF-8"])
def test_names_that_a_stream_cannot_encode(tmp_path: Path, variables: dict[str, str]) -> None:
    people = tmp_path / ODD / "people"
    people.parent.mkdir()
    environment = {**os.environ, **variables}
    assert "1 images" in ran("demo/make_dataset.py", "--images", 1, "--output", people, env=environment)
    assert (people / "annotations").is_dir()
    refused("scripts/compare.py", people / "a", people / "b", env=environment)


def test_whole_run_with_names_that_are_not_utf_8(tmp_path: Path, model_files: dict[str, Path], drawn: Path) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "drawn").symlink_to(drawn)
    for suffix, kind in (("pth", "checkpoint"), ("py", "config")):
        (folder / f"{ODD}.{suffix}").symlink_to(model_files[kind])
    for command in (
            ["export.py", "--weight", f"{ODD}.pth", "--cfg", f"{ODD}.py", "--output", "a.onnx"],
            ["scripts/sweep.py", "--model", "a.onnx", "--datasets", folder / "drawn", "--precisions", "fp32",
             "--batches", 2, "--backend", "onnxruntime", "--repeats", 1, "--output", folder / "sweep", "--",
             "--duration", 0.1],
            ["inference.py", "--engine", folder / "sweep/engines/fp32_bs2.engine", "--datasets", "drawn",
             "--output", folder / "out",
             *(("--scenario", "offline") if importlib.util.find_spec("mlperf_loadgen") else ())]):
        ran(*command, cwd=folder)


def test_runtimes_report_nothing_to_their_makers(model_files: dict[str, Path], tmp_path: Path) -> None:
    """They would keep what they send, or who sends it, below the home folder, outside of CI."""
    kept = {name: value for name, value in os.environ.items() if name not in (
        "CI", "TF_BUILD", "JENKINS_URL", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")}
    home = tmp_path / "home"
    home.mkdir()
    for backend in ("onnxruntime", "openvino"):
        ran("build_engine.py", "--model_path", model_files["onnx"], "--batch", 1, "--precision", "fp32", "--backend",
            backend, "--engine_path", tmp_path / "one.engine", env={**kept, "HOME": str(home)})
    assert not list(home.iterdir())


def test_control_characters_are_escaped() -> None:
    assert one_line("a\nb\x1b[2J\u2028 \u00fc") == r"a\nb\x1b[2J\u2028 " + "\u00fc"
    assert str(KitError("a\nb")) == r"a\nb"
    assert r"\n\x1b[2J" in refused("scripts/compare.py", "a\n\x1b[2Jb", "c")


@pytest.mark.parametrize("script", [*SCRIPTS, *BENCHMARKS])
def test_help_in_the_environment_and_one_line_outside(script: str) -> None:
    assert f"python3 {script}" in ran(script, "--help")
    done = subprocess.run([sys.executable, "-S", ROOT / script, "--help"], capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"numpy, onnx, psutil, pycocotools, simplejpeg, tqdm not installed for {sys.executable}" in done.stderr
