"""The loss of a mixing network [BAKS24 v1, eq. (6); supp., eq. (B.2)]."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CompositeLoss:
    """``c_ce CE(mix, y) + c_bce BCE(alpha, u) + c_prod CE BCE`` for each example, with a pseudo-label u.

    u is 1 (use h) for attacked inputs and 0 (use g) for clean ones, unless ``MixingTraining.pseudo_labels`` differ.

    Attributes:
        c_ce, c_bce, c_prod: weights of the terms, at least 0. The defaults are the best of [BAKS24, supp., Table SM2].
        clean_weight: factor on the loss of clean inputs; the authors use 1 or 2.

    Raises:
        ValueError: a weight that is negative or not finite.
    """

    c_ce: float = 0.0
    c_bce: float = 1.5
    c_prod: float = 0.2
    clean_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("c_ce", "c_bce", "c_prod", "clean_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number >= 0, got {getattr(self, name)}")

    def __call__(
        self, log_mix: Tensor, alpha_logit: Tensor, labels: Tensor, use_rob: Tensor, is_clean: Tensor | None = None
    ) -> Tensor:
        """The loss of each example, (N,).

        Args:
            log_mix: (N, C) log-probabilities of the mix.
            alpha_logit: (N,) logits of alpha.
            labels: (N,) classes.
            use_rob: (N,) pseudo-labels, 0.0 or 1.0.
            is_clean: (N,) bool, the inputs that get ``clean_weight``; if None, those with pseudo-label 0.
        """
        ce = F.cross_entropy(log_mix, labels, reduction="none")
        bce = F.binary_cross_entropy_with_logits(alpha_logit, use_rob, reduction="none")
        attacked = use_rob if is_clean is None else (~is_clean).to(use_rob.dtype)
        weight = attacked + self.clean_weight * (1.0 - attacked)
        return weight * (self.c_ce * ce + self.c_bce * bce + self.c_prod * ce * bce)
