"""Theorem 4 of [BAS24]: h's probabilities are Lipschitz, in any norm."""

import numpy as np
import torch
from numpy.typing import NDArray

from adaptive_smoothing_zoo.certification.bounds.bound import Bound, LipschitzNetOutputs, OfSmoothed, SmoothedNet
from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.certification.rounding import (
    EPS,
    Alpha,
    Floats,
    Values,
    checked_classes,
    checked_k,
    checked_sigma,
    checked_values,
    class_column,
    shrink,
    up,
)


def lipschitz_radius(
    probabilities: Values, alpha: Alpha, lipschitz: Values, *, labels: Values | None = None, k: int = 1
) -> Floats:
    """Radius of the mix with a Lipschitz h, for any norm [BAS24, Theorem 4].

        min over i != y of (h_y - h_i - (1 - alpha) / alpha) / (Lip(h_y) + Lip(h_i))

    For the k likeliest classes it is the k-th smallest of these numbers instead: each is the radius within which i
    cannot pass y [BAKS24 v1, Theorem 1], so fewer than k classes can.

    Args:
        probabilities: h(x), (..., C) with C >= 2, each in [0, 1].
        alpha: broadcasts against the leading dimensions of ``probabilities``. 1 for h alone.
        lipschitz: constants >= 0 of h's probabilities in the norm of the perturbation: one, or (..., C). Those that
            hold in a ball around x serve for radii up to that of the ball.
        labels: y, of the leading dimensions' shape; the likeliest classes of h if None.
        k: within the radius y stays among the k likeliest classes of the mix; in [1, C - 1].

    Returns:
        Radii >= 0 in that norm; infinite where the constants are 0.

    Raises:
        ValueError: fewer than two classes, or a value outside its range.
    """
    h = checked_classes(probabilities, "probabilities", 0.0, 1.0)
    constants = np.broadcast_to(checked_values(lipschitz, "lipschitz constants", 0.0, np.inf), h.shape)
    label = class_column(h, labels)
    gap = np.take_along_axis(h, label, -1) - h
    slope = up(np.take_along_axis(constants, label, -1) + constants)
    radius = used_up(gap, margin_needed(alpha)[..., None], slope)
    is_label = np.arange(h.shape[-1]) == label
    place = checked_k(k, h.shape[-1]) - 1
    return np.asarray(np.partition(np.where(is_label, np.inf, radius), place, axis=-1)[..., place])


def gap_radius(gap: Values, alpha: Alpha, lipschitz: Values) -> Floats:
    """Radius r = (gap - (1 - alpha) / alpha) / (2 L) from the gap of an h with equal constants [BAS24, Theorem 4].

    With r in the place of L it gives the largest L for that radius.

    Args:
        gap: h_y - h_i at the image for its label y and the runner-up i, in [0, 1].
        lipschitz: L >= 0, a Lipschitz constant of each of h's probabilities in the norm of the perturbation.

    Returns:
        Radii >= 0 in that norm, rounded down; infinite where the constant is 0 and the gap is enough.

    Raises:
        ValueError: a value outside its range.
    """
    gaps = checked_values(gap, "gaps", 0.0, 1.0)
    return used_up(gaps, margin_needed(alpha), 2.0 * checked_values(lipschitz, "lipschitz constants", 0.0, np.inf))


def softmax_lipschitz(lipschitz: Values) -> Floats:
    """The l_2 Lipschitz constant sqrt(2) L / 4 of each softmax probability, if the logits have the constant L.

    With p = softmax(z), the gradient of p_i with respect to z is p_i (e_i - p), whose square is
    p_i^2 ((1 - p_i)^2 + sum_{j != i} p_j^2) <= 2 p_i^2 (1 - p_i)^2 <= 1/8. Two classes at 1/2 attain it. L is of the
    vector z in l_2, >= 0; ValueError otherwise. Rounded up.
    """
    constant = checked_values(lipschitz, "lipschitz constants", 0.0, np.inf)
    return up(up(np.sqrt(2.0)) / 4.0 * constant)


def gaussian_lipschitz(sigma: Values) -> Floats:
    """The l_2 Lipschitz constant 1 / (sigma sqrt(2 pi)) of a function to [0, 1] smoothed by N(0, sigma^2 I).

    The slope along a unit vector is E[f(x + sigma z) z] / sigma, at most E[max(z, 0)] / sigma for z ~ N(0, 1); a
    half-space attains it. The papers use sqrt(2 / (pi sigma^2)) [SLR19, Lemma 1], which is twice as much.
    Rounded up. ValueError unless sigma is positive and finite.
    """
    return up(up(np.sqrt(0.5 / np.pi)) / checked_sigma(sigma))


def used_up(gap: Floats, margin: Floats, slope: Floats) -> Floats:
    """How far a gap that falls with a slope stays at a margin or above; rounded down, infinite without a slope."""
    spare = gap - margin - 2 * EPS  # two roundings of numbers of at most 1 each; the margin is rounded up already
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(spare > 0, shrink(spare / slope), 0.0)


def _mix_radius(h: SmoothedNet, alpha: Floats) -> Floats:
    return lipschitz_radius(np.stack([h.p_top, 1.0 - h.p_top], axis=1), alpha, gaussian_lipschitz(h.sigma))


def _two_bounds(p_top: Floats, p_runner_up: Floats, alpha: Floats, sigma: float) -> Floats:
    return gap_radius(np.maximum(p_top - p_runner_up, 0.0), alpha, gaussian_lipschitz(sigma))


def _vote(radius: Floats, alpha: Floats, sigma: Floats) -> Floats:
    return 0.5 / alpha + radius * gaussian_lipschitz(sigma)


def _lipschitz(h: LipschitzNetOutputs, alpha: Floats, labels: NDArray[np.int64] | None = None, k: int = 1) -> Floats:
    constants = h.of_probabilities
    if constants is None:
        if h.of_logits is None:
            raise ValueError("Theorem 4 needs Lipschitz constants of h's logits or probabilities")
        constants = softmax_lipschitz(h.of_logits)
    return lipschitz_radius(torch.from_numpy(h.logits).softmax(dim=1), alpha, constants, labels=labels, k=k)


BOUND = Bound(
    name="theorem4",
    paper="BAS24",
    sentence="Bai, Anderson and Sojoudi 2024 (arXiv:2311.15165), Theorem 4: h's probabilities are Lipschitz",
    smoothed=OfSmoothed(radius=_mix_radius, vote=_vote, keeps_h=False, two_bounds=_two_bounds),
    lipschitz=_lipschitz,
    lipschitz_top_k=_lipschitz,
)
