"""The loss of a mixing network (000, eq. (6); 003, eq. (B.2))."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CompositeLoss:
    """``c_ce CE(mix, y) + c_bce BCE(alpha, u) + c_prod CE BCE`` for each example, with a pseudo-label u.

    u is 1 (use h) for attacked inputs and 0 (use g) for clean ones.

    Attributes:
        c_ce, c_bce, c_prod: the weights of the parts. The defaults are the best ones of Table SM2 (003).
        clean_weight: factor on the loss of clean inputs; the authors have 1 or 2.

    Raises:
        ValueError: a negative weight.
    """

    c_ce: float = 0.0
    c_bce: float = 1.5
    c_prod: float = 0.2
    clean_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("c_ce", "c_bce", "c_prod", "clean_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number >= 0, got {getattr(self, name)}")

    def __call__(self, log_mix: Tensor, alpha_logit: Tensor, labels: Tensor, use_rob: Tensor) -> Tensor:
        """The loss of each example, (N,).

        Args:
            log_mix: (N, C) log-probabilities of the mix.
            alpha_logit: (N,).
            labels: (N,) classes.
            use_rob: (N,) pseudo-labels, 0.0 or 1.0.
        """
        ce = F.cross_entropy(log_mix, labels, reduction="none")
        bce = F.binary_cross_entropy_with_logits(alpha_logit, use_rob, reduction="none")
        weight = use_rob + self.clean_weight * (1.0 - use_rob)
        return weight * (self.c_ce * ce + self.c_bce * bce + self.c_prod * ce * bce)


LOSSES = {
    "first paper": CompositeLoss(c_ce=0.5, c_bce=1.0, c_prod=0.1, clean_weight=2.0),
    "best ablation": CompositeLoss(c_ce=0.0, c_bce=1.5, c_prod=0.2),
    "Bai2023Improving_edm, cifar100": CompositeLoss(c_ce=0.0, c_bce=1.5, c_prod=0.2),
    "Bai2023Improving_edm, cifar10": CompositeLoss(c_ce=0.0, c_bce=1.5, c_prod=0.3),
    "Bai2023Improving_trades, cifar100": CompositeLoss(c_ce=0.5, c_bce=1.0, c_prod=0.1, clean_weight=2.0),
}
"""The constants of the papers (000, section 5.2; 003, Table SM2) and of the authors' configuration files, in which the
clean inputs of the first and the last of these count twice."""
