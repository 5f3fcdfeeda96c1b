"""Training of nets that will be smoothed by Gaussian noise: one trainer, with any of the losses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.training.loop import Momentum
from adaptive_smoothing_zoo.training.single_net import NetTask, NetTraining, TrainingOptions, train_net
from adaptive_smoothing_zoo.training.smoothed_losses import AnySmoothedLoss, GaussianLoss, NoisyBatch


@dataclass(frozen=True, kw_only=True)
class SmoothedTraining(NetTraining):
    """Everything that decides how a net that will be smoothed is trained, in addition to ``NetTraining``'s settings.

    Attributes:
        sigma: standard deviation of the noise, in pixel units.
        loss: which, and its constants.
        batch_size: images, not noisy copies of them, are counted. (The authors of 004 count copies: their batch of 256
            is 64 images where m is 4.)
        momentum: plain, as the authors' code has it. (What the package embeds and records was trained with Nesterov's,
            which the recipes for digits therefore name.)

    Raises:
        ValueError: an unknown schedule, a sigma that is not positive, or a loss without noise or steps.
    """

    sigma: float
    loss: AnySmoothedLoss = field(default_factory=GaussianLoss)
    momentum: Momentum = "plain"
    weight_decay: float = 1e-4
    schedule: str = "thirds"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0.0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if self.loss.noises < 1:
            raise ValueError(f"a loss needs at least one noise per image, got {self.loss.noises}")
        if getattr(self.loss, "steps", 1) < 1:
            raise ValueError("an attack needs at least one step")


@own_surroundings()
def train_smoothed_net(
    net: nn.Module, images: Tensor, labels: Tensor, settings: SmoothedTraining, **options: Unpack[TrainingOptions]
) -> nn.Module:
    """Train ``net`` in place; see :func:`adaptive_smoothing_zoo.training.single_net.train_net`.

    What is returned is the net that votes; ``backbones.gaussian_smoothed`` and ``certification.certify`` smooth it.
    """
    return train_net(SmoothedTask, net, images, labels, settings, **options)


class SmoothedTask(NetTask[SmoothedTraining]):
    """See :class:`adaptive_smoothing_zoo.training.loop.Task`.

    An example's noise depends on the seed, the round and its index alone.
    """

    def round(self, number: int) -> tuple[list[list[NoisyBatch]], dict[str, Tensor]]:
        settings = self.settings
        images, labels, chosen, seed = self.batch(number)
        whole = NoisyBatch(
            images=images,
            labels=labels,
            noise=settings.sigma * noises(seed, chosen, settings.loss.noises, images),
            mixing=0.5 * uniform(run_keys(seed, "mixing", 0, chosen), torch.tensor(0)).to(images.device),
            sigma=settings.sigma,
            strength=settings.loss.strength(number // self.rounds_per_epoch),
            start=images,
        )
        parts = [_every(whole, i, settings.accumulation) for i in range(settings.accumulation)]
        self.learner.eval()
        for part in parts:
            settings.loss.attack(lambda batch: self.run(self.learner, batch), part)
        return [parts], {}

    def losses(self, learner: nn.Module, part: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.settings.loss.losses(lambda batch: self.run(learner, batch), part), {}


def noises(seed: int, indices: Tensor, count: int, images: Tensor) -> Tensor:
    """Standard normal noise of ``count`` copies of each image (N, channels, H, W): (N, count, channels, H, W)."""
    keys = torch.stack([run_keys(seed, "noise", copy, indices) for copy in range(count)], dim=1)
    drawn = normal_images(keys.flatten().to(images.device), images.shape[1:]).to(images.dtype)
    return drawn.view(*keys.shape, *images.shape[1:])


def _every(batch: NoisyBatch, first: int, step: int) -> NoisyBatch:
    """Every ``step``-th example."""
    rows = slice(first, None, step)
    names = ("images", "labels", "noise", "mixing", "start")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names})
