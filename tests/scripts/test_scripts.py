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
if [ "$command" = --version ]; then echo Python 3.11.0; exit; fi
echo "$command" >>"$CALLS"
if [[ -n ${FAIL:-} && $command = *$FAIL* ]]; then exit "${CODE:-1}"; fi
if [[ -n ${WAIT:-} && $command = *$WAIT* ]]; then echo $$ >"$VENV/waits"; sleep 60; echo "went on" >>"$CALLS"; fi
if [[ $command = *gpu_packages.py ]]; then cat "$VENV/gpu"; fi
if [[ $command = *--hint && -f $VENV/hint ]]; then cat "$VENV/hint"; fi
if [[ $command = *"import common, rtmpose"* ]]; then cat "$VENV/kit"; fi
if [[ $command = *sysconfig* ]]; then echo "${SITE:-}"; fi
if [[ $command = *"pip install"*"--editable"* ]]; then echo "${*: -1}/common.py ${*: -1}/rtmpose True" >"$VENV/kit"; fi
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose commands record their arguments in ``calls``, and fail if $FAIL is among them."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    for name in ("python", "lint-imports"):
        (folder / "bin" / name).write_text(STAND_IN)
        (folder / "bin" / name).chmod(0o755)
    (folder / "kit").touch()
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
                                    "check_gpu.sh", "compare.sh", ACCURACY, PERFORMANCE])
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
    sweep = f"{ROOT}/sweep.py --model rtmpose_opt.onnx --datasets coco"
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


def test_setup_without_a_python(run, venv):
    (venv / "bin/python").unlink()
    message = refusal(run("setup.sh", PYTHON="/bin/false"))
    assert "no Python 3.10, 3.11 or 3.12 found (tried /bin/false)" in message and "PYTHON=" in message


def test_setup_without_the_venv_module(run, venv, tmp_path, calls):
    (venv / "bin/python").rename(tmp_path / "python")
    message = refusal(run("setup.sh", PYTHON=str(tmp_path / "python"), FAIL="ensurepip"))
    assert "python3-venv" in message


def test_setup_refuses_an_environment_of_another_python(run, venv, calls):
    assert f"{venv}: has Python 3.11.0" in refusal(run("setup.sh", FAIL="version_info"))


def names(calls: list[str]) -> list[str]:
    """Names of what was installed; of the script and its argument where pycuda was built."""
    words = [call.split() for call in calls if "pip install" in call or "build_pycuda" in call]
    return [" ".join(Path(word).name for word in (call if len(call) == 2 else call[-1:])) for call in words]


def test_setup_installs_once(run, calls):
    def installed() -> list[str]:
        return names(calls())

    first = run("setup.sh")
    assert first.returncode == 0
    assert "download.sh" in first.stdout and "bin/activate" in first.stdout
    assert installed() == ["torch==2.13.0", "requirements.txt", "requirements-mmpose.txt", ROOT.name]
    assert run("setup.sh").returncode == 0
    assert installed() == []
    assert run("setup.sh", "--gpu").returncode == 0
    assert installed() == ["requirements-gpu-cu13.txt", "build_pycuda.py cu13"]
    assert run("setup.sh", "--gpu").returncode == 0
    assert installed() == []


def test_setup_takes_pytorch_from_its_own_index(run, calls):
    assert "no CPU wheel" not in run("setup.sh").stdout
    torch, requirements, *_ = [call for call in calls() if "pip install" in call]
    assert " --no-deps --index-url https://download.pytorch.org/whl/cpu torch==" in torch
    assert "--index-url" not in requirements


def test_setup_where_that_index_does_not_answer(run, calls):
    result = run("setup.sh", FAIL="--index-url")
    assert result.returncode == 0
    assert "setup.sh: no CPU wheel of PyTorch from https://download.pytorch.org" in result.stdout
    assert names(calls())[1:] == ["requirements.txt", "requirements-mmpose.txt", ROOT.name]


def test_setup_for_a_gpu_takes_the_default_pytorch(run, calls):
    assert run("setup.sh", "--gpu").returncode == 0
    assert not any("--index-url" in call for call in calls())


@pytest.mark.parametrize("venv", ["/proc/kit", "/dev/null/kit"])
def test_setup_where_the_environment_cannot_be_written(run, venv):
    """As in a read-only clone."""
    message = refusal(run("setup.sh", VENV=venv, PYTHON=sys.executable))
    assert message.startswith(f"setup.sh: {venv}: can't be written; set VENV to")


