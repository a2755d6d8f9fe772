"""Images: decoded as mmpose does it, and refused where pixels are lost."""

import contextlib
import os
import re
import struct
import zlib

import cv2
import numpy as np
import simplejpeg

from rtmpose.data.coco import Image
from rtmpose.errors import KitError
from rtmpose.files import open_regular

_JPEG, _PNG, _EXIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"Exif\0\0"
_SEGMENT = re.compile(rb"[^\xff]*\xff+(?:([\xe0-\xef\xfe])|[\x02-\xcf\xdb-\xfd])")  # of a header; APPn or comment
_FRAME = re.compile(rb"\xff[\xc0-\xcf]\0[\x0b\x11\x14]\x08.{4}[\1\3\4](.[\x11-\x14!-$1-4A-D][\0-\3])+", re.DOTALL)
# What simplejpeg says of JPEGs that lost no pixel. More bytes are left over where a scan is damaged.
_HARMLESS = re.compile("Invalid SOS|.*Could not determine|.* ([0-9]|1[0-6]) extraneous bytes before marker 0x[cd]")
_MOST_PIXELS = 2**28  # of a photograph: 800 MB decoded
_LONGEST_SIDE = 2**15 - 2  # of an image that OpenCV crops
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong with an image is told in one line


def read_image(image: Image) -> np.ndarray:
    """Decode an image as mmpose's ``LoadImage`` does, turned as its EXIF says: uint8 (H, W, 3), BGR.

    Raises KitError as :func:`read_photograph` does, and if its size is not the one that its annotation says.
    """
    pixels = read_photograph(image.path, f"image {image.id!r:.60} of the annotations")
    size, annotated = pixels.shape[1::-1], (image.width, image.height)
    if size != annotated:
        advice = ("images and annotations must be of the same set" if _read_size(image.path.read_bytes()) != annotated
                  else "its EXIF orientation turns it: annotate it turned, or remove it (exiftool -Orientation= FILE)")
        raise KitError(f"{image.path}: is {size[0]}x{size[1]} pixels, the annotations say "
                       f"{image.width}x{image.height}; {advice}")
    return pixels


def read_photograph(path: str | os.PathLike[str], what: str = "a photograph") -> np.ndarray:
    """Decode an image of any size as :func:`read_image` does. Raises KitError if it is no image, damaged or huge."""
    with open_regular(path, what) as file:
        content = file.read()
    width, height = _read_size(content)
    if width * height > _MOST_PIXELS:
        raise KitError(f"{path}: is {width}x{height} pixels, expected at most {_MOST_PIXELS}; reduce it")
    try:
        pixels = _decode(content)
    except ValueError as error:
        raise KitError(f"{path}: is damaged or was cut off ({error}); replace it") from error
    if pixels is None:
        raise KitError(f"{path}: is no image or was cut off ({len(content)} bytes); replace it")
    if max(pixels.shape) > _LONGEST_SIDE:
        raise KitError(f"{path}: has a side of {max(pixels.shape)} pixels, expected at most {_LONGEST_SIDE}; reduce it")
    return pixels


def _read_size(content: bytes) -> tuple[int, int]:
    """Width and height from the header of a JPEG or PNG, else 0, 0: a small file can hold a huge picture."""
    with contextlib.suppress(ValueError, KeyError, struct.error):  # a header that can't be read
        if content.startswith(_PNG):
            return struct.unpack_from(">II", content, 16)
        if content.startswith(_JPEG):
            return simplejpeg.decode_jpeg_header(content, strict=False)[1::-1]
    return 0, 0


def _decode(content: bytes) -> np.ndarray | None:
    """Decode an image; None if it is none. Raises ValueError if it is a JPEG that lost pixels.

    OpenCV decodes such a JPEG as well. simplejpeg gives the same pixels and raises libjpeg's first warning, but doesn't
    turn an image.
    """
    if content.startswith(_JPEG):
        with contextlib.suppress(ValueError):
            if _EXIF not in content:
                return simplejpeg.decode_jpeg(content, "BGR")
        content = _check_jpeg(content)
        with contextlib.suppress(ValueError):
            if _EXIF not in content:
                return simplejpeg.decode_jpeg(content, "BGR", strict=False)
    elif not content or (content.startswith(_PNG) and not _is_whole_png(content)):
        return None
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # a size that OpenCV refuses
        return None


def _check_jpeg(content: bytes) -> bytes:
    """A JPEG without bytes between the segments of its header, of which OpenCV would print a warning.

    Raises ValueError with libjpeg's first warning about the pixels, if some are lost.
    """
    start, header, tables = 2, content[:2], content[:2]  # tables: no APPn and comments; it would warn of those first
    while segment := _SEGMENT.match(content, start):
        start = segment.end() + int.from_bytes(content[segment.end():segment.end() + 2], "big")
        header += content[segment.end() - 2:start]
        tables += b"" if segment[1] else content[segment.end() - 2:start]
    scans, end, _ = content[start:].partition(b"\xff\xd9")
    try:
        simplejpeg.decode_jpeg(tables + scans + end, "GRAY", min_factor=8)
    except ValueError as error:
        restarts = [b"".join(re.findall(rb"\xff([\xd0-\xd7])", scan)) for scan in scans.split(b"\xff\xda")]
        are_in_order = all((bytes(range(0xD0, 0xD8)) * len(codes)).startswith(codes) for codes in restarts)
        has_frame, has_scan = _FRAME.search(tables), b"\xff\xda" in scans
        if not (has_frame and has_scan and end and are_in_order and _HARMLESS.match(str(error))):
            raise
    return header + content[start:]


def _is_whole_png(content: bytes) -> bool:
    """Whether a PNG has all chunks that its pixels are in, undamaged. Of others libpng says on standard error what is
    wrong, and gives no pixels."""
    start, inflater = len(_PNG), zlib.decompressobj()
    with contextlib.suppress(struct.error, zlib.error):
        while True:
            length, kind = struct.unpack_from(">I4s", content, start)
            end = start + 8 + length
            checksum, = struct.unpack_from(">I", content, end)
            if kind == b"IEND":
                return inflater.eof
            if not kind[0] & 32 and checksum != zlib.crc32(content[start + 4:end]):  # a critical chunk
                break
            if kind == b"IDAT":
                inflater.decompress(content[start + 8:end], 9 * _MOST_PIXELS)
            start = end + 4
    return False
