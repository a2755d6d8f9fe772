"""Images of every kind, decoded as mmpose decodes them; damaged ones and files that are none."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import judge
import numpy as np
import PIL.Image
import pytest

from rtmpose.data.coco import Image
from rtmpose.data.images import read_image, read_photograph
from rtmpose.data.preprocess import crop_person
from rtmpose.errors import KitError

VIDEO = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(400_000)  # with all markers of a JPEG in it


def exif(orientation: int) -> bytes:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


EXIF = exif(6)  # turned to the right


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


def drop_tables(jpeg: bytes) -> bytes:
    """Without Huffman tables, as in the frames of a webcam's video."""
    while (start := jpeg.find(b"\xff\xc4")) >= 0:
        jpeg = jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2:start + 4], "big"):]
    return jpeg


def encode_subsampled(picture: PIL.Image.Image, factors: int) -> bytes:
    return cv2.imencode(".jpg", np.asarray(picture), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors])[1].tobytes()


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
    "JPEG, YCCK": lambda p: encode(p.convert("CMYK"), "JPEG").replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2"),
    "JPEG, 4:1:1": lambda p: encode_subsampled(p, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "JPEG, 4:4:0": lambda p: encode_subsampled(p, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "JPEG, odd subsampling": lambda p: encode(p.convert("CMYK"), "JPEG", subsampling=1),
    "JPEG, no Huffman tables": lambda p: drop_tables(encode(p, "JPEG")),
    "JPEG, odd parameters of a scan": lambda p: encode(p, "JPEG").replace(b"\3\x11\0\x3f\0", b"\3\x11\0\0\0"),
    "JPEG, zeros after the end": lambda p: encode(p, "JPEG") + bytes(3000),
    "JPEG, video after the end": lambda p: encode(p, "JPEG") + VIDEO,
    "JPEG, turned, video after the end": lambda p: encode(p, "JPEG", exif=EXIF) + VIDEO,
    "JPEG, turned, another after the end": lambda p: encode(p, "JPEG", exif=EXIF) + encode(p, "JPEG", quality=9),
    "JPEG, turned, with a thumbnail": lambda p: encode(p, "JPEG", exif=EXIF + encode(p.resize((99, 99)), "JPEG")),
    "JPEG, of a version to come": lambda p: encode(p, "JPEG").replace(b"JFIF\0\1", b"JFIF\0\7"),
    "JPEG, colour profile of several parts": lambda p: encode(p, "JPEG", icc_profile=bytes(200_000)),
    "PNG": lambda p: encode(p, "PNG"),
    "PNG, turned": lambda p: encode(p, "PNG", exif=EXIF),
    "PNG, 16 bits": lambda p: cv2.imencode(".png", np.asarray(p).astype(np.uint16) * 257)[1].tobytes(),
    "PNG, transparent": lambda p: encode(p.convert("RGBA"), "PNG"),
    "PNG, with a wrong checksum at its end": lambda p: encode(p, "PNG")[:-1] + b"?",
    "PNG, bytes after the end": lambda p: encode(p, "PNG") + b"more",
    "PNG, with a damaged comment": lambda p: encode(p, "PNG", dpi=(72, 72)).replace(b"pHYs\0", b"pHYs\1"),
    "PNG, palette": lambda p: encode(p.convert("P"), "PNG"),
    **{kind: partial(encode, kind=kind) for kind in ("BMP", "WEBP", "TIFF", "GIF", "JPEG2000", "PPM")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_mmposes(picture: PIL.Image.Image, tmp_path: Path, kind: str) -> None:
    assert_pixels_of_mmpose(tmp_path / "image", KINDS[kind](picture))


def assert_pixels_of_mmpose(path: Path, content: bytes) -> np.ndarray:
    image = save(path, content)
    expected = judge.mmpose("datasets.transforms").LoadImage()({"img_path": str(path)})["img"]
    np.testing.assert_array_equal(read_image(image), expected)
    return expected


@pytest.mark.parametrize("after", [b"", VIDEO])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations(picture: PIL.Image.Image, tmp_path: Path, orientation: int, after: bytes) -> None:
    content = encode(picture, "JPEG", exif=exif(orientation)) + after
    assert assert_pixels_of_mmpose(tmp_path / "image", content).shape[:2] == (
        (301, 403) if orientation < 5 else (403, 301))


@pytest.mark.parametrize("kind", ["JPEG, 4:2:0", "JPEG, progressive", "JPEG, restart markers", "JPEG, turned",
                                  "JPEG, CMYK", "JPEG, turned, video after the end"])
@pytest.mark.parametrize("count", [1, 2, 10, 16])
def test_bytes_too_many_before_a_marker(picture: PIL.Image.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                        kind: str, count: int) -> None:
    """Before each marker but the first two: the pixels are those of the file without them. Of a webcam's, whose bytes
    are behind a scan's, libjpeg prints no line for each image."""
    content = KINDS[kind](picture)
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    jpeg = content.removesuffix(VIDEO)
    header = jpeg.find(b"\xff\xdb")  # a thumbnail in EXIF has markers too
    places = [header + found.start() for found in re.finditer(rb"\xff[\xc0-\xfe]", jpeg[header:])]
    for place in {*places[:8], *places[-3:]}:
        image = save(tmp_path / "image", content[:place] + bytes(range(9, 9 + count)) + content[place:])
        capfd.readouterr()
        np.testing.assert_array_equal(read_image(image), expected)
        assert "turned" in kind or place <= jpeg.find(b"\xff\xda") or capfd.readouterr().err == ""


DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "zeroed": lambda d, at: d[:at] + bytes(2048) + d[at + 2048:],
    "missing": lambda d, at: d[:at] + d[at + 2048:],
    "of another file": lambda d, at: d[:at] + np.random.default_rng(0).bytes(2048) + d[at + 2048:],
    "never written": lambda d, at: d[:at] + b"\xff" * 2048 + d[at + 2048:],
}


@pytest.mark.parametrize("kind", [
    "JPEG, 4:2:0", "JPEG, progressive", "JPEG, grey", "JPEG, CMYK", "JPEG, turned", "JPEG, restart markers",
    "JPEG, 4:1:1", "JPEG, video after the end", "JPEG, turned, with a thumbnail", "JPEG, of a version to come"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_jpeg_with_a_broken_middle(picture: PIL.Image.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                   kind: str, damage: str) -> None:
    """OpenCV gives some pixels for all of them; and one line is all that is printed."""
    content = KINDS[kind](picture)
    image = save(tmp_path / "image.jpg", content)
    capfd.readouterr()  # OpenCV's remark on the undamaged one
    image.path.write_bytes(DAMAGE[damage](content, len(content.removesuffix(VIDEO)) // 2))
    with pytest.raises(KitError, match=r"image.jpg: is damaged or was cut off \(.*\); replace it"):
        read_image(image)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("after", [b"", b"\xff\xd9", VIDEO, b"\xff\xd9" + VIDEO])
@pytest.mark.parametrize("orientation", [1, 8])
def test_jpeg_whose_last_rows_are_cut_off(picture: PIL.Image.Image, tmp_path: Path, orientation: int, after: bytes
                                          ) -> None:
    content = encode(picture, "JPEG", exif=exif(orientation))
    image = save(tmp_path / "image.jpg", content)
    for missing in (4, 10, 100, 1000):
        image.path.write_bytes(content[:-missing] + after)
        with pytest.raises(KitError, match="image.jpg: is damaged or was cut off"):
            read_image(image)


def test_restart_markers_missing_or_of_another_number(tmp_path: Path) -> None:
    """In a plain picture with so many of them that few bytes are left over before the next."""
    content = encode(PIL.Image.new("RGB", (160, 160), "red"), "JPEG", restart_marker_blocks=1)
    image = save(tmp_path / "image.jpg", content)
    fifth = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", content)][4]
    for changed in (b"", b"\0\0", b"\xff\xd6"):
        image.path.write_bytes(content[:fifth] + changed + content[fifth + 2:])
        with pytest.raises(KitError, match="image.jpg: is damaged or was cut off"):
            read_image(image)


def test_kinds_that_opencv_does_not_decode(picture: PIL.Image.Image, tmp_path: Path,
                                           capfd: pytest.CaptureFixture[str]) -> None:
    jpeg = encode(picture, "JPEG")
    image = save(tmp_path / "image.jpg", jpeg)
    for content in (jpeg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),  # 12 bits
                    jpeg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc3\0\x11\x08"),  # lossless
                    jpeg.replace(b"\xff\xc0\0\x11\x08", bytes(5)),  # no frame
                    jpeg.replace(b"\xff\xda\0", bytes(3)),  # no scan
                    jpeg[:2] + b"\0" + jpeg[2:]):
        image.path.write_bytes(content)
        with pytest.raises(KitError, match="image.jpg: is (damaged|no image) or was cut off"):
            read_image(image)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "JPEG2000", "WEBP", "PPM"])
def test_other_kinds_cut_off(picture: PIL.Image.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
                             ) -> None:
    """OpenCV and its libraries print nothing beside the one line."""
    content = encode(picture, kind)
    image = save(tmp_path / "image", content)
    for part in (0.0001, 0.001, 0.02, 0.3, 0.6, 0.95, 0.999):
        image.path.write_bytes(content[:int(len(content) * part)])
        with pytest.raises(KitError, match="image: is no image or was cut off"):
            read_image(image)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [
    "PNG", "PNG, palette", "PNG, 16 bits", "BMP", "TIFF", "GIF", "JPEG2000", "WEBP", "PPM"])
def test_other_kinds_damaged(picture: PIL.Image.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
                             ) -> None:
    """They are refused, and nothing is printed beside the one line, or give the pixels that OpenCV gives."""
    random, path, refused = np.random.default_rng(0), tmp_path / "image", 0
    content = KINDS[kind](picture.resize((130, 90)))
    for at in [*range(1, 40), *random.integers(0, len(content), 60)]:
        path.write_bytes(content[:at] + random.bytes(random.choice([1, 8, 64])) + content[at + random.choice([1, 8]):])
        try:
            found = read_photograph(path)
        except KitError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR))
    assert capfd.readouterr().err == "" and refused > (95 if "PNG" in kind else 10)


