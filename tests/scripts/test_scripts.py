"""The bash scripts, without an environment: a stand-in for Python records what they would run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT

SCRIPTS = ROOT / "scripts"
ACCURACY, PERFORMANCE = "infer_rtmpose_fp16_accuracy.sh", "infer_rtmpose_fp16_performance.sh"
TORCH = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch=="))

Run = Callable[..., subprocess.CompletedProcess[str]]
Calls = Callable[[], list[str]]

STAND_IN = """#!/bin/bash
command=$*
if [ "${0##*/}" != python ]; then command="${0##*/} $*"; fi
case $command in
  --version) echo Python 3.11.0; exit ;;
  "uv --version") echo uv 0.13.9; exit ;;
esac
echo "$command" >>"$CALLS"
if [[ -n ${FAIL:-} && $command = *$FAIL* ]]; then echo "its own last line"; exit "${CODE:-1}"; fi
if [[ -n ${WAIT:-} && $command = *$WAIT* ]]; then echo $$ >"$VENV/waits"; exec sleep 60; fi
case $command in
  *platform*) echo "${VERSION:-3.11.0}" ;;
  *gpu_packages.py) printf "${GPU:-cu13 -}\\nMade-up GPU: the reason\\n" ;;
  *--hint) echo "${HINT:-}" ;;
  *sysconfig*) echo "$VENV" ;;
  "uv pip"*) echo "${UV_SAYS:-Installed 1 package}" ;;
esac
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose commands record their arguments in ``calls``, and fail if $FAIL is among them."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    for name in ("python", "uv", "lint-imports"):
        (folder / "bin" / name).write_text(STAND_IN)
        (folder / "bin" / name).chmod(0o755)
    return folder


@pytest.fixture
def clean(tmp_path: Path, venv: Path) -> dict[str, str]:
    """Environment variables of a script."""
    variables = {name: value for name, value in os.environ.items() if name not in ("DATASETS_DIR", "MODEL", "PYTHON")}
    return variables | {"VENV": str(venv), "CALLS": str(tmp_path / "calls")}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder in which the scripts run, with a model and a data set."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "rtmpose_opt.onnx").touch()
    (folder / "coco").mkdir()
    return folder


@pytest.fixture
def run(work: Path, clean: dict[str, str]) -> Run:
    """Run a script with these arguments and environment variables."""
    def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", str(SCRIPTS / script), *arguments], cwd=work, text=True, timeout=60,
                              capture_output=True, stdin=subprocess.DEVNULL, env=clean | environment)

    return run


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """Commands that the stand-in recorded since the last call."""
    def calls() -> list[str]:
        path = tmp_path / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.replace(f"{ROOT}/", "") for line in lines]

    return calls


