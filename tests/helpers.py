"""Functions of the tests: data sets, a random network and its files, and the scripts run as a user runs them."""

import common

import html
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest

from rtmpose.engines import BACKENDS
from rtmpose.errors import KitError

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
BASELINE = json.loads((ROOT / "tests/baseline.json").read_text())

SMALL_CONFIG = """
codec = dict(type='SimCCLabel', input_size={size}, sigma=(4.9, 5.66), simcc_split_ratio=2.0, normalize=False,
             use_dark=False)
model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(type='PoseDataPreprocessor', mean=[123.675, 116.28, 103.53],
                           std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(type='CSPNeXt', arch='P5', expand_ratio=0.5, deepen_factor=0.167, widen_factor={widen},
                  out_indices=(4, ), channel_attention=True, norm_cfg=dict(type='BN'), act_cfg=dict(type='SiLU')),
    head=dict(type='RTMCCHead', in_channels={channels}, out_channels={keypoints}, input_size=codec['input_size'],
              in_featuremap_size={features}, simcc_split_ratio=2.0, final_layer_kernel_size=7,
              gau_cfg=dict(hidden_dims=256, s=128, expansion_factor=2, dropout_rate=0., drop_path=0., act_fn='SiLU',
                           use_rel_bias=False, pos_enc=False),
              loss=dict(type='KLDiscretLoss', use_target_weight=True, beta=10., label_softmax=True), decoder=codec),
    test_cfg=dict(flip_test={flip}))
test_dataloader = dict(dataset=dict(type='CocoDataset', metainfo=dict(from_file='configs/_base_/datasets/{dataset}.py'),
    pipeline=[dict(type='LoadImage'), dict(type='GetBBoxCenterScale'),
              dict(type='TopdownAffine', input_size=codec['input_size']), dict(type='PackPoseInputs')]))
"""


