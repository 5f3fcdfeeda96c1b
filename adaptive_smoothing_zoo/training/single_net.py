"""What all trainings of a single net share, whatever the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.calling import run_base_net
from adaptive_smoothing_zoo.training.frozen import check_learns, frozen, frozen_parts
from adaptive_smoothing_zoo.training.keeping import fingerprint
from adaptive_smoothing_zoo.training.loop import TrainingOptions, fit
from adaptive_smoothing_zoo.training.optimization import Momentum
from adaptive_smoothing_zoo.training.task import Part, Settings, Task, Training
from adaptive_smoothing_zoo.training.workers import Workers, find_workers


@dataclass(frozen=True, kw_only=True)
class NetTraining(Training):
    """Settings of a training by SGD with momentum 0.9; see :class:`adaptive_smoothing_zoo.training.task.Training`.

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


class NetTask(Task[Settings, Part], Generic[Settings, Part]):
    """A training of a net; a round is one step on one batch."""

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, settings: Settings, workers: Workers) -> None:
        super().__init__(net, images, labels, settings, workers, shares=workers.size * settings.accumulation)

    def run(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits (N, C), in float32 also under bfloat16."""
        if not self.settings.bfloat16:
            return run_base_net(net, images, None)[0]
        with self.autocast():
            return run_base_net(net, images.contiguous(memory_format=torch.channels_last), None)[0].float()


def train_net(
    make_task: Callable[[nn.Module, Tensor, Tensor, Settings, Workers], Task[Settings, Any]],
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    **options: Unpack[TrainingOptions],
) -> nn.Module:
    """Train ``net`` in place on images (N, channels, H, W) in [0, 1] and labels (N,); returned in eval mode.

    The same inputs, settings and machine give the same net. Parts without a parameter that learns stay as they are.

    Args:
        net: images to logits (N, C), or to something that holds them.
        make_task: the kind of training.
        options: see :class:`TrainingOptions`.

    Raises:
        TypeError: the net's output holds no logits.
        ValueError: the batch cannot be split as asked, or is larger than the data; the net was built in inference mode.
        ResultsError: the folder belongs to another training.
        TrainingError: the loss is not finite.
    """
    check_learns(net)
    workers = options.get("workers") or find_workers(images.device)
    net.to(workers.device)
    if settings.bfloat16:
        net.to(memory_format=torch.channels_last)
    task = make_task(net, images, labels, settings, workers)
    with frozen(*frozen_parts(net)):
        fit(task, lambda: {"initial_weights": fingerprint(net)}, **options)
    return net.eval()
