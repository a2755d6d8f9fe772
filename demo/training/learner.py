"""The network in training: losses, optimizer, averaged weights, and the saved state.

Model, SimCC codec and loss are mmpose's. SimCC alone starts on a plateau; two dense auxiliary losses take the training
off it. One is on the 8 x 6 maps of the head's final convolution, the other on the 16 x 12 maps of a 1 x 1 convolution
(not kept) on the backbone's second last stage. Both are the cross-entropy with the cells around the keypoint, weighted
bilinearly.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtmpose.data.annotations import NUM_KEYPOINTS
from rtmpose.data.preprocess import normalize
from rtmpose.errors import KitError
from rtmpose.files import atomic_write
from rtmpose.model.config import build_estimator, read_config
from training.crops import INPUT_SIZE


@dataclass(frozen=True)
class Schedule:
    """Length of the training, learning rate and weight averaging."""

    crops: int
    batch: int  # crops per step
    lr: float  # at its peak
    warmup: int  # crops over which the learning rate rises
    decay_from: float  # share of the training after which the learning rate falls
    ema: float  # decay of the averaged weights per step


class Learner:
    """Model, averaged weights, optimizer and schedule; ``crops_seen`` counts the progress."""

    def __init__(self, config: Path, schedule: Schedule, device: str) -> None:
        self.schedule = schedule
        self.device = torch.device(device)
        self.crops_seen = 0
        model = read_config(config).model
        # The head takes the last stage; one auxiliary loss takes the stage before it.
        model["backbone"]["out_indices"] = (3, 4)
        self.model = build_estimator(model, config)
        for layer in (self.model.head.cls_x, self.model.head.cls_y):
            nn.init.normal_(layer.weight, std=0.01)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.middle = nn.Conv2d(model["head"]["in_channels"] // 2, NUM_KEYPOINTS, 1).to(self.device)
        parameters = [*self.model.parameters(), *self.middle.parameters()]
        groups = [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
                  {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.lr, fused=True)
        self.maps: Tensor | None = None
        self.model.head.final_layer.register_forward_hook(self._keep_maps)

    def step(self, crops: np.ndarray, keypoints: np.ndarray) -> float:
        """Take one optimizer step and return the SimCC loss: nats per keypoint, summed over both axes.

        Args:
            crops: uint8 (N, 256, 192, 3), BGR.
            keypoints: float32 (N, 17, 3): x and y in crop pixels, v.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        pixels = self.to_input(np.stack([normalize(crop) for crop in crops]))
        with torch.autocast(self.device.type, torch.bfloat16):
            features = self.model.backbone(pixels)
        simcc = self.model.head([features[-1].float()])
        labels, weights = self._encode(keypoints)
        bins = sum(axis.shape[-1] for axis in simcc) / 2
        simcc_loss = self.model.head.loss_module(simcc, labels, weights) * bins / len(crops)
        targets = torch.from_numpy(keypoints).to(self.device)
        dense_loss = cell_loss(self.maps, targets) + 0.5 * cell_loss(self.middle(features[0].float()), targets)
        loss = simcc_loss + (0.5 * (1 - self._progress()) + 0.05) * dense_loss
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.crops_seen += len(crops)
        self._update_average()
        return float(simcc_loss.detach())

    def to_input(self, pixels: np.ndarray) -> Tensor:
        """Move preprocessed crops, float32 (N, 3, 256, 192), to the model's device and memory format."""
        return torch.from_numpy(pixels).to(self.device, memory_format=torch.channels_last)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Give the model in evaluation mode with the averaged weights; restore the current ones afterwards."""
        current = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.load_state_dict(current)

    def save(self, path: Path) -> None:
        """Save the state for resuming, atomically."""
        state = {
            "model": self.model.state_dict(),
            "middle": self.middle.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "crops_seen": self.crops_seen,
        }
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Resume from a state that :meth:`save` wrote; raises KitError if it is broken or from another training."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.middle.load_state_dict(state["middle"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.crops_seen = state["average"], state["crops_seen"]
        except Exception as error:  # a broken file fails in many ways
            raise KitError(f"{path}: is broken, or not a state of this training; remove it to start again, or choose "
                           "another folder") from error

    def _keep_maps(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Keep the final convolution's maps for the auxiliary loss."""
        self.maps = output

    def _progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return min(self.crops_seen / self.schedule.crops, 1.0)

    def _learning_rate(self) -> float:
        """Linear warm-up, then constant, then a cosine down to 1 %."""
        plan = self.schedule
        warm = min((self.crops_seen + plan.batch) / plan.warmup, 1.0)
        falling = max(self._progress() - plan.decay_from, 0.0) / (1 - plan.decay_from)
        return plan.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * falling)))

    def _encode(self, keypoints: np.ndarray) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Encode keypoints (N, 17, 3) as mmpose's SimCC labels (N, 17, 384), (N, 17, 512) and weights (N, 17)."""
        encoded = [self.model.head.decoder.encode(k[None, :, :2], np.minimum(1, k[None, :, 2])) for k in keypoints]
        x, y, weights = (torch.from_numpy(np.concatenate([e[name] for e in encoded])).float().to(self.device)
                         for name in ("keypoint_x_labels", "keypoint_y_labels", "keypoint_weights"))
        return (x, y), weights

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the averaged weights towards the current ones."""
        step = self.crops_seen / self.schedule.batch
        keep = min(self.schedule.ema, (1 + step) / (10 + step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)


def cell_loss(maps: Tensor, keypoints: Tensor) -> Tensor:
    """Cross-entropy of maps (N, 17, rows, columns) with the labelled keypoints (N, 17, 3) inside the crop."""
    x, y, v = keypoints.unbind(-1)
    inside = (v > 0) & (x >= 0) & (x <= INPUT_SIZE[0] - 1) & (y >= 0) & (y <= INPUT_SIZE[1] - 1)
    targets = _cell_targets(keypoints[..., :2][inside], *maps.shape[2:])
    return F.cross_entropy(maps.flatten(2)[inside], targets)


def _cell_targets(points: Tensor, rows: int, columns: int) -> Tensor:
    """Bilinear weights (n, rows * columns) of the cells around points (n, 2) in crop pixels."""
    size = torch.tensor([columns / INPUT_SIZE[0], rows / INPUT_SIZE[1]], device=points.device)
    last = torch.tensor([columns - 1.0, rows - 1.0], device=points.device)
    x, y = (points * size - 0.5).clamp(min=0).minimum(last).unbind(1)
    across = (1 - (x[:, None] - torch.arange(columns, device=points.device)).abs()).clamp(min=0)
    down = (1 - (y[:, None] - torch.arange(rows, device=points.device)).abs()).clamp(min=0)
    return (down[:, :, None] * across[:, None, :]).flatten(1)