def small_config(keypoints: int = 17, size: tuple[int, int] = (192, 256), widen: float = 0.375, flip: bool = False
                 ) -> str:
    """RTMPose-t's config as text (widen 0.25 gives a network smaller than any published)."""
    dataset = {17: "coco", 26: "halpe26", 133: "coco_wholebody"}[keypoints]
    return SMALL_CONFIG.format(dataset=dataset, keypoints=keypoints, size=size, widen=widen, channels=int(1024 * widen),
                               features=(size[0] // 32, size[1] // 32), flip=flip)


def run_script(script: str, *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
               ) -> subprocess.CompletedProcess[str]:
    """Run one of the kit's Python scripts: in this process, which has imported all it needs, or with an environment in
    one of its own."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    if env is not None:
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900, check=False)
    main = importlib.import_module(Path(script).stem).main
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ), catch_stream("stdout") as out, \
            catch_stream("stderr") as err:
        patch.chdir(cwd or Path.cwd())
        patch.setattr(sys, "argv", command[1:])
        try:
            code = common.exit_code(main)
        except SystemExit as left:  # argparse exits by itself
            code = left.code
    return subprocess.CompletedProcess(command, code, out(), err())


def ran(*command: object, **where: Any) -> str:
    """What a script prints; it must succeed."""
    done = run_script(*command, **where)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*command: object, **where: Any) -> str:
    """The one line of a script that must end with a user error."""
    done = run_script(*command, **where)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{Path(command[0]).name}: error: ")
    return line


def refusal(function: Callable[..., object], *arguments: object) -> str:
    """The one line of a KitError that a function of the kit must raise."""
    with pytest.raises(KitError) as raised:
        function(*arguments)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 1500
    return message


@contextmanager
def catch_stream(name: str) -> Iterator[Callable[[], str]]:
    """Catch what this process writes to "stdout" or "stderr", native code too; afterwards the function returns it."""
    number, stream = {"stdout": 1, "stderr": 2}[name], getattr(sys, name)
    with tempfile.TemporaryFile() as caught:
        text = []
        stream.flush()
        kept = os.dup(number)
        os.dup2(caught.fileno(), number)
        # Not closed: a logger may keep it.
        setattr(sys, name, io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), errors="backslashreplace",
                                            write_through=True))
        try:
            yield lambda: text[0]
        finally:
            getattr(sys, name).flush()
            setattr(sys, name, stream)
            os.dup2(kept, number)
            os.close(kept)
            caught.seek(0)
            text.append(caught.read().decode())


def page_text(page: str) -> str:
    """The text of an HTML page, which must be one whole file: tags are closed, and nothing comes from elsewhere."""
    assert not any(word in page for word in ("http:", "https:", "url(", "@import", "<script"))
    for tag in set(re.findall(r"<(\w+)", page)) - {"img", "meta"}:
        assert len(re.findall(rf"<{tag}\b[^>]*(?<!/)>", page)) == page.count(f"</{tag}>"), tag
    return html.unescape(re.sub("<[^>]*>", "\n", page))


def build_engine(onnx: Path, engine: Path, batch: int, precision: str, backend: str) -> Path:
    """Let build_engine.py build an engine for crops of 256x192, and give it back."""
    ran("build_engine.py", "--model_path", onnx, "--input", f"input:{batch},3,256,192", "--precision", precision,
        "--backend", backend, "--engine_path", engine)
    return engine


def build_facts(backend: str) -> SimpleNamespace:
    """What a backend's ``build`` has to know: its first device, and that FP32 is asked for."""
    return SimpleNamespace(**asdict(BACKENDS[backend].describe()[0]), hint="latency", requested_precision="fp32",
                           optimization_level=None, builds=1)


def save_random_checkpoint(config: Path, path: Path, seed: int = 0) -> Path:
    """An official-style .pth with seeded random weights, and the statistics of noise in its normalisation layers:
    without them the output hardly depends on the input, and no test would notice a wrong crop."""
    import torch

    from rtmpose.model.config import build_estimator, read_config

    torch.manual_seed(seed)
    estimator = build_estimator(read_config(config).model, config)
    for parameter in estimator.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear")
    for module in estimator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    width, height = estimator.head.input_size
    noise = torch.randn(8, 3, height // 16, width // 16)
    with torch.no_grad():
        estimator.train()(torch.nn.functional.interpolate(noise, (height, width), mode="bicubic"), None)
    torch.save({"meta": {"dataset_meta": {"dataset_name": "coco"}}, "state_dict": estimator.state_dict()}, path)
    return path


def draw_people(folder: Path, images: int, seed: int) -> Path:
    """Pictures of people as the demo's checkpoint knows them, in COCO's layout."""
    ran("demo/make_dataset.py", "--output", folder, "--images", images, "--seed", seed)
    return folder


def draw_dataset(folder: Path, images: int = 5, seed: int = 0) -> dict:
    """Noise images with one to three boxes of random keypoints each, in COCO's layout.

    Sizes, boxes that leave the image, partly labelled persons, a crowd and a person without keypoints are in it.
    Returns the annotations, which lie in ``annotations/person_keypoints_val2017.json``.
    """
    random = np.random.default_rng(seed)
    records, annotations = [], []
    (folder / "images/val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for image_id in range(1, images + 1):
        width, height = map(int, random.integers(120, 400, 2))
        small = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"images/val2017/{image_id:012d}.jpg"), cv2.resize(small, (width, height)))
        records.append({"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": width, "height": height})
        for _ in range(int(random.integers(1, 4))):
            annotations.append(_draw_person(random, len(annotations) + 1, image_id, width, height))
    annotations.append({**annotations[0], "id": len(annotations) + 1, "iscrowd": 1})
    annotations.append({**annotations[0], "id": len(annotations) + 1, "keypoints": [0] * 51, "num_keypoints": 0})
    content = {"info": {"description": "drawn by the tests"}, "licenses": [], "images": records,
               "annotations": annotations, "categories": [{"id": 1, "name": "person", "supercategory": "person"}]}
    write_annotations(folder, content)
    return content


def _draw_person(random: np.random.Generator, identity: int, image_id: int, width: int, height: int) -> dict:
    x, y = random.uniform(-10, width * 0.5), random.uniform(-10, height * 0.5)
    w, h = random.uniform(30, width * 0.7), random.uniform(40, height * 0.7)
    keypoints = np.stack([random.uniform(x, x + w, 17), random.uniform(y, y + h, 17), random.integers(0, 3, 17)], 1)
    keypoints = np.rint(keypoints)
    keypoints[0, 2] = 2
    keypoints[keypoints[:, 2] == 0] = 0
    return {"id": identity, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": [x, y, w, h],
            "area": w * h * 0.6, "keypoints": keypoints.astype(int).ravel().tolist(),
            "num_keypoints": int((keypoints[:, 2] > 0).sum())}


def shared(name: str) -> Path:
    """A folder of real data beside the repository; without it the test is skipped."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs ../shared/{name}")
    return SHARED / name


def write_annotations(folder: Path, content: dict) -> None:
    """Write the annotations of a drawn data set (again)."""
    (folder / "annotations/person_keypoints_val2017.json").write_text(json.dumps(content))
