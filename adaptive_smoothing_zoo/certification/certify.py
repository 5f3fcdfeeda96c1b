"""CERTIFY [CRK19]: certified l_2 radii of a Gaussian-smoothed classifier by sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.certification.bounds.cohen import cohen_radius
from adaptive_smoothing_zoo.certification.bounds.sharp import top_k_smoothing_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.confidence import (
    betting_lower,
    betting_upper,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, COLUMNS, Certificates
from adaptive_smoothing_zoo.certification.rounding import Floats, checked_k, up
from adaptive_smoothing_zoo.certification.running import Found, Rule, run_certification, settled
from adaptive_smoothing_zoo.certification.sampling import Copies, Sampling


def certify(
    model: nn.Module, images: Tensor, labels: Tensor, *, top_k: int | None = None, **settings: Any
) -> Certificates:
    """Certify the smoothed version of a classifier at each image [CRK19, CERTIFY].

    It gives the class with the largest mean vote of ``model`` over noise N(0, sigma^2 I). n0 samples choose the class,
    n others bound its mean vote p from below; if p > 1/2, no perturbation smaller than sigma Phi^-1(p) changes it. With
    ``runner_up`` they also bound the other classes' mean votes from above, by q; if p > q, none smaller than
    sigma / 2 (Phi^-1(p) - Phi^-1(q)) does. That certifies images without a majority, and little less elsewhere.

    With ``top_k`` = k the certificates are that the label stays among the k likeliest classes, by
    ``top_k_smoothing_radius``. The label is known before the noise, so no samples choose a class. All n bound its mean
    vote p from below. The k likeliest other classes share at most 1 - p, so the k-th of them has at most (1 - p) / k.
    With ``runner_up`` each of the C - 1 other classes is bounded from above as well, and the k-th largest of these
    bounds replaces (1 - p) / k if it is smaller. Then p takes half of the failure probability and every other class
    1 / (C - 1) of the other half: by the union bound all C bounds hold together with the rest.

    Args:
        model: images (N, channels, H, W) to logits (N, C), C >= 2. Noisy images are not clipped to [0, 1].
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        top_k: None, or in [1, C - 1].
        settings: fields of :class:`Sampling` (``sigma`` must be given) and of :class:`Run`.

    Returns:
        One certificate per image, in their order; prediction -1 and radius 0 where the bounds certify nothing. With
        ``top_k`` the prediction is the label elsewhere.

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
    return run_certification(model, images, labels, FixedNumber(sampling, top_k), run)


@dataclass(frozen=True)
class FixedNumber(Rule):
    """n votes for every image, and Cohen's radius for their lower bound; or the radius of the label in the top k."""

    sampling: Sampling
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None:
            checked_k(self.top_k)

    @property
    def columns(self) -> tuple[str, ...]:
        if self._has_one_bound:
            return COLUMNS
        return (*COLUMNS, "p_top", "p_runner_up", *(() if self.top_k is None else ("top_k",)))

    @property
    def _has_one_bound(self) -> bool:
        return self.top_k is None and not self.sampling.runner_up

    @property
    def n0(self) -> int:
        return self.sampling.n0 if self.top_k is None else 0

    def check(self, classes: int) -> None:
        if self.top_k is not None:
            checked_k(self.top_k, classes)

    def settings(self) -> dict[str, Any]:
        settings = {"n": self.sampling.n, "failure_probability": self.sampling.failure_probability}
        settings |= {"runner_up": True} if self.sampling.runner_up else {}
        return settings | ({} if self.top_k is None else {"top_k": self.top_k})

    def group_size(self, batch_size: int) -> int:
        return max(1, round(batch_size / self.sampling.n))  # images that fit into one batch

    def certify(self, copies: Copies, tops: Tensor) -> Found:
        n, sigma, k = self.sampling.n, self.sampling.sigma, self.top_k or 1
        if self.sampling.runner_up:
            classes, p_top, p_other = self._two_bounds(k, *copies.fetch(tops, copies.all_votes(n)))
        else:
            classes, p_top = self._lower_bound(copies, tops)
            p_other = _shared(p_top, k)
        if self._has_one_bound:
            predictions = np.where(p_top > 0.5, classes, ABSTAIN).astype(np.int64)
            return Found(predictions, cohen_radius(p_top, sigma), np.full(len(classes), n))
        if self.top_k is None:
            radii = smoothing_radius(p_top, p_other, 1.0, sigma)
        else:
            radii = top_k_smoothing_radius(p_top, p_other, 1.0, sigma, k)
        predictions = np.where(radii > 0.0, classes, ABSTAIN).astype(np.int64)
        return Found(predictions, radii, np.full(len(classes), n), p_top, p_other, np.full(len(classes), k))

    def _lower_bound(self, copies: Copies, tops: Tensor) -> tuple[Floats, Floats]:
        """The classes, and one bound for each, with all of the failure probability."""
        n, failure = self.sampling.n, self.sampling.failure_probability
        votes = copies.votes(tops, n)
        if self.sampling.votes == "hard":
            classes, counts = copies.fetch(tops, votes.sum(dim=1, dtype=torch.float64))
            return classes, clopper_pearson_lower(counts, n, failure)
        classes, soft = copies.fetch(tops, votes)
        return classes, betting_lower(soft, failure)

    def _two_bounds(self, k: int, classes: Floats, votes: Floats) -> tuple[Floats, Floats, Floats]:
        """The classes, the lower bound of each, and an upper one of the k-th likeliest other class.

        Every other class is bounded, since any may be that.
        """
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
        kth = np.sort(np.where(others, upper, 0.0), axis=1)[:, -k]
        return classes, p_top, np.minimum(kth, _shared(p_top, k)).clip(0.0, 1.0)


def _shared(p_top: Floats, k: int) -> Floats:
    """The most that the k-th likeliest other class can have: k classes share 1 - p."""
    rest = up(1.0 - p_top)
    return (rest if k == 1 else up(rest / k)).clip(0.0, 1.0)
