"""Export every rtmpose-* config that mmpose ships, with random weights, and run it: the table of docs/models.md.

    python3 benchmarks/export_all_configs.py
"""

from common import Parser, run

import importlib.util
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.engines import load_engine
from rtmpose.engines.build import build_engine, plan_build
from rtmpose.model.checkpoint import Network, load_network
from rtmpose.model.config import build_estimator, read_config
from rtmpose.model.export import export


def main() -> int:
    """Export, build, run, and print a row for each folder of configs, skeleton and crop."""
    Parser(description=__doc__).parse_args()
    configs = Path(importlib.util.find_spec("mmpose").origin).parent / ".mim/configs"
    rows = defaultdict(list)
    for config in sorted(configs.rglob("rtmpose-*.py")):
        network = export_and_run(config)
        folder = config.parent.relative_to(configs).as_posix().replace("_2d_keypoint/rtmpose", "")
        rows[folder, network.skeleton, network.input_size].append(re.search("rtmpose-(.)", config.name)[1])
    print("| Configs | Sizes | Skeleton | Keypoints | Crop (WxH) | AP on COCO |\n|---|---|---|---|---|---|")
    for (folder, skeleton, (width, height)), sizes in rows.items():
        ap = "yes" if skeleton.keypoints == COCO_KEYPOINTS else "no"
        sizes = ", ".join(sorted(set(sizes), key="tsmlx".index))
        print(f"| {folder} | {sizes} | {skeleton.name} | {len(skeleton.keypoints)} | {width}x{height} | {ap} |")
    print(f"\n{sum(map(len, rows.values()))} configs exported, built for ONNX Runtime in FP32 and run")
    return 0


def export_and_run(config: Path) -> Network:
    """Take a config with random weights from checkpoint to logits; raises KitError if a step fails."""
    with tempfile.TemporaryDirectory() as folder:
        weights, onnx, engine = (Path(folder) / name for name in ("a.pth", "a.onnx", "a.engine"))
        torch.save(build_estimator(read_config(config).model, config).state_dict(), weights)
        network = load_network(config, weights)
        export(network, onnx, {}, simplify_it=False)
        build_engine(plan_build(onnx, engine, 1, "fp32", "onnxruntime"))
        width, height = network.input_size
        simcc_x, simcc_y = load_engine(engine).infer(np.zeros((1, 3, height, width), np.float32))
    keypoints = len(network.skeleton.keypoints)
    assert (simcc_x.shape, simcc_y.shape) == ((1, keypoints, 2 * width), (1, keypoints, 2 * height))
    return network


if __name__ == "__main__":
    run(main)
