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

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
ACCURACY, PERFORMANCE = "infer_rtmpose_fp16_accuracy.sh", "infer_rtmpose_fp16_performance.sh"

Run = Callable[..., subprocess.CompletedProcess[str]]


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
  *gpu_packages.py) cat "$VENV/gpu" ;;
  *--hint) cat "$VENV/hint" ;;
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
    (folder / "hint").touch()
    (folder / "gpu").write_text("cu13 -\nMade-up GPU: installing TensorRT for CUDA 13\n")
    return folder


@pytest.fixture
def clean(tmp_path: Path, venv: Path) -> dict[str, str]:
    """Environment variables of a script."""
    variables = {name: value for name, value in os.environ.items() if name not in ("DATASETS_DIR", "MODEL", "PYTHON")}
    return variables | {"VENV": str(venv), "CALLS": str(tmp_path / "calls")}


@pytest.fixture
def run(tmp_path: Path, clean: dict[str, str]) -> Run:
    """Run a script in an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()

    def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", str(SCRIPTS / script), *arguments], cwd=folder, text=True, timeout=60,
                              capture_output=True, stdin=subprocess.DEVNULL, env=clean | environment)

    return run


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[str]]:
    """Commands that the stand-in recorded since the last call."""
    def calls() -> list[str]:
        path = tmp_path / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    return calls


@pytest.fixture
def work(tmp_path: Path, run: Run) -> Path:
    """The folder in which the scripts run, with a model and a data set."""
    (tmp_path / "work/rtmpose_opt.onnx").touch()
    (tmp_path / "work/coco").mkdir()
    return tmp_path / "work"


def refusal(result: subprocess.CompletedProcess[str], code: int = 2) -> str:
    assert result.returncode == code, result
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("script", [*sorted(SCRIPTS.glob("*.sh")), ROOT / ".ci/run"],
                         ids=lambda path: path.name)
def test_is_bash(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", ["setup.sh", "download.sh", "benchmark.sh", "quickstart.sh", "test.sh",
                                    "check_gpu.sh", "compare.sh", "lock.sh", "test_pythons.sh", ACCURACY, PERFORMANCE])
def test_help(run, calls, script):
    result = run(script, "--help")
    assert result.returncode == 0
    assert f"bash scripts/{script}" in result.stdout
    assert calls() == []


@pytest.mark.parametrize("script", [ACCURACY, PERFORMANCE])
def test_missing_model(run, calls, script):
    message = refusal(run(script))
    assert "rtmpose_opt.onnx: no such file" in message and "export.py" in message
    assert "other.onnx" in refusal(run(script, MODEL="other.onnx"))
    assert "third.onnx" in refusal(run(script, "--model", "third.onnx", MODEL="other.onnx"))
    assert calls() == []


def test_missing_dataset(run, work, calls):
    assert "DATASETS_DIR is not set" in refusal(run(ACCURACY))
    assert "nowhere: no such folder" in refusal(run(ACCURACY, DATASETS_DIR="nowhere"))
    assert "nowhere: no such folder" in refusal(run(ACCURACY, "--datasets", "nowhere", DATASETS_DIR="coco"))
    assert calls() == []


@pytest.mark.parametrize(("arguments", "message"), [
    (["--bs"], "--bs: expected an option with a value"),
    (["--bs", "0"], "batch size '0': expected a whole number"),
    (["--bs", "many"], "batch size 'many': expected a whole number"),
    (["--frobnicate", "1"], "--frobnicate: no such option"),
    (["--input", "input"], "batch size 'input': expected a whole number"),
    (["--input", "input:N,3,256,192"], "batch size 'N': expected a whole number"),
])
@pytest.mark.parametrize("script", [ACCURACY, PERFORMANCE])
def test_wrong_options(run, work, calls, script, arguments, message):
    assert message in refusal(run(script, *arguments, DATASETS_DIR="coco"))
    assert calls() == []


def test_accuracy(run, work, calls):
    assert run(ACCURACY, DATASETS_DIR="coco").returncode == 0
    assert calls() == [
        f"{ROOT}/build_engine.py --model_path rtmpose_opt.onnx --batch 32 --precision fp16"
        " --engine_path rtmpose_bs_32_fp16.engine",
        f"{ROOT}/inference.py --engine rtmpose_bs_32_fp16.engine --batchsize 32"
        " --datasets coco"]


def test_performance(run, work, calls):
    assert run(PERFORMANCE, "--bs", "8").returncode == 0
    assert calls() == [
        f"{ROOT}/build_engine.py --model_path rtmpose_opt.onnx --batch 8 --precision fp16"
        " --engine_path rtmpose_bs_8_fp16.engine",
        f"{ROOT}/inference.py --engine rtmpose_bs_8_fp16.engine --batchsize 8"
        " --perf_only True"]


def test_options_reach_the_kit(run, work, calls):
    run(ACCURACY, "--datasets", "coco", "--engine", "e", "--input", "x:4,3,384,288", "--acc_target", "0.773",
        "--", "--limit", "2")
    build, infer = calls()
    assert build.endswith("--input x:4,3,384,288 --precision fp16 --engine_path e")
    assert infer.endswith(
        "--engine e --batchsize 4 --input_name x --datasets coco --acc_target 0.773 --limit 2")
    run(PERFORMANCE, "--fps_target", "9", DATASETS_DIR="coco")
    assert calls()[1].endswith("--datasets coco --perf_only True --fps_target 9")


@pytest.mark.parametrize("stage", ["build_engine.py", "inference.py"])
def test_exit_code_is_that_of_the_kit(run, work, calls, stage):
    assert run(ACCURACY, "--datasets", "coco", FAIL=stage, CODE="3").returncode == 3
    assert calls()[-1].startswith(f"{ROOT}/{stage}")


def test_benchmark(run, work, calls):
    assert run("benchmark.sh", DATASETS_DIR="coco").returncode == 0
    run("benchmark.sh", "--datasets", "coco", "--calibration", "other", "--batches", "4", "--backend", "tensorrt",
        "--devices", "8", "--output", "out", "--", "--limit", "2")
    run("benchmark.sh", "--datasets", "coco", "--precisions", "int8", "--calibration", "other", "--repeats", "5",
        FAIL="sweep.py", CODE="1")
    sweep = f"{ROOT}/scripts/sweep.py --model rtmpose_opt.onnx --datasets coco"
    assert calls() == [
        f"{sweep} --precisions fp32 fp16 --batches 1 8 32 --backend auto --devices 1 --output benchmark",
        f"{sweep} --calibration other --precisions fp32 fp16 int8 --batches 4 --backend tensorrt --devices 8 "
        "--output out -- --limit 2",
        f"{sweep} --calibration other --precisions int8 --batches 1 8 32 --backend auto --repeats 5 --devices 1 "
        "--output benchmark"]


def test_benchmark_refuses(run, work, calls):
    assert "DATASETS_DIR is not set" in refusal(run("benchmark.sh"))
    assert "nowhere: no such folder" in refusal(run("benchmark.sh", "--datasets", "nowhere"))
    assert "other.onnx: no such file" in refusal(run("benchmark.sh", "--model", "other.onnx", "--datasets", "coco"))
    assert "--frobnicate: no such option" in refusal(run("benchmark.sh", "--frobnicate", "1"))
    assert calls() == []


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python3.11"])
def test_setup_with_another_python_that_does_not_run(run, python):
    message = refusal(run("setup.sh", PYTHON=python))
    assert message.startswith(f"setup.sh: {python}: is no Python 3.11 or later; install one, or set PYTHON: PYTHON=")


def test_setup_without_a_python(run, venv):
    """uv finds none, and can't fetch one."""
    (venv / "bin/python").unlink()
    result = run("setup.sh", FAIL="uv venv")
    assert result.returncode == 1
    *lines, message = result.stderr.splitlines()
    assert lines == ["  its own last line"]
    assert message.startswith("setup.sh: no Python 3.11 or later could be found or fetched; install one, or set PYTHON")
    assert f"(all output: {venv}/setup.log)" in message


