"""PREDICT [CRK19]: the class of a Gaussian-smoothed classifier, or abstention if its votes are too close."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from adaptive_smoothing_zoo.certification.logs import ABSTAIN, Certificates
from adaptive_smoothing_zoo.certification.rounding import Floats, Values, checked_values
from adaptive_smoothing_zoo.certification.running import Found, Rule, run_certification, settled
from adaptive_smoothing_zoo.certification.sampling import Copies, Sampling


def predict_smoothed(model: nn.Module, images: Tensor, **settings: Any) -> NDArray[np.int64]:
    """The class of the smoothed version of a classifier at each image, or -1 [CRK19, PREDICT].

    n samples vote. The class with most votes is returned if a two-sided binomial test refutes that it and the next one
    are equally likely; else none is. No radius follows from it; ``certify`` gives one.

    Args:
        model, images: as in ``certify``.
        settings: as in ``certify``, with hard votes; n0 and runner_up are ignored.

    Returns:
        (N,) classes, each different from the smoothed classifier's with probability at most ``failure_probability``; -1
        for abstention.

    Raises:
        ValueError, EvaluationError, ResultsError: as ``certify``; soft votes, which are no counts.
    """
    labels = torch.zeros(len(images), dtype=torch.int64)
    return predict_examples(model, images, labels, **settings).prediction


def predict_examples(model: nn.Module, images: Tensor, labels: Tensor, **settings: Any) -> Certificates:
    """``predict_smoothed`` of labelled images: predictions, whether they are right, and radii of 0."""
    sampling, run = settled(settings)
    return run_certification(model, images, labels, predicting(sampling), run)


def predicting(sampling: Sampling) -> Majority:
    """The rule of ``predict_smoothed``, with its errors."""
    if sampling.votes != "hard":
        raise ValueError("PREDICT counts hard votes; soft ones are no counts: take votes='hard'")
    return Majority(replace(sampling, n0=1, runner_up=False))  # of which the one vote that chooses is not used


@dataclass(frozen=True)
class Majority(Rule):
    """n votes for every image, and the class with most of them if it is clear."""

    sampling: Sampling

    def settings(self) -> dict[str, Any]:
        n, failure_probability = self.sampling.n, self.sampling.failure_probability
        return {"predict": True, "n": n, "failure_probability": failure_probability}

    def group_size(self, batch_size: int) -> int:
        return max(1, round(batch_size / self.sampling.n))

    def certify(self, copies: Copies, tops: Tensor) -> Found:
        (counts,) = copies.fetch(copies.all_votes(self.sampling.n))
        two = np.sort(counts, axis=1)[:, -2:]
        clear = tie_probability(two[:, 1], two[:, 0]) <= self.sampling.failure_probability
        predictions = np.where(clear, counts.argmax(axis=1), ABSTAIN).astype(np.int64)
        return Found(predictions, np.zeros(len(counts)), np.full(len(counts), self.sampling.n))


def tie_probability(first: Values, second: Values) -> Floats:
    """The two-sided p-value of so many votes for two classes that are equally likely.

    Args:
        first, second: whole numbers >= 0; they broadcast.

    Raises:
        ValueError: a negative number.
    """
    a, b = checked_values(first, "votes", 0.0, np.inf), checked_values(second, "votes", 0.0, np.inf)
    return np.asarray(np.minimum(2.0 * binom.sf(np.maximum(a, b) - 1.0, a + b, 0.5), 1.0))
