"""The time from a detector's boxes and keypoints to AP, and peak memory: the kit beside mmpose's CocoMetric.

    python3 benchmarks/score_time.py --images 500

It draws a set of COCO val2017's make, 5,000 images unless told otherwise, with the same seed every time: 2.2 persons an
image, 21 detections an image, most with a low score. Keypoints are drawn too, so no image is read and no network runs.
The two take turns, each time in a process of its own. Every number of the two must be the same to 1e-9. Needs
xtcocotools, which scripts/test.sh builds.
"""

from common import Parser, positive, run

import contextlib
import importlib
import io
import json
import logging
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from contest import take_turns

from rtmpose.data.coco import ANNOTATIONS, IMAGE_FOLDERS, load_persons
from rtmpose.data.preprocess import box_to_center_scale
from rtmpose.errors import KitError
from rtmpose.evaluate import coco_eval
from rtmpose.evaluate.predictions import Predictions
from rtmpose.machine.versions import peak_memory_mib

DETECTIONS, KEYPOINTS = "person_detections.json", "keypoints.npz"
STAGES, WRITE, MEMORY = ("read", "rescore", "suppress", "evaluate"), "write keypoints.json", "peak memory, MiB"
INPUT_SIZE = (192, 256)
Sample = tuple[Counter[str], dict[str, float]]  # seconds by stage and MiB; the ten numbers


def draw_set(folder: Path, images: int) -> None:
    """Annotations, a detector's boxes, and keypoints for each of these, in the order of their file."""
    random = np.random.default_rng(0)
    counts = np.where(random.random(images) < 0.54, np.minimum(random.geometric(0.245, images), 20), 0)
    image, number = np.repeat(np.arange(images), counts), int(counts.sum())
    boxes, people = draw_people(random, number)
    labelled = random.random(number) < 0.58
    visible = np.where(labelled[:, None], random.choice([0, 1, 2], (number, 17), p=[0.3, 0.1, 0.6]), 0)
    points = np.concatenate([people * (visible[..., None] > 0), visible[..., None]], axis=2).astype(int)
    records = [{"id": row + 1, "image_id": int(image[row]) + 1, "category_id": 1, "bbox": boxes[row].round(2).tolist(),
                "iscrowd": int(not labelled[row] and random.random() < 0.05), "keypoints": points[row].ravel().tolist(),
                "num_keypoints": int((visible[row] > 0).sum()), "area": float(boxes[row, 2:].prod() * 0.6)}
               for row in range(number)]
    (folder / IMAGE_FOLDERS[0]).mkdir(parents=True)
    (folder / ANNOTATIONS).parent.mkdir()
    (folder / ANNOTATIONS).write_text(json.dumps({
        "images": [{"id": i + 1, "file_name": f"{i + 1}.jpg", "width": 640, "height": 480} for i in range(images)],
        "annotations": records, "categories": [{"id": 1, "name": "person"}]}))

    # The detector finds most persons, many of them two or three times, and much else with a low score.
    again = random.choice([0, 1, 2, 3, 4], number, p=[0.05, 0.35, 0.3, 0.2, 0.1])
    found, first = np.repeat(np.arange(number), again), np.concatenate([np.arange(n) == 0 for n in again])
    others = 21 * images - len(found)
    other_boxes, other_people = draw_people(random, others)
    sizes = np.sqrt(boxes[found, 2:].prod(axis=1))
    spread = random.gamma(1.2, 0.03, len(found)) * sizes
    jitter = random.normal(0, 0.05, (len(found), 4)) * boxes[found][:, [2, 3, 2, 3]]
    scores = np.concatenate([np.where(first, 1 - random.beta(0.4, 4, len(found)), random.beta(0.6, 3, len(found))),
                             10 ** -random.uniform(0.3, 3, others)])
    keypoints = np.concatenate([people[found] + random.normal(0, 1, (len(found), 17, 2)) * spread[:, None, None],
                                other_people])
    confidences = np.concatenate([random.beta(8, 3, (len(found), 17)), random.beta(1.5, 4, (others, 17))])
    owners = np.concatenate([image[found], random.integers(0, images, others)])
    order = np.lexsort((-scores, owners))
    detected = np.concatenate([boxes[found] + jitter, other_boxes])
    detected[:, :2] = np.clip(detected[:, :2], 0, [630, 470])
    (folder / DETECTIONS).write_text(json.dumps([
        {"bbox": detected[row].tolist(), "category_id": 1, "image_id": int(owners[row]) + 1,
         "score": float(scores[row])} for row in order], indent=4))
    np.savez(folder / KEYPOINTS, keypoints=keypoints[order].astype(np.float32),
             scores=confidences[order].astype(np.float32))


