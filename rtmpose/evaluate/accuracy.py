"""Accuracy mode: every person through the engine, the result's AP, and its agreement with a reference engine."""

from dataclasses import dataclass, field, replace
from typing import Any

from rtmpose import timing
from rtmpose.data.agreement import crop_distances, describe_agreement, worst_crops
from rtmpose.data.coco import PersonSet
from rtmpose.engines import Engine, files, monitor
from rtmpose.engines.record import Record
from rtmpose.engines.tensorrt.engine import TensorRTEngine
from rtmpose.errors import KitError
from rtmpose.evaluate import coco_eval
from rtmpose.evaluate.predict import predict_persons
from rtmpose.evaluate.predict_gpu import predict_persons_on_gpu
from rtmpose.evaluate.predictions import Predictions


@dataclass(frozen=True)
class AccuracyResult:
    """Result of accuracy mode. The last three fields are empty until :func:`add_score` fills them."""

    predictions: Predictions  # in the order of the set
    batch_ms: list[float]  # of each run of the engine
    seconds: float  # from the first image to the last keypoint
    conditions: dict[str, Any]  # of summary.json, as the next two
    costs: dict[str, Any]
    ranks: dict[str, Any] | None = None  # of several processes
    results: list[dict[str, Any]] = field(default_factory=list)  # in COCO's format, after OKS-NMS
    metrics: dict[str, float] = field(default_factory=dict)  # the ten COCO numbers by name
    coco_lines: str = ""  # the same as pycocotools prints them


def measure_accuracy(engine: Engine, persons: PersonSet, flip_test: bool) -> AccuracyResult:
    """Predict every person's keypoints, close the engine, and score them."""
    return add_score(predict_all(engine, persons, flip_test), persons)


def predict_all(engine: Engine, persons: PersonSet, flip_test: bool) -> AccuracyResult:
    """Predict every person's keypoints under a monitor, and close the engine. A TensorRT engine crops on the GPU."""
    with monitor(engine) as watched:
        if isinstance(engine, TensorRTEngine):
            predicted = predict_persons_on_gpu(engine, persons, flip_test)
        else:
            predicted = predict_persons(engine, persons, flip_test)
    engine.close()
    return AccuracyResult(*predicted, watched.conditions, watched.costs(len(persons)))


def add_score(result: AccuracyResult, persons: PersonSet) -> AccuracyResult:
    """The result with the score of its predictions by COCO's rules."""
    results, metrics, coco_lines = coco_eval.score(result.predictions, persons)
    return replace(result, results=results, metrics=metrics, coco_lines=coco_lines)


def summarize_accuracy(result: AccuracyResult, persons: PersonSet, flip_test: bool, record: Record,
                       reported_fps: float | None) -> dict[str, Any]:
    """The result as ``summary.json`` has it. An engine of files has no speed but what its user reports, in persons a
    second."""
    speed = {
        "fps": len(persons) / result.seconds,
        "fps_of": "persons a second from image files to keypoints, scoring not included",
        "latency_ms": timing.describe_latency(result.batch_ms),
        "latency_of": "one run of the engine on one batch, host to host",
        "conditions": result.conditions,
        **result.costs,
    } if record.backend != files.NAME else {
        "fps": reported_fps, "fps_of": "reported by the vendor's tool",
        "conditions": {"verdict": "not measured", "reasons": ["the vendor's tool reported the speed"]},
    } if reported_fps else {}
    return {"mode": "accuracy", **result.metrics, **describe_persons(persons, flip_test), **speed,
            **({"ranks": result.ranks} if result.ranks else {})}


def describe_persons(persons: PersonSet, flip_test: bool) -> dict[str, Any]:
    """The conditions of an AP as ``summary.json`` has them."""
    return {"persons": len(persons), "images": len(persons.images), "limit": persons.limit, "boxes": persons.boxes,
            "notes": persons.notes, "flip_test": flip_test}


def check_comparable(engine: Engine, reference: Engine) -> None:
    """Raise KitError unless the keypoints of two engines lie on the same grid."""
    one, other = engine.record, reference.record
    if (one.input_size, one.bins) != (other.input_size, other.bins):
        raise KitError(f"{reference.path}: has crops of {other.input_size} (WxH) and {other.bins} bins, "
                       f"{engine.path} has {one.input_size} and {one.bins}; they must be the same to be compared")


def compare_accuracy(engine: Engine, result: AccuracyResult, reference: Engine, expected: AccuracyResult
                     ) -> tuple[dict[str, Any], list[tuple[int, int, float]]]:
    """Compare an engine's keypoints and AP with those of a reference engine for the same persons.

    Returns ``agreement`` of ``summary.json``, and the persons that agree least, as :func:`worst_crops` returns them.
    """
    record = engine.record
    distances = crop_distances(result.predictions.keypoints, expected.predictions.keypoints,
                               expected.predictions.scales, record.input_size)
    agreement = {
        **describe_agreement(distances, expected.predictions.scores, record.input_size[0] / record.bins[0]),
        "ap_reference": expected.metrics["AP"],
        "ap_difference": result.metrics["AP"] - expected.metrics["AP"],
        "reference": {"path": str(reference.path), "sha256": reference.record.engine_sha256,
                      "precision": reference.record.precision},
    }
    return agreement, worst_crops(distances, expected.predictions.scores)