def test_setup_of_a_read_only_clone(clean, tmp_path, run, calls):
    """With VENV elsewhere: nothing is written into the clone."""
    clone = tmp_path / "clone"
    shutil.copytree(SCRIPTS, clone / "scripts")
    shutil.copy(ROOT / "requirements.txt", clone)
    shutil.copy(ROOT / "requirements-mmpose.txt", clone)
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces")
    mounts = f"mount --bind {clone} {clone} && mount -o remount,bind,ro {clone} && exec bash {clone}/scripts/setup.sh"
    command = [*unshare, "bash", "-c", mounts]
    (tmp_path / "site").mkdir()
    result = subprocess.run(command, env=clean | {"SITE": str(tmp_path / "site")}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "site/rtmpose-kit.pth").read_text() == f"{clone}\n"
    assert not any("--editable" in call for call in calls())


def test_setup_for_another_driver(run, venv, calls):
    run("setup.sh", "--gpu")
    calls()
    (venv / "gpu").write_text("cu12 rtx\nthe reason\n")
    result = run("setup.sh", "--gpu")
    assert result.returncode == 0
    assert result.stdout.splitlines()[0] == "setup.sh: the reason"
    made = calls()
    assert names(made) == ["requirements-gpu-cu12.txt", "build_pycuda.py cu12"]
    (removed,) = [call for call in made if "pip uninstall" in call]
    assert " tensorrt-cu13 tensorrt-cu13-libs tensorrt-cu13-bindings tensorrt-rtx-cu13 " in removed
    (venv / "gpu").write_text("cu13 -\nthe reason\n")
    run("setup.sh", "--gpu")
    assert "requirements-gpu-cu13.txt" in names(calls())


def test_setup_takes_tensorrt_rtx_where_tensorrt_cannot_be_installed(run, venv, calls):
    (venv / "gpu").write_text("cu12 rtx\nthe reason\n")
    for _ in range(2):
        result = run("setup.sh", "--gpu", FAIL="requirements-gpu-cu12.txt")
        assert result.returncode == 0
        assert "taking TensorRT-RTX instead" in result.stdout
    assert names(calls())[-3:] == ["requirements-gpu-cu12.txt", "requirements-gpu-rtx-cu12.txt", "build_pycuda.py cu12"]
    wanted, given = ({line for line in path.read_text().splitlines() if line and line[0] != "#"}
                     for path in (ROOT / "requirements-gpu-cu12.txt", venv / "requirements-gpu-rtx-cu12.txt"))
    assert (wanted - given, given - wanted) == ({"tensorrt-cu12==10.16.1.11"}, {"tensorrt-rtx-cu12==1.7.1.116"})


def test_setup_without_tensorrt_for_this_gpu(run, calls):
    message = refusal(run("setup.sh", "--gpu", FAIL="requirements-gpu-cu13.txt"), code=1)
    assert "requirements-gpu-cu13.txt: pip could not install it" in message
    assert not any("rtx" in call or "build_pycuda" in call for call in calls())


def test_setup_without_a_gpu(run, calls):
    assert run("setup.sh", "--gpu", FAIL="gpu_packages.py", CODE="2").returncode == 2
    assert names(calls()) == []


def test_setup_where_pycuda_cannot_be_built(run, calls):
    message = refusal(run("setup.sh", "--gpu", FAIL="build_pycuda.py"), code=1)
    assert "pycuda could not be built" in message
    calls()
    assert run("setup.sh", "--gpu").returncode == 0
    assert names(calls()) == ["build_pycuda.py cu13"]


@pytest.mark.parametrize("script", ["setup.sh", "quickstart.sh"])
def test_setup_says_how_to_set_up_for_a_gpu(run, venv, script):
    (venv / "hint").write_text("Made-up GPU found; to run on it: bash scripts/setup.sh --gpu\n")
    assert "setup.sh: Made-up GPU found; to run on it: bash scripts/setup.sh --gpu" in run(script).stdout.splitlines()


def test_check_gpu(run, calls):
    assert run("check_gpu.sh", "--output", "checked.json").returncode == 0
    assert run("check_gpu.sh", FAIL="check_gpu.py", CODE="2").returncode == 2
    assert calls() == [f"{ROOT}/check_gpu.py --output checked.json", f"{ROOT}/check_gpu.py"]


