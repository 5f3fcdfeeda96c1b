"""Is the radius at least r? Sampling that stops as soon as the answer is known, with the same guarantee."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from adaptive_smoothing_zoo.certification.bounds import vote_needed
from adaptive_smoothing_zoo.certification.confidence import BettingTest, betting_lower, clopper_pearson_lower
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, COLUMNS, Certificates
from adaptive_smoothing_zoo.certification.rounding import Alpha, Floats
from adaptive_smoothing_zoo.certification.running import Found, Rule, run_certification, settled
from adaptive_smoothing_zoo.certification.sampling import NOISE_BLOCK, Copies, Sampling


def certify_at_radius(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    radius: float,
    alpha: Alpha = 1.0,
    bound: str = "theorem5",
    miss_probability: float = 0.001,
    **settings: Any,
) -> Certificates:
    """Find the images at which a smoothed classifier, or a mix with it, has an l_2 radius of at least ``radius``.

    n0 samples choose a class, as in ``certify``. The question is whether its mean vote p exceeds q = ``vote_needed`` of
    the radius. Samples are drawn until a betting test (``BettingTest``) shows that p > q, another that all n samples
    would hardly show it, or there are n samples; then a bound on p from all n is compared with q.

    A certificate is wrong with probability at most ``failure_probability``. If p <= q, there are two ways to be
    certified. The test of p > q errs with at most half of that probability, at any number of samples. The final bound
    uses a fixed number of samples and is also above q with at most half of it. The times of testing and the second test
    can only prevent certificates. The samples that choose the class are not used again.

    Args:
        radius: >= 0, in units of the images.
        alpha, bound: as in ``mix_certificates``, for a mix with the smoothed ``model`` as its h; 1 for h alone.
        miss_probability: probability in (0, 1) of giving up an image before n samples although p is large enough for
            all n to certify it. Not part of the guarantee.
        settings: as in ``certify``; n is the maximal number of samples.

    Returns:
        Prediction and ``radius`` where it is certified, -1 and 0 elsewhere; average radii are meaningless. Logs have an
        additional column ``samples``.

    Raises:
        ValueError: no vote could certify the radius; or as ``certify``.
        EvaluationError, ResultsError: as ``certify``.
    """
    sampling, run = settled(settings)
    rule = at_radius(sampling, radius, alpha, bound, miss_probability)
    return run_certification(model, images, labels, rule, run)


def at_radius(
    sampling: Sampling, radius: float, alpha: Alpha = 1.0, bound: str = "theorem5", miss_probability: float = 0.001
) -> AtRadius:
    """The rule of ``certify_at_radius``, with its arguments and errors."""
    if sampling.runner_up:
        raise ValueError("a single radius is asked with 1 - p for the runner-up; leave the radius or runner_up away")
    needed = float(vote_needed(radius, alpha, sampling.sigma, bound=bound))
    if not needed < 1.0:
        raise ValueError(f"by {bound} no vote, however clear, certifies the radius {radius:g} for alpha {alpha}")
    return AtRadius(sampling, float(radius), needed, miss_probability)


@dataclass(frozen=True)
class AtRadius(Rule):
    """Draw votes, at most sampling.n, until it is known whether their mean exceeds ``needed``."""

    sampling: Sampling
    radius: float
    needed: float
    miss_probability: float = 0.001

    @property
    def columns(self) -> tuple[str, ...]:
        return (*COLUMNS, "samples")

    def __post_init__(self) -> None:
        if not 0.0 < self.miss_probability < 1.0:
            raise ValueError(f"the miss probability must be in (0, 1), got {self.miss_probability}")

    @property
    def share(self) -> float:
        """The failure probability of each of the two ways to a certificate."""
        return self.sampling.failure_probability / 2

    @cached_property
    def hopeless(self) -> float:
        """With a mean vote below this, all n samples would hardly pass; ``needed`` for soft votes, which need less."""
        n = self.sampling.n
        if self.sampling.votes == "soft":
            return self.needed
        passing = bisect_left(range(n + 1), True, key=self._passes)
        return passing / n if passing < n else self.needed

    def _passes(self, votes: int) -> bool:
        """Whether so many hard votes of n pass at the end."""
        return bool(clopper_pearson_lower(votes, self.sampling.n, self.share) >= self.needed)

    def settings(self) -> dict[str, Any]:
        return {
            "radius": self.radius,
            "vote_needed": self.needed,
            "n_at_most": self.sampling.n,
            "failure_probability": self.sampling.failure_probability,
            "miss_probability": self.miss_probability,
        }

    def group_size(self, batch_size: int) -> int:
        return max(1, batch_size // NOISE_BLOCK)

    def certify(self, copies: Copies, tops: Tensor) -> Found:
        (classes,) = copies.fetch(tops)
        questions = [Question(self) for _ in classes]
        undecided = list(range(len(questions)))
        while undecided:
            count = questions[undecided[0]].next_look()
            (votes,) = copies.fetch(copies.votes(tops, count, undecided))
            for k, new in zip(undecided, votes, strict=True):
                questions[k].observe(new)
            undecided = [k for k in undecided if questions[k].answer is None]
        yes = np.array([bool(question.answer) for question in questions])
        samples = np.array([question.seen for question in questions])
        return Found(np.where(yes, classes, ABSTAIN).astype(np.int64), np.where(yes, self.radius, 0.0), samples)


class Question:
    """Does the mean vote for one image's class exceed what is needed?

    Attributes:
        seen: votes so far.
        answer: None as long as more votes are wanted.
    """

    def __init__(self, rule: AtRadius) -> None:
        self._rule = rule
        self._above = BettingTest(rule.needed, rule.share)
        self._below = BettingTest(1.0 - rule.hopeless, rule.miss_probability)
        self._votes: list[Floats] = []
        self.seen = 0
        self.answer: bool | None = None

    def next_look(self) -> int:
        """Number of votes before the next tests: a block, later 1/4 of the votes so far."""
        count = NOISE_BLOCK * max(1, self.seen // NOISE_BLOCK // 4)
        return min(count, self._rule.sampling.n - self.seen)

    def observe(self, votes: Floats) -> None:
        """Take the next votes, in [0, 1], in the order in which they were drawn."""
        self._votes.append(votes)
        self.seen += len(votes)
        if self._above.observe(votes):
            self.answer = True
        elif self._below.observe(1.0 - votes):
            self.answer = False
        elif self.seen == self._rule.sampling.n:
            self.answer = bool(self._lower_bound() >= self._rule.needed)

    def _lower_bound(self) -> Floats:
        every = np.concatenate(self._votes)
        if self._rule.sampling.votes == "soft":
            return betting_lower(every, self._rule.share)
        return clopper_pearson_lower(every.sum(), len(every), self._rule.share)
