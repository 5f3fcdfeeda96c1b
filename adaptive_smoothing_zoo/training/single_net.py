"""What all trainings of a single net share, whatever the loss: settings, examples of a round, the run itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.training.draws import augment, derived_seed, permutation
from adaptive_smoothing_zoo.training.frozen import frozen, frozen_parts
from adaptive_smoothing_zoo.training.keeping import CHECKPOINT_SECONDS, Keeper, fingerprint
from adaptive_smoothing_zoo.training.loop import Momentum, OnProgress, Optimization, Task, fit
from adaptive_smoothing_zoo.training.workers import Workers, find_workers


@dataclass(frozen=True, kw_only=True)
class NetTraining:
    """Settings of a training by SGD with momentum 0.9.

    Attributes:
        epochs, batch_size: an epoch leaves out what does not fill a batch, other examples each time.
        learning_rate, momentum, schedule, weight_decay, gradient_clip, ema_decay: as in
            :class:`adaptive_smoothing_zoo.training.loop.Optimization`.
        padding: images are padded by this many pixels and cropped at random.
        flip: images are mirrored with probability 1/2.
        accumulation: passes (per process) into which a batch is split, whose gradients are added up.
        seed: of shuffling, augmentation and attack; of the weights only in a recipe.
        bfloat16: run the net under bfloat16 autocast, in channels_last (for large nets on recent CPUs and on GPUs).

    Raises:
        ValueError: settings that make no optimization.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: Momentum = "nesterov"
    schedule: str = "triangle"
    weight_decay: float = 5e-4
    padding: int = 0
    flip: bool = False
    accumulation: int = 1
    gradient_clip: float | None = None
    ema_decay: float = 0.0
    seed: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        _ = self.optimization

    @property
    def optimization(self) -> Optimization:
        return Optimization(
            optimizer="sgd",
            momentum=self.momentum,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            ema_decay=self.ema_decay,
        )


Settings = TypeVar("Settings", bound=NetTraining)


class NetTask(Generic[Settings]):
    """The examples of a :class:`adaptive_smoothing_zoo.training.loop.Task`; a round is one step on one batch."""

    steps = 1

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, settings: Settings, workers: Workers) -> None:
        check_batch(len(labels), settings.batch_size, workers.size * settings.accumulation)
        self.learner, self.settings, self.workers = net, settings, workers
        self.images, self.labels = images, labels
        self.seed = settings.seed
        self.rounds_per_epoch = len(labels) // settings.batch_size
        self.rounds = settings.epochs * self.rounds_per_epoch

    def batch(self, number: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """This process's share of a round: augmented images and labels on its device, their indices, and a seed."""
        settings, device = self.settings, self.workers.device
        chosen = self.workers.share(batch_of_round(self.seed, number, len(self.labels), settings.batch_size))
        seed = derived_seed(self.seed, "round", number)
        images = self.images[chosen].to(device)
        images = augment(images, settings.padding, settings.flip, run_keys(seed, "augment", 0, chosen))
        return images, self.labels[chosen].to(device), chosen, seed

    def run(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits (N, C), in float32 also under bfloat16."""
        if not self.settings.bfloat16:
            return net(images)  # type: ignore[no-any-return]
        with autocast(self.workers.device, True):
            return net(images.contiguous(memory_format=torch.channels_last)).float()  # type: ignore[no-any-return]


class TrainingOptions(TypedDict, total=False):
    """Of every training of a net, see ``train_net``."""

    workers: Workers | None
    folder: Path | None
    checkpoint_seconds: float
    on_progress: OnProgress | None


def train_net(
    make_task: Callable[[nn.Module, Tensor, Tensor, Settings, Workers], Task[Any]],
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    *,
    workers: Workers | None = None,
    folder: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_progress: OnProgress | None = None,
) -> nn.Module:
    """Train ``net`` in place on images (N, channels, H, W) in [0, 1] and labels (N,); returned in eval mode.

    The same inputs, settings and machine give the same net. Parts without a parameter that learns stay as they are.

    Args:
        make_task: the kind of training.
        workers: the processes that do it and their device; this process, on the images' device, if None.
        folder: where checkpoints and a log are kept. A training that was interrupted resumes from there.
        checkpoint_seconds: time between two checkpoints.
        on_progress: told of every finished step.

    Raises:
        ValueError: the batch cannot be split as asked, or is larger than the data.
        ResultsError: the folder belongs to another training.
        TrainingError: the loss is not finite.
    """
    workers = workers or find_workers(images.device)
    net.to(workers.device)
    if settings.bfloat16:
        net.to(memory_format=torch.channels_last)
    task = make_task(net, images, labels, settings, workers)
    keeper = None
    if folder is not None:
        binding = {
            "settings": asdict(settings),
            "data": fingerprint(images, labels),
            "initial_weights": fingerprint(net),
        }
        keeper = Keeper(folder, binding, checkpoint_seconds)
    with frozen(*frozen_parts(net)):
        fit(task, settings.optimization, workers=workers, keeper=keeper, on_progress=on_progress)
    net.eval()
    return net


def batch_of_round(seed: int, number: int, count: int, batch_size: int) -> Tensor:
    """The examples of a round, (batch_size,): every epoch is a permutation of its own, cut into whole batches."""
    epoch, place = divmod(number, count // batch_size)
    order = permutation(seed, "order", epoch, count)
    return order[place * batch_size : (place + 1) * batch_size]


def check_batch(count: int, batch_size: int, shares: int) -> None:
    """Raise ValueError unless ``count`` examples fill a batch and a batch can be split into equal shares."""
    if not 0 < batch_size <= count:
        raise ValueError(f"a batch of {batch_size} must have between 1 and all {count} examples")
    if batch_size % shares:
        raise ValueError(
            f"a batch of {batch_size} cannot be split into {shares} equal shares (processes times passes); choose a "
            "multiple"
        )


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[None]:
    """bfloat16 where it does no harm, if enabled."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
