"""scripts/download.sh against a local server, with tiny files in the official layout."""

import hashlib
import io
import json
import os
import re
import subprocess
import threading
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
IMAGES = {f"{number:012}.jpg": os.urandom(20_000) for number in range(1, 6)}


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
    """Serve ``files`` with Range support, record requests, and break off the next answer to each of ``breaks``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        images = zipped({f"val2017/{name}": content for name, content in IMAGES.items()})
        self.files = {CHECKPOINT_URL: WEIGHTS, ANNOTATIONS_URL: annotations(), IMAGES_URL: images}
        self.breaks: set[str] = set()
        self.ranges = True
        self.requests: list[tuple[str, int]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        found = self.server.ranges and re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        self.server.requests.append((self.path, start))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.path in self.server.breaks:
            self.server.breaks.remove(self.path)
            end = (start + end) // 2
        self.wfile.write(content[start:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def download(server: Server, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    environment = {**os.environ, "OPENMMLAB_URL": server.url, "COCO_URL": server.url,
                   "CHECKPOINT": CHECKPOINT, "DATASETS_DIR": "data", "no_proxy": "*"}

    def run(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", str(SCRIPT), *arguments], cwd=tmp_path, env=environment | changed, text=True,
                              capture_output=True, timeout=60, stdin=subprocess.DEVNULL)

    return run


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


COMPLETE = {CHECKPOINT, "data/annotations/person_keypoints_val2017.json",
            *(f"data/images/val2017/{name}" for name in IMAGES)}


def one_line(text: str) -> str:
    assert text.startswith("download.sh: ") and text.count("\n") == 1, text
    return text


def test_writes_the_layout_that_the_kit_reads(download, server, tmp_path):
    result = download()
    assert result.returncode == 0, result.stderr
    assert files(tmp_path) == COMPLETE
    assert (tmp_path / CHECKPOINT).read_bytes() == WEIGHTS
    for name, content in IMAGES.items():
        assert (tmp_path / "data/images/val2017" / name).read_bytes() == content


def test_rerun_requests_nothing(download, server, tmp_path):
    download()
    server.requests.clear()
    assert download().returncode == 0
    assert server.requests == []
    assert files(tmp_path) == COMPLETE


def test_accepts_images_in_the_other_layout(download, server, tmp_path):
    download("coco")
    (tmp_path / "data/images/val2017").rename(tmp_path / "data/val2017")
    server.requests.clear()
    assert download("coco").returncode == 0
    assert server.requests == []


def test_resumes_where_the_server_broke_off(download, server, tmp_path):
    server.breaks = {CHECKPOINT_URL, IMAGES_URL}
    result = download()
    assert result.returncode == 0, result.stderr
    assert (CHECKPOINT_URL, len(WEIGHTS) // 2) in server.requests
    assert (IMAGES_URL, len(server.files[IMAGES_URL]) // 2) in server.requests
    assert files(tmp_path) == COMPLETE


def test_resumes_an_earlier_run(download, server, tmp_path):
    (tmp_path / f"{CHECKPOINT}.part").write_bytes(WEIGHTS[:1000])
    assert download("checkpoint").returncode == 0
    assert server.requests == [(CHECKPOINT_URL, 1000)]
    assert (tmp_path / CHECKPOINT).read_bytes() == WEIGHTS


def test_starts_again_if_the_server_cannot_resume(download, server, tmp_path):
    server.ranges = False
    (tmp_path / f"{CHECKPOINT}.part").write_bytes(WEIGHTS[:1000])
    assert download("checkpoint").returncode == 0
    assert (tmp_path / CHECKPOINT).read_bytes() == WEIGHTS


def test_part_longer_than_the_file(download, server, tmp_path):
    part = tmp_path / f"{CHECKPOINT}.part"
    part.write_bytes(WEIGHTS + b"!")
    result = download("checkpoint")
    assert result.returncode == 1
    assert "416" in one_line(result.stderr) and f"remove {part.name}" in result.stderr


def test_checkpoint_name_without_a_digest(download, server):
    result = download("checkpoint", CHECKPOINT="rtmpose-m.pth")
    assert result.returncode == 2
    assert "CHECKPOINT=rtmpose-m.pth" in one_line(result.stderr)
    assert server.requests == []


def test_ignores_modules_in_the_current_folder(download, server, tmp_path):
    for name in ("json", "zipfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    result = download()
    assert result.returncode == 0, result.stderr


def test_unwritable_folder(download, server, tmp_path):
    (tmp_path / "data").write_text("a file")
    result = download("coco")
    assert result.returncode == 1
    assert "data" in one_line(result.stderr)


def test_takes_a_complete_part_without_a_request(download, server, tmp_path):
    (tmp_path / f"{CHECKPOINT}.part").write_bytes(WEIGHTS)
    assert download("checkpoint").returncode == 0
    assert server.requests == []
    assert files(tmp_path) == {CHECKPOINT}


def test_refuses_a_wrong_checksum(download, server, tmp_path):
    server.files[CHECKPOINT_URL] = WEIGHTS[:-1] + b"!"
    result = download("checkpoint")
    assert result.returncode == 1
    message = one_line(result.stderr)
    assert CHECKPOINT in message and hashlib.sha256(server.files[CHECKPOINT_URL]).hexdigest()[:8] in message
    assert files(tmp_path) == set()


def test_replaces_a_wrong_checkpoint(download, server, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"half of it")
    assert download("checkpoint").returncode == 0
    assert (tmp_path / CHECKPOINT).read_bytes() == WEIGHTS


def test_refuses_a_damaged_zip(download, server, tmp_path):
    content = bytearray(server.files[IMAGES_URL])
    content[1000] ^= 1
    server.files[IMAGES_URL] = bytes(content)
    result = download("coco")
    assert result.returncode == 1
    assert "val2017.zip" in one_line(result.stderr) and "000000000001.jpg" in result.stderr
    assert files(tmp_path) == {"data/annotations/person_keypoints_val2017.json"}


def test_names_the_image_that_the_zip_lacks(download, server, tmp_path):
    *kept, missing = IMAGES
    server.files[IMAGES_URL] = zipped({f"val2017/{name}": IMAGES[name] for name in kept})
    result = download("coco")
    assert result.returncode == 1
    assert missing in one_line(result.stderr)


def test_completes_a_folder_of_images(download, server, tmp_path):
    download("coco")
    image = tmp_path / "data/images/val2017" / next(iter(IMAGES))
    image.unlink()
    assert download("coco").returncode == 0
    assert image.read_bytes() == IMAGES[image.name]


@pytest.mark.parametrize("content", [b'{"images": [', b"[]", b'{"images": [], "annotations": []}'])
def test_refuses_broken_annotations(download, server, tmp_path, content):
    server.files[ANNOTATIONS_URL] = annotations(content)
    result = download("coco")
    assert result.returncode == 1
    assert "annotations_trainval2017.zip" in one_line(result.stderr)
    assert "data/annotations/person_keypoints_val2017.json" not in files(tmp_path)


def test_names_the_url_that_fails(download, server, tmp_path):
    del server.files[CHECKPOINT_URL]
    result = download("checkpoint")
    assert result.returncode == 1
    assert CHECKPOINT_URL in one_line(result.stderr) and "404" in result.stderr
    assert files(tmp_path) == set()


def test_no_server(download, server):
    server.server_close()
    server.shutdown()
    result = download("checkpoint")
    assert result.returncode == 1
    assert server.url in one_line(result.stderr)


def test_unknown_part_is_a_user_error(download, server):
    result = download("imagenet")
    assert result.returncode == 2
    assert "imagenet" in one_line(result.stderr)
    assert server.requests == []
