"""What all trainings share: settings, a learner, and the batches it sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.backbones.base import check_image_tensor
from adaptive_smoothing_zoo.training.draws import augment, batch_of_round, derived_seed
from adaptive_smoothing_zoo.training.optimization import Momentum, Optimization, Optimizer
from adaptive_smoothing_zoo.training.workers import Workers


class Training:
    """Settings of any training; a dataclass declares them as fields. See also ``Optimization``.

    Attributes:
        epochs: passes over the examples; 0 trains nothing.
        batch_size: examples of a round, over all processes. An epoch drops the last examples that do not fill a batch;
            these differ from epoch to epoch.
        accumulation: passes (per process) of a step; their gradients are added up.
        padding: pad images by this many pixels on each side and crop them at random; 0 for no crops.
        flip: mirror images with probability 1/2.
        seed: of shuffling, augmentation and attack; a recipe also draws the initial weights from it.
        bfloat16: run the learner under bfloat16 autocast, in channels_last (for large nets on recent CPUs and GPUs).

    Raises:
        ValueError: a number out of range.
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

    def __post_init__(self) -> None:
        _ = self.optimization  # raises if it is invalid
        for name, least in (("epochs", 0), ("batch_size", 1), ("accumulation", 1), ("padding", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def optimization(self) -> Optimization:
        """The optimizer and its schedule."""
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
        images, labels: (N, channels, H, W) floating-point in [0, 1] and (N,) int64, at least 0.
        workers: the processes that share each batch.
        shares: number of equal parts into which a batch must split.

    Raises:
        TypeError, ValueError: invalid images or labels; the examples do not fill a batch, or it does not split.
    """

    steps = 1  # optimizer steps of a round

    def __init__(
        self, learner: nn.Module, images: Tensor, labels: Tensor, settings: Settings, workers: Workers, *, shares: int
    ) -> None:
        check_learnable(images, labels)
        size = settings.batch_size
        if size > len(labels):
            raise ValueError(f"a batch of {size} is more than all {len(labels)} examples; lower batch_size")
        if size % shares:
            raise ValueError(
                f"a batch of {size} cannot be split into {shares} equal shares (processes times passes); choose a "
                f"batch_size that is a multiple of {shares}"
            )
        self.learner, self.images, self.labels = learner, images.detach(), labels
        self.settings, self.workers = settings, workers
        self.rounds_per_epoch = len(labels) // size
        self.rounds = settings.epochs * self.rounds_per_epoch

    @abstractmethod
    def round(self, number: int) -> tuple[list[list[Part]], dict[str, Tensor]]:
        """Round ``number``, counted from 0: the parts of each step, all of one size, and measurements for the log."""

    @abstractmethod
    def losses(self, learner: nn.Module, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each example of a part, (N,), and measurements for the log.

        Args:
            learner: ``self.learner``, or the wrapper through which it must be called.
        """

    def batch(self, number: int) -> Batch:
        """This process's share of a round."""
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
        """bfloat16 autocast if the settings ask for it.

        Without PyTorch's cache of bfloat16 weights: an outer autocast block would keep stale ones from step to step.
        """
        device = self.workers.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.settings.bfloat16, cache_enabled=False)


def check_classes(labels: Tensor, classes: int) -> None:
    """Raise ValueError for a label, at least 0, that is no class of the net."""
    if (highest := int(labels.max())) >= classes:
        raise ValueError(f"there is a label {highest}, but the net has {classes} classes, counted from 0")


def check_learnable(images: Tensor, labels: Tensor) -> None:
    """Raise TypeError or ValueError unless images (N, channels, H, W) and labels (N,) can be learned from."""
    check_image_tensor(images)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (len(images),):
        found = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"{len(images)} images need int64 labels of shape ({len(images)},), got {found}")
    if len(images) == 0:
        raise ValueError("there are no images to learn from")
    low, high = map(float, images.aminmax())
    if not 0.0 <= low <= high <= 1.0:  # also for NaN
        raise ValueError(f"images must be finite and in [0, 1], got values in [{low:g}, {high:g}]")
    if (least := int(labels.min())) < 0:
        raise ValueError(f"labels must be class indices, at least 0, got {least}")
