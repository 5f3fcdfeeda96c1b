"""Training of nets that will be smoothed by Gaussian noise, with any of the losses of ``smoothed_losses``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.training.base_nets import NetTask, NetTraining, train_net
from adaptive_smoothing_zoo.training.loop import TrainingOptions
from adaptive_smoothing_zoo.training.optimization import Momentum
from adaptive_smoothing_zoo.training.smoothed_losses import AnySmoothedLoss, GaussianLoss, NoisyBatch


@dataclass(frozen=True, kw_only=True)
class SmoothedTraining(NetTraining):
    """Settings of a training for smoothing, in addition to those of ``NetTraining``.

    Attributes:
        sigma: standard deviation of the noise, > 0, in pixel units.
        loss: the loss and its constants.
        batch_size: number of images. The authors of [JS21] count noisy copies: their 256 is 64 images with m = 4.
        momentum: "plain", as in the authors' code. The recipes for digits use "nesterov", as their recorded results do.

    Raises:
        ValueError: an unknown schedule, a number out of range, or a loss without noise or steps.
    """

    sigma: float
    loss: AnySmoothedLoss = field(default_factory=GaussianLoss)
    momentum: Momentum = "plain"
    weight_decay: float = 1e-4
    schedule: str = "thirds"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be positive and finite, got {self.sigma}")
        if self.loss.noises < 1:
            raise ValueError(f"a loss needs at least one noise per image, got {self.loss.noises}")
        if getattr(self.loss, "steps", 1) < 1:
            raise ValueError("an attack needs at least one step")
        if (ball := getattr(self.loss, "max_norm", None)) is not None and not 0.0 < ball < math.inf:
            raise ValueError(f"max_norm must be the radius of a ball, > 0, got {ball}; leave it out for no ball")
        for name, value in vars(self.loss).items():
            if isinstance(value, int | float) and not 0.0 <= value < math.inf:
                raise ValueError(f"{name} of the loss must be finite and at least 0, got {value}")


@own_surroundings()
def train_smoothed_net(
    net: nn.Module, images: Tensor, labels: Tensor, settings: SmoothedTraining, **options: Unpack[TrainingOptions]
) -> nn.Module:
    """Train ``net`` in place; see :func:`adaptive_smoothing_zoo.training.base_nets.train_net`.

    The result is the net that votes; ``backbones.gaussian_smoothed`` and ``certification.certify`` smooth it.
    """
    return train_net(SmoothedTask, net, images, labels, settings, **options)


class SmoothedTask(NetTask[SmoothedTraining, NoisyBatch]):
    """A training with noise that depends only on the seed, the round and an example's index."""

    def round(self, number: int) -> tuple[list[list[NoisyBatch]], dict[str, Tensor]]:
        settings, loss, batch = self.settings, self.settings.loss, self.batch(number)
        mixing = 0.5 * uniform(run_keys(batch.seed, "mixing", 0, batch.indices), torch.tensor(0))
        whole = NoisyBatch(
            images=batch.images,
            labels=batch.labels,
            noise=settings.sigma * noises(batch.seed, batch.indices, loss.noises, batch.images),
            mixing=mixing.to(batch.images.device),
            sigma=settings.sigma,
            strength=loss.strength(number // self.rounds_per_epoch),
            start=batch.images,
        )
        parts = [whole.every(i, settings.accumulation) for i in range(settings.accumulation)]
        self.learner.eval()
        for part in parts:
            loss.attack(lambda images: self.run(self.learner, images), part)
        return [parts], {}

    def losses(self, learner: nn.Module, part: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.settings.loss.losses(lambda images: self.run(learner, images), part), {}


def noises(seed: int, indices: Tensor, count: int, images: Tensor) -> Tensor:
    """Standard normal noise for ``count`` copies of each image (N, channels, H, W): (N, count, channels, H, W)."""
    keys = torch.stack([run_keys(seed, "noise", copy, indices) for copy in range(count)], dim=1)
    drawn = normal_images(keys.flatten().to(images.device), images.shape[1:]).to(images.dtype)
    return drawn.view(*keys.shape, *images.shape[1:])
