"""Item by item gives what json.load gives, wherever the file is cut into chunks."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rtmpose import json_lists
from rtmpose.errors import KitError
from rtmpose.json_lists import read_json_lists

DOCUMENTS = [
    {"images": [{"id": 1, "name": "ä\"\\ 😀"}, {"id": 22, "size": [640, 480]}], "annotations": [], "info": {"y": 2017}},
    {"numbers": [1, -12.5, 1e300, 1E+20, 2.5e-7, 123456789], "words": ["a", "", "]},"],
     "mixed": [None, True, [1, [2]], {"a": {}}, float("inf"), float("-inf")]},
    {}, {"only": 12}, [1, 2, {"a": []}], "text", 314, None,
]
BROKEN = ["", "{", '{"a"', '{"a": [', '{"a": [1', '{"a": [1, 2}', '{"a": [1 2]}', '{"a": 1]', '{"a": 1} x',
          '{"a": [,]}', "{1: 2}", '{"a" 1}', '{"a": [1,]}', '{"a": nul}', '["open', "[1] [2]", '{"a": [tru]}', "{]",
          '{"a": 1,}']


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, json_lists.CHUNK])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: json.dumps(document)[:20])
def test_equals_json_load(document: Any, indent: int | None, chunk: int, tmp_path: Path,
                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lists, "CHUNK", chunk)
    path = tmp_path / "document.json"
    path.write_text(json.dumps(document, indent=indent, ensure_ascii=bool(indent)))
    taken: list[tuple[str, Any]] = []
    assert read_json_lists(path, "a test", lambda key, item: taken.append((key, item)) or item) == document
    lists = document.items() if isinstance(document, dict) else ()
    assert taken == [(key, item) for key, value in lists if isinstance(value, list) for item in value]


def test_items_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    path.write_text('{"a": [1, 2], "b": {"c": [3]}, "d": [4]}')
    content = read_json_lists(path, "a test", lambda key, item: f"{key}{item}")
    assert content == {"a": ["a1", "a2"], "b": {"c": [3]}, "d": ["d4"]}


@pytest.mark.parametrize("chunk", [1, 5, json_lists.CHUNK])
@pytest.mark.parametrize("text", BROKEN)
def test_what_json_load_refuses_is_refused(text: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                           ) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    monkeypatch.setattr(json_lists, "CHUNK", chunk)
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(KitError, match=r"broken\.json: is not valid JSON \(.* at character \d+\), expected a test"):
        read_json_lists(path, "a test", lambda key, item: item)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a": [' + "[" * 200_000, '{"a": 1' + "0" * 10_000 + "}"],
                         ids=["nested", "nested in a list", "digits"])
def test_what_breaks_the_decoder_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises((RecursionError, ValueError)):
        json.loads(text)
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(KitError, match="is not valid JSON"):
        read_json_lists(path, "a test", lambda key, item: item)


def test_a_long_value_is_not_parsed_again_for_every_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed as often as there are chunks, it would take 4096 times; each time twice as much is read."""
    path = tmp_path / "long.json"
    path.write_text(json.dumps({"info": {"numbers": list(range(4096))}}))
    monkeypatch.setattr(json_lists, "CHUNK", path.stat().st_size // 4096)
    with open(path) as file:
        text = json_lists._Text(file)
        text.sign("{"), text.value(), text.sign(":")
        reads = 0

        def counted(size: int, read: Any = file.read) -> str:
            nonlocal reads
            reads += 1
            return read(size)

        text.file = SimpleNamespace(read=counted)
        assert text.value() == {"numbers": list(range(4096))}
    assert reads < 20


def test_the_character_is_counted_from_the_files_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lists, "CHUNK", 4)
    path = tmp_path / "broken.json"
    path.write_text('{"numbers": [1, 2, 3 4]}')
    with pytest.raises(KitError, match="at character 21"):
        read_json_lists(path, "a test", lambda key, item: item)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="can't be read"):
        read_json_lists(tmp_path / "missing.json", "a test", lambda key, item: item)
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"a": "\xe4"}')
    with pytest.raises(KitError, match="is not valid JSON"):
        read_json_lists(path, "a test", lambda key, item: item)
