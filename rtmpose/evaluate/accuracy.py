"""Accuracy mode: every person through the engine, the result's AP, and its agreement with a reference engine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rtmpose import timing
from rtmpose.data.agreement import crop_distances, describe_agreement, worst_crops
from rtmpose.data.coco import PersonSet
from rtmpose.engines import Engine, monitor
from rtmpose.errors import KitError
from rtmpose.evaluate import coco_eval, predict, predict_gpu
from rtmpose.evaluate.predict import Run
from rtmpose.evaluate.predictions import Predictions


@dataclass(frozen=True)
class Score:
    """COCO's evaluation of predictions."""

    results: list[dict[str, Any]]  # as rtmpose.evaluate.coco_eval.to_results returns them
    metrics: dict[str, float]  # the ten COCO numbers by name
    coco_lines: str  # the same as pycocotools prints them


@dataclass(frozen=True)
class Pass:
    """One pass over a set, and what it was measured under."""

    run: Run
    conditions: dict[str, Any]  # of summary.json, as the next two
    costs: dict[str, Any]
    ranks: dict[str, Any] | None = None  # of several processes


@dataclass(frozen=True)
class Accuracy(Pass):
    """Result of accuracy mode."""

    engine: Engine = field(kw_only=True)  # closed
    score: Score = field(kw_only=True)


Predict = Callable[[Engine, PersonSet, bool], Pass]


def predict_all(engine: Engine, persons: PersonSet, flip_test: bool) -> Pass:
    """Predict every person's keypoints as :func:`rtmpose.evaluate.predict.predict` does, and close the engine.

    A TensorRT engine crops on the GPU.
    """
    path = predict_gpu if engine.record.backend == "tensorrt" else predict
    with monitor(engine) as watched:
        run = path.predict(engine, persons, flip_test)
    engine.close()
    return Pass(run, watched.conditions, watched.costs(len(persons)))


def measure_accuracy(engine: Engine, persons: PersonSet, flip_test: bool, predict: Predict = predict_all) -> Accuracy:
    """Predict every person's keypoints by ``predict``, which closes the engine, and score them."""
    done = predict(engine, persons, flip_test)
    return Accuracy(**vars(done), engine=engine, score=score(done.run.predictions, persons))


def score(predictions: Predictions, persons: PersonSet) -> Score:
    """Score predictions by COCO's rules."""
    results = coco_eval.to_results(predictions, persons.annotations.person_id)
    return Score(results, *coco_eval.evaluate(results, persons))


def summarize_accuracy(accuracy: Accuracy, persons: PersonSet, flip_test: bool) -> dict[str, Any]:
    """The result as ``summary.json`` has it."""
    run = accuracy.run
    return {
        "mode": "accuracy",
        **accuracy.score.metrics,
        **describe_persons(persons, flip_test),
        "fps": len(persons) / run.seconds,
        "fps_of": "persons a second from image files to keypoints, scoring not included",
        "latency_ms": timing.describe_latency(run.batch_ms),
        "latency_of": "one run of the engine on one batch, host to host",
        "conditions": accuracy.conditions,
        **accuracy.costs,
        **({"ranks": accuracy.ranks} if accuracy.ranks else {}),
    }


def describe_persons(persons: PersonSet, flip_test: bool) -> dict[str, Any]:
    """The conditions of an AP as ``summary.json`` has them."""
    return {"persons": len(persons), "images": len(persons.images), "limit": persons.limit, "boxes": persons.boxes,
            "flip_test": flip_test}


def check_comparable(engine: Engine, reference: Engine) -> None:
    """Raise KitError unless the keypoints of two engines lie on the same grid."""
    one, other = engine.record, reference.record
    if (one.input_size, one.bins) != (other.input_size, other.bins):
        raise KitError(f"{reference.path}: has crops of {other.input_size} (WxH) and {other.bins} bins, "
                       f"{engine.path} has {one.input_size} and {one.bins}; they must be the same to be compared")


def compare(accuracy: Accuracy, reference: Accuracy) -> tuple[dict[str, Any], list[int]]:
    """Compare the keypoints and the AP of two engines for the same persons.

    Returns ``agreement`` of ``summary.json``, and the rows of the persons that agree least, worst first.
    """
    record, expected = accuracy.engine.record, reference.run.predictions
    distances = crop_distances(accuracy.run.predictions.keypoints, expected.keypoints, expected.scales,
                               record.input_size)
    reference_ap = reference.score.metrics["AP"]
    agreement = {
        **describe_agreement(distances, expected.scores, record.input_size[0] / record.bins[0]),
        "ap_reference": reference_ap,
        "ap_difference": accuracy.score.metrics["AP"] - reference_ap,
        "reference": {"path": str(reference.engine.path), "sha256": reference.engine.record.engine_sha256,
                      "precision": reference.engine.record.precision},
    }
    return agreement, worst_crops(distances, expected.scores)