def test_setup_without_uv_and_without_pip(run, venv, tmp_path, calls):
    (venv / "bin/python").rename(tmp_path / "python")
    (venv / "bin/uv").unlink()
    for name in ("basename", "dirname", "realpath", "sed", "bash", "grep", "mktemp", "rm", "mkdir", "date", "du", "cut",
                 "tail", "sort", "cat", "tee", "sleep"):
        (tmp_path / name).symlink_to(shutil.which(name))  # and no uv
    result = run("setup.sh", PYTHON=str(tmp_path / "python"), PATH=str(tmp_path), FAIL="-I -m")
    assert result.returncode == 1
    assert "apt-get install python3-venv" in result.stderr.splitlines()[-1]
    assert [call.split()[2] for call in calls() if call.startswith("-I -m")] == ["pip", "venv"]


def test_setup_refuses_an_environment_of_another_python(run, venv, calls):
    assert f"{venv}: has Python 3.11.0, expected 3.11 or later" in refusal(run("setup.sh", FAIL="version_info"))


@pytest.mark.parametrize(("version", "is_newer"), [("3.14.10", False), ("3.15.0", True), ("4.0.1", True)])
def test_setup_tries_a_newer_python(run, version, is_newer):
    result = run("setup.sh", VERSION=version)
    assert result.returncode == 0
    assert (f"Python {version} is newer than 3.14, the newest that the tests ran with" in result.stdout) == is_newer


