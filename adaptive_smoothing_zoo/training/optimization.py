"""The optimizer of a training, and the schedules of its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Optimizer = Literal["adamw", "sgd"]
Momentum = Literal["nesterov", "plain"]

WARM_UP = 25  # the cosine's warm-up has a time constant of 1/25 of the steps, as the authors use


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """An optimizer and its schedule.

    Attributes:
        optimizer: "adamw", or "sgd" with momentum 0.9.
        momentum: of "sgd": "nesterov", or "plain".
        learning_rate: the schedule's factor 1 is this rate.
        schedule: a key of ``SCHEDULES``.
        weight_decay: decoupled in AdamW, added to the gradient in SGD.
        gradient_clip: largest l_2 norm of all gradients together, > 0; None for no limit.
        ema_decay: decay of an exponential moving average of the weights, in [0, 1). At the end, the average replaces
            the weights; 0 for no average. In step s, counted from 0, the decay is at most (1 + s) / (10 + s).

    Raises:
        ValueError: an unknown momentum or schedule, or a number out of range.
    """

    optimizer: Optimizer
    momentum: Momentum = "nesterov"
    learning_rate: float
    schedule: str
    weight_decay: float
    gradient_clip: float | None = None
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.momentum not in ("nesterov", "plain"):
            raise ValueError(f"the momentum must be 'nesterov' or 'plain', got {self.momentum!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}; known: {', '.join(SCHEDULES)}")
        for name in ("learning_rate", "weight_decay"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number >= 0, got {getattr(self, name)}")
        if self.gradient_clip is not None and not self.gradient_clip > 0.0:  # a negative limit would turn gradients
            raise ValueError(f"gradient_clip must be positive or None, got {self.gradient_clip}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    def make(self, learner: nn.Module) -> torch.optim.Optimizer:
        """A new optimizer of all parameters that require a gradient.

        Raises:
            ValueError: none does.
        """
        parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError("all parameters are frozen; call requires_grad_(True) on those to train")
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        nesterov = self.momentum == "nesterov"
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=0.9, nesterov=nesterov, weight_decay=self.weight_decay
        )

    def rate(self, step: int, total: int) -> float:
        """The learning rate of step ``step``, counted from 0, of ``total`` steps."""
        return self.learning_rate * SCHEDULES[self.schedule](step, total)


def cosine(step: int, total: int) -> float:
    """Cosine decay from 1 to 0, times the exponential warm-up ``1 - exp(-(step + 1) / max(1, total // 25))``.

    This is the authors' combination of CosineAnnealingLR and pytorch_warmup's ExponentialWarmup.
    """
    warm_up = 1.0 - math.exp(-(step + 1) / max(1, total // WARM_UP))
    return 0.5 * (1.0 + math.cos(math.pi * step / total)) * warm_up


def triangle(step: int, total: int) -> float:
    """A linear rise to 1 over the first 30 % of the steps, then a linear fall to 0."""
    return min(1.0, (step + 1) / (0.3 * total), (total - step) / (0.7 * total))


def thirds(step: int, total: int) -> float:
    """1, then 1/10, then 1/100, for a third of the steps each; usual for nets that will be smoothed."""
    return float(10.0 ** -(3 * step // total))


SCHEDULES = {"cosine": cosine, "triangle": triangle, "thirds": thirds}
