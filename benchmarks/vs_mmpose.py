"""The kit against mmpose's own test loop with the same weights, images and boxes, both from image files to keypoints.

    python3 benchmarks/vs_mmpose.py --engine rtmpose-t.engine --cfg rtmpose-t.py --weight rtmpose-t.pth \\
        --datasets unseen

mmpose runs in PyTorch on the CPU at the engine's batch: its CocoDataset with the pipeline of the published configs in
mmengine's DataLoader, with `--workers` processes that stay alive between rounds, then `test_step` of its estimator
batch by batch, as in mmengine's TestLoop. Neither side scores. The two take turns. Needs xtcocotools, which
scripts/test.sh builds.
"""

from common import positive, run

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from contest import compare, speed_parser

from rtmpose.data.coco import ANNOTATIONS, IMAGE_FOLDERS, PersonSet, load_persons
from rtmpose.engines import load_engine
from rtmpose.errors import KitError
from rtmpose.evaluate.predictions import Predictions
from rtmpose.model.checkpoint import load_network
from rtmpose.model.config import import_mmpose


def main() -> int:
    """Measure and print."""
    parser = speed_parser(__doc__)
    parser.add_argument("--cfg", required=True, metavar="FILE.py", help="mmpose config of the engine")
    parser.add_argument("--weight", required=True, metavar="FILE.pth", help="checkpoint of the engine")
    parser.add_argument("--workers", type=positive, default=2, metavar="N",
                        help="mmpose's processes that read and crop; default: %(default)s")
    args = parser.parse_args()
    check_xtcocotools()
    engine, persons = load_engine(args.engine), load_persons(args.datasets)
    estimator: Any = load_network(args.cfg, args.weight).module.estimator
    estimator.test_cfg["flip_test"] = False
    loader = make_loader(args.datasets, engine.record.input_size, engine.record.batch, args.workers)
    compare(engine, persons, "mmpose", lambda: predict(estimator.eval(), loader, persons), args.rounds)
    return 0


def check_xtcocotools() -> None:
    """Raise KitError unless xtcocotools works; its wheels were made for NumPy 1 and fail with a ValueError."""
    try:
        importlib.import_module("xtcocotools._mask")
    except (ImportError, ValueError) as error:
        raise KitError(f"xtcocotools: can't be imported ({error}), mmpose's CocoDataset needs it; scripts/test.sh "
                       "builds it") from error


def make_loader(folder: str, size: tuple[int, int], batch: int, workers: int) -> Any:
    """mmengine's DataLoader over mmpose's ``CocoDataset``."""
    import_mmpose()
    datasets = importlib.import_module("mmpose.datasets")
    transforms = datasets.transforms
    image_folder = next(name for name in IMAGE_FOLDERS if (Path(folder) / name).is_dir())
    dataset = datasets.CocoDataset(
        data_root=folder, ann_file=str(ANNOTATIONS), data_prefix={"img": f"{image_folder}/"},
        metainfo={"from_file": str(Path(datasets.__file__).parents[1] / ".mim/configs/_base_/datasets/coco.py")},
        data_mode="topdown", test_mode=True,
        pipeline=[transforms.LoadImage(), transforms.GetBBoxCenterScale(), transforms.TopdownAffine(input_size=size),
                  transforms.PackPoseInputs()])
    runner = importlib.import_module("mmengine.runner")
    return runner.Runner.build_dataloader({
        "dataset": dataset, "batch_size": batch, "num_workers": workers, "persistent_workers": True,
        "drop_last": False, "sampler": {"type": "DefaultSampler", "shuffle": False, "round_up": False}})


def predict(estimator: Any, loader: Any, persons: PersonSet) -> Predictions:
    """Predict every person with mmpose."""
    import torch
    with torch.no_grad():
        samples = {sample.id: sample for data in loader for sample in estimator.test_step(data)}
    annotations = persons.annotations.annotations
    ordered = [samples[annotations[person.index]["id"]] for person in persons]
    instances = [sample.pred_instances for sample in ordered]
    return Predictions(list(persons), np.float32([instance.keypoints[0] for instance in instances]),
                       np.float32([instance.keypoint_scores[0] for instance in instances]),
                       np.stack([sample.input_scale for sample in ordered]))


if __name__ == "__main__":
    run(main)
