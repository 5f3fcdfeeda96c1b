"""What all trainings have in common: settings, a learner, and the batches it sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.training.draws import augment, batch_of_round, derived_seed
from adaptive_smoothing_zoo.training.optimization import Momentum, Optimization, Optimizer
from adaptive_smoothing_zoo.training.workers import Workers


class Training:
    """Settings of any training; a dataclass declares them as fields. See also ``Optimization``.

    Attributes:
        batch_size: an epoch leaves out what does not fill a batch, other examples each time.
        accumulation: passes (per process) into which a step is split, whose gradients are added up.
        padding: images are padded by this many pixels and cropped at random.
        flip: images are mirrored with probability 1/2.
        seed: of shuffling, augmentation and attack; of the weights only in a recipe.
        bfloat16: run what learns under bfloat16 autocast, in channels_last (for large nets on recent CPUs and GPUs).
    """

    epochs: int
    batch_size: int
    optimizer: Optimizer = "sgd"
    learning_rate: float
    momentum: Momentum = "nesterov"
    schedule: str
    weight_decay: float
    gradient_clip: float | None
    ema_decay: float
    accumulation: int
    padding: int
    flip: bool
    seed: int
    bfloat16: bool

    @property
    def optimization(self) -> Optimization:
        return Optimization(
            optimizer=self.optimizer,
            momentum=self.momentum,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            ema_decay=self.ema_decay,
        )

    def in_epochs(self) -> str:
        """How long it is, in words."""
        return f"{self.epochs} epoch{'s' if self.epochs != 1 else ''}"


Settings = TypeVar("Settings", bound=Training)
Part = TypeVar("Part")


@dataclass(frozen=True)
class Batch:
    """A process's share of a round, augmented, on its device."""

    images: Tensor  # (N, channels, H, W)
    labels: Tensor  # (N,)
    indices: Tensor  # (N,) of the examples, on the CPU
    seed: int  # of the round


class Task(ABC, Generic[Settings, Part]):
    """What is trained, and on what.

    Args:
        learner: the module whose parameters change; in train mode during steps.
        images, labels: (N, channels, H, W) in [0, 1] and (N,).
        workers: the processes that share each batch.
        shares: into how many equal parts a batch must split.

    Raises:
        ValueError: the examples do not fill a batch, or it does not split.
    """

    steps = 1  # of the optimizer in a round

    def __init__(
        self, learner: nn.Module, images: Tensor, labels: Tensor, settings: Settings, workers: Workers, *, shares: int
    ) -> None:
        size = settings.batch_size
        if not 0 < size <= len(labels):
            raise ValueError(f"a batch of {size} must have between 1 and all {len(labels)} examples")
        if size % shares:
            raise ValueError(
                f"a batch of {size} cannot be split into {shares} equal shares (processes times passes); choose a "
                "multiple"
            )
        self.learner, self.images, self.labels = learner, images, labels
        self.settings, self.workers = settings, workers
        self.rounds_per_epoch = len(labels) // size
        self.rounds = settings.epochs * self.rounds_per_epoch

    @abstractmethod
    def round(self, number: int) -> tuple[list[list[Part]], dict[str, Tensor]]:
        """The parts of each step of a round, all of one size, and what is to be logged of the round."""

    @abstractmethod
    def losses(self, learner: nn.Module, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each example of a part (N,), and what is to be logged of it; ``learner`` may be a wrapper of ours."""

    def batch(self, number: int) -> Batch:
        """What this process sees in a round."""
        seed = derived_seed(self.settings.seed, "round", number)
        drawn = batch_of_round(self.settings.seed, number, len(self.labels), self.settings.batch_size)
        indices = self.workers.share(drawn)
        return Batch(*self.take(indices, seed), indices, seed)

    def take(self, indices: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Augmented images and labels, on the device."""
        keys = run_keys(seed, "augment", 0, indices)
        images = augment(self.images[indices].to(self.workers.device), self.settings.padding, self.settings.flip, keys)
        return images, self.labels[indices].to(self.workers.device)

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 where it does no harm, if the settings say so.

        Without PyTorch's cache of weights in bfloat16, which an outer autocast block would keep from step to step.
        """
        device = self.workers.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.settings.bfloat16, cache_enabled=False)
