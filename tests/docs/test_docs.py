"""README.md and docs/: their commands run as written, their links lead to files, the README stays short, and the
messages that docs/troubleshooting.md quotes are those of the code."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
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


def table(output: str, header: str) -> dict[str, list[str]]:
    """Cells of the Markdown table whose header begins so, by the first of their row; nothing if there is none."""
    text = output.partition(f"\n{header} |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in rows}


def check_precision(output: str) -> None:
    """The FP32 row of the emulated graphs is the others' reference, and the demo's FP16 row hardly differs."""
    assert list(table(output, "| k")) == ["0", "2", "4", "6", "8", "10", "12"]
    rows = table(output, "| graph")
    assert list(rows) == ["FP32", "all FP16, final convolution x 2^0", "FP16, final convolution x 2^0",
                          "all FP16, final convolution x 2^12", "FP16, final convolution x 2^12", "BF16",
                          "INT8, the rest FP16"]
    fp32, _, fp16, overflown, scaled, *_ = rows.values()
    assert float(overflown[2].strip("%")) < 50  # of which the kit's FP16 knows nothing
    del rows["all FP16, final convolution x 2^12"]
    assert fp32[1:] == ["+0.0000", "100.000%", "100.000%", "0.0"] and 0.5 < float(fp32[0]) < 1
    assert fp16 == scaled  # scaling by a power of two changes no FP16 result
    for row, within in zip(list(rows.values())[1:], (98, 98, 98, 97, 80), strict=True):
        assert abs(float(row[1])) < 0.05 and float(row[2].strip("%")) > within
    if rows := table(output, "| in FP32"):  # on a processor with BF16: fewer keypoints move with more of it in FP32
        logits, head, most = (float(rows[name][1].strip(" %")) for name in ("logits", "head (the kit)", "all but stem"))
        assert 97 < logits <= head + 0.2 and head <= most <= 100


def check_results(output: str) -> None:
    """The speed benchmarks find the same keypoints as the others, and the same ten numbers."""
    assert len(agreements := re.findall(r"at most one bin off ([\d.]+)%", output)) == 2
    assert min(map(float, agreements)) > 99
    assert re.search(r"^files to keypoints / engine alone: \d+\.\d+", output, re.M)
    assert 0 < float(re.search(r"CPU-bound upper limit: ([\d.]+)", output)[1]) < 1
    assert list(table(output, "| | the kit")) == ["read", "rescore", "suppress", "evaluate", "sum",
                                                  "write keypoints.json", "peak memory, MiB"]
    assert float(re.search(r"largest difference (\S+);", output)[1]) <= 1e-9


CHECKS = {"precision.md": check_precision, "results.md": check_results}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if bash_blocks(page.read_text())],
                         ids=lambda page: page.name)
def test_commands_run_as_written(page: Path, clone: Path) -> None:
    """And print what their page is about."""
    blocks = bash_blocks(page.read_text())
    for word, package in (("vs_mmpose.py", "xtcocotools"), ("--scenario", "mlperf_loadgen")):
        if any(word in block for block in blocks) and not importlib.util.find_spec(package):
            pytest.skip(f"needs {package}")
    output = run_page(blocks, clone)
    if page.name in CHECKS:
        CHECKS[page.name](output)


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


# Troubleshooting


def quotes() -> list[str]:
    """The quoted messages in the first column of the page's tables."""
    cells = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    return [quote for cell in cells for quote in re.findall(r"`([^`]+)`", cell)]


def texts(path: Path) -> Iterator[str]:
    """The texts in a script, with … for what it fills in."""
    if path.suffix != ".py":
        yield from (re.sub(r"\$(\w+|\{[^}]*\})", "…", line) for line in path.read_text().splitlines())
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def code() -> list[str]:
    sources = [*ROOT.glob("*.py"), *(ROOT / "rtmpose").rglob("*.py"), *(ROOT / "scripts").glob("*.*")]
    return [text for path in sources for text in texts(path)]


@pytest.mark.parametrize("quote", quotes())
def test_quoted_message_is_in_the_code(code: list[str], quote: str) -> None:
    """The parts of a quote, around its …, are in one text, one after the other."""
    parts = [part.strip(" ,:") for part in quote.split("…") if part.strip(" ,:")]
    pattern = ".*".join(map(re.escape, parts))
    assert parts and any(re.search(pattern, text, re.DOTALL) for text in code)
