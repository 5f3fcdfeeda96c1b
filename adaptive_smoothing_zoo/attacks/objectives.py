"""What an untargeted attack increases, per example, and how it pulls alpha down at the same time."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import margin

Loss = Callable[[Tensor, Tensor], Tensor]  # output (N, C), labels (N,) -> per-example loss (N,) to increase


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Per-example cross-entropy, (N,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def cw_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest wrong logit minus the label's, (N,) (Carlini and Wagner 2017); positive if misclassified."""
    return -margin(logits, labels)


def probability_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest wrong probability minus the label's, (N,) in [-1, 1]; positive if misclassified."""
    return -margin(logits.softmax(dim=1), labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference-of-logits ratio, (N,) (Croce and Hein 2020, arXiv:2003.01690, eq. (6)); needs at least 3 classes.

    The CW margin over the gap between the largest and the third largest logit; it changes with neither a shift nor a
    scale of the logits.
    """
    largest = logits.topk(3, dim=1).values
    return cw_margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "dlr": dlr,
    "cw": cw_margin,
    "probability": probability_margin,
}
"""The losses by their short names."""


def append_alpha_loss(logits: Tensor, alpha_logit: Tensor) -> Tensor:
    """One output for two ends: the logits, and behind them the cross-entropy of alpha with label 1 in disguise.

    Args:
        logits: (N, C).
        alpha_logit: (N,).

    Returns:
        (N, C + 1). The last column is the largest logit minus 1 minus BCE(alpha_logit, 1), so it is never the largest,
        and an attack that asks for the argmax is told the label. ``alpha_loss`` reads it; its gradient is that of alpha
        alone.
    """
    column = logits.detach().amax(dim=1) - 1.0 - F.softplus(-alpha_logit)
    return torch.cat([logits, column.unsqueeze(1)], dim=1)


def alpha_loss(output: Tensor) -> Tensor:
    """BCE(alpha_logit, 1) = -log(sigmoid(alpha_logit)), (N,), of an output of ``append_alpha_loss``."""
    return output[:, :-1].detach().amax(dim=1) - 1.0 - output[:, -1]


def lowering_alpha(loss: Callable[..., Tensor], weight: float | Tensor) -> Callable[..., Tensor]:
    """``(1 - w) loss + w BCE(alpha_logit, 1)``: what breaks the mix while it pulls alpha toward g (003, supplement).

    Args:
        loss: of logits and labels, and of targets if it has such.
        weight: w in [0, 1], one for all or (N,).

    Returns:
        A loss of an output of ``append_alpha_loss`` and the same further arguments.
    """

    def both(output: Tensor, *classes: Tensor) -> Tensor:
        return (1.0 - weight) * loss(output[:, :-1], *classes) + weight * alpha_loss(output)

    return both
