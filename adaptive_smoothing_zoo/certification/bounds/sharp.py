"""Lemma 2 of [BAS24] with what is known of h before its probabilities are compared: the probit, or the logits.

Not in the papers; the docstrings prove it. Never smaller than Theorems 4 and 5.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, ndtr, ndtri

from adaptive_smoothing_zoo.certification.bounds.bound import Bound, LipschitzNetOutputs, OfSmoothed, SmoothedNet
from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.rounding import (
    EPS,
    PROBABILITY_SLACK,
    Alpha,
    Floats,
    Values,
    alpha_min_of,
    checked_classes,
    checked_sigma,
    checked_values,
    last_true,
    quantile_above,
    quantile_below,
    shrink,
    up,
)

FAR = 38.0  # standard deviations; beyond it Phi is 0 or 1 in float64
BISECTIONS = 64  # leave less than one rounding of a number below 2 FAR


def sharp_smoothing_radius(p_top_lower: Values, p_runner_up_upper: Values, alpha: Alpha, sigma: Values) -> Floats:
    """The largest l_2 radius that holds for every mix with a Gaussian-smoothed h of these probabilities.

    Phi^-1(h_i) has the Lipschitz constant 1 / sigma [SLR19, Lemma 2]. At distance t sigma therefore

        h_y - h_i >= Phi(Phi^-1(p_top) - t) - Phi(Phi^-1(p_runner_up) + t),

    and with [BAS24, Lemma 2] the label stands as long as that is at least (1 - alpha) / alpha; this returns sigma times
    the t where it no longer is. Two half-spaces attain it, so it is tight for every alpha. Theorem 5 applies the same
    constant after the mix, to values up to alpha only; at alpha = 1 both are equal. With p_runner_up = 1 - p_top this
    is sigma (Phi^-1(p_top) - Phi^-1(1 / (2 alpha))).

    Arguments, result and errors are those of ``smoothing_radius``; never smaller than it.
    """
    p_top = checked_values(p_top_lower, "p_top_lower", 0.0, 1.0)
    p_runner_up = np.minimum(checked_values(p_runner_up_upper, "p_runner_up_upper", 0.0, 1.0), up(1.0 - p_top))
    weight, sigmas = alpha_min_of(alpha), checked_sigma(sigma)
    # A sure answer has an infinite quantile; a finite one, on the safe side of it, lets the bisection work.
    top = np.minimum(quantile_below(p_top), FAR)
    runner_up = np.maximum(quantile_above(p_runner_up), -FAR)
    margin = margin_needed(weight) + PROBABILITY_SLACK

    def holds(t: Floats) -> NDArray[np.bool_]:
        return np.asarray(ndtr(top - t) - ndtr(runner_up + t) >= margin)

    shape = np.broadcast_shapes(top.shape, runner_up.shape, margin.shape)
    found = holds(np.zeros(shape))
    high = np.where(found, top - runner_up, 0.0) / 2.0  # there both probabilities are equal
    sharp = np.where(found, shrink(sigmas * last_true(holds, np.zeros(shape), high, BISECTIONS)), 0.0)
    sharp = np.where(found & (p_top == 1.0), np.inf, sharp)
    return np.maximum(sharp, smoothing_radius(p_top, p_runner_up, weight, sigmas))


def lipschitz_logit_radius(logits: Values, alpha: Alpha, lipschitz: Values) -> Floats:
    """l_2 radius of the mix with an h = softmax(logits) whose logits are Lipschitz; at least Theorem 4's.

    Let ||z(x) - z(x')||_2 <= L ||x - x'||_2 for the logits z as a vector, y the label of h, m the least z_y - z_i, and
    s = z_y - log sum_{i != y} exp z_i, so that h_y = 1 / (1 + exp(-s)). As functions of z, z_y - z_i has the gradient
    e_y - e_i and s has e_y - q with the softmax q of the other logits: neither is longer than sqrt(2). At distance r
    both m and s have therefore fallen by at most rho = sqrt(2) L r, and with P = 1 / (1 + exp(rho - s)) <= h_y

        h_y - h_i >= P (1 - exp(rho - m))   since h_i = h_y exp(z_i - z_y), for rho <= m,
        h_y - h_i >= 2 P - 1                since h_i <= 1 - h_y.

    By [BAS24, Lemma 2] the label stands while one of the two is at least (1 - alpha) / alpha; both fall with rho, and
    this returns the r where neither is enough any more.

    It is never below ``lipschitz_radius`` with the constant ``softmax_lipschitz(L)``, whose margin falls by rho / 2:
    the first bound falls by P ((1 - P)(1 - e) + e) per unit of rho, where e = exp(rho - m) <= min(1, (1 - P) / P), and
    that is at most 1/2. With two classes it is tight, as it is at alpha = 1, where it is the familiar m / (sqrt(2) L).

    Args:
        logits: z(x), (..., C) with C >= 2, finite.
        lipschitz: L > 0; one, or of the leading dimensions' shape.

    Raises:
        ValueError: fewer than two classes, or a value outside its range.
    """
    z = checked_classes(logits, "logits", -np.inf, np.inf)
    constant = checked_values(lipschitz, "lipschitz constants", 0.0, np.inf)
    if (constant == 0.0).any():
        raise ValueError("lipschitz constants of logits must be positive, got 0")
    top = z.argmax(axis=-1)[..., None]
    others = np.where(np.arange(z.shape[-1]) == top, -np.inf, z)
    peak = np.take_along_axis(z, top, -1)[..., 0]
    rounding = 8 * EPS * np.abs(z).max(axis=-1)  # of differences of logits
    margin = peak - others.max(axis=-1) - rounding
    log_odds = peak - logsumexp(others, axis=-1) - rounding
    needed = margin_needed(alpha) + PROBABILITY_SLACK

    def holds(rho: Floats) -> NDArray[np.bool_]:
        with np.errstate(over="ignore"):
            p_top = expit(log_odds - rho)
            return np.asarray(np.maximum(2.0 * p_top - 1.0, -p_top * np.expm1(rho - margin)) >= needed)

    shape = np.broadcast_shapes(margin.shape, needed.shape, constant.shape)
    high = np.broadcast_to(np.maximum(margin, 0.0), shape)
    rho = last_true(holds, np.zeros(shape), high, BISECTIONS)
    return shrink(rho / up(up(np.sqrt(2.0)) * constant))


def _mix_radius(h: SmoothedNet, alpha: Floats) -> Floats:
    """h_y >= 1 / (2 alpha) implies the margin, and at distance t Phi^-1(h_y) has fallen by at most t / sigma."""
    return np.asarray(h.radius - h.sigma * ndtri(0.5 / alpha))


def _vote(radius: Floats, alpha: Floats, sigma: Floats) -> Floats:
    quantile = ndtri(np.minimum(0.5 / alpha, 1.0))
    return np.asarray(np.where(alpha == 1.0, ndtr(radius / sigma), ndtr(radius / sigma + quantile)))


def _lipschitz(h: LipschitzNetOutputs, alpha: Floats) -> Floats:
    if h.of_logits is None:
        raise ValueError("the sharp bound needs a LipschitzNet; constants of probabilities give theorem4")
    return lipschitz_logit_radius(h.logits, alpha, h.of_logits)


BOUND = Bound(
    name="sharp",
    paper="BAS24",
    sentence="Bai, Anderson and Sojoudi 2024 (arXiv:2311.15165), Lemma 2, with what is known of h before its "
    "probabilities are compared; proven in adaptive_smoothing_zoo/certification/bounds/sharp.py, not in the papers, "
    "never smaller than theirs",
    smoothed=OfSmoothed(radius=_mix_radius, vote=_vote, two_bounds=sharp_smoothing_radius),
    lipschitz=_lipschitz,
)
