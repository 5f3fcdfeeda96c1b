"""How weights change: the optimizer, and how its learning rate goes up and down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Optimizer = Literal["adamw", "sgd"]
Momentum = Literal["nesterov", "plain"]

WARM_UP = 25  # the cosine's warm-up has a time constant of this part of the steps, as the authors have it


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How weights change.

    Attributes:
        optimizer: "adamw", or "sgd" with momentum 0.9.
        momentum: of "sgd": "nesterov", or "plain".
        learning_rate: the schedule's peak.
        schedule: a key of ``SCHEDULES``.
        weight_decay: of that optimizer's kind.
        gradient_clip: largest l_2 norm of all gradients together; None for any.
        ema_decay: of an exponential moving average of the weights, which takes their place at the end; 0 for none. In
            the first steps the decay is at most (1 + step) / (10 + step).

    Raises:
        ValueError: an unknown momentum or schedule, or a decay outside [0, 1).
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
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    def make(self, learner: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of all parameters that learn.

        Raises:
            ValueError: none does.
        """
        parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError("all parameters are frozen; call requires_grad_(True) on what is to be trained")
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        nesterov = self.momentum == "nesterov"
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=0.9, nesterov=nesterov, weight_decay=self.weight_decay
        )

    def rate(self, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0, of ``total``."""
        return self.learning_rate * SCHEDULES[self.schedule](step, total)


def cosine(step: int, total: int) -> float:
    """Cosine decay from 1 to 0 behind an exponential warm-up, ``1 - exp(-(step + 1) / (total / 25))``.

    The authors' combination of CosineAnnealingLR and pytorch_warmup's ExponentialWarmup, whose period is a whole number
    of steps (here at least one).
    """
    warm_up = 1.0 - math.exp(-(step + 1) / max(1, total // WARM_UP))
    return 0.5 * (1.0 + math.cos(math.pi * step / total)) * warm_up


def triangle(step: int, total: int) -> float:
    """A linear rise over the first 30 % of the steps and a linear fall to zero."""
    return min(1.0, (step + 1) / (0.3 * total), (total - step) / (0.7 * total))


def thirds(step: int, total: int) -> float:
    """A tenth of the rate after each third of the steps, as in most trainings of nets that will be smoothed."""
    return float(10.0 ** -(3 * step // total))


SCHEDULES = {"cosine": cosine, "triangle": triangle, "thirds": thirds}