def test_setup_replaces_the_kit_of_another_checkout(run, venv, calls):
    run("setup.sh")
    calls()
    (venv / "kit").write_text("/elsewhere/common.py /elsewhere/rtmpose True\n")
    assert run("setup.sh").returncode == 0
    (install,) = [call for call in calls() if "pip install" in call]
    assert install.endswith(f"--no-deps --no-build-isolation --editable {ROOT}")


def test_setup_retries_after_a_failure(run, calls):
    message = refusal(run("setup.sh", FAIL="requirements-mmpose.txt"), code=1)
    assert "requirements-mmpose.txt: pip could not install it" in message
    calls()
    assert run("setup.sh").returncode == 0
    assert [call for call in calls() if "requirements-mmpose.txt" in call]


def test_setup_with_an_unknown_option(run, calls):
    assert "--cuda" in refusal(run("setup.sh", "--cuda"))
    assert calls() == []


CHECKS = ["-m ruff check .", "-m mypy", "lint-imports ", "-m codespell_lib"]


def test_test_runs_every_check(run, calls):
    assert run("test.sh", "-k", "crop").returncode == 0
    made = calls()
    assert made[-5:] == [*CHECKS, "-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m not slow -k crop"]
    assert [Path(call.split()[-1]).name for call in made if "pip install" in call] == [
        "torch==2.13.0", "requirements.txt", "requirements-mmpose.txt", ROOT.name, "requirements-test.txt",
        "requirements-compare.txt"]


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
    assert not any("pytest" in call for call in calls())


def test_ci_runs_all_tests(run, calls):
    assert run("../.ci/run").returncode == 0
    assert calls()[-1] == "-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder"


def test_quickstart(run, calls):
    result = run("quickstart.sh", "out")
    assert result.returncode == 0
    scripts = ["demo/make_dataset.py", "export.py", "build_engine.py", "inference.py", "inference.py", "table.py"]
    assert [call.split()[0] for call in calls()[-6:]] == [f"{ROOT}/{script}" for script in scripts]
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("quickstart.sh: ")] == [
        f"{step}/6" for step in range(1, 7)]
    assert result.stdout.splitlines()[-1].endswith("out/accuracy/pictures/overview.jpg")


def test_python_ignores_the_current_folder(run, work, calls):
    """Without a script, and outside the repository, it takes modules of the current folder unless it has -I."""
    for script in ("setup.sh", "quickstart.sh"):
        run(script)
    made = calls()
    assert made and not [call for call in made if not call.startswith(("-I ", str(ROOT)))]


@pytest.mark.slow
def test_modules_in_the_current_folder_do_not_run(run, tmp_path):
    """With a real Python, and a package index that does not answer."""
    for name in ("json", "zipfile", "pip", "venv", "ensurepip", "sysconfig", "common", "rtmpose"):
        (tmp_path / "work" / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').write({name!r})")
    result = run("setup.sh", VENV=str(tmp_path / "new"), PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS="",
                 TORCH_INDEX="http://127.0.0.1:9")
    assert result.returncode == 1
    assert "requirements.txt: pip could not install it" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "executed").exists()


def test_control_characters_are_escaped(run, work):
    assert refusal(run(ACCURACY, "--datasets", "a\n\x1b[2Jb")).startswith(rf"{ACCURACY}: $'a\n\E[2Jb")


def test_dataset_that_is_a_file(run, work):
    (work / "file").touch()
    for script in (ACCURACY, "benchmark.sh"):
        assert "file: is a file, expected COCO's folder" in refusal(run(script, "--datasets", "file"))


STEPS = [(ACCURACY, "build_engine.py"), (ACCURACY, "inference.py"), (PERFORMANCE, "build_engine.py"),
         ("benchmark.sh", "sweep.py"), ("setup.sh", "requirements-mmpose.txt"), ("quickstart.sh", "requirements.txt"),
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
    assert process.returncode == 128 + number, output
    stat = Path("/proc", (venv / "waits").read_text().strip(), "stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"  # nobody has asked for its exit code
    assert step in calls()[-1]
    assert "Traceback" not in output and "went on" not in output and "erminated" not in output


def test_exit_code_of_a_script_that_a_signal_ends(run, work):
    """The last command replaces the script, which ends as it does."""
    assert run("check_gpu.sh", FAIL="check_gpu.py", CODE="139").returncode == 139
