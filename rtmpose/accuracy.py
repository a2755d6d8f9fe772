"""Accuracy mode: every person through the engine, COCO's AP of the result, and agreement with a reference engine."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtmpose import gpu_pipeline, pipeline, report, score, timing
from rtmpose.agreement import crop_distances, describe_agreement, worst_crops
from rtmpose.coco import PersonSet
from rtmpose.engines import Engine
from rtmpose.errors import KitError
from rtmpose.files import atomic_write, make_folder
from rtmpose.picture import write_crops, write_pictures
from rtmpose.pipeline import Run


def measure_accuracy(engine: Engine, persons: PersonSet, flip_test: bool, output: Path | None = None,
                     visualize: int | None = None, reference: Engine | None = None) -> dict[str, Any]:
    """Estimate every person, score the result, and print and write what was found.

    Args:
        engine: for 17 keypoints; it is closed when it has run, as the reference is.
        persons: whom.
        flip_test: average with the mirrored crop.
        output: folder for ``keypoints.json`` and pictures.
        visualize: number of worst and of best images to draw into ``output``.
        reference: another engine, run over the same crops to be compared with.

    Returns:
        The ten COCO numbers by name, ``agreement`` where there is a reference, and what they are of.

    Raises:
        KitError: an image can't be used, or an engine gives something else than numbers.
    """
    run = estimate(engine, persons, flip_test)
    # Scoring many persons takes memory of its own.
    engine.close()
    metrics = score_estimates(run.estimates, persons, output)
    if visualize:
        print(f"Pictures: {write_pictures(output / 'pictures', visualize, run.estimates, persons)}")
    compared = {}
    if reference:
        other = estimate(reference, persons, flip_test)
        reference.close()
        compared["agreement"] = compare(engine, run, metrics["AP"], reference, other, persons, output)
    return {
        "mode": "accuracy",
        **metrics,
        **compared,
        "persons": persons.number,
        "images": len(persons.images),
        "boxes": persons.boxes,
        "flip_test": flip_test,
        "fps": persons.number / run.seconds,
        "fps_of": "persons a second from image files to keypoints, scoring not included",
        "latency_ms": timing.describe_latency(run.batch_ms),
        "latency_of": "one run of the engine on one batch, host to host",
    }


def score_estimates(estimates: Sequence[score.Estimate], persons: PersonSet, output: Path | None) -> dict[str, float]:
    """The ten COCO numbers by name; prints them, and writes ``keypoints.json`` into ``output``."""
    results = score.to_results(estimates)
    metrics, lines = score.evaluate(results, persons)
    print(lines)
    if output:
        write_keypoints(make_folder(output) / "keypoints.json", results)
    return metrics


def estimate(engine: Engine, persons: PersonSet, flip_test: bool) -> Run:
    """Estimate every person: from whole images on the GPU where the engine is there, else from the CPU's crops."""
    chosen = gpu_pipeline if engine.record.backend == "tensorrt" else pipeline
    return chosen.estimate(engine, persons, flip_test)


def check_comparable(engine: Engine, reference: Engine) -> None:
    """Make sure that keypoints of two engines lie on the same grid.

    Raises:
        KitError: crop or bins differ.
    """
    one, other = engine.record, reference.record
    if (one.input_size, one.bins) != (other.input_size, other.bins):
        raise KitError(f"{reference.path}: has crops of {other.input_size} (WxH) and {other.bins} bins, "
                       f"{engine.path} has {one.input_size} and {one.bins}; they must be the same to be compared")


def compare(engine: Engine, run: Run, ap: float, reference: Engine, other: Run, persons: PersonSet,
            output: Path | None) -> dict[str, Any]:
    """How far an engine's keypoints are from the reference's, and the difference in AP; prints and draws it, too."""
    record = engine.record
    distances = crop_distances(run.estimates, other.estimates, record.input_size)
    scores = other.estimates.scores
    reference_ap = score.evaluate(score.to_results(other.estimates), persons)[0]["AP"]
    agreement = {
        **describe_agreement(distances, scores, record.input_size[0] / record.bins[0]),
        "ap_reference": reference_ap,
        "ap_difference": ap - reference_ap,
        "reference": {"path": str(reference.path), "sha256": reference.record.engine_sha256,
                      "precision": reference.record.precision},
    }
    print(report.agreement_lines(agreement))
    worst = worst_crops(distances, scores)
    if output and worst:
        written = write_crops(output / "agreement", worst, run.estimates, other.estimates, persons, record.input_size)
        print(f"  {len(worst)} worst crops: {written}")
    return agreement


def write_keypoints(path: Path, results: list[dict[str, Any]]) -> None:
    """Write what was scored in COCO result format, in the order of the annotations."""
    ordered = sorted(results, key=lambda result: result["index"])
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for number, result in enumerate(ordered):
            kept = {**result, "keypoints": result["keypoints"].tolist()}
            del kept["index"]
            file.write(("[" if number == 0 else ",\n ") + json.dumps(kept, allow_nan=False))
        file.write("]\n" if ordered else "[]\n")
