"""Damage to the kit's input files: JSON by its structure, any other file by its bytes; and photographs with none.

The functions take hypothesis's ``draw`` and draw small values only: it keeps whatever it draws, and files are large.
"""

import copy
import io
import json
import re
from typing import Any

import numpy as np
import PIL.Image
from hypothesis import strategies as st

# Values that programs which write such files, and people who edit them, really produce, and those that break readers.
HOSTILE = st.sampled_from([
    None, True, False, 0, -1, 1, 1.5, 10**9, 2**31, 2**63, 10**30, 1e11, 1e308, -1e-320, float("nan"), float("inf"),
    -float("inf"), "", "1", "nan", "person", "../../outside.jpg", "/dev/zero", "a\nb\x1b[31m\0", "\ud800", "9" * 5000,
    [], [[]], [1], {}, {"id": 1}, [None] * 60])


def mutated_json(draw: st.DrawFn, document: Any) -> str:
    """The text of a document after one to three changes anywhere in it, now and then cut off or too deeply nested."""
    holder = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        parent, key = _place(draw, holder)
        action = draw(st.sampled_from(["replace", "replace", "delete", "repeat", "copy"]))
        if action == "replace":
            parent[key] = copy.deepcopy(draw(HOSTILE))
        elif action == "copy":  # a value that is good elsewhere
            other, place = _place(draw, holder)
            parent[key] = copy.deepcopy(other[place])
        elif parent is not holder and action == "delete":
            del parent[key]
        elif isinstance(parent, list) and parent is not holder:
            parent.insert(key, copy.deepcopy(parent[key]))
    text = json.dumps(holder[0])
    damage = draw(st.sampled_from(["none"] * 8 + ["cut", "deep"]))
    if damage == "cut":
        return text[:draw(st.integers(0, len(text)))]
    return "[" * 200_000 if damage == "deep" else text


def _place(draw: st.DrawFn, holder: list[Any]) -> tuple[Any, Any]:
    """A container of a document and a key in it, at a random depth."""
    parent, key = holder, 0
    for _ in range(draw(st.sampled_from([4, 5, 3, 2, 1, 0]))):
        value = parent[key]
        if not isinstance(value, (dict, list)) or not value:
            break
        keys = list(value) if isinstance(value, dict) else range(len(value))
        parent, key = value, keys[draw(st.integers(0, len(keys) - 1))]
    return parent, key


def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Content of which a part is cut off, inverted, zeroed, removed, repeated, or replaced by random bytes."""
    start = draw(st.integers(0, len(content)))
    end = min(len(content), start + draw(st.sampled_from([1, 2, 8, 64, 512, 4096])))
    part = content[start:end]
    return draw(st.sampled_from([
        content[:start],
        content[:start] + bytes(255 - byte for byte in part) + content[end:],
        content[:start] + bytes(len(part)) + content[end:],
        content[:start] + content[end:],
        content[:end] + part + content[end:],
        content[:start] + draw(st.binary(min_size=len(part), max_size=len(part))) + content[end:]]))


def unusual_photograph(draw: st.DrawFn, picture: PIL.Image.Image) -> tuple[bytes, bytes]:
    """A file of the picture as cameras, phones and programs write them, and one with the same pixels and nothing else
    in it. Its size is the picture's, once EXIF has turned it."""
    kind = draw(st.sampled_from(["JPEG"] * 8 + ["PNG", "WEBP", "TIFF", "BMP"]))
    picture = picture.convert(draw(st.sampled_from(["RGB", "RGB", "L", *(["CMYK"] if kind == "JPEG" else [])])))
    if kind != "JPEG":
        return (_encode(picture, kind),) * 2
    options: dict[str, Any] = draw(st.sampled_from([
        {}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}, {"progressive": True},
        {"restart_marker_blocks": 1}, {"restart_marker_rows": 1}, {"restart_marker_rows": 2, "progressive": True}]))
    if orientation := draw(st.sampled_from([0, 0, *range(1, 9)])):
        tags = PIL.Image.Exif()
        tags[0x0112] = orientation
        thumbnail = _encode(picture.resize((40, 30)), kind) if draw(st.booleans()) else b""
        picture = picture.transpose(PIL.Image.Transpose.ROTATE_90) if orientation > 4 else picture
        options["exif"] = tags.tobytes() + thumbnail
    clean = content = _encode(picture, kind, quality=draw(st.integers(60, 95)), **options)
    for _ in range(draw(st.integers(0, 2))):  # bytes too many before a marker
        header = content.find(b"\xff\xdb", len(options.get("exif", b"")))  # not a thumbnail's
        places = [header + found.start() for found in re.finditer(rb"\xff[\xc0-\xfe]", content[header:])]
        place = draw(st.sampled_from([places[0], places[len(places) // 2], places[-2], places[-1]]))
        extra = draw(st.binary(min_size=1, max_size=8)).replace(b"\xff", b"\0")
        content = content[:place] + extra + content[place:]
    video = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(200_000)
    return content + draw(st.sampled_from([b"", bytes(1000), video, _encode(picture, kind, quality=20)])), clean


def _encode(picture: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
