"""Configs: what the kit does otherwise than a config says is refused in one line, and so is whatever is broken."""

import importlib.util
import re
from pathlib import Path

import pytest
from helpers import ROOT, small_config

from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.errors import KitError
from rtmpose.model.config import build_estimator, import_mmpose, read_config

import_mmpose()
from mmengine.config import Config  # noqa: E402
from mmpose.registry import MODELS  # noqa: E402

SHIPPED = Path(importlib.util.find_spec("mmpose").origin).parent / ".mim/configs"
PIPELINE = "test_dataloader['dataset']['pipeline']"


def refusal(tmp_path: Path, addition: str, text: str | None = None) -> str:
    """The error about the small config with some lines of Python after it."""
    config = tmp_path / "config.py"
    config.write_text(f"{text or small_config()}\n{addition}\n")
    with pytest.raises(KitError) as raised:
        read_config(config)
    message = str(raised.value)
    assert message.startswith(f"{config}: ") and "\n" not in message and len(message) < 600
    return message.removeprefix(f"{config}: ")


@pytest.mark.parametrize(("addition", "message"), [
    (f"{PIPELINE}[1]['padding'] = 2.0", "GetBBoxCenterScale.padding is 2.0, the kit's is 1.25"),
    (f"{PIPELINE}[2]['use_udp'] = True", "TopdownAffine.use_udp is True, the kit's is False"),
    (f"{PIPELINE}[2]['input_size'] = (288, 384)", "TopdownAffine.input_size is (288, 384), the kit's is (192, 256)"),
    (f"{PIPELINE}[0]['color_type'] = 'grayscale'", "LoadImage.color_type is grayscale"),
    (f"{PIPELINE}[0]['to_float32'] = True", "LoadImage.to_float32 is True"),
    (f"{PIPELINE}.insert(1, dict(type='RandomFlip', prob=1.0))", "pipeline of test_dataloader.dataset is LoadImage, "),
    ("codec['use_dark'] = True", "decoder.use_dark is True, the kit's is False"),
    ("codec['normalize'] = True", "decoder.normalize is True, the kit's is False"),
    ("del codec['normalize']", "decoder.normalize is True, the kit's is False"),  # mmpose's default
    ("codec['simcc_split_ratio'] = 3.0", "decoder.simcc_split_ratio is 3.0, the kit's is 2.0"),
    ("codec['decode_visibility'] = True", "decoder.decode_visibility is True"),
    ("codec['input_size'] = (256, 256)", "decoder.input_size is (256, 256), the kit's is (192, 256)"),
    ("codec['type'] = 'RegressionLabel'", "decoder.type is RegressionLabel, the kit's is SimCCLabel"),
    ("model['head']['simcc_split_ratio'] = 3.0", "head.simcc_split_ratio is 3.0, the kit's is 2.0"),
    ("model['data_preprocessor']['mean'] = [0, 116.28, 103.53]", "data_preprocessor.mean is [0, 116.28, 103.53], the"),
    ("model['data_preprocessor']['mean'] = 'grey'", "data_preprocessor.mean is grey, the kit's is [123.675, 116.28, "),
    ("model['data_preprocessor']['mean'] = 123.675", "data_preprocessor.mean is 123.675"),
    ("del model['data_preprocessor']['std']", "data_preprocessor.std is None"),
    ("model['data_preprocessor']['pad_size_divisor'] = 64", "data_preprocessor.pad_size_divisor is 64"),
    ("del model['data_preprocessor']", "data_preprocessor.type is None"),
    ("model['test_cfg']['output_keypoint_indices'] = [0]", "test_cfg.output_keypoint_indices is [0]"),
    ("del test_dataloader", "the pipeline of test_dataloader.dataset is missing"),
    ("model['head']['out_channels'] = 21", "head.out_channels is 21, but its data set coco has 17 keypoints"),
    ("test_dataloader['dataset'].update(metainfo=None, type='CrowdPoseDataset')", "its data set crowdpose has 14 key"),
    ("test_dataloader['dataset'].update(metainfo=None, type='NoSuchDataset')", "names no known keypoints in test_data"),
    ("test_dataloader['dataset']['metainfo'] = dict(from_file='nowhere.py')", "names no known keypoints in test_data"),
    ("import sys; sys.exit(0)", "can't be read as an mmengine config (SystemExit: 0); it is Python code, which "),
    ("raise KeyboardInterrupt", "can't be read as an mmengine config (KeyboardInterrupt: KeyboardInterrupt)"),
    ("raise ValueError('first\\nsecond')", "can't be read as an mmengine config (ValueError: first)"),
    ("class Own(BaseException): pass\nraise Own", "can't be read as an mmengine config (Own: Own)"),
    ("model['head']['type'] = 'RTMWHead'", "TopdownPoseEstimator, head RTMWHead, is not supported; RTMPose's RTM"),
])
def test_what_the_kit_does_otherwise_is_refused(tmp_path: Path, addition: str, message: str) -> None:
    assert message in refusal(tmp_path, addition)


PARTS = ("model", "model['data_preprocessor']", "model['data_preprocessor']['mean']",
         "model['data_preprocessor']['std']", "model['data_preprocessor']['bgr_to_rgb']", "model['type']",
         "model['head']", "model['head']['type']", "model['head']['input_size']", "model['head']['out_channels']",
         "model['head']['simcc_split_ratio']", "model['head']['decoder']", "codec['use_dark']", "codec['type']",
         "test_dataloader", "test_dataloader['dataset']", PIPELINE, f"{PIPELINE}[0]", f"{PIPELINE}[1]",
         f"{PIPELINE}[1]['padding']", f"{PIPELINE}[2]['input_size']", "test_dataloader['dataset']['metainfo']")