def test_png_without_a_chunk_of_its_pixels(picture: PIL.Image.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str]
                                           ) -> None:
    """The checksums of the others are right."""
    content = cv2.imencode(".png", np.asarray(picture))[1].tobytes()
    image = save(tmp_path / "image", content)
    starts = [found.start() - 4 for found in re.finditer(b"IDAT|IEND", content)]
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        image.path.write_bytes(content[:start] + content[end:])
        with pytest.raises(KitError, match="image: is no image or was cut off"):
            read_image(image)
    assert len(starts) > 5 and capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_longest_side_that_opencv_crops(tmp_path: Path, kind: str) -> None:
    """As mmpose does, with the same function."""
    for size in ((32766, 2), (2, 32766)):
        image = save(tmp_path / "image", encode(PIL.Image.new("RGB", size), kind))
        crop_person(read_image(image), np.ones(2), np.full(2, 9.0), (192, 256))
        image.path.write_bytes(encode(PIL.Image.new("RGB", (size[0] + 1, size[1] + 1)), kind))
        with pytest.raises(KitError, match="image: has a side of 32767 pixels, expected at most 32766; reduce it"):
            read_image(image)


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


@pytest.mark.parametrize("kind", ["JPEG, turned", "PNG, turned"])
def test_image_of_another_size(picture: PIL.Image.Image, tmp_path: Path, kind: str) -> None:
    """Annotations may have been made of what EXIF turns."""
    for size, advice in (((403, 301), r"its EXIF orientation turns it: .* \(exiftool -Orientation= FILE\)"),
                         ((403, 302), "images and annotations must be of the same set")):
        with pytest.raises(KitError, match=f"is 301x403 pixels, the annotations say {size[0]}x{size[1]}; {advice}"):
            read_image(save(tmp_path / "image", KINDS[kind](picture), size))
