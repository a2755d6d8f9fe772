"""Images of every kind, decoded as mmpose decodes them; damaged ones and files that are none."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import judge
import numpy as np
import PIL.Image
import pytest

from rtmpose.data.coco import Image
from rtmpose.data.images import read_image
from rtmpose.errors import KitError

EXIF = PIL.Image.Exif()
EXIF[0x0112] = 6  # turned to the right


def save(path: Path, content: bytes, size: tuple[int, int] | None = None) -> Image:
    """An image file and its annotation, which says the size that OpenCV finds, unless another is given."""
    path.write_bytes(content)
    return Image(1, path, *(size or cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape[1::-1]), ())


def encode(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def picture() -> PIL.Image.Image:
    """Clouds with details, as a photograph has them."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (24, 32, 3), np.uint8)
    clouds = cv2.resize(coarse, (403, 301), interpolation=cv2.INTER_CUBIC).astype(float)
    return PIL.Image.fromarray(np.clip(clouds + random.normal(0, 12, clouds.shape), 0, 255).astype(np.uint8))


def drop_app14(jpeg: bytes) -> bytes:
    """Without the marker that says how CMYK is stored."""
    start = jpeg.find(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2:start + 4], "big"):]


KINDS: dict[str, Callable[[PIL.Image.Image], bytes]] = {
    "JPEG, 4:2:0": lambda p: encode(p, "JPEG"),
    "JPEG, 4:4:4": lambda p: encode(p, "JPEG", subsampling=0),
    "JPEG, 4:2:2": lambda p: encode(p, "JPEG", subsampling=1),
    "JPEG, progressive": lambda p: encode(p, "JPEG", progressive=True),
    "JPEG, restart markers": lambda p: encode(p, "JPEG", restart_marker_blocks=3),
    "JPEG, RGB": lambda p: encode(p, "JPEG", keep_rgb=True),
    "JPEG, grey": lambda p: encode(p.convert("L"), "JPEG"),
    "JPEG, CMYK": lambda p: encode(p.convert("CMYK"), "JPEG"),
    "JPEG, CMYK, not inverted": lambda p: drop_app14(encode(p.convert("CMYK"), "JPEG")),
    "JPEG, turned": lambda p: encode(p, "JPEG", exif=EXIF),
    "JPEG, turned, grey": lambda p: encode(p.convert("L"), "JPEG", exif=EXIF),
    "JPEG, turned, CMYK": lambda p: encode(p.convert("CMYK"), "JPEG", exif=EXIF),
    "JPEG, one pixel": lambda p: encode(p.resize((1, 1)), "JPEG"),
    "JPEG, zeros after the end": lambda p: encode(p, "JPEG") + bytes(3000),
    "JPEG, of a version to come": lambda p: encode(p, "JPEG").replace(b"JFIF\0\1", b"JFIF\0\7"),
    "JPEG, colour profile of several parts": lambda p: encode(p, "JPEG", icc_profile=bytes(200_000)),
    "PNG": lambda p: encode(p, "PNG"),
    "PNG, turned": lambda p: encode(p, "PNG", exif=EXIF),
    "PNG, 16 bits": lambda p: cv2.imencode(".png", np.asarray(p).astype(np.uint16) * 257)[1].tobytes(),
    "PNG, transparent": lambda p: encode(p.convert("RGBA"), "PNG"),
    "PNG, with a wrong checksum at its end": lambda p: encode(p, "PNG")[:-1] + b"?",
    "PNG, bytes after the end": lambda p: encode(p, "PNG") + b"more",
    "BMP": lambda p: encode(p, "BMP"),
    "WebP": lambda p: encode(p, "WEBP"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_mmposes(picture: PIL.Image.Image, tmp_path: Path, kind: str) -> None:
    image = save(tmp_path / "image", KINDS[kind](picture))
    expected = judge.mmpose("datasets.transforms").LoadImage()({"img_path": str(image.path)})["img"]
    np.testing.assert_array_equal(read_image(image), expected)
    assert kind == "JPEG, one pixel" or expected.shape == ((403, 301, 3) if "turned" in kind else (301, 403, 3))


DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "zeroed": lambda d, at: d[:at] + bytes(2048) + d[at + 2048:],
    "missing": lambda d, at: d[:at] + d[at + 2048:],
    "of another file": lambda d, at: d[:at] + np.random.default_rng(0).bytes(2048) + d[at + 2048:],
    "never written": lambda d, at: d[:at] + b"\xff" * 2048 + d[at + 2048:],
}


@pytest.mark.parametrize("kind", ["JPEG, 4:2:0", "JPEG, progressive", "JPEG, grey", "JPEG, CMYK", "JPEG, turned"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_jpeg_with_a_broken_middle(picture: PIL.Image.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                   kind: str, damage: str) -> None:
    """OpenCV gives some pixels for all of them; and one line is all that is printed."""
    content = KINDS[kind](picture)
    image = save(tmp_path / "image.jpg", content)
    image.path.write_bytes(DAMAGE[damage](content, len(content) // 2))
    with pytest.raises(KitError, match=r"image.jpg: is damaged or was cut off \(.*\); fetch it again"):
        read_image(image)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "JPEG2000", "WEBP", "PPM"])
def test_other_kinds_cut_off(picture: PIL.Image.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
                             ) -> None:
    """OpenCV and its libraries print nothing beside the one line."""
    content = encode(picture, kind)
    image = save(tmp_path / "image", content)
    damaged = [content[:int(len(content) * part)] for part in (0.02, 0.3, 0.95)]
    if kind == "PNG":  # a wrong checksum
        damaged.append(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    for one in damaged:
        image.path.write_bytes(one)
        with pytest.raises(KitError, match="image: is no image or was cut off"):
            read_image(image)
    assert capfd.readouterr().err == ""


def test_huge_image_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that says it is huge."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + checksum
    jpeg = bytearray(encode(PIL.Image.new("RGB", (16, 16)), "JPEG"))
    start = jpeg.find(b"\xff\xc0")
    jpeg[start + 5:start + 9] = struct.pack(">HH", 60000, 60000)
    monkeypatch.setattr(cv2, "imdecode", None)
    for content in (png, bytes(jpeg)):
        with pytest.raises(KitError, match="is 60000x60000 pixels, expected at most 268435456"):
            read_image(save(tmp_path / "image", content, (16, 16)))


def test_image_of_another_size(picture: PIL.Image.Image, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="is 301x403 pixels, the annotations say 403x301; images and annotations must"):
        read_image(save(tmp_path / "image", KINDS["JPEG, turned"](picture), (403, 301)))
