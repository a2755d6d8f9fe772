"""README.md and docs/: their commands run as written, their links lead to files, the README stays short."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from helpers import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SKIPPED = ("# needs a download", "# needs a GPU")  # a block that begins so is not run, and readers see why
PAGE_TIMEOUT = 1800


def bash_blocks(text: str) -> list[str]:
    """The fenced bash blocks of a page that run anywhere."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if not block.startswith(SKIPPED)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository as a fresh clone has it, uncommitted changes included, with an environment in .venv.

    That environment finds the packages of the one that runs the tests, and the clone's own code. What a command
    installs stays in it.
    """
    folder = tmp_path.resolve() / "kit"
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT,
                            capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a git repository, whose files are copied")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    environment = folder / ".venv"
    venv.create(environment, symlinks=True)
    packages = environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (packages / "kit.pth").write_text(f"{folder}\n{sysconfig.get_path('purelib')}\n")
    return folder


def run_page(blocks: list[str], clone: Path) -> str:
    """Run all blocks of a page in one shell, as a user would, up to the first command that fails.

    Returns the output with each command before its own; the test fails with it if a command does.
    """
    variables = {name: value for name, value in os.environ.items()
                 if name not in ("DATASETS_DIR", "MODEL", "PYTHON", "PYTHONPATH", "VENV", "VIRTUAL_ENV")}
    variables["PATH"] = os.pathsep.join(
        [str(clone / ".venv/bin"), str(Path(sys.executable).parent), variables["PATH"]])
    script = clone.with_name("page.sh")
    script.write_text("\n".join(blocks))
    done = subprocess.run(["bash", "-e", "-v", "-o", "pipefail", str(script)], cwd=clone, env=variables, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=PAGE_TIMEOUT, check=False)
    if done.returncode:
        pytest.fail(f"exit code {done.returncode} of a command of this page:\n{done.stdout[-6000:]}", pytrace=False)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if bash_blocks(page.read_text())],
                         ids=lambda page: page.name)
def test_commands_run_as_written(page: Path, clone: Path) -> None:
    blocks = bash_blocks(page.read_text())
    for word, package in (("vs_mmpose.py", "xtcocotools"), ("--scenario", "mlperf_loadgen")):
        if any(word in block for block in blocks) and not importlib.util.find_spec(package):
            pytest.skip(f"needs {package}")
    assert run_page(blocks, clone)


def test_failing_command_fails_its_page(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="exit code 3 .*\n(.*\n)*echo before\nbefore"):
        run_page(["echo before\n", "(exit 3)\n", "echo after\n"], tmp_path)


def test_marked_blocks_are_left_out() -> None:
    page = "a\n```bash\n# needs a GPU: any\nfirst\n```\n```bash\nsecond  # needs a GPU\n```\n```\nthird\n```\n"
    assert bash_blocks(page) == ["second  # needs a GPU\n"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_readme_is_short_and_lists_every_page() -> None:
    readme = PAGES[0].read_text()
    assert len(readme.splitlines()) <= 150
    assert len(readme.split()) <= 1300
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme] == []
