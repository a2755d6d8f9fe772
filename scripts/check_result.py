"""Check a folder of results/, one machine's output of scripts/benchmark.sh.

    python3 scripts/check_result.py results/NAME [--annotations FILE]

Every summary.json follows the schema and is what results.json says; the runs of a cell are of one engine, and all cells
of one network; every speed was measured under clean conditions, and on a GPU for at least 30 s; and pycocotools
computes the same ten numbers from every keypoints.json. A cell without an accuracy run has a speed only. Exit codes: 0
all of it holds, 1 something doesn't, 2 user error.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, run

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtmpose.errors import KitError
from rtmpose.evaluate.coco_eval import METRICS
from rtmpose.evaluate.throughput import SECONDS_ON_GPU
from rtmpose.report.bootstrap import read_keypoints
from rtmpose.report.results import Cell, annotation_file, find_annotations, network, read_cells, read_summary
from rtmpose.report.summary import run_name

TOLERANCE = 1e-4  # keypoints.json may order persons of equal scores differently
FAILED = 1


def main() -> int:
    """Check, and print a line for everything that is wrong."""
    parser = Parser(description="Check a folder of results/, one machine's output of scripts/benchmark.sh.",
                    example="python3 scripts/check_result.py results/NAME")
    parser.add_argument("folder", metavar="DIR", help="folder with results.json and cells/")
    parser.add_argument("--annotations", metavar="FILE",
                        help="annotation file that AP was measured on; default: the path in the summaries")
    args = parser.parse_args()
    cells = read_cells(args.folder, Path(args.folder).resolve().name)
    problems = [f"{cell.name}: {problem}" for cell in cells for problem in check_cell(cell, args.annotations)]
    if len({network(cell.summary) for cell in cells}) > 1:
        problems.append(f"{args.folder}: has cells of several networks, expected one")
    for problem in problems:
        print(problem)
    print(f"{args.folder}: {len(cells)} cells, {f'{len(problems)} problems' if problems else 'all in order'}")
    return FAILED if problems else 0


def check_cell(cell: Cell, given: str | None) -> Iterator[str]:
    """What is wrong with a cell, a line each. Raises KitError if a file is missing or broken."""
    measured = list(map(run_name, cell.runs))
    if measured not in (["files to keypoints", "engine alone"], ["engine alone"]):
        yield f"measures {' and '.join(measured)}, expected an accuracy and a throughput run of scripts/benchmark.sh"
        return
    if len({run["engine"]["sha256"] for run in cell.runs}) > 1:
        yield "the two runs are of different engines, expected the same SHA-256"
    for summary in cell.runs:
        file = cell.folder.with_name(summary["mode"]) / "summary.json"
        if read_summary(file) != summary:
            yield f"{file} is not what results.json says, expected the same"
    conditions = cell.throughput["conditions"]
    if conditions["verdict"] != "clean":
        yield (f"its speed was measured under conditions {conditions['verdict']} ({'; '.join(conditions['reasons'])}), "
               "expected clean")
    device, seconds = cell.throughput["engine"]["device"], conditions.get("seconds", 0)
    if device != "cpu" and seconds < SECONDS_ON_GPU:
        yield f"its speed was timed for {seconds:.0f} s on {device}, expected at least {SECONDS_ON_GPU:.0f} s"
    if not cell.accuracy:
        return
    path, digest = annotation_file(cell.accuracy)
    annotations = find_annotations(path, digest, given)
    if annotations is None:
        raise KitError(f"{path}: is missing or not the file of SHA-256 {digest[:12]}...; give --annotations")
    keypoints = cell.folder / "keypoints.json"
    found = recompute(annotations, read_keypoints(keypoints), cell.accuracy["limit"] is not None)
    wrong = [f"{name} {found[name]:.4f}, not {cell.accuracy[name]:.4f}" for name in METRICS
             if abs(found[name] - cell.accuracy[name]) > TOLERANCE]
    if wrong:
        yield f"{keypoints} gives {', '.join(wrong)}"


def recompute(annotations: Path, results: list[dict[str, Any]], limited: bool) -> dict[str, float]:
    """The ten numbers of plain pycocotools. Raises KitError if it can't take the results."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(annotations))
        if not results or not {result["image_id"] for result in results} <= set(ground_truth.imgs):
            raise KitError(f"{annotations}: does not have the images of a keypoints.json that should be of it, or that "
                           "file is empty; measure it again")
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), "keypoints")
        if limited:
            evaluation.params.imgIds = sorted({result["image_id"] for result in results})
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True))


if __name__ == "__main__":
    run(main)
