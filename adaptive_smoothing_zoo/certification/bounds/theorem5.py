"""Theorem 5 of [BAS24]: h is smoothed by Gaussian noise, in l_2."""

import numpy as np
from scipy.special import ndtr, ndtri

from adaptive_smoothing_zoo.certification.bounds.bound import Bound, OfSmoothed, SmoothedNet
from adaptive_smoothing_zoo.certification.rounding import (
    Alpha,
    Floats,
    Values,
    alpha_min_of,
    checked_sigma,
    checked_values,
    down,
    quantile_above,
    quantile_below,
    shrink,
    up,
)


def smoothing_radius(p_top_lower: Values, p_runner_up_upper: Values, alpha: Alpha, sigma: Values) -> Floats:
    """l_2 radius of the mix with a Gaussian-smoothed h [BAS24, Theorem 5].

        sigma / 2 (Phi^-1(alpha p_top) - Phi^-1(alpha p_runner_up + 1 - alpha))

    h(x) is the exact mean of a base net's probabilities (or of its one-hot votes) over Gaussian noise. alpha = 1 is h
    alone. For 1/2 < alpha < 1 a larger radius holds, see ``sharp_smoothing_radius``.

    Args:
        p_top_lower: h(x) at its label, or a lower confidence bound of it, in [0, 1].
        p_runner_up_upper: h(x) at every other class is at most this, in [0, 1].
        sigma: standard deviation of the noise, > 0, in units of the images.

    Returns:
        Radii >= 0, as sure as the bounds; infinite where the bounds say that the votes are unanimous.

    Raises:
        ValueError: a value outside its range.
    """
    p_top = checked_values(p_top_lower, "p_top_lower", 0.0, 1.0)
    p_runner_up = checked_values(p_runner_up_upper, "p_runner_up_upper", 0.0, 1.0)
    weight, sigmas = alpha_min_of(alpha), checked_sigma(sigma)
    pure = weight == 1.0  # products and sums are then exact
    low = np.where(pure, p_top, down(weight * p_top))
    high = np.where(pure, p_runner_up, np.minimum(up(up(weight * p_runner_up) + (1.0 - weight)), 1.0))
    with np.errstate(invalid="ignore"):  # infinity minus infinity, where nothing is certified
        distance = quantile_below(low) - quantile_above(high)
    return np.where((low > high) & (distance > 0.0), shrink(sigmas * (distance / 2.0)), 0.0)


def _mix_radius(h: SmoothedNet, alpha: Floats) -> Floats:
    """sigma / 2 (Phi^-1(alpha p) - Phi^-1(alpha (1 - p) + 1 - alpha)), where the second argument is 1 - alpha p."""
    return np.asarray(h.sigma * ndtri(alpha * h.p_top))


def _vote(radius: Floats, alpha: Floats, sigma: Floats) -> Floats:
    return np.asarray(ndtr(radius / sigma) / alpha)


BOUND = Bound(
    name="theorem5",
    paper="BAS24",
    sentence="Bai, Anderson and Sojoudi 2024 (arXiv:2311.15165), Theorem 5: h is smoothed by Gaussian noise; with "
    "1 - p for the runner-up",
    with_runner_up="Bai, Anderson and Sojoudi 2024 (arXiv:2311.15165), Theorem 5: h is smoothed by Gaussian noise; "
    "with a bound of its own for the runner-up",
    smoothed=OfSmoothed(radius=_mix_radius, vote=_vote, two_bounds=smoothing_radius),
)