def names(calls: list[str]) -> list[str]:
    """Names of what was installed; of the script and its argument where pycuda was built."""
    words = [call.split() for call in calls if "pip install" in call or "build_pycuda" in call]
    return [" ".join(Path(word).name for word in (call if len(call) == 2 else call[-1:])) for call in words]


TORCH = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch=="))


def test_setup_installs(run, venv, calls):
    first = run("setup.sh")
    assert first.returncode == 0
    assert "download.sh" in first.stdout and "bin/activate" in first.stdout
    assert "Installed 1 package" not in first.stdout and "Installed 1 package" in (venv / "setup.log").read_text()
    assert (venv / "rtmpose-kit.pth").read_text() == f"{ROOT}\n"
    torch, packages = [call for call in calls() if "pip install" in call]
    assert torch.endswith(f" --no-deps --default-index https://download.pytorch.org/whl/cpu {TORCH}")
    assert packages.endswith(f" -r {ROOT}/requirements.txt -r {ROOT}/requirements/mmpose.txt")
    assert "--no-deps" in packages and "index" not in packages


@pytest.mark.parametrize("word", ["Audited", "Checked"])
def test_setup_says_what_is_there_already(run, word):
    """As uv says it, before 0.9 and since."""
    assert run("setup.sh", UV_SAYS=f"{word} 47 packages in 8ms").stdout.count(": already installed") == 2


def test_setup_shows_everything(run):
    assert run("setup.sh", "-v").stdout.count("Installed 1 package") == 2


def test_setup_where_the_index_of_pytorch_does_not_answer(run, calls):
    result = run("setup.sh", FAIL="--default-index")
    assert result.returncode == 0
    assert "taking the default wheel of PyTorch instead; on Linux it may bring CUDA's libraries" in result.stdout
    torch = [call for call in calls() if "pip install" in call][1]
    assert torch.endswith(TORCH) and "--no-deps" not in torch  # CUDA's libraries


@pytest.mark.parametrize(("given", "expected"), [
    ({}, ""), ({"PIP_INDEX_URL": "http://a", "PIP_FIND_LINKS": "/b", "PIP_CERT": "/c"}, "http://a /b /c"),
    ({"PIP_INDEX_URL": "http://a", "UV_DEFAULT_INDEX": "http://d"}, "http://d")])