STRANGE = ("3", "'text'", "[]", "[None, 'a']", "dict(a=1)", "float('nan')", "-1", "(1, 2, 3)", "b'bytes'", "len",
           "set()", "10**400", "[[1], [2, 3]]", "'first\\nsecond'")


@pytest.mark.parametrize("part", PARTS)
def test_strange_types_are_refused_in_one_line(tmp_path: Path, part: str) -> None:
    for value in STRANGE:
        if part.endswith("['metainfo']") and value in ("[]", "set()"):
            continue  # empty: the class of the data set says the keypoints
        refusal(tmp_path, f"{part} = {value}")


# The small config's types, and where they are.
PACKAGES = {"SimCCLabel": "mmpose.codecs", "SiLU": "torch.nn", "BatchNorm2d": "torch.nn",
            **dict.fromkeys(["CocoDataset", "GetBBoxCenterScale", "LoadImage", "PackPoseInputs", "TopdownAffine"],
                            "mmpose.datasets"),
            **dict.fromkeys(["CSPNeXt", "KLDiscretLoss", "PoseDataPreprocessor", "RTMCCHead", "TopdownPoseEstimator"],
                            "mmpose.models")}
BODY = small_config().replace("'BN'", "'BatchNorm2d'")
CLASSES = "".join(f"from {package} import {name}\n" for name, package in PACKAGES.items()) + re.sub(
    r"type='(\w+)'", r"type=\1", BODY)
READ_BASE = "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"
STYLES = {
    "strings": small_config(),
    "classes": CLASSES,
    "classes of mmdet and SyncBatchNorm": CLASSES.replace("mmpose.models import CSP", "mmdet.models import CSP"
                                                          ).replace("BatchNorm2d", "SyncBatchNorm"),
    "classes in modules": "".join(f"import {package}\n" for package in PACKAGES.values()) + re.sub(
        r"type='(\w+)'", lambda found: f"type={PACKAGES[found[1]]}.{found[1]}", BODY),
    "read_base": READ_BASE + CLASSES,
    "all in the base": READ_BASE + "model.update(test_cfg=dict(flip_test=True))",
    "classes and _base_": "_base_ = ['base.py']\n" + CLASSES,
}


@pytest.mark.parametrize(("style", "dumped"), [
    *((style, None) for style in STYLES), *((style, kind) for style in list(STYLES)[:-1] for kind in ("py", "json"))])
def test_styles_of_mmengine_give_the_network_of_mmengine(tmp_path: Path, style: str, dumped: str | None) -> None:
    """As written, and as mmengine dumps them into work_dirs, except the last, which it can't dump."""
    (tmp_path / "base.py").write_text(CLASSES if style == "all in the base" else "default_scope = 'mmpose'\n")
    config = written = tmp_path / "written.py"
    written.write_text(STYLES[style])
    if dumped:
        Config.fromfile(written).dump(config := tmp_path / f"dumped.{dumped}")
    expected = tmp_path / "expected.py"
    expected.write_text(CLASSES)
    found = read_config(config)
    assert found.input_size == (192, 256) and found.skeleton.keypoints == COCO_KEYPOINTS
    assert str(build_estimator(found.model, config)) == str(MODELS.build(Config.fromfile(expected).model))


def test_the_kits_own_config_is_mmposes(tmp_path: Path) -> None:
    ours = read_config(ROOT / "rtmpose-m_8xb256-420e_coco-256x192.py")
    theirs = read_config(SHIPPED / "body_2d_keypoint/rtmpose/coco/rtmpose-m_8xb256-420e_coco-256x192.py")
    assert ours.skeleton == theirs.skeleton and ours.input_size == theirs.input_size
    assert ours.skeleton.keypoints == COCO_KEYPOINTS


@pytest.mark.parametrize(("name", "skeleton", "first"), [
    ("animal_2d_keypoint/rtmpose/ap10k/rtmpose-m_8xb64-210e_ap10k-256x256.py", ("ap10k", 17), "L_Eye"),
    ("body_2d_keypoint/rtmpose/body8/rtmpose-t_8xb1024-700e_body8-halpe26-256x192.py", ("halpe26", 26), "nose"),
    ("wholebody_2d_keypoint/rtmpose/ubody/rtmpose-t_8xb64-270e_coco-ubody-wholebody-256x192.py",
     ("coco_wholebody", 133), "nose"),
])
def test_the_skeleton_is_that_of_metainfo_or_of_the_data_sets_class(name: str, skeleton: tuple[str, int], first: str
                                                                    ) -> None:
    found = read_config(SHIPPED / name).skeleton
    assert (found.name, len(found.keypoints)) == skeleton and found.keypoints[0] == first


@pytest.mark.parametrize(("pattern", "head"), [
    ("rtmw-l_8xb320-270e_cocktail14-384x288.py", "TopdownPoseEstimator, head RTMWHead"),
    ("rtmo-s_8xb32-600e_coco-640x640.py", "BottomupPoseEstimator, head RTMOHead"),
    ("dwpose_l_dis_m_coco-256x192.py", "DWPoseDistiller, head none"),
    ("simcc_res50_8xb64-210e_coco-256x192.py", "TopdownPoseEstimator, head SimCCHead"),
    ("td-hm_hrnet-w32_8xb64-210e_coco-256x192.py", "TopdownPoseEstimator, head HeatmapHead"),
])
def test_other_networks_of_mmpose_are_named(pattern: str, head: str) -> None:
    (config,) = SHIPPED.rglob(pattern)
    with pytest.raises(KitError, match=f"{head}, is not supported; RTMPose's RTMCCHead is"):
        read_config(config)