@pytest.mark.parametrize("script", [*SCRIPTS.glob("*.sh"), ROOT / ".ci/run"], ids=lambda path: path.name)
def test_is_bash_and_has_help(run: Run, calls: Calls, script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if script.name not in ("common.sh", "run"):
        result = run(script.name, "--help")
        assert result.returncode == 0 and f"bash scripts/{script.name}" in result.stdout
    assert calls() == []


# User errors


@pytest.mark.parametrize(("script", "arguments", "environment", "message"), [
    *((script, arguments, {"DATASETS_DIR": "coco", **environment}, message) for script in (ACCURACY, PERFORMANCE)
      for arguments, environment, message in (
        ("--model third.onnx", {"MODEL": "other.onnx"}, "third.onnx: no such file, expected the ONNX graph; create it "
                                                        "with: python3 export.py "),
        ("", {"MODEL": "other.onnx"}, "other.onnx: no such file"),
        ("--bs", {}, "--bs: expected an option with a value"),
        ("--bs 0", {}, "batch size '0': expected a whole number"),
        ("--bs many", {}, "batch size 'many': expected a whole number"),
        ("--frobnicate 1", {}, "--frobnicate: no such option"),
        ("--input input", {}, "batch size 'input': expected a whole number"),
        ("--input input:N,3,256,192", {}, "batch size 'N': expected a whole number"))),
    *((script, arguments, environment, message) for script in (ACCURACY, "benchmark.sh")
      for arguments, environment, message in (
        ("", {}, "DATASETS_DIR is not set"),
        ("", {"DATASETS_DIR": "nowhere"}, "nowhere: no such folder"),
        ("--datasets nowhere", {"DATASETS_DIR": "coco"}, "nowhere: no such folder"),
        ("--datasets rtmpose_opt.onnx", {}, "rtmpose_opt.onnx: is a file, expected COCO's folder"),
        ("--datasets a\n\x1b[2Jb", {}, rf"{script}: $'a\n\E[2Jb"))),
    ("benchmark.sh", "--model other.onnx", {}, "other.onnx: no such file"),
    ("benchmark.sh", "--frobnicate 1", {}, "--frobnicate: no such option"),
    ("setup.sh", "--cuda", {}, "--cuda: no such option, expected --gpu, --torch or -v"),
    ("setup.sh", "--torch", {}, "--torch: expected a command that installs PyTorch, or none"),
    ("setup.sh", "", {"FAIL": "version_info"}, "venv: has Python 3.11.0, expected 3.11 or later; remove it and re-run"),
    ("lock.sh", "--write", {}, "--write: no such option, expected --check"),
    *(("setup.sh", "", {"PYTHON": python},
       f"setup.sh: {python}: is no Python 3.11 or later; install one, or set PYTHON: PYTHON=")
      for python in ("/bin/false", "/nowhere/python3.11")),
    *(("setup.sh", "", {"VENV": venv, "PYTHON": sys.executable}, f"setup.sh: {venv}: can't be written; set VENV to")
      for venv in ("/proc/kit", "/dev/null/kit")),  # as in a read-only clone
])
def test_refuses(run: Run, calls: Calls, script: str, arguments: str, environment: dict, message: str) -> None:
    result = run(script, *arguments.split(" ") if arguments else (), **environment)
    assert result.returncode == 2, result
    assert message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not [call for call in calls() if "version_info" not in call]


# The measurements


BUILD = "build_engine.py --model_path rtmpose_opt.onnx"
SWEEP = "scripts/sweep.py --model rtmpose_opt.onnx --datasets coco"


@pytest.mark.parametrize(("script", "arguments", "expected"), [
    (ACCURACY, "", [f"{BUILD} --batch 32 --precision fp16 --engine_path rtmpose_bs_32_fp16.engine",
                    "inference.py --engine rtmpose_bs_32_fp16.engine --batchsize 32 --datasets coco"]),
    (PERFORMANCE, "--bs 8 --fps_target 9", [
        f"{BUILD} --batch 8 --precision fp16 --engine_path rtmpose_bs_8_fp16.engine",
        "inference.py --engine rtmpose_bs_8_fp16.engine --batchsize 8 --datasets coco --perf_only True "
        "--fps_target 9"]),
    (ACCURACY, "--datasets coco --engine e --input x:4,3,384,288 --acc_target 0.773 -- --limit 2", [
        f"{BUILD} --input x:4,3,384,288 --precision fp16 --engine_path e",
        "inference.py --engine e --batchsize 4 --input_name x --datasets coco --acc_target 0.773 --limit 2"]),
    ("benchmark.sh", "", [f"{SWEEP} --precisions fp32 fp16 --batches 1 8 32 --backend auto --devices 1 "
                          "--output benchmark"]),
    ("benchmark.sh", "--calibration other --batches 4 --backend tensorrt --devices 8 --output out -- --limit 2", [
        f"{SWEEP} --calibration other --precisions fp32 fp16 int8 --batches 4 --backend tensorrt --devices 8 "
        "--output out -- --limit 2"]),
    ("benchmark.sh", "--datasets coco --precisions int8 --calibration other --skeleton coco --repeats 5", [
        f"{SWEEP} --calibration other --precisions int8 --batches 1 8 32 --backend auto --skeleton coco --repeats 5 "
        "--devices 1 --output benchmark"]),
    ("check_gpu.sh", "--output checked.json", ["scripts/check_gpu.py --output checked.json"]),
    ("compare.sh", "a b --output c", ["scripts/compare.py a b --output c"]),
])
def test_options_reach_the_kit(run: Run, calls: Calls, script: str, arguments: str, expected: list[str]) -> None:
    assert run(script, *arguments.split(), DATASETS_DIR="coco").returncode == 0
    assert calls() == expected


def test_throughput_needs_no_data_set(run: Run, calls: Calls) -> None:
    assert run(PERFORMANCE).returncode == 0
    assert calls()[-1] == "inference.py --engine rtmpose_bs_32_fp16.engine --batchsize 32 --perf_only True"


@pytest.mark.parametrize(("script", "stage", "code"), [
    (ACCURACY, "build_engine.py", 3), (ACCURACY, "inference.py", 3), ("benchmark.sh", "sweep.py", 1),
    ("check_gpu.sh", "check_gpu.py", 139)])
def test_exit_code_is_that_of_the_kit(run: Run, calls: Calls, script: str, stage: str, code: int) -> None:
    assert run(script, FAIL=stage, CODE=str(code), DATASETS_DIR="coco").returncode == code
    assert stage in calls()[-1]


# setup.sh


def names(calls: list[str]) -> list[str]:
    """Names of what was installed; of the script and its argument where pycuda was built."""
    words = [call.split() for call in calls if "pip install" in call or "build_pycuda" in call]
    return [" ".join(Path(word).name for word in (call if len(call) == 2 else call[-1:])) for call in words]


KIT = [TORCH, "mmpose.txt"]


def test_setup_installs(run: Run, venv: Path, calls: Calls) -> None:
    (venv / "rtmpose-kit.pth").write_text("/another/checkout\n")
    first = run("setup.sh")
    assert first.returncode == 0
    assert "download.sh" in first.stdout and "bin/activate" in first.stdout
    assert "Installed 1 package" not in first.stdout and "Installed 1 package" in (venv / "setup.log").read_text()
    assert (venv / "rtmpose-kit.pth").read_text() == f"{ROOT}\n"
    torch, packages = [call for call in calls() if "pip install" in call]
    assert torch.endswith(f" --no-deps --default-index https://download.pytorch.org/whl/cpu {TORCH}")
    assert packages.endswith(" -r requirements.txt -r requirements/mmpose.txt")
    assert "--no-deps" in packages and "index" not in packages


HINT = "Made-up GPU found; to run on it: bash scripts/setup.sh --gpu"


@pytest.mark.parametrize(("script", "options", "environment", "said", "times"), [
    ("setup.sh", "", {"UV_SAYS": "Audited 47 packages in 8ms"}, ": already installed", 2),
    ("setup.sh", "", {"UV_SAYS": "Checked 47 packages in 8ms"}, ": already installed", 2),  # since uv 0.9
    ("setup.sh", "-v", {}, "Installed 1 package", 2),
    ("setup.sh", "", {"HINT": HINT}, f"setup.sh: {HINT}\n", 1),
    ("quickstart.sh", "", {"HINT": HINT}, f"setup.sh: {HINT}\n", 1),
    ("setup.sh", "", {"VERSION": "3.14.10"}, "is newer than 3.14", 0),
    ("setup.sh", "", {"VERSION": "3.15.0"}, "Python 3.15.0 is newer than 3.14, the newest that the tests ran with", 1),
    ("setup.sh", "", {"VERSION": "4.0.1"}, "Python 4.0.1 is newer than 3.14", 1),
])
def test_setup_says(run: Run, script: str, options: str, environment: dict, said: str, times: int) -> None:
    result = run(script, *options.split(), **environment)
    assert result.returncode == 0 and result.stdout.count(said) == times


@pytest.mark.parametrize(("given", "expected"), [
    ({}, ""), ({"PIP_INDEX_URL": "http://a", "PIP_FIND_LINKS": "/b", "PIP_CERT": "/c"}, "http://a /b /c"),
    ({"PIP_INDEX_URL": "http://a", "UV_DEFAULT_INDEX": "http://d"}, "http://d")])
def test_settings_of_pip_hold_for_uv(run: Run, venv: Path, given: dict, expected: str) -> None:
    unset = {name: "" for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "SSL_CERT_FILE", "UV_DEFAULT_INDEX")}
    (venv / "bin/uv").write_text("#!/bin/bash\necho uv 0.13.9 $UV_DEFAULT_INDEX $UV_FIND_LINKS $SSL_CERT_FILE\n")
    run("setup.sh", **unset | given)
    assert (venv / "setup.log").read_text().splitlines()[-1] == f"uv 0.13.9 {expected}".strip()


