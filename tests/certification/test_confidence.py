"""Confidence bounds: coverage against exact distributions, values against the definitions, and the edges."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from adaptive_smoothing_zoo.certification.confidence import betting_lower, clopper_pearson_lower

FAILURES = st.floats(1e-6, 0.5)
FRACTIONS = st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


# ---- Clopper-Pearson


@given(FRACTIONS, FAILURES)
def test_clopper_pearson_inverts_the_exact_test(counts, failure):
    k, n = counts
    low = float(clopper_pearson_lower(k, n, failure))
    assert 0 <= low <= k / n or failure > 0.4
    if k == 0:
        assert low == 0.0
    else:
        # On the safe side only as near as scipy's quantile is, on the other strictly.
        assert failure * (1 - 1e-5) <= binom.sf(k - 1, n, low) <= failure * (1 + 1e-6)
    if k == n:
        assert low == pytest.approx(failure ** (1 / n))


@pytest.mark.parametrize("n", [1, 2, 7, 50, 1000])
@pytest.mark.parametrize("failure", [0.5, 0.05, 0.001])
def test_clopper_pearson_covers_exactly(n, failure):
    """The probability of a wrong bound, summed over all outcomes, never exceeds what was allowed."""
    k = np.arange(n + 1)
    low = clopper_pearson_lower(k, n, failure)
    worst = 0.0
    for p in [0.0, 1.0, *(low[1:] - 1e-12), *np.linspace(0.001, 0.999, 50)]:
        wrong = binom.pmf(k, n, p)[low > p].sum()
        assert wrong <= failure * (1 + 1e-6)
        worst = max(worst, wrong)
    assert worst == pytest.approx(failure, rel=1e-6)  # and where it is just wrong it is reached


def test_clopper_pearson_is_never_above_the_quantile_in_high_precision():
    """The reported bound is below the exact one, by the regularized incomplete beta function of mpmath."""
    with mpmath.workdps(50):
        for k, n in ((1, 1), (60, 100), (99_990, 100_000), (100_000, 100_000)):
            low = mpmath.mpf(float(clopper_pearson_lower(k, n, 0.001)))
            tail = sum(mpmath.binomial(n, j) * low ** (n - j) * (1 - low) ** j for j in range(n - k + 1))
            assert mpmath.mpf(0.001) * (1 - mpmath.mpf(10) ** -7) <= tail <= mpmath.mpf(0.001)


def test_clopper_pearson_takes_arrays_and_tensors():
    votes = torch.tensor([0, 500, 1000])
    expected = [0.0, beta.ppf(0.01, 500, 501), 0.01 ** (1 / 1000)]
    np.testing.assert_allclose(clopper_pearson_lower(votes, 1000, 0.01), expected, rtol=1e-12)


# ---- means of soft votes


def literal_betting_lower(samples, failure, grid):
    """The smallest m of a grid that the capital process does not refute, sample by sample."""
    n = len(samples)
    for m in grid:
        capital, refuted = 1.0, False
        total, spread = 0.5, 0.25
        variance = 0.25
        for t, x in enumerate(samples, start=1):
            stake = min(math.sqrt(2 * math.log(1 / failure) / (n * variance)), 0.5 / m)
            capital *= 1 + stake * (x - m)
            refuted = refuted or capital >= 1 / failure
            total += x
            spread += (x - total / (t + 1)) ** 2
            variance = spread / (t + 1)
        if not refuted:
            return m
    return 1.0


@pytest.mark.parametrize("seed", range(3))
def test_betting_is_the_literal_process(seed):
    samples = np.random.default_rng(seed).beta(5, 1, size=60)
    bound = float(betting_lower(samples, 0.05))
    literal = literal_betting_lower(samples, 0.05, np.linspace(1e-3, 1, 1000))
    assert literal - 1.001e-3 <= bound <= literal


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), FAILURES)
def test_betting_bounds_are_fractions(samples, failure):
    assert 0.0 <= betting_lower(samples, failure) <= 1.0


@given(FAILURES, st.integers(1, 200))
def test_betting_at_the_edges(failure, n):
    """Nothing is known from votes that are all 0; from votes that are all 1 a bound below 1 that grows with n."""
    assert betting_lower(np.zeros(n), failure) <= 1e-9
    # n votes of 1 have probability m^n at least under a mean of m: no valid bound exceeds failure^(1/n).
    assert betting_lower(np.ones(n), failure) <= failure ** (1 / n)


DISTRIBUTIONS = {
    "bernoulli 0.9": (0.9, lambda rng, shape: (rng.random(shape) < 0.9).astype(float)),
    "bernoulli 0.5": (0.5, lambda rng, shape: (rng.random(shape) < 0.5).astype(float)),
    "rare loss": (0.995, lambda rng, shape: (rng.random(shape) < 0.995).astype(float)),
    "beta": (5 / 6, lambda rng, shape: rng.beta(5, 1, shape)),
    "bathtub": (0.75, lambda rng, shape: rng.beta(0.3, 0.1, shape)),
    "two levels": (0.8 * 0.7 + 0.2 * 0.1, lambda rng, shape: np.where(rng.random(shape) < 0.8, 0.7, 0.1)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("n", "failure"), [(5, 0.1), (200, 0.1), (200, 0.02)])
def test_betting_covers(name, n, failure):
    """Failures in 3,000 runs stay below what a bound that fails as often as allowed exceeds once in a million."""
    mean, draw = DISTRIBUTIONS[name]
    rng = np.random.default_rng(seed_of(name, n))
    runs = 3000
    bounds = betting_lower(draw(rng, (runs, n)), failure)
    assert (bounds > mean).sum() <= binom.isf(1e-6, runs, failure)


def seed_of(name, n):
    return sum(map(ord, name)) * 1000 + n


def test_a_bound_without_protection_would_be_caught():
    """The simulation has the power to refute: the plain normal approximation fails it."""
    mean, draw = DISTRIBUTIONS["rare loss"]
    samples = draw(np.random.default_rng(0), (3000, 200))
    naive = samples.mean(1) - 2.054 * samples.std(1, ddof=1) / math.sqrt(200)  # Phi(2.054) = 0.98
    assert (naive > mean).sum() > binom.isf(1e-6, 3000, 0.02)


@pytest.mark.parametrize("name", ["beta", "two levels"])
def test_betting_converges(name):
    mean, draw = DISTRIBUTIONS[name]
    assert (mean - betting_lower(draw(np.random.default_rng(1), (20, 2000)), 0.001) < 0.04).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clopper_pearson_lower(5, 4, 0.1), "more votes than samples"),
        (lambda: clopper_pearson_lower(0, 0, 0.1), "samples must be"),
        (lambda: clopper_pearson_lower(-1, 4, 0.1), "votes must be"),
        (lambda: clopper_pearson_lower(1.5, 4, 0.1), "whole numbers"),
        (lambda: clopper_pearson_lower(1, 4, 1.0), "failure probability"),
        (lambda: betting_lower([0.5, 1.1], 0.1), "samples must be"),
        (lambda: betting_lower([], 0.1), "n >= 1"),
        (lambda: betting_lower(0.5, 0.1), "n >= 1"),
        (lambda: betting_lower([0.5], 0.0), "failure probability"),
    ],
)
def test_bounds_refuse_what_they_do_not_cover(call, message):
    with pytest.raises(ValueError, match=message):
        call()