def test_settings_of_pip_hold_for_uv(run, venv, given, expected):
    unset = {name: "" for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "SSL_CERT_FILE", "UV_DEFAULT_INDEX")}
    (venv / "bin/uv").write_text("#!/bin/bash\necho uv 0.13.9 $UV_DEFAULT_INDEX $UV_FIND_LINKS $SSL_CERT_FILE\n")
    run("setup.sh", **unset | given)
    assert (venv / "setup.log").read_text().splitlines()[-1] == f"uv 0.13.9 {expected}".strip()


def test_setup_for_a_gpu(run, venv, calls):
    def installed() -> list[str]:
        return names(calls())

    result = run("setup.sh", "--gpu")
    assert result.returncode == 0
    assert result.stdout.splitlines()[0] == "setup.sh: Made-up GPU: installing TensorRT for CUDA 13"
    kit = [TORCH, "mmpose.txt"]
    assert installed() == [*kit, "tensorrt-cu13.txt", "build_pycuda.py cu13"]
    assert run("setup.sh", "--gpu").returncode == 0
    assert installed() == [*kit, "tensorrt-cu13.txt"]  # pycuda is there; uv knows of the others


@pytest.mark.parametrize("venv", ["/proc/kit", "/dev/null/kit"])
def test_setup_where_the_environment_cannot_be_written(run, venv):
    """As in a read-only clone."""
    message = refusal(run("setup.sh", VENV=venv, PYTHON=sys.executable))
    assert message.startswith(f"setup.sh: {venv}: can't be written; set VENV to")