@pytest.mark.parametrize(("gpu", "fails", "installed", "again"), [
    ("cu13 -", "", ["tensorrt-cu13.txt", "build_pycuda.py cu13"], ["tensorrt-cu13.txt"]),  # uv knows what is there
    ("cu13 -", "build_pycuda.py", ["tensorrt-cu13.txt", "build_pycuda.py cu13"],
     ["tensorrt-cu13.txt", "build_pycuda.py cu13"]),
    ("cu13 -", "tensorrt-cu13.txt", ["tensorrt-cu13.txt"], ["tensorrt-cu13.txt", "build_pycuda.py cu13"]),
    ("cu12 rtx", "tensorrt-cu12.txt", ["tensorrt-cu12.txt", "tensorrt-rtx-cu12.txt", "build_pycuda.py cu12"],
     ["tensorrt-rtx-cu12.txt"]),
    ("cu13 jetpack", "", ["63", "build_pycuda.py cu13"], ["63"]),  # all but TensorRT, by a pipe
])
def test_setup_for_a_gpu(run: Run, calls: Calls, gpu: str, fails: str, installed: list[str], again: list[str]) -> None:
    first = run("setup.sh", "--gpu", GPU=gpu, FAIL=fails)
    assert first.stdout.splitlines()[0] == "setup.sh: Made-up GPU: the reason"
    assert names(calls()) == KIT + installed
    messages = {"build_pycuda.py": "pycuda could not be built; fix that and re-run",
                "tensorrt-cu13.txt": "TensorRT could not be installed; its libraries come from pypi.nvidia.com"}
    assert (first.returncode, messages.get(fails, "") in first.stderr) == (int(fails in messages), True)
    assert ("TensorRT-RTX instead (to try TensorRT again, remove " in first.stdout) == (gpu == "cu12 rtx")
    assert run("setup.sh", "--gpu", GPU=gpu).returncode == 0
    assert names(calls()) == KIT + again


