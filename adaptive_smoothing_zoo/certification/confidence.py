"""One-sided confidence bounds for the mean of votes. Every bound is wrong with at most its failure probability, for any
number n >= 1 of independent samples of any one distribution, if n is fixed beforehand. For sequential sampling use
``BettingTest``.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import beta

from adaptive_smoothing_zoo.certification.rounding import EPS, Floats, Values, checked_values, last_true, up

QUANTILE_SLACK = 1e-13  # relative error of scipy's beta quantiles, with room to spare
LARGEST_BET = 0.5  # share of the capital at stake in one sample; smaller than 1, so that no sample ruins the bettor
BISECTIONS = 40  # leave less than 1e-12
STAKES = 0.99 * 0.5 ** np.arange(10)  # of a capital, from nearly all of it to what tells means 1/1000 apart


def clopper_pearson_lower(votes: Values, samples: Values, failure_probability: float) -> Floats:
    """Lower bound of a probability from ``votes`` successes in ``samples`` trials [CP34].

    Args:
        votes, samples: whole numbers with 0 <= votes <= samples and samples >= 1; they broadcast.
        failure_probability: of this bound alone, in (0, 1).

    Returns:
        The largest p (slightly less) under which as many votes or more have at most this probability; 0 for no votes.

    Raises:
        ValueError: a value outside its range.
    """
    k = checked_values(votes, "votes", 0.0, np.inf)
    n = checked_values(samples, "samples", 1.0, np.inf)
    if (k != np.floor(k)).any() or (n != np.floor(n)).any():
        raise ValueError("votes and samples must be whole numbers; for the mean of soft votes use another bound")
    if (k > n).any():
        raise ValueError("there cannot be more votes than samples")
    failure = checked_failure_probability(failure_probability)
    # Where SciPy finds no quantile (of probabilities like 1e-300), the bound that always holds.
    bound = np.nan_to_num(beta.ppf(failure, np.maximum(k, 1.0), n - k + 1.0), nan=0.0)
    return np.where(k == 0, 0.0, bound * (1.0 - QUANTILE_SLACK))


def clopper_pearson_upper(votes: Values, samples: Values, failure_probability: float) -> Floats:
    """Upper bound of a probability, rounded up; arguments and errors as in ``clopper_pearson_lower``."""
    against = np.asarray(samples, dtype=np.float64) - np.asarray(votes, dtype=np.float64)
    return up(1.0 - clopper_pearson_lower(against, samples, failure_probability))


def betting_lower(samples: Values, failure_probability: float) -> Floats:
    """Lower bound of the mean of samples in [0, 1] by betting against smaller means [WSR24].

    A bettor who believes that the mean exceeds m stakes, on each sample x in turn, lambda (x - m) of a capital that
    starts at 1, with lambda chosen from the samples before it (the plug-in rule of their Section 4, one-sided). If the
    mean is m or less the capital is a nonnegative supermartingale, so it ever reaches 1 / failure_probability with at
    most that probability (Ville). The bound is the largest m found by bisection that is refuted so.

    Args:
        samples: (..., n) with n >= 1, in [0, 1], in the order in which they were drawn.
        failure_probability: of this bound alone, in (0, 1).

    Returns:
        (...) bounds in [0, 1].

    Raises:
        ValueError: a value outside its range, or no samples.
    """
    x = checked_values(samples, "samples", 0.0, 1.0)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"samples must have shape (..., n) with n >= 1, got {x.shape}")
    log_goal = -math.log(checked_failure_probability(failure_probability)) + 1e-8  # covers the rounding of the sums
    stakes = _stakes(x, failure_probability)

    def refuted(m: Floats) -> NDArray[np.bool_]:
        with np.errstate(divide="ignore"):
            stake = np.minimum(stakes, LARGEST_BET / m[..., None])
        capital = np.cumsum(np.log1p(stake * (x - m[..., None])), axis=-1)
        return np.asarray(capital.max(axis=-1) >= log_goal)

    return last_true(refuted, np.zeros(x.shape[:-1]), np.ones(x.shape[:-1]), BISECTIONS)


def betting_upper(samples: Values, failure_probability: float) -> Floats:
    """Upper bound of the mean of samples in [0, 1], rounded up; arguments and errors as in ``betting_lower``."""
    x = checked_values(samples, "samples", 0.0, 1.0)
    return up(1.0 - betting_lower(1.0 - x, failure_probability)) + EPS  # covers the rounding of 1 - x


class BettingTest:
    """Test whether samples in [0, 1] have a mean above ``mean``; sampling may stop after any sample.

    Bettors start with equal shares of a capital of 1. Each stakes a fixed part lambda of what it has left, so that a
    sample x multiplies its share by 1 + lambda (x - mean) / mean >= 0. If the mean of x (given the samples before it)
    is at most ``mean``, the expected factor is at most 1: the sum of the shares is a nonnegative supermartingale, and
    by Ville's inequality it ever reaches 1 / failure_probability with at most that probability, whatever rule ends the
    sampling. ([WSR24]; the mixture of stakes serves where n is not known beforehand.)

    Args:
        mean: in (0, 1).
        failure_probability: probability of ever answering yes although the mean is not above, in (0, 1).

    Attributes:
        exceeded: whether the answer is yes after the samples so far or at an earlier time.

    Raises:
        ValueError: a value outside its range.
    """

    def __init__(self, mean: float, failure_probability: float) -> None:
        if not 0.0 < mean < 1.0:
            raise ValueError(f"the mean to exceed must be in (0, 1), got {mean}")
        self.mean = mean
        # Rounding: a product of n factors is off by less than 1e-8 for every n in reach.
        self._goal = -math.log(checked_failure_probability(failure_probability)) + 1e-8
        self._log_shares = np.full(len(STAKES), -math.log(len(STAKES)))
        self.exceeded = False

    def observe(self, samples: Values) -> bool:
        """Take further samples, (n,) in the order in which they were drawn, and return ``exceeded``.

        Raises:
            ValueError: a sample outside [0, 1].
        """
        x = checked_values(samples, "samples", 0.0, 1.0)
        if x.size:
            growth = np.log1p(STAKES[:, None] * (x - self.mean) / self.mean)
            shares = self._log_shares[:, None] + np.cumsum(growth, axis=1)
            self._log_shares = shares[:, -1]
            self.exceeded |= bool(logsumexp(shares, axis=0).max() >= self._goal)
        return self.exceeded


def _stakes(x: Floats, failure_probability: float) -> Floats:
    """The stake on each sample, (..., n), from the samples before it: sqrt(2 ln(1 / failure) / (n variance))."""
    n = x.shape[-1]
    count = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(x, axis=-1)) / (count + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2, axis=-1)) / (count + 1)
    before = np.concatenate([np.full((*x.shape[:-1], 1), 0.25), variances[..., :-1]], axis=-1)
    return np.asarray(np.sqrt(2.0 * math.log(1.0 / failure_probability) / (n * before)))


def checked_failure_probability(failure_probability: float) -> float:
    """The same number; ValueError unless it is in (0, 1)."""
    if not 0.0 < failure_probability < 1.0:
        raise ValueError(f"the failure probability must be in (0, 1), got {failure_probability}")
    return float(failure_probability)