def test_setup_of_a_read_only_clone(clean, tmp_path, venv):
    """With VENV elsewhere: nothing is written into the clone."""
    clone = tmp_path / "clone"
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, clone / name)
    shutil.copy(ROOT / "requirements.txt", clone)
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces")
    mounts = f"mount --bind {clone} {clone} && mount -o remount,bind,ro {clone} && exec bash {clone}/scripts/setup.sh"
    result = subprocess.run([*unshare, "bash", "-c", mounts], env=clean, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (venv / "rtmpose-kit.pth").read_text() == f"{clone}\n"


def test_setup_for_another_driver(run, venv, calls):
    run("setup.sh", "--gpu")
    calls()
    (venv / "gpu").write_text("cu12 rtx\nthe reason\n")
    assert run("setup.sh", "--gpu").returncode == 0
    made = calls()
    assert names(made)[2:] == ["tensorrt-cu12.txt", "build_pycuda.py cu12"]
    (removed,) = [call for call in made if "pip uninstall" in call]
    assert " tensorrt-cu13 tensorrt-cu13-libs tensorrt-cu13-bindings tensorrt-rtx-cu13 " in removed


def test_setup_takes_tensorrt_rtx_where_tensorrt_cannot_be_installed(run, venv, calls):
    (venv / "gpu").write_text("cu12 rtx\nthe reason\n")
    result = run("setup.sh", "--gpu", FAIL="tensorrt-cu12.txt")
    assert result.returncode == 0
    assert f"TensorRT-RTX instead (to try TensorRT again, remove {venv}/.tensorrt-rtx)" in result.stdout
    assert names(calls())[2:] == ["tensorrt-cu12.txt", "tensorrt-rtx-cu12.txt", "build_pycuda.py cu12"]
    assert run("setup.sh", "--gpu").returncode == 0
    assert names(calls())[2:] == ["tensorrt-rtx-cu12.txt"]


def test_setup_without_tensorrt_for_this_gpu(run, calls):
    result = run("setup.sh", "--gpu", FAIL="tensorrt-cu13.txt")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == "  its own last line"
    assert "TensorRT could not be installed; its libraries come from pypi.nvidia.com" in result.stderr
    assert not any("rtx" in call or "build_pycuda" in call for call in calls() if "install" in call.split()[:3])


def test_setup_on_a_jetson(run, venv, calls):
    (venv / "gpu").write_text("cu13 jetpack\nthe reason\n")
    assert run("setup.sh", "--gpu").returncode == 0
    assert not any("tensorrt" in name for name in names(calls()))


def test_setup_without_a_gpu(run, calls):
    assert run("setup.sh", "--gpu", FAIL="gpu_packages.py", CODE="2").returncode == 2
    assert names(calls()) == []


def test_setup_where_pycuda_cannot_be_built(run, calls):
    result = run("setup.sh", "--gpu", FAIL="build_pycuda.py")
    assert result.returncode == 1
    assert "pycuda could not be built" in result.stderr.splitlines()[-1]
    calls()
    assert run("setup.sh", "--gpu").returncode == 0
    assert names(calls())[-1] == "build_pycuda.py cu13"


@pytest.mark.parametrize("script", ["setup.sh", "quickstart.sh"])
def test_setup_says_how_to_set_up_for_a_gpu(run, venv, script):
    (venv / "hint").write_text("Made-up GPU found; to run on it: bash scripts/setup.sh --gpu\n")
    assert "setup.sh: Made-up GPU found; to run on it: bash scripts/setup.sh --gpu" in run(script).stdout.splitlines()


def test_check_gpu(run, calls):
    assert run("check_gpu.sh", "--output", "checked.json").returncode == 0
    assert run("check_gpu.sh", FAIL="check_gpu.py", CODE="2").returncode == 2
    assert calls() == [f"{ROOT}/scripts/check_gpu.py --output checked.json", f"{ROOT}/scripts/check_gpu.py"]


def test_setup_replaces_the_kit_of_another_checkout(run, venv):
    (venv / "rtmpose-kit.pth").write_text("/elsewhere\n")
    run("setup.sh")
    assert (venv / "rtmpose-kit.pth").read_text() == f"{ROOT}\n"


def test_setup_retries_after_a_failure(run, calls):
    result = run("setup.sh", FAIL="mmpose.txt")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == "  its own last line"
    assert "setup.sh: requirements.txt could not be installed; fix that and re-run" in result.stderr.splitlines()[1]
    calls()
    assert run("setup.sh").returncode == 0
    assert [call for call in calls() if "mmpose.txt" in call]


def test_setup_with_an_unknown_option(run, calls):
    assert "--cuda" in refusal(run("setup.sh", "--cuda"))
    assert calls() == []


CHECKS = ["-m ruff check .", "-m mypy", "lint-imports ", "-m codespell_lib"]


def test_test_runs_every_check(run, calls):
    assert run("test.sh", "-k", "crop").returncode == 0
    made = calls()
    assert made[-5:] == [*CHECKS, "-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m not slow -k crop"]
    assert names(made) == [TORCH, "mmpose.txt", "compare.txt"]


def test_test_all(run, calls):
    assert run("test.sh", "--all", "-k", "crop").returncode == 0
    assert calls()[-5:] == [*CHECKS, "-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -k crop"]


@pytest.mark.parametrize("check", CHECKS)
def test_test_fails_if_a_check_fails(run, calls, check):
    assert run("test.sh", FAIL=check, CODE="3").returncode == 3
    assert calls()[-1] == check


@pytest.mark.parametrize("code", ["1", "5"])
def test_test_fails_if_pytest_fails(run, code):
    result = run("test.sh", FAIL="-m pytest", CODE=code)
    assert result.returncode == 1
    assert ("selected no test" in result.stderr) == (code == "5")


def test_test_continues_without_xtcocotools(run, calls):
    result = run("test.sh", FAIL="xtcocotools")
    assert result.returncode == 0
    assert "xtcocotools: could not be built" in result.stdout
    assert calls()[-1] == "-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m not slow"


def test_test_all_needs_xtcocotools(run, calls):
    assert "xtcocotools: could not be built" in refusal(run("test.sh", "--all", FAIL="xtcocotools"), code=1)
    assert not any("-m pytest" in call for call in calls())


def test_ci_runs_all_tests(run, calls):
    assert run("../.ci/run").returncode == 0
    assert calls()[-1] == "-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder"


def test_lock_without_uv(run, venv):
    (venv / "bin/uv").unlink()
    assert "uv is not installed; run scripts/setup.sh" in refusal(run("lock.sh", PATH="/usr/bin:/bin"))


@pytest.mark.slow
def test_compiled_requirements_are_those_of_pyproject():
    """Compiles them again, with the package index; shows what differs."""
    done = subprocess.run(["bash", str(SCRIPTS / "lock.sh"), "--check"], capture_output=True, text=True, check=False,
                          env=os.environ | {"VENV": sys.prefix})
    if done.returncode == 2:
        pytest.skip(f"no package index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout


def test_quickstart(run, calls):
    result = run("quickstart.sh", "out")
    assert result.returncode == 0
    scripts = ["demo/make_dataset.py", "export.py", "build_engine.py", "inference.py", "inference.py", "table.py"]
    assert [call.split()[0] for call in calls()[-6:]] == [f"{ROOT}/{script}" for script in scripts]
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("quickstart.sh: ")] == [
        f"{step}/6" for step in range(1, 7)]
    assert "out/accuracy/pictures/overview.jpg" in result.stdout


def test_quickstart_says_why_a_step_failed(run, work):
    result = run("quickstart.sh", FAIL="export.py", CODE="2")
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == "  its own last line"
    assert result.stderr.splitlines()[1].startswith("quickstart.sh: 3/6 Export the demo's RTMPose-t")
    assert "its own last line" in (work / "quickstart/quickstart.log").read_text()


def test_python_ignores_the_current_folder(run, work, calls):
    """Without a script, and outside the repository, it takes modules of the current folder unless it has -I."""
    for script in ("setup.sh", "quickstart.sh"):
        run(script)
    made = calls()
    assert made and not [call for call in made if not call.startswith(("-I ", str(ROOT), "uv "))]


@pytest.mark.slow
def test_modules_in_the_current_folder_do_not_run(run, tmp_path):
    """With a real Python, and a package index that does not answer."""
    for name in ("json", "zipfile", "pip", "venv", "ensurepip", "sysconfig", "common", "rtmpose"):
        (tmp_path / "work" / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').write({name!r})")
    result = run("setup.sh", VENV=str(tmp_path / "new"), PYTHON=sys.executable, UV_OFFLINE="1", PIP_FIND_LINKS="",
                 UV_CACHE_DIR=str(tmp_path / "cache"), TORCH_INDEX="http://127.0.0.1:9")
    assert result.returncode == 1
    assert f"setup.sh: {TORCH} could not be installed" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "executed").exists()


def test_control_characters_are_escaped(run, work):
    assert refusal(run(ACCURACY, "--datasets", "a\n\x1b[2Jb")).startswith(rf"{ACCURACY}: $'a\n\E[2Jb")


def test_dataset_that_is_a_file(run, work):
    (work / "file").touch()
    for script in (ACCURACY, "benchmark.sh"):
        assert "file: is a file, expected COCO's folder" in refusal(run(script, "--datasets", "file"))


STEPS = [(ACCURACY, "build_engine.py"), (ACCURACY, "inference.py"), (PERFORMANCE, "build_engine.py"),
         ("benchmark.sh", "sweep.py"), ("setup.sh", "mmpose.txt"), ("quickstart.sh", "mmpose.txt"),
         ("quickstart.sh", "export.py"), ("test.sh", "pytest"), ("check_gpu.sh", "check_gpu.py")]


@pytest.mark.parametrize(("script", "step", "number"), [
    *((*step, signal.SIGTERM) for step in STEPS), (*STEPS[0], signal.SIGINT), (*STEPS[0], signal.SIGHUP)])
def test_signal_ends_the_children_and_the_script(clean, venv, work, calls, script, step, number):
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


def test_exit_code_of_a_script_that_a_signal_ends(run, work):
    """The last command replaces the script, which ends as it does."""
    assert run("check_gpu.sh", FAIL="check_gpu.py", CODE="139").returncode == 139