def test_setup_for_another_driver(run: Run, calls: Calls) -> None:
    run("setup.sh", "--gpu")
    calls()
    assert run("setup.sh", "--gpu", GPU="cu12 rtx").returncode == 0
    made = calls()
    assert names(made)[2:] == ["tensorrt-cu12.txt", "build_pycuda.py cu12"]
    (removed,) = [call for call in made if "pip uninstall" in call]
    assert " tensorrt-cu13 tensorrt-cu13-libs tensorrt-cu13-bindings tensorrt-rtx-cu13 " in removed


def test_setup_without_a_gpu(run: Run, calls: Calls) -> None:
    assert run("setup.sh", "--gpu", FAIL="gpu_packages.py", CODE="2").returncode == 2
    assert names(calls()) == []


def test_setup_without_a_python(run: Run, venv: Path) -> None:
    """uv finds none, and can't fetch one."""
    (venv / "bin/python").unlink()
    result = run("setup.sh", FAIL="uv venv")
    assert result.returncode == 1
    *lines, message = result.stderr.splitlines()
    assert lines == ["  its own last line"]
    assert message.startswith("setup.sh: no Python 3.11 or later could be found or fetched; install one, or set PYTHON")
    assert f"(all output: {venv}/setup.log)" in message


def test_setup_without_uv_and_without_pip(run: Run, venv: Path, tmp_path: Path, calls: Calls) -> None:
    (venv / "bin/python").rename(tmp_path / "python")
    (venv / "bin/uv").unlink()
    for name in ("basename", "dirname", "realpath", "sed", "bash", "grep", "mktemp", "rm", "mkdir", "date", "du", "cut",
                 "tail", "sort", "cat", "tee", "sleep"):
        (tmp_path / name).symlink_to(shutil.which(name))  # and no uv
    result = run("setup.sh", PYTHON=str(tmp_path / "python"), PATH=str(tmp_path), FAIL="-I -m")
    assert result.returncode == 1
    assert "apt-get install python3-venv" in result.stderr.splitlines()[-1]
    assert [call.split()[2] for call in calls() if call.startswith("-I -m")] == ["pip", "venv"]


