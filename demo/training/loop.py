"""Training loop: rounds of crops, regular validation, the checkpoint at the end."""

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from drawing.dataset import make_dataset
from rtmpose.data.batches import Batch, iterate_batches
from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.evaluate import coco_eval
from rtmpose.evaluate.predictions import Predictions, decode_batch, join
from rtmpose.files import write_bytes
from training.crops import INPUT_SIZE, draw_rounds
from training.learner import Learner

VALIDATION_SEED, VALIDATION_IMAGES = 987_654, 60
_VALIDATION_BATCH = 64


def train(learner: Learner, folder: Path, seed: int, round_crops: int, validate_every: int) -> None:
    """Train for the scheduled number of crops; the next round is drawn meanwhile.

    Args:
        learner: new, or resumed after a whole number of rounds.
        folder: for ``state.pth``, saved after each round, and the validation set.
        seed: of the training crops.
        round_crops: crops per round, a multiple of the batch size.
        validate_every: rounds between validations.
    """
    first, rounds = learner.crops_seen // round_crops, math.ceil(learner.schedule.crops / round_crops)
    if first >= rounds:
        return
    persons, validation = _draw_validation(folder / "validation")
    settings = [(seed, number, round_crops, *_round_settings(number * round_crops / learner.schedule.crops))
                for number in range(first, rounds)]
    total = rounds * round_crops
    with tqdm(total=total, initial=learner.crops_seen, unit="crop", desc="Training", disable=None) as bar:
        for number, (crops, keypoints) in enumerate(draw_rounds(settings), start=first + 1):
            _train_round(learner, crops, keypoints, bar)
            learner.save(folder / "state.pth")
            if number % validate_every == 0 or number == rounds:
                bar.write(f"{learner.crops_seen} crops: {validate(learner, persons, validation)}")


def _round_settings(progress: float) -> tuple[float, float]:
    """Difficulty of the pictures and strength of the augmentation; progress is 0 to 1."""
    return min(0.25 + 2.5 * progress, 1.0), 1.0 if progress < 0.7 else 0.6


def _train_round(learner: Learner, crops: np.ndarray, keypoints: np.ndarray, bar: tqdm) -> None:
    batch = learner.schedule.batch
    for start in range(0, len(crops), batch):
        loss = learner.step(crops[start:start + batch], keypoints[start:start + batch])
        bar.update(batch)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)


def _draw_validation(folder: Path) -> tuple[PersonSet, list[Batch]]:
    """Draw the fixed validation set, and load its crops."""
    make_dataset(folder, VALIDATION_IMAGES, VALIDATION_SEED)
    persons = load_persons(folder)
    return persons, list(iterate_batches(persons.images, INPUT_SIZE, _VALIDATION_BATCH))


def validate(learner: Learner, persons: PersonSet, batches: list[Batch]) -> str:
    """Evaluate the averaged weights; return AP, AP50 and the median error in crop pixels, as text."""
    predictions = _predict(learner, batches)
    metrics, _ = coco_eval.evaluate(coco_eval.to_results(predictions), persons)
    annotations = persons.annotations.annotations
    expected = np.stack([np.reshape(annotations[person.index]["keypoints"], (-1, 3)) for person in predictions.persons])
    moved = (predictions.keypoints - expected[..., :2]) / predictions.scales[:, None] * INPUT_SIZE
    errors = np.linalg.norm(moved, axis=-1)
    return (f"AP {metrics['AP']:.4f}, AP50 {metrics['AP50']:.4f}, "
            f"median error {np.median(errors[expected[..., 2] > 0]):.2f} px of the crop")


@torch.no_grad()
def _predict(learner: Learner, batches: list[Batch]) -> Predictions:
    """Predict with the averaged weights."""
    parts = []
    with learner.averaged() as model:
        for batch in batches:
            logits = model.head(model.backbone(learner.to_input(batch.pixels[:len(batch.crops)])))
            parts.append(decode_batch(batch.crops, *(axis.cpu().numpy() for axis in logits), INPUT_SIZE))
    return join(parts)


def write_checkpoint(learner: Learner, folder: Path, name: str, meta: dict[str, Any]) -> Path:
    """Write the averaged weights in FP16, in the format of the official checkpoints, and return the path.

    The file is ``{name}-{first 8 digits of its SHA-256}.pth``; ``meta`` is stored in it.
    """
    state = {key: value.cpu().half() if value.is_floating_point() else value.cpu()
             for key, value in learner.average.items()}
    buffer = io.BytesIO()
    torch.save({"meta": meta, "state_dict": state}, buffer)
    path = folder / f"{name}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    write_bytes(path, buffer.getvalue())
    return path
