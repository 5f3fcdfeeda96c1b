"""CERTIFY [CRK19]: certified l_2 radii of a Gaussian-smoothed classifier by sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adaptive_smoothing_zoo.certification.bounds.cohen import cohen_radius
from adaptive_smoothing_zoo.certification.confidence import betting_lower, clopper_pearson_lower
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, Certificates
from adaptive_smoothing_zoo.certification.rounding import Floats
from adaptive_smoothing_zoo.certification.running import Rule, run_certification, settled
from adaptive_smoothing_zoo.certification.sampling import Copies, Sampling


def certify(model: nn.Module, images: Tensor, labels: Tensor, **settings: Any) -> Certificates:
    """Certify the smoothed version of a classifier at each image [CRK19, CERTIFY].

    It gives the class with the largest mean vote of ``model`` over noise N(0, sigma^2 I). n0 samples choose the class,
    n others bound its mean vote p from below; if p > 1/2, no perturbation smaller than sigma Phi^-1(p) changes it.

    Args:
        model: images (N, channels, H, W) to logits (N, C), C >= 2. Noisy images are not clipped to [0, 1].
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        settings: fields of :class:`Sampling` (``sigma`` must be given) and of :class:`Run`.

    Returns:
        One certificate per image, in their order; prediction -1 and radius 0 where the bound does not exceed 1/2.

    Raises:
        ValueError: images, labels or settings that make no sense.
        EvaluationError: the model fails on such images, its output is not (N, C), or NaN or infinity somewhere.
        ResultsError: the log is damaged, belongs to other settings, or is being written by another process.

    Each certificate is wrong with at most ``failure_probability``. It is about ``model`` as it is computed here, with
    its rounding, as if inputs and noise were real numbers. The noise of an image depends on the seed, its dataset index
    and the kind of device alone: order, other images and interruptions change nothing, the batch size only rounding.
    (Generators on the CPU have 32-bit seeds: two of many images may have the same noise, which couples their errors.)
    """
    sampling, run = settled(settings)
    return run_certification(model, images, labels, FixedNumber(sampling), run)


@dataclass(frozen=True)
class FixedNumber(Rule):
    """n votes for every image, and Cohen's radius for their lower bound."""

    sampling: Sampling

    def settings(self) -> dict[str, Any]:
        return {"n": self.sampling.n, "failure_probability": self.sampling.failure_probability}

    def group_size(self, batch_size: int) -> int:
        return max(1, round(batch_size / self.sampling.n))  # images that fit into one batch

    def certify(self, copies: Copies, tops: Tensor) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
        n, failure = self.sampling.n, self.sampling.failure_probability
        votes = copies.votes(tops, n)
        if self.sampling.votes == "hard":
            classes, counts = copies.fetch(tops, votes.sum(dim=1, dtype=torch.float64))
            p_lower = clopper_pearson_lower(counts, n, failure)
        else:
            classes, soft = copies.fetch(tops, votes)
            p_lower = betting_lower(soft, failure)
        predictions = np.where(p_lower > 0.5, classes, ABSTAIN).astype(np.int64)
        return predictions, cohen_radius(p_lower, self.sampling.sigma), np.full(len(classes), n)