def test_setup_where_the_index_of_pytorch_does_not_answer(run: Run, calls: Calls) -> None:
    result = run("setup.sh", FAIL="--default-index")
    assert result.returncode == 0
    assert "taking the default wheel of PyTorch instead; on Linux it may bring CUDA's libraries" in result.stdout
    torch = [call for call in calls() if "pip install" in call][1]
    assert torch.endswith(TORCH) and "--no-deps" not in torch  # CUDA's libraries


def test_setup_leaves_another_pytorch_alone(run: Run, venv: Path, calls: Calls) -> None:
    """Also when it runs again, as quickstart.sh does."""
    command = "python -m pip install torch --index-url http://a/rocm && echo $VIRTUAL_ENV"
    assert run("setup.sh", "--torch", command).returncode == 0
    first = calls()
    installed = [call for call in first if "pip install" in call]
    assert [str(TORCH) in call for call in installed] == [False, False] and len(installed) == 2
    assert installed[1] == "-m pip install torch --index-url http://a/rocm"  # last: nothing replaces it
    assert f"\n{venv}\n" in (venv / "setup.log").read_text()
    kept = (venv / "requirements.txt").read_text().splitlines()
    assert {*(ROOT / "requirements.txt").read_text().splitlines()} - {*kept} == {TORCH}
    for options in ((), ("--torch", "none")):
        assert run("setup.sh", *options).returncode == 0
        made = calls()
        assert names(made) == ["mmpose.txt"] and "-I -c import torch; print(torch.__version__)" in made


@pytest.mark.parametrize(("command", "fails", "message"), [
    ("none", "import torch", "--torch none: PyTorch can't be imported from "),
    ("false", "", "--torch: the command failed; correct it (all output: ")])
def test_setup_without_the_pytorch_that_it_shall_take(run: Run, command: str, fails: str, message: str) -> None:
    result = run("setup.sh", "--torch", command, FAIL=fails)
    assert result.returncode == 1 and message in result.stderr.splitlines()[-1]


def test_setup_takes_the_packages_of_python_for_its_pytorch(run: Run, venv: Path, calls: Calls) -> None:
    (venv / "bin/python").unlink()
    run("setup.sh", "--torch", "none", FAIL="uv venv")
    assert "--system-site-packages" in next(call for call in calls() if call.startswith("uv venv"))


def test_setup_retries_after_a_failure(run: Run, calls: Calls) -> None:
    result = run("setup.sh", FAIL="mmpose.txt")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == "  its own last line"
    assert "setup.sh: requirements.txt could not be installed; fix that and re-run" in result.stderr.splitlines()[1]
    calls()
    assert run("setup.sh").returncode == 0
    assert names(calls()) == KIT


def test_setup_with_venv_elsewhere_writes_nothing_into_the_clone(clean: dict[str, str], tmp_path: Path, venv: Path
                                                                 ) -> None:
    clone = tmp_path / "clone"
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.txt", clone)
    before = {path: path.stat().st_mtime_ns for path in clone.rglob("*")}
    subprocess.run(["bash", clone / "scripts/setup.sh"], env=clean, capture_output=True, check=True)
    assert {path: path.stat().st_mtime_ns for path in clone.rglob("*")} == before
    assert (venv / "rtmpose-kit.pth").read_text() == f"{clone}\n"


# test.sh and lock.sh


CHECKS = ["-m ruff check .", "-m mypy", "lint-imports ", "-m codespell_lib"]
PYTEST = "-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder"


@pytest.mark.parametrize(("script", "arguments", "pytest"), [
    ("test.sh", "-k crop", f"{PYTEST} -m not slow -k crop"), ("test.sh", "--all -k crop", f"{PYTEST} -k crop"),
    ("../.ci/run", "", PYTEST)])
def test_test_runs_every_check(run: Run, calls: Calls, script: str, arguments: str, pytest: str) -> None:
    assert run(script, *arguments.split()).returncode == 0
    made = calls()
    assert made[-5:] == [*CHECKS, pytest]
    assert names(made) == [*KIT, "compare.txt"]


