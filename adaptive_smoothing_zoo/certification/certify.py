"""CERTIFY [CRK19]: certified l_2 radii of a Gaussian-smoothed classifier by sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.certification.bounds.cohen import cohen_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.confidence import (
    betting_lower,
    betting_upper,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, COLUMNS, Certificates
from adaptive_smoothing_zoo.certification.rounding import Floats, up
from adaptive_smoothing_zoo.certification.running import Found, Rule, run_certification, settled
from adaptive_smoothing_zoo.certification.sampling import Copies, Sampling


def certify(model: nn.Module, images: Tensor, labels: Tensor, **settings: Any) -> Certificates:
    """Certify the smoothed version of a classifier at each image [CRK19, CERTIFY].

    It gives the class with the largest mean vote of ``model`` over noise N(0, sigma^2 I). n0 samples choose the class,
    n others bound its mean vote p from below; if p > 1/2, no perturbation smaller than sigma Phi^-1(p) changes it. With
    ``runner_up`` they also bound the other classes' mean votes from above, by q; if p > q, none smaller than
    sigma / 2 (Phi^-1(p) - Phi^-1(q)) does. That certifies images without a majority, and little less elsewhere.

    Args:
        model: images (N, channels, H, W) to logits (N, C), C >= 2. Noisy images are not clipped to [0, 1].
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        settings: fields of :class:`Sampling` (``sigma`` must be given) and of :class:`Run`.

    Returns:
        One certificate per image, in their order; prediction -1 and radius 0 where the bounds certify nothing.

    Raises:
        ValueError: invalid images, labels or settings.
        EvaluationError: the model fails on such images, its output is not (N, C), or NaN or infinity somewhere.
        ResultsError: the log is damaged, belongs to other settings, or is being written by another process.

    Each certificate is wrong with probability at most ``failure_probability``. It holds for ``model`` as computed here,
    with its rounding, as if inputs and noise were real numbers. The noise of an image depends only on the seed, its
    dataset index and the kind of device: order, other images and interruptions have no effect, and the batch size
    affects only rounding. (Generators on the CPU have 32-bit seeds: two of many images may have the same noise, which
    couples their errors.)
    """
    sampling, run = settled(settings)
    return run_certification(model, images, labels, FixedNumber(sampling), run)


@dataclass(frozen=True)
class FixedNumber(Rule):
    """n votes for every image, and Cohen's radius for their lower bound."""

    sampling: Sampling

    @property
    def columns(self) -> tuple[str, ...]:
        return (*COLUMNS, "p_top", "p_runner_up") if self.sampling.runner_up else COLUMNS

    def settings(self) -> dict[str, Any]:
        settings = {"n": self.sampling.n, "failure_probability": self.sampling.failure_probability}
        return settings | ({"runner_up": True} if self.sampling.runner_up else {})

    def group_size(self, batch_size: int) -> int:
        return max(1, round(batch_size / self.sampling.n))  # images that fit into one batch

    def certify(self, copies: Copies, tops: Tensor) -> Found:
        n, failure = self.sampling.n, self.sampling.failure_probability
        if self.sampling.runner_up:
            return self._with_runner_up(*copies.fetch(tops, copies.all_votes(n)))
        votes = copies.votes(tops, n)
        if self.sampling.votes == "hard":
            classes, counts = copies.fetch(tops, votes.sum(dim=1, dtype=torch.float64))
            p_lower = clopper_pearson_lower(counts, n, failure)
        else:
            classes, soft = copies.fetch(tops, votes)
            p_lower = betting_lower(soft, failure)
        predictions = np.where(p_lower > 0.5, classes, ABSTAIN).astype(np.int64)
        return Found(predictions, cohen_radius(p_lower, self.sampling.sigma), np.full(len(classes), n))

    def _with_runner_up(self, classes: Floats, votes: Floats) -> Found:
        """Certify from two bounds; every class but the chosen one is bounded, since any may be the runner-up."""
        n, half = self.sampling.n, self.sampling.failure_probability / 2
        tops = classes.astype(np.int64)
        others = np.arange(votes.shape[-1]) != tops[:, None]
        each = half / (votes.shape[-1] - 1)
        if self.sampling.votes == "hard":
            p_top = clopper_pearson_lower(np.take_along_axis(votes, tops[:, None], 1)[:, 0], n, half)
            upper = clopper_pearson_upper(votes, n, each)
        else:
            by_class = votes.transpose(0, 2, 1)
            p_top = betting_lower(np.take_along_axis(by_class, tops[:, None, None], 1)[:, 0], half)
            upper = betting_upper(by_class, each)
        p_runner_up = np.minimum(np.where(others, upper, 0.0).max(axis=1), up(1.0 - p_top)).clip(0.0, 1.0)
        radii = smoothing_radius(p_top, p_runner_up, 1.0, self.sampling.sigma)
        predictions = np.where(radii > 0.0, tops, ABSTAIN).astype(np.int64)
        return Found(predictions, radii, np.full(len(tops), n), p_top, p_runner_up)
