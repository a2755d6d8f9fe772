"""Fetch RTMPose-m's checkpoint and COCO val2017, with the standard library only; download.sh describes the usage."""

import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

CHECKPOINT = "rtmpose-m_simcc-aic-coco_pt-aic-coco_420e-256x192-63eb25f7_20230126.pth"
Check = Callable[[Path], object]  # raises an exception if the file is missing or broken


def main() -> None:
    parts = {"checkpoint": get_checkpoint, "coco": get_coco}
    for name in sys.argv[1:]:
        if name not in parts:
            fail(f"{name}: expected checkpoint, coco, or nothing for both", 2)
    for name in sys.argv[1:] or parts:
        parts[name]()


def get_checkpoint() -> None:
    name = os.environ.get("CHECKPOINT") or CHECKPOINT
    match = re.search(r"-([0-9a-f]{8})_[0-9]{8}\.pth$", name)
    if not match:
        fail(f"CHECKPOINT={name}: expected a name that ends in eight digits of its SHA-256 and a date, as in "
             "-63eb25f7_20230126.pth", 2)
    expected = match[1]

    def check(path: Path) -> None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        if found != expected:
            raise ValueError(f"its SHA-256 begins with {found}, expected {expected} as in its name")

    server = os.environ.get("OPENMMLAB_URL") or "https://download.openmmlab.com"
    fetch(f"{server}/mmpose/v1/projects/rtmposev1/{name}", Path(name), check)


def get_coco() -> None:
    folder = Path(os.environ.get("DATASETS_DIR") or "coco")
    server = os.environ.get("COCO_URL") or "http://images.cocodataset.org"
    annotations = folder / "annotations/person_keypoints_val2017.json"
    if problem(image_names, annotations):
        unpack(f"{server}/annotations/annotations_trainval2017.zip", folder, [annotations], image_names)
    images = folder / "val2017"  # the kit reads both layouts
    if not images.is_dir():
        images = folder / "images/val2017"
    missing = [images / name for name in image_names(annotations) if not (images / name).is_file()]
    if missing:
        unpack(f"{server}/zips/val2017.zip", folder, missing, Path.stat)
    say(f"COCO val2017 is complete: export DATASETS_DIR={folder.resolve()}")


def image_names(annotations: Path) -> list[str]:
    content = json.loads(annotations.read_bytes())
    if not (isinstance(content, dict) and content.get("images") and content.get("annotations")):
        raise ValueError("no images and annotations in it")
    return [Path(image["file_name"]).name for image in content["images"]]


def unpack(url: str, folder: Path, targets: list[Path], check: Check) -> None:
    """Fetch a zip file, unpack these files, which have the same parent folder in it, and remove it."""
    path = folder / url.rpartition("/")[2]
    fetch(url, path, check_zip)
    try:
        with zipfile.ZipFile(path) as archive:
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f"{target.name}.part")
                with archive.open(f"{target.parent.name}/{target.name}") as source, part.open("wb") as sink:
                    shutil.copyfileobj(source, sink)  # checks the CRC
                check(part)
                part.replace(target)
    except Exception as error:  # a broken file fails in many ways
        fail(f"{path}: can't unpack it: {error}; fix that, or remove the file, and re-run")
    path.unlink()


def check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} in it is damaged")


def fetch(url: str, target: Path, check: Check) -> None:
    """Download to a .part file, resuming an earlier one, and rename it once it passes the check."""
    if not problem(check, target):
        return say(f"{target}: already there")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    while problem(check, part):
        say(f"{target}: fetching {url}")
        before = size(part)
        try:
            receive(url, part)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if size(part) > before:
                continue
            fail(f"{target}: can't fetch {url}: {error}; re-run to resume, or remove {part} to start again")
        if wrong := problem(check, part):
            part.unlink()
            fail(f"{target}: {url} sent a wrong file: {wrong}; removed it, try again later")
        break
    part.replace(target)
    say(f"{target}: complete")


def receive(url: str, part: Path) -> None:
    """Append the rest of the file to ``part``."""
    request = urllib.request.Request(url, headers={"User-Agent": "rtmpose-benchmark-kit"})
    if size(part):
        request.add_header("Range", f"bytes={size(part)}-")
    with urllib.request.urlopen(request, timeout=60) as response, \
            part.open("ab" if response.status == 206 else "wb") as sink:  # 206: from where the part ends
        total = sink.tell() + int(response.headers["Content-Length"] or 0)
        while block := response.read1(1 << 20):
            sink.write(block)
            if sys.stderr.isatty():
                print(f"{sink.tell() / 1e6:.1f} of {total / 1e6:.1f} MB", end="\r", file=sys.stderr, flush=True)
        if sink.tell() < total:
            raise ConnectionError(f"the connection ended after {sink.tell()} of {total} bytes")


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def problem(check: Check, path: Path) -> str:
    """Error message of a failed check, or an empty string."""
    try:
        check(path)
    except Exception as error:  # a broken file fails in many ways
        return str(error) or repr(error)
    return ""


def say(message: str) -> None:
    print(f"download.sh: {message}", flush=True)


def fail(message: str, code: int = 1) -> NoReturn:
    print(f"download.sh: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; re-run to resume", 130)
    except OSError as error:
        fail(f"{error}; choose a writable folder")
