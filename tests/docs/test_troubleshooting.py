"""docs/troubleshooting.md quotes messages that the code prints."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
SOURCES = [*ROOT.glob("*.py"), *(ROOT / "rtmpose").rglob("*.py"), *(ROOT / "scripts").glob("*.*")]


def quotes() -> list[str]:
    """The quoted messages in the first column of the page's tables."""
    cells = re.findall(r"^\| (`.*?) \| ", PAGE.read_text(), re.MULTILINE)
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
    return [text for path in SOURCES for text in texts(path)]


def is_in(text: str, quote: str) -> bool:
    """Whether the parts of a quote, around its …, are in a text, one after the other."""
    parts = [part.strip(" ,:") for part in quote.split("…") if part.strip(" ,:")]
    return bool(parts) and re.search(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None


@pytest.mark.parametrize("quote", quotes())
def test_quoted_message_is_in_the_code(code: list[str], quote: str) -> None:
    assert any(is_in(text, quote) for text in code)
