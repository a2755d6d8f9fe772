"""Fetch RTMPose-m's checkpoint and COCO val2017, with the standard library only; download.sh describes the usage."""

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

CHECKPOINT = "rtmpose-m_simcc-aic-coco_pt-aic-coco_420e-256x192-63eb25f7_20230126.pth"
LARGEST = 4_000_000_000  # bytes of a file, and of a zip file's content; the largest, val2017.zip, has 0.8 GB
SECONDS = 30  # in which a server has to send PATIENCE bytes
PATIENCE = 30_000
ATTEMPTS = 3  # connections that break off, or are too slow, before a MB has come
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
    names = [Path(image["file_name"]).name for image in content["images"]]
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"an image is named {name!r}")
    return names


def unpack(url: str, folder: Path, targets: list[Path], check: Check) -> None:
    """Fetch a zip file, unpack these files, which have the same parent folder in it, and remove it."""
    path = folder / url.rpartition("/")[2]
    fetch(url, path, check_zip)
    try:
        with zipfile.ZipFile(path) as archive:
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f"{target.name}.part")
                try:
                    with archive.open(f"{target.parent.name}/{target.name}") as source, part.open("wb") as sink:
                        shutil.copyfileobj(source, sink)  # checks the CRC
                    check(part)
                    part.replace(target)
                finally:
                    part.unlink(missing_ok=True)
    except Exception as error:  # a broken file fails in many ways
        fail(f"{path}: can't unpack it: {error}; fix that, or remove the file, and re-run")
    path.unlink()


def check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST / 1e9:g} GB")
        if broken := archive.testzip():
            raise ValueError(f"{broken} in it is damaged")


def fetch(url: str, target: Path, check: Check) -> None:
    """Download to a .part file, resuming an earlier one, and rename it once it passes the check."""
    if not problem(check, target):
        return say(f"{target}: already there")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    failures = 0
    while problem(check, part):
        say(f"{target}: fetching {url}")
        before = size(part)
        try:
            receive(url, part)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures = 0 if size(part) - before >= 1_000_000 else failures + 1
            if size(part) > before and failures < ATTEMPTS:
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
    signal.alarm(SECONDS)
    try:
        with urllib.request.urlopen(request) as response, \
                part.open("ab" if response.status == 206 else "wb") as sink:  # 206: from where the part ends
            total = sink.tell() + int(response.headers["Content-Length"] or 0)
            enough = sink.tell() + PATIENCE
            while block := response.read1(1 << 20):
                sink.write(block)
                if max(total, sink.tell()) > LARGEST:
                    raise ValueError(f"it is larger than {LARGEST / 1e9:g} GB")
                if sink.tell() >= enough:
                    enough = sink.tell() + PATIENCE
                    signal.alarm(SECONDS)
                if sys.stderr.isatty():
                    print(f"{sink.tell() / 1e6:.1f} of {total / 1e6:.1f} MB", end="\r", file=sys.stderr, flush=True)
            if sink.tell() < total:
                raise ConnectionError(f"the connection ended after {sink.tell()} of {total} bytes")
    finally:
        signal.alarm(0)


def too_slow(*_: object) -> NoReturn:
    raise TimeoutError(f"the server sent less than {PATIENCE} bytes in {SECONDS} seconds")


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
    line = "".join(character if character.isprintable() else repr(character)[1:-1] for character in message)
    print(f"download.sh: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, too_slow)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback
    try:
        main()
    except OSError as error:
        fail(f"{error}; choose a writable folder")
