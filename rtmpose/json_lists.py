"""Reading a JSON object of long lists item by item: a large file is never in memory as a whole, nor all its objects."""

import json
import os
import re
from collections.abc import Callable
from typing import Any, TextIO

from rtmpose.errors import KitError

CHUNK = 1 << 16
"""How many characters are read at a time."""

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def read_json_lists(path: str | os.PathLike, what: str, take: Callable[[str, Any], Any]) -> Any:
    """Read a JSON file as ``json.load`` does, but hand over the items of its lists one by one.

    Of a key that comes twice the last value counts, as there, but the items of both are handed over.

    Args:
        path: the file.
        what: names its content in the error, e.g. ``"COCO annotations"``.
        take: is called with the list's key and the item, for every item of every list directly in the file's object;
            what it returns stands in the item's place.

    Raises:
        KitError: the file is missing, unreadable or not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = _Text(file)
            try:
                return _read_document(text, take)
            except json.JSONDecodeError as error:
                raise KitError(f"{path}: is not valid JSON ({error.msg} at character {text.passed + error.pos}), "
                               f"expected {what}; fetch it again") from error
    except OSError as error:
        raise KitError(f"{path}: can't be read ({error.strerror}), expected {what}") from error
    except UnicodeDecodeError as error:
        raise KitError(f"{path}: is not valid JSON ({error}), expected {what}; fetch it again") from error


class _Text:
    """What is to be read next of a file: some of its text, of which ``at`` characters are done with.

    ``passed`` characters stood before it.
    """

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at, self.passed = file, "", 0, 0

    def read_on(self) -> bool:
        """Forget what is done with and read more, if there is more."""
        # As much again as is there already: a long value is parsed from its start every time.
        chunk = self.file.read(max(CHUNK, len(self.text) - self.at))
        if chunk:
            self.passed += self.at
            self.text, self.at = self.text[self.at:] + chunk, 0
        return bool(chunk)

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.read_on():
                return ""

    def sign(self, *expected: str) -> str:
        """Go past one of the signs that may stand here."""
        found = self.peek()
        if found not in expected:
            raise json.JSONDecodeError(f"Expecting {' or '.join(expected)}", self.text, self.at)
        self.at += 1
        return found

    def value(self) -> Any:
        """Go past a whole JSON value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError:
                if not self.read_on():
                    raise
                continue
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
                raise json.JSONDecodeError(str(error), self.text, self.at) from error
            # A number may go on: 1 with e+5, of which no digit has been read yet.
            if end + 2 < len(self.text) or not self.read_on():
                self.at = end
                return value


def _read_document(text: _Text, take: Callable[[str, Any], Any]) -> Any:
    content = _read_object(text, take) if text.peek() == "{" else text.value()
    if text.peek():
        raise json.JSONDecodeError("Extra data", text.text, text.at)
    return content


def _read_object(text: _Text, take: Callable[[str, Any], Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    text.sign("{")
    if text.peek() == "}":
        text.sign("}")
        return content
    while True:
        if text.peek() != '"':
            raise json.JSONDecodeError("Expecting a key in double quotes", text.text, text.at)
        key = text.value()
        text.sign(":")
        content[key] = _read_list(text, key, take) if text.peek() == "[" else text.value()
        if text.sign(",", "}") == "}":
            return content


def _read_list(text: _Text, key: str, take: Callable[[str, Any], Any]) -> list[Any]:
    items: list[Any] = []
    text.sign("[")
    if text.peek() == "]":
        text.sign("]")
        return items
    while True:
        items.append(take(key, text.value()))
        if text.sign(",", "]") == "]":
            return items