@pytest.mark.parametrize(("options", "fails", "code", "message"), [
    *(("", check, 3, "its own last line") for check in CHECKS), ("", "-m pytest", 1, "its own last line"),
    ("", "-m pytest", 5, "pytest selected no test"), ("", "xtcocotools", 0, "xtcocotools: could not be built"),
    ("--all", "xtcocotools", 1, "xtcocotools: could not be built")])
def test_test_fails_where_a_step_does(run: Run, calls: Calls, options: str, fails: str, code: int, message: str
                                      ) -> None:
    """Only with --all if xtcocotools can't be built."""
    result = run("test.sh", *options.split(), FAIL=fails, CODE=str(code or 1))
    assert result.returncode == (1 if code == 5 else code) and message in result.stdout + result.stderr
    last = calls()[-1]
    assert fails in last if fails in (*CHECKS, "-m pytest") else ("-m pytest" in last) == (not options)


def test_lock_without_uv(run: Run, venv: Path) -> None:
    (venv / "bin/uv").unlink()
    result = run("lock.sh", PATH="/usr/bin:/bin")
    assert result.returncode == 2 and "uv is not installed; run scripts/setup.sh" in result.stderr


@pytest.mark.slow
def test_compiled_requirements_are_those_of_pyproject() -> None:
    """Compiles them again, with the package index; shows what differs."""
    done = subprocess.run(["bash", str(SCRIPTS / "lock.sh"), "--check"], capture_output=True, text=True, check=False,
                          env=os.environ | {"VENV": sys.prefix})
    if done.returncode == 2:
        pytest.skip(f"no package index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout


# quickstart.sh


def test_quickstart(run: Run, calls: Calls) -> None:
    result = run("quickstart.sh", "out")
    assert result.returncode == 0
    assert [call.split()[0] for call in calls()[-6:]] == [
        "demo/make_dataset.py", "export.py", "build_engine.py", "inference.py", "inference.py", "scripts/compare.py"]
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("quickstart.sh: ")] == [
        f"{step}/6" for step in range(1, 7)]
    assert "out/accuracy/pictures/overview.jpg" in result.stdout


def test_quickstart_says_why_a_step_failed(run: Run, work: Path) -> None:
    result = run("quickstart.sh", FAIL="export.py", CODE="2")
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == "  its own last line"
    assert result.stderr.splitlines()[1].startswith("quickstart.sh: 3/6 Export the demo's RTMPose-t")
    assert "its own last line" in (work / "quickstart/quickstart.log").read_text()


# Modules of the current folder, and signals


def test_python_ignores_the_current_folder(run: Run, tmp_path: Path) -> None:
    """Without a script, and outside the repository, it takes modules of the current folder unless it has -I."""
    for script in ("setup.sh", "quickstart.sh"):
        assert run(script).returncode == 0
    made = (tmp_path / "calls").read_text().splitlines()
    assert not [call for call in made if not call.startswith(("-I ", f"{ROOT}/", "uv "))]


STEPS = [(ACCURACY, "build_engine.py"), (ACCURACY, "inference.py"), (PERFORMANCE, "build_engine.py"),
         ("benchmark.sh", "sweep.py"), ("setup.sh", "mmpose.txt"), ("quickstart.sh", "mmpose.txt"),
         ("quickstart.sh", "export.py"), ("test.sh", "pytest"), ("check_gpu.sh", "check_gpu.py")]


@pytest.mark.parametrize(("script", "step", "number"), [
    *((*step, signal.SIGTERM) for step in STEPS), (*STEPS[0], signal.SIGINT), (*STEPS[0], signal.SIGHUP)])
def test_signal_ends_the_children_and_the_script(clean: dict[str, str], venv: Path, work: Path, calls: Calls,
                                                 script: str, step: str, number: int) -> None:
    with subprocess.Popen(["bash", SCRIPTS / script], cwd=work, env=clean | {"WAIT": step, "DATASETS_DIR": "coco"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not (venv / "waits").exists() or not (venv / "waits").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate(timeout=2)
    assert process.returncode in (128 + number, -number), output  # by the script, or by the system if it was exec'd
    stat = Path("/proc", (venv / "waits").read_text().strip(), "stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"  # nobody has asked for its exit code
    assert step in calls()[-1]
    assert "Traceback" not in output and "erminated" not in output
