"""Accuracy mode: every person through the engine, COCO's AP of the result, and agreement with a reference engine."""

from dataclasses import dataclass, field
from typing import Any

from rtmpose import timing
from rtmpose.data.agreement import crop_distances, describe_agreement, worst_crops
from rtmpose.data.dataset import PersonSet
from rtmpose.engines import Engine
from rtmpose.errors import KitError
from rtmpose.evaluate import coco_eval, predict, predict_gpu
from rtmpose.evaluate.predict import Run
from rtmpose.evaluate.predictions import Predictions


@dataclass(frozen=True)
class Score:
    """COCO's judgement of one pass over a set.

    Attributes:
        results: what was scored, as :func:`rtmpose.evaluate.coco_eval.to_results` gives it.
        metrics: the ten COCO numbers by name.
        coco_lines: the same in pycocotools' words.
    """

    results: list[dict[str, Any]]
    metrics: dict[str, float]
    coco_lines: str


@dataclass(frozen=True)
class Accuracy:
    """Result of accuracy mode.

    Attributes:
        score: COCO's judgement.
        run: the engine's predictions and times.
        reference: the reference engine's, if there is one.
        agreement: of the two, as ``summary.json`` has it; else empty.
        worst: rows of the predictions that agree least, least first.
    """

    score: Score
    run: Run
    reference: Run | None = None
    agreement: dict[str, Any] = field(default_factory=dict)
    worst: list[int] = field(default_factory=list)


def measure_accuracy(engine: Engine, persons: PersonSet, flip_test: bool, reference: Engine | None = None) -> Accuracy:
    """Predict every person's keypoints and score them.

    Args:
        engine: for 17 keypoints; it is closed when it has run, as the reference is.
        persons: the persons.
        flip_test: average with the mirrored crop.
        reference: another engine, run over the same crops to be compared with.

    Raises:
        KitError: an image can't be used, or an engine gives something else than numbers.
    """
    run = predict_and_close(engine, persons, flip_test)
    scored = score(run.predictions, persons)
    if reference is None:
        return Accuracy(scored, run)
    other = predict_and_close(reference, persons, flip_test)
    return Accuracy(scored, run, other, *compare(engine, run, scored, reference, other, persons))


def predict_and_close(engine: Engine, persons: PersonSet, flip_test: bool) -> Run:
    """Predict every person's keypoints: from whole images on the GPU where the engine is there, else from the CPU's
    crops. The engine is closed then: scoring many persons takes memory of its own."""
    chosen = predict_gpu if engine.record.backend == "tensorrt" else predict
    run = chosen.predict(engine, persons, flip_test)
    engine.close()
    return run


def score(predictions: Predictions, persons: PersonSet) -> Score:
    """Score predictions by COCO's rules."""
    results = coco_eval.to_results(predictions)
    return Score(results, *coco_eval.evaluate(results, persons))


def summarize_accuracy(accuracy: Accuracy, persons: PersonSet, flip_test: bool) -> dict[str, Any]:
    """The result as ``summary.json`` has it."""
    run = accuracy.run
    return {
        "mode": "accuracy",
        **accuracy.score.metrics,
        **({"agreement": accuracy.agreement} if accuracy.agreement else {}),
        **describe_persons(persons, flip_test),
        "fps": len(persons) / run.seconds,
        "fps_of": "persons a second from image files to keypoints, scoring not included",
        "latency_ms": timing.describe_latency(run.batch_ms),
        "latency_of": "one run of the engine on one batch, host to host",
    }


def describe_persons(persons: PersonSet, flip_test: bool) -> dict[str, Any]:
    """The conditions of an AP as ``summary.json`` has them."""
    return {"persons": len(persons), "images": len(persons.images), "boxes": persons.boxes, "flip_test": flip_test}


def check_comparable(engine: Engine, reference: Engine) -> None:
    """Make sure that keypoints of two engines lie on the same grid.

    Raises:
        KitError: crop or bins differ.
    """
    one, other = engine.record, reference.record
    if (one.input_size, one.bins) != (other.input_size, other.bins):
        raise KitError(f"{reference.path}: has crops of {other.input_size} (WxH) and {other.bins} bins, "
                       f"{engine.path} has {one.input_size} and {one.bins}; they must be the same to be compared")


def compare(engine: Engine, run: Run, scored: Score, reference: Engine, other: Run, persons: PersonSet
            ) -> tuple[dict[str, Any], list[int]]:
    """Distances of an engine's keypoints from the reference's and the difference in AP, as ``summary.json`` has them,
    and the rows of the persons that agree least."""
    record, predictions = engine.record, other.predictions
    distances = crop_distances(run.predictions.keypoints, predictions.keypoints, predictions.scales, record.input_size)
    reference_ap = score(predictions, persons).metrics["AP"]
    agreement = {
        **describe_agreement(distances, predictions.scores, record.input_size[0] / record.bins[0]),
        "ap_reference": reference_ap,
        "ap_difference": scored.metrics["AP"] - reference_ap,
        "reference": {"path": str(reference.path), "sha256": reference.record.engine_sha256,
                      "precision": reference.record.precision},
    }
    return agreement, worst_crops(distances, predictions.scores)
