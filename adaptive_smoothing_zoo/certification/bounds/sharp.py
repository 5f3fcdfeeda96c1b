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
    checked_k,
    checked_sigma,
    checked_values,
    class_column,
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


def top_k_smoothing_radius(p_label_lower: Values, p_other_upper: Values, alpha: Alpha, sigma: Values, k: int) -> Floats:
    """l_2 radius within which a class y stays among the k likeliest of a mix with a Gaussian-smoothed h.

    The larger one of two radii. The first is ``sharp_smoothing_radius`` with the k-th likeliest other class for the
    runner-up: fewer than k classes can then pass y. The second is

        sigma (Phi^-1(h_y) - Phi^-1(1 / ((k + 1) alpha))),

    for Phi^-1(h_y) has the Lipschitz constant 1 / sigma, and where alpha h_y >= 1 / (k + 1) at most k classes of the
    mix, y among them, can have so much. Tight where only h_y is known: y on a half-space, and k classes that share what
    h and g leave. At alpha = 1 it is known [JCWG20]; with k = 1 the first radius is never smaller.

    Args:
        p_label_lower: h(x) at y, or a lower confidence bound of it, in [0, 1].
        p_other_upper: the k-th largest of h's probabilities of the other classes is at most this, in [0, 1].
        alpha, sigma: as in ``smoothing_radius``.
        k: whole, >= 1.

    Returns, errors: as ``smoothing_radius``.
    """
    p_label, sigmas = checked_values(p_label_lower, "p_label_lower", 0.0, 1.0), checked_sigma(sigma)
    classes = checked_k(k) + 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = up(up(1.0 / (classes * alpha_min_of(alpha))))  # for two roundings
        distance = quantile_below(p_label) - quantile_above(needed)
    shared = np.where(p_label > needed, shrink(sigmas * np.maximum(distance, 0.0)), 0.0)
    return np.maximum(shared, sharp_smoothing_radius(p_label, p_other_upper, alpha, sigmas))


def lipschitz_logit_radius(
    logits: Values, alpha: Alpha, lipschitz: Values, *, labels: Values | None = None, k: int = 1
) -> Floats:
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

    For any class y and the k likeliest classes, with m_i = z_y - z_i of the k largest other logits, the same steps give

        sum over these i of (h_y - h_i)_+ >= P sum (1 - exp(rho - m_i))_+,
        sum over these i of (h_y - h_i)_+ >= (k + 1) P - 1   since they have at most 1 - h_y together,

    and y stays among the k likeliest while one of the two is at least (1 - alpha) / alpha (see ``margin_needed``). By
    the last term of the first sum it is never below ``lipschitz_radius`` for the same label and k.

    Args:
        logits: z(x), (..., C) with C >= 2, finite.
        lipschitz: L > 0; one, or of the leading dimensions' shape.
        labels, k: as in ``lipschitz_radius``.

    Raises:
        ValueError: fewer than two classes, or a value outside its range.
    """
    z = checked_classes(logits, "logits", -np.inf, np.inf)
    constant = checked_values(lipschitz, "lipschitz constants", 0.0, np.inf)
    if (constant == 0.0).any():
        raise ValueError("lipschitz constants of logits must be positive, got 0")
    label = class_column(z, labels)
    others = np.where(np.arange(z.shape[-1]) == label, -np.inf, z)
    own = np.take_along_axis(z, label, -1)[..., 0]
    rounding = 8 * EPS * np.abs(z).max(axis=-1)  # of differences of logits
    margins = own[..., None] - np.sort(others, axis=-1)[..., -checked_k(k, z.shape[-1]) :] - rounding[..., None]
    log_odds = own - logsumexp(others, axis=-1) - rounding
    needed = margin_needed(alpha) + k * PROBABILITY_SLACK

    def holds(rho: Floats) -> NDArray[np.bool_]:
        with np.errstate(over="ignore"):
            p_label = expit(log_odds - rho)
            apart = np.maximum(-np.expm1(rho[..., None] - margins), 0.0).sum(axis=-1)
            return np.asarray(np.maximum((k + 1.0) * p_label - 1.0, p_label * apart) >= needed)

    shape = np.broadcast_shapes(log_odds.shape, needed.shape, constant.shape)
    high = np.broadcast_to(np.maximum(margins.max(axis=-1), 0.0), shape)  # there both are 0 at most
    rho = last_true(holds, np.zeros(shape), high, BISECTIONS)
    return shrink(rho / up(up(np.sqrt(2.0)) * constant))


def _mix_radius(h: SmoothedNet, alpha: Floats) -> Floats:
    """h_y >= 1 / (2 alpha) implies the margin, and at distance t Phi^-1(h_y) has fallen by at most t / sigma."""
    return np.asarray(h.radius - h.sigma * ndtri(0.5 / alpha))


def _vote(radius: Floats, alpha: Floats, sigma: Floats) -> Floats:
    quantile = ndtri(np.minimum(0.5 / alpha, 1.0))
    return np.asarray(np.where(alpha == 1.0, ndtr(radius / sigma), ndtr(radius / sigma + quantile)))


def _lipschitz(h: LipschitzNetOutputs, alpha: Floats, labels: NDArray[np.int64] | None = None, k: int = 1) -> Floats:
    if h.of_logits is None:
        raise ValueError("the sharp bound needs a LipschitzNet; constants of probabilities give theorem4")
    return lipschitz_logit_radius(h.logits, alpha, h.of_logits, labels=labels, k=k)


BOUND = Bound(
    name="sharp",
    paper="BAS24",
    sentence="Bai, Anderson and Sojoudi 2024 (arXiv:2311.15165), Lemma 2, with what is known of h before its "
    "probabilities are compared; proven in adaptive_smoothing_zoo/certification/bounds/sharp.py, not in the papers, "
    "never smaller than theirs",
    smoothed=OfSmoothed(
        radius=_mix_radius, vote=_vote, two_bounds=sharp_smoothing_radius, top_k=top_k_smoothing_radius
    ),
    lipschitz=_lipschitz,
    lipschitz_top_k=_lipschitz,
)
