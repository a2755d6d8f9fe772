"""Images: decoded as mmpose does it, and refused where they are damaged."""

import contextlib
import os
import struct
import zlib

import cv2
import numpy as np
import simplejpeg

from rtmpose.data.coco import Image
from rtmpose.errors import KitError
from rtmpose.files import open_regular

_JPEG, _JPEG_END, _PNG, _EXIF = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n", b"Exif\0\0"
# libjpeg's warnings that say nothing about the pixels.
_HARMLESS = ("Invalid SOS parameters", "Corrupt JPEG data: bad ICC marker", "Unknown Adobe color", "Warning: ")
_MOST_PIXELS = 2**28  # of a photograph: 800 MB decoded
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong with an image is told in one line


def read_image(image: Image) -> np.ndarray:
    """Decode an image as mmpose's ``LoadImage`` does, turned as its EXIF says: uint8 (H, W, 3), BGR.

    Raises KitError as :func:`read_photograph` does, and if its size is not the one that its annotation says.
    """
    pixels = read_photograph(image.path, f"image {image.id!r:.60} of the annotations")
    height, width = pixels.shape[:2]
    if (width, height) != (image.width, image.height):
        raise KitError(f"{image.path}: is {width}x{height} pixels, the annotations say {image.width}x{image.height}; "
                       "images and annotations must be of the same set")
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
        raise KitError(f"{path}: is damaged or was cut off ({error}); fetch it again") from error
    if pixels is None:
        raise KitError(f"{path}: is no image or was cut off ({len(content)} bytes); fetch it again")
    return pixels


def _read_size(content: bytes) -> tuple[int, int]:
    """Width and height from the header of a JPEG or PNG, else 0, 0: a small file can hold a huge picture."""
    if content.startswith(_PNG) and len(content) >= 24:
        return struct.unpack(">II", content[16:24])
    if content.startswith(_JPEG):
        with contextlib.suppress(ValueError, KeyError):  # a header that simplejpeg can't read
            height, width, *_ = simplejpeg.decode_jpeg_header(content, strict=False)
            return width, height
    return 0, 0


def _decode(content: bytes) -> np.ndarray | None:
    """Decode an image; None if it is none. Raises ValueError if it is a damaged JPEG.

    OpenCV decodes a damaged JPEG without an error. simplejpeg gives the same pixels, and raises libjpeg's warnings. It
    refuses a few kinds of chroma subsampling that no camera writes.
    """
    if content.startswith(_JPEG):
        try:
            if _EXIF not in content:
                return simplejpeg.decode_jpeg(content, "BGR")
            simplejpeg.decode_jpeg(content, "GRAY", min_factor=8)  # a check; OpenCV turns the image
        except ValueError as error:
            if not str(error).startswith(_HARMLESS):
                raise
        whole = _JPEG_END in content[-4096:]  # OpenCV fills up one that was cut off with grey
    else:
        whole = not content.startswith(_PNG) or _is_whole_png(content)
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content and whole else None
    except cv2.error:  # a size that OpenCV refuses
        return None


def _is_whole_png(content: bytes) -> bool:
    """Whether a PNG has all chunks that hold pixels, undamaged. Of others libpng says on standard error what is wrong,
    and gives no pixels."""
    start, kind = len(_PNG), b""
    while kind != b"IEND":
        if start + 12 > len(content):
            return False
        length, kind = struct.unpack_from(">I4s", content, start)
        end, is_critical = start + 8 + length, not kind[0] & 32
        checksum = zlib.crc32(content[start + 4:end]).to_bytes(4, "big")
        if is_critical and kind != b"IEND" and content[end:end + 4] != checksum:
            return False
        start = end + 4
    return True