def draw_people(random: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes x, y, width, height in an image of 640x480 and keypoints in them, float64 (N, 4) and (N, 17, 2)."""
    height = np.clip(random.lognormal(4.6, 0.8, number), 15, 460)
    width = height * random.uniform(0.3, 0.8, number)
    corner = random.uniform(0, 1, (number, 2)) * (np.array([640, 480]) - np.column_stack([width, height]))
    boxes = np.column_stack([corner, width, height])
    return boxes, corner[:, None] + random.uniform(0.05, 0.95, (number, 17, 2)) * boxes[:, None, 2:]


def timed(seconds: Counter[str], stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that adds its time to a stage."""
    def call(*args: Any, **options: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **options)
        finally:
            seconds[stage] += time.process_time() - start

    return call


def score_kit(folder: Path) -> Sample:
    """The kit's time; its results are written beside the set."""
    seconds: Counter[str] = Counter()
    persons = timed(seconds, "read", load_persons)(folder, folder / DETECTIONS)
    rows, given = [person.index for person in persons], np.load(folder / KEYPOINTS)
    scales = box_to_center_scale(np.stack([person.bbox for person in persons]), INPUT_SIZE)[1]
    predictions = Predictions(list(persons), given["keypoints"][rows], given["scores"][rows], scales)
    with patch.object(coco_eval, "rescore", timed(seconds, "rescore", coco_eval.rescore)):
        results = timed(seconds, "suppress", coco_eval.to_results)(predictions, persons.annotations.person_id)
    seconds["suppress"] -= seconds["rescore"]
    numbers, _ = timed(seconds, "evaluate", coco_eval.evaluate)(results, persons)
    timed(seconds, WRITE, coco_eval.write_keypoints)(folder / "keypoints.json", results)
    return finish(seconds, numbers)


def score_mmpose(folder: Path) -> Sample:
    """The same with mmpose's CocoDataset and CocoMetric. Its peak memory includes that of PyTorch."""
    from rtmpose.model.config import import_mmpose
    import_mmpose()
    seconds: Counter[str] = Counter()
    datasets, metrics = (importlib.import_module(f"mmpose.{name}") for name in ("datasets", "evaluation.metrics"))
    coco = Path(datasets.__file__).parents[1] / ".mim/configs/_base_/datasets/coco.py"
    dataset = timed(seconds, "read", datasets.CocoDataset)(
        data_root=str(folder), ann_file=str(ANNOTATIONS), bbox_file=str(folder / DETECTIONS), data_mode="topdown",
        data_prefix={"img": f"{IMAGE_FOLDERS[0]}/"}, test_mode=True, metainfo={"from_file": str(coco)}, pipeline=[])
    given, samples = np.load(folder / KEYPOINTS), [dataset.get_data_info(row) for row in range(len(dataset))]
    scales = box_to_center_scale(np.concatenate([sample["bbox"] for sample in samples]), INPUT_SIZE)[1]
    samples = [{**sample,
                "pred_instances": {"keypoints": keypoints[None], "keypoint_scores": scores[None],
                                   "bboxes": sample["bbox"], "bbox_scores": sample["bbox_score"]},
                "gt_instances": {"bbox_scores": sample["bbox_score"], "bbox_scales": scale[None]}}
               for sample, keypoints, scores, scale in zip(samples, given["keypoints"], given["scores"], scales,
                                                           strict=True)]
    metric = metrics.CocoMetric(ann_file=str(folder / ANNOTATIONS), outfile_prefix=str(folder / "mmpose"))
    metric.dataset_meta = dataset.metainfo
    module = importlib.import_module(metrics.CocoMetric.__module__)
    with (patch.object(module, "oks_nms", timed(seconds, "suppress", module.oks_nms)),
          patch.object(metric, "results2json", timed(seconds, WRITE, metric.results2json)),
          patch.object(metric, "_do_python_keypoint_eval",
                       timed(seconds, "evaluate", metric._do_python_keypoint_eval))):
        timed(seconds, "rescore", metric.process)({}, samples)
        numbers = timed(seconds, "rescore", metric.compute_metrics)(metric.results)
    seconds["rescore"] -= seconds["suppress"] + seconds[WRITE] + seconds["evaluate"]
    return finish(seconds, dict(zip(coco_eval.METRICS, map(float, numbers.values()), strict=True)))


def finish(seconds: Counter[str], numbers: dict[str, float]) -> Sample:
    """A sample with the sum of its stages and this process's peak memory."""
    seconds["sum"] = sum(seconds[stage] for stage in STAGES)
    seconds[MEMORY] = peak_memory_mib() or 0
    return seconds, numbers


def in_own_process(score: Callable[[Path], Sample], folder: Path) -> Callable[[], Sample]:
    """The measurement of a side in a new process, which has a peak memory of its own."""
    def measure() -> Sample:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(quietly, score, folder).result()

    return measure


def quietly(score: Callable[[Path], Sample], folder: Path) -> Sample:
    """A side's measurement without what mmpose and its evaluator print."""
    logging.disable()
    with contextlib.redirect_stdout(io.StringIO()):
        return score(folder)


def table(kit: list[Counter[str]], other: list[Counter[str]]) -> str:
    """A Markdown table of the medians, and of the ratios in single rounds."""
    lines = ["| | the kit | mmpose | mmpose / the kit | in single rounds |", "|---|" + "---:|" * 4]
    for name in (*STAGES, "sum", WRITE, MEMORY):
        ours, theirs = (np.array([sample[name] for sample in samples]) for samples in (kit, other))
        digits, ratios = 0 if name == MEMORY else 2, theirs / ours
        lines.append(f"| {name} | {np.median(ours):,.{digits}f} | {np.median(theirs):,.{digits}f} | "
                     f"{np.median(theirs) / np.median(ours):.1f} | {ratios.min():.1f} to {ratios.max():.1f} |")
    return "\n".join(lines)


def main() -> int:
    """Draw, measure, compare, print."""
    parser = Parser(description=__doc__)
    parser.add_argument("--images", type=positive, default=5000, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="turns a side; default: %(default)s")
    args = parser.parse_args()
    from vs_mmpose import check_xtcocotools  # which imports PyTorch: not in the process of the kit
    check_xtcocotools()
    with tempfile.TemporaryDirectory() as folder:
        draw_set(Path(folder), args.images)
        sides = {name: in_own_process(score, Path(folder))
                 for name, score in (("the kit", score_kit), ("mmpose", score_mmpose))}
        samples: dict[str, list[Sample]] = take_turns(sides, args.rounds)
        kit, other = samples["the kit"], samples["mmpose"]
        results = json.loads((Path(folder) / "keypoints.json").read_text())
        worst = max(abs(ours[name] - theirs[name]) for _, ours in kit for _, theirs in other for name in ours)
        print(f"{args.images:,} images, {21 * args.images:,} detections, {len(results):,} after OKS-NMS; seconds\n\n"
              f"{table([sample for sample, _ in kit], [sample for sample, _ in other])}\n\n"
              + " ".join(f"{name} {number:.3f}" for name, number in kit[0][1].items())
              + f"; largest difference {worst:.1e}; load average {os.getloadavg()[0]:.2f}")
    if worst > 1e-9:
        raise KitError(f"the kit's numbers differ from mmpose's by {worst:.1e}, expected at most 1e-9")
    return 0


if __name__ == "__main__":
    run(main)
