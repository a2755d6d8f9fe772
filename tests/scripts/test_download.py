"""scripts/download.sh against a local server, with tiny files in the official layout."""

import contextlib
import hashlib
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "download.sh"
WEIGHTS = bytes(range(256)) * 400
CHECKPOINT = f"rtmpose-x_test-{hashlib.sha256(WEIGHTS).hexdigest()[:8]}_20230126.pth"
CHECKPOINT_URL = f"/mmpose/v1/projects/rtmposev1/{CHECKPOINT}"
ANNOTATIONS_URL = "/annotations/annotations_trainval2017.zip"
IMAGES_URL = "/zips/val2017.zip"
IMAGES = {f"{number:012}.jpg": random.Random(number).randbytes(20_000) for number in range(1, 6)}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def annotations(content: bytes | None = None) -> bytes:
    """annotations_trainval2017.zip with this person_keypoints_val2017.json, by default a valid one."""
    valid = {"images": [{"file_name": name} for name in IMAGES], "annotations": [{"id": 1}]}
    return zipped({"annotations/person_keypoints_val2017.json": content or json.dumps(valid).encode(),
                   "annotations/captions_val2017.json": b"{}"})


class Server(ThreadingHTTPServer):
    """Serve ``files`` with Range support, and record requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        images = zipped({f"val2017/{name}": content for name, content in IMAGES.items()})
        self.files = {CHECKPOINT_URL: WEIGHTS, ANNOTATIONS_URL: annotations(), IMAGES_URL: images}
        self.most: dict[str, Iterator[int]] = {}  # bytes after which an answer breaks off, for each answer
        self.ranges = True
        self.trickles: bytes | None = None  # what it sends before single bytes
        self.requests: list[tuple[str, int]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        found = self.server.ranges and re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        self.server.requests.append((self.path, start))
        if self.server.trickles is not None:
            return self.trickle(self.server.trickles)
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        most = next(self.server.most.get(self.path, iter(())), len(content))
        self.wfile.write(content[start:start + most])

    def trickle(self, first: bytes) -> None:
        with contextlib.suppress(OSError):  # the client is gone
            self.wfile.write(first)
            while True:
                self.wfile.write(b"x")
                time.sleep(0.1)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        server.daemon_threads = True
        yield server
        server.shutdown()


@pytest.fixture
def environment(server: Server) -> dict[str, str]:
    return {**os.environ, "OPENMMLAB_URL": server.url, "COCO_URL": server.url, "CHECKPOINT": CHECKPOINT,
            "DATASETS_DIR": "data", "no_proxy": "*"}


@pytest.fixture
def download(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", str(SCRIPT), *arguments], cwd=tmp_path, env=environment | changed, text=True,
                              capture_output=True, timeout=60, stdin=subprocess.DEVNULL)

    return run


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def check_line(text: str, *parts: str) -> None:
    assert text.startswith("download.sh: ") and text.count("\n") == 1, text
    assert all(part in text for part in parts), text


COMPLETE = {CHECKPOINT, "data/annotations/person_keypoints_val2017.json",
            *(f"data/images/val2017/{name}" for name in IMAGES)}


def test_writes_the_layout_that_the_kit_reads(download, server, tmp_path):
    """Modules in the current folder don't run, and a second run requests nothing."""
    for name in ("json", "zipfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    result = download()
    assert result.returncode == 0, result.stderr
    assert files(tmp_path) == COMPLETE | {"json.py", "zipfile.py"}
    assert (tmp_path / CHECKPOINT).read_bytes() == WEIGHTS
    for name, content in IMAGES.items():
        assert (tmp_path / "data/images/val2017" / name).read_bytes() == content
    server.requests.clear()
    assert download().returncode == 0
    (tmp_path / "data/images/val2017").rename(tmp_path / "data/val2017")  # the other layout
    assert download().returncode == 0
    assert server.requests == []


def test_resumes_where_the_server_broke_off(download, server, tmp_path):
    server.most = {url: iter([len(server.files[url]) // 2]) for url in (CHECKPOINT_URL, IMAGES_URL)}
    result = download()
    assert result.returncode == 0, result.stderr
    assert (CHECKPOINT_URL, len(WEIGHTS) // 2) in server.requests
    assert (IMAGES_URL, len(server.files[IMAGES_URL]) // 2) in server.requests
    assert files(tmp_path) == COMPLETE


@pytest.mark.parametrize(("name", "there", "ranges", "requests"), [
    (f"{CHECKPOINT}.part", WEIGHTS[:1000], True, [(CHECKPOINT_URL, 1000)]),
    (f"{CHECKPOINT}.part", WEIGHTS[:1000], False, [(CHECKPOINT_URL, 0)]),  # the server can't resume
    (f"{CHECKPOINT}.part", WEIGHTS, True, []),
    (CHECKPOINT, b"half of it", True, [(CHECKPOINT_URL, 0)]),
])
def test_continues_with_what_is_there(download, server, tmp_path, name, there, ranges, requests):
    server.ranges = ranges
    (tmp_path / name).write_bytes(there)
    assert download("checkpoint").returncode == 0
    assert server.requests == requests
    assert files(tmp_path) == {CHECKPOINT} and (tmp_path / CHECKPOINT).read_bytes() == WEIGHTS


def test_completes_a_folder_of_images(download, tmp_path):
    download("coco")
    image = tmp_path / "data/images/val2017" / next(iter(IMAGES))
    image.unlink()
    assert download("coco").returncode == 0
    assert image.read_bytes() == IMAGES[image.name]


def patched(content: bytes, field: str, value: bytes) -> bytes:
    """A zip file's central directory with a field of its first entry replaced."""
    start = content.index(b"PK\1\2") + {"flags": 8, "method": 10, "size": 24}[field]
    return content[:start] + value + content[start + len(value):]


def naming(image: object) -> bytes:
    """Annotations with an image of this name."""
    return annotations(json.dumps({"images": [{"file_name": image}], "annotations": [{"id": 1}]}).encode())


PERSONS = "annotations/person_keypoints_val2017.json"
ZIP = "annotations_trainval2017.zip"
WRONG = WEIGHTS[:-1] + b"!"
*KEPT, MISSING = IMAGES
DAMAGED = zipped({f"val2017/{name}": content for name, content in IMAGES.items()}).replace(
    IMAGES[MISSING], WRONG[:20_000])


@pytest.mark.parametrize(("part", "path", "sent", "messages"), [
    ("checkpoint", CHECKPOINT_URL, None, (f"{CHECKPOINT}: can't fetch ", CHECKPOINT_URL, "404", "re-run to resume")),
    ("checkpoint", CHECKPOINT_URL, WRONG, (CHECKPOINT, hashlib.sha256(WRONG).hexdigest()[:8], "as in its name")),
    ("coco", IMAGES_URL, DAMAGED, ("val2017.zip", f"val2017/{MISSING} in it is damaged")),
    ("coco", IMAGES_URL, zipped({f"val2017/{name}": IMAGES[name] for name in KEPT}), ("val2017.zip", MISSING)),
    *(("coco", ANNOTATIONS_URL, content, (ZIP, message)) for content, message in (
        (annotations(b'{"images": ['), "can't unpack it: "),
        (annotations(b"[]"), "no images and annotations in it"),
        (annotations(b'{"images": [], "annotations": []}'), "no images and annotations in it"),
        (b"", "re-run to resume, or remove "),
        (b"<html>404</html>", "not a zip file"),
        (patched(annotations(), "flags", b"\1\0"), "is encrypted"),
        (patched(annotations(), "method", b"\x63\0"), "not supported"),
        (patched(annotations(), "size", b"\xff\xff\xff\xf0"), "unpacks to more than 4 GB"),
        (zipped({"../../person_keypoints_val2017.json": b"{}", "/etc/b": b""}), "no item named"),
        (naming("a/.."), "an image is named '..'"),
        (naming(""), "an image is named ''"),
        (naming("a\0b.jpg"), "an image is named"),
        (naming("a\nb.jpg"), r"an image is named 'a\nb.jpg'"),
        (naming([1]), "can't unpack it: "))),
])
def test_refuses_what_a_server_sends(download, server, tmp_path, part, path, sent, messages):
    server.files[path] = sent
    result = download(part)
    assert result.returncode == 1
    check_line(result.stderr, *messages)
    broken = {CHECKPOINT_URL: CHECKPOINT, IMAGES_URL: f"data/images/val2017/{MISSING}",
              ANNOTATIONS_URL: f"data/{PERSONS}"}[path]
    assert files(tmp_path) <= COMPLETE - {broken} | {"data/val2017.zip", f"data/{ZIP}"}


@pytest.mark.parametrize(("part", "environment", "code", "messages"), [
    ("imagenet", {}, 2, ("imagenet: expected checkpoint, coco, or nothing for both",)),
    ("checkpoint", {"CHECKPOINT": "rtmpose-m.pth"}, 2, ("CHECKPOINT=rtmpose-m.pth: expected a name that ends in ",)),
    ("checkpoint", {"OPENMMLAB_URL": "http://127.0.0.1:9"}, 1, ("can't fetch http://127.0.0.1:9/", "refused")),
    ("coco", {"DATASETS_DIR": "/dev/null"}, 1, ("/dev/null", "choose a writable folder")),
])
def test_refuses_what_a_user_says(download, server, part, environment, code, messages):
    result = download(part, **environment)
    assert result.returncode == code
    check_line(result.stderr, *messages)
    assert server.requests == []


def test_part_longer_than_the_file(download, tmp_path):
    part = tmp_path / f"{CHECKPOINT}.part"
    part.write_bytes(WEIGHTS + b"!")
    result = download("checkpoint")
    assert result.returncode == 1
    check_line(result.stderr, "416", f"remove {part.name}")


def test_gives_up_on_a_server_that_sends_a_byte_a_request(download, server, tmp_path):
    server.most = {CHECKPOINT_URL: itertools.repeat(1)}
    result = download("checkpoint")
    assert result.returncode == 1
    check_line(result.stderr, "ended after 3 of")
    assert len(server.requests) == 3
    assert (tmp_path / f"{CHECKPOINT}.part").read_bytes() == WEIGHTS[:3]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b""],
                         ids=["body", "headers"])
def test_gives_up_on_a_server_that_trickles(server, environment, tmp_path, answer):
    """A byte every 0.1 s; the script's 30 s are 1 s here."""
    server.trickles = answer
    code = ("import sys, signal; sys.path.insert(0, sys.argv[1]); import download; from pathlib import Path; "
            "download.SECONDS = 1; signal.signal(signal.SIGALRM, download.too_slow); "
            f"download.fetch('{server.url}/a', Path('a'), download.check_zip)")
    result = subprocess.run([sys.executable, "-I", "-c", code, str(SCRIPT.parent)], cwd=tmp_path, text=True,
                            capture_output=True, timeout=30, env=environment)
    assert result.returncode == 1
    check_line(result.stderr, "the server sent less than 30000 bytes in 1 seconds")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_it_at_once(server, environment, tmp_path, number):
    server.trickles = b""
    with subprocess.Popen(["bash", SCRIPT, "checkpoint"], cwd=tmp_path, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not server.requests and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        _, message = process.communicate(timeout=2)
    assert (process.returncode, message) == (-number, "")
