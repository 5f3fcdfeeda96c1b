"""Closed-form certified radii of base nets and of mixed classifiers (theorems of 001 and 003).

Arguments are numbers, arrays or tensors, and broadcast; results are float64 arrays. ``alpha`` is a number in [0, 1],
several of them, or an alpha module, for which the smallest alpha it can give counts: an adversary moves an
input-dependent alpha too, and every radius here grows with alpha.

A radius r means: no perturbation smaller than r changes the label; at r itself two classes may be equal. A radius of
0 certifies nothing.

Rounding. Every step is rounded toward the smaller radius, so the result does not exceed the theorem's value for the
float64 arguments. That covers these formulas only. It does not cover what the arguments stand for: a net that is
evaluated in float32 differs from the function that the theorem is about, by an amount that nothing here bounds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from adaptive_smoothing_zoo.alpha import AdaptiveAlpha, ConstantAlpha

Floats = NDArray[np.float64]
Values = float | Sequence[float] | NDArray[Any] | Tensor
Alpha = Values | ConstantAlpha | AdaptiveAlpha

EPS = float(np.finfo(np.float64).eps)
QUANTILE_SLACK = 8 * EPS  # relative error of scipy's ndtri, with room to spare
PROBABILITY_SLACK = 8 * EPS  # absolute error of a difference of two probabilities from scipy's ndtr, likewise
FAR = 38.0  # standard deviations; beyond it Phi is 0 or 1 in float64
BISECTIONS = 64  # leave less than one rounding of a number below 2 FAR


def margin_needed(alpha: Alpha) -> Floats:
    """The margin (1 - alpha) / alpha between h's probabilities that makes g powerless (001, Lemma 2; 003, Lemma 1).

    Where h_y - h_i >= margin_needed(alpha) for all i != y, the mix (1 - alpha) g + alpha h has the label y, whatever
    probabilities g gives. The bound is tight: with a smaller margin to some i, a g that is sure of i wins.

    Returns:
        alpha's shape; rounded up. 0 at alpha = 1, 1 at 1/2, infinite at 0. Above 1 no h can reach it.

    Raises:
        ValueError: alpha outside [0, 1].
    """
    weight = alpha_min_of(alpha)
    with np.errstate(divide="ignore"):
        return np.where(weight == 1.0, 0.0, _up((1.0 - weight) / weight))


def lipschitz_radius(probabilities: Values, alpha: Alpha, lipschitz: Values) -> Floats:
    """Radius of the mix with a Lipschitz h, for any norm (001, Theorem 4).

        min over i != y of (h_y - h_i - (1 - alpha) / alpha) / (Lip(h_y) + Lip(h_i))

    Args:
        probabilities: h(x), (..., C) with C >= 2, each in [0, 1]; probabilities, not logits.
        alpha: broadcasts against the leading dimensions of ``probabilities``; (A, 1) alphas and (N, C) probabilities
            give (A, N) radii. 1 for h alone.
        lipschitz: Lipschitz constants of h's probabilities in the norm of the perturbation, >= 0: one for all classes,
            or (..., C). Constants that hold in a ball around x serve for radii up to that of the ball.

    Returns:
        Radii >= 0 in that norm; infinite where the constants are 0.

    Raises:
        ValueError: fewer than two classes, or a value outside its range.
    """
    h = checked_values(probabilities, "probabilities", 0.0, 1.0)
    if h.ndim == 0 or h.shape[-1] < 2:
        raise ValueError(f"probabilities must have shape (..., classes) with at least 2 classes, got {h.shape}")
    constants = np.broadcast_to(checked_values(lipschitz, "lipschitz constants", 0.0, np.inf), h.shape)
    top = h.argmax(axis=-1)[..., None]
    gap = np.take_along_axis(h, top, -1) - h
    slope = _up(np.take_along_axis(constants, top, -1) + constants)
    # Two roundings of numbers of at most 1 each; the needed margin is rounded up already.
    spare = gap - margin_needed(alpha)[..., None] - 2 * EPS
    with np.errstate(divide="ignore", over="ignore"):
        radius = np.where(spare > 0, _shrink(spare / slope), 0.0)
    is_top = np.arange(h.shape[-1]) == top
    return np.asarray(np.where(is_top, np.inf, radius).min(axis=-1))


def gaussian_lipschitz(sigma: Values) -> Floats:
    """The l_2 Lipschitz constant 1 / (sigma sqrt(2 pi)) of a function to [0, 1] smoothed by N(0, sigma^2 I).

    The slope along a unit vector is E[f(x + sigma z) z] / sigma, at most E[max(z, 0)] / sigma for z ~ N(0, 1); a
    half-space attains it. The papers use sqrt(2 / (pi sigma^2)) (Salman et al. 2019, Lemma 1), which is twice as much
    and holds too; ``2 * gaussian_lipschitz(sigma)`` gives their radii. Rounded up.

    Raises:
        ValueError: sigma is not positive and finite.
    """
    return _up(_up(np.sqrt(0.5 / np.pi)) / _checked_sigma(sigma))


def smoothing_radius(p_top_lower: Values, p_runner_up_upper: Values, alpha: Alpha, sigma: Values) -> Floats:
    """l_2 radius of the mix with a Gaussian-smoothed h (001, Theorem 5).

        sigma / 2 (Phi^-1(alpha p_top) - Phi^-1(alpha p_runner_up + 1 - alpha))

    h(x) is the mean of a base net's probabilities (or of its one-hot votes) over Gaussian noise; the mix takes that
    exact mean, not an average over some samples. alpha = 1 is h alone.

    Args:
        p_top_lower: h(x) at its label, or a lower confidence bound of it, in [0, 1].
        p_runner_up_upper: h(x) at every other class is at most this, in [0, 1].
        alpha: weight of h.
        sigma: standard deviation of the noise, > 0, in units of the images.

    Returns:
        Radii >= 0, as sure as the bounds; infinite where the bounds say that the votes are unanimous.

    Raises:
        ValueError: a value outside its range.

    For 1/2 < alpha < 1 a larger radius holds under the same assumptions, see ``sharp_smoothing_radius``.
    """
    p_top = checked_values(p_top_lower, "p_top_lower", 0.0, 1.0)
    p_runner_up = checked_values(p_runner_up_upper, "p_runner_up_upper", 0.0, 1.0)
    weight, sigmas = alpha_min_of(alpha), _checked_sigma(sigma)
    pure = weight == 1.0  # products and sums are then exact
    low = np.where(pure, p_top, _down(weight * p_top))
    high = np.where(pure, p_runner_up, np.minimum(_up(_up(weight * p_runner_up) + (1.0 - weight)), 1.0))
    with np.errstate(invalid="ignore"):  # infinity minus infinity, where nothing is certified
        distance = _quantile_below(low) - _quantile_above(high)
    return np.where((low > high) & (distance > 0.0), _shrink(sigmas / 2.0 * distance), 0.0)


def sharp_smoothing_radius(p_top_lower: Values, p_runner_up_upper: Values, alpha: Alpha, sigma: Values) -> Floats:
    """The largest l_2 radius that holds for every mix with a Gaussian-smoothed h of these probabilities.

    Phi^-1(h_i) has the Lipschitz constant 1 / sigma (Salman et al. 2019, Lemma 2). At distance t sigma therefore

        h_y - h_i >= Phi(Phi^-1(p_top) - t) - Phi(Phi^-1(p_runner_up) + t),

    and with 001, Lemma 2, the label stands as long as that is at least (1 - alpha) / alpha; this returns sigma times
    the t where it no longer is. Two half-spaces attain the bound, so it is tight for every alpha. Theorem 5 applies
    the same Lipschitz constant after the mix, to a function with values up to alpha only, and gives away the
    difference; at alpha = 1 both are equal. With p_runner_up = 1 - p_top the solution is
    sigma (Phi^-1(p_top) - Phi^-1(1 / (2 alpha))).

    Arguments, result and errors are those of ``smoothing_radius``; never smaller than it.
    """
    p_top = checked_values(p_top_lower, "p_top_lower", 0.0, 1.0)
    p_runner_up = np.minimum(checked_values(p_runner_up_upper, "p_runner_up_upper", 0.0, 1.0), _up(1.0 - p_top))
    weight, sigmas = alpha_min_of(alpha), _checked_sigma(sigma)
    # A sure answer has an infinite quantile; a finite one, on the safe side of it, lets the bisection work.
    top = np.minimum(_quantile_below(p_top), FAR)
    runner_up = np.maximum(_quantile_above(p_runner_up), -FAR)
    margin = margin_needed(weight) + PROBABILITY_SLACK

    def holds(t: Floats) -> NDArray[np.bool_]:
        return np.asarray(ndtr(top - t) - ndtr(runner_up + t) >= margin)

    shape = np.broadcast_shapes(top.shape, runner_up.shape, margin.shape)
    low = np.zeros(shape)
    found = holds(low)
    high = np.where(found, top - runner_up, 0.0) / 2.0  # there both probabilities are equal
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        safe = holds(middle)
        low, high = np.where(safe, middle, low), np.where(safe, high, middle)
    sharp = np.where(found, _shrink(sigmas * low), 0.0)
    sharp = np.where(found & (p_top == 1.0), np.inf, sharp)
    return np.maximum(sharp, smoothing_radius(p_top, p_runner_up, weight, sigmas))


def cohen_radius(p_top_lower: Values, sigma: Values) -> Floats:
    """l_2 radius sigma Phi^-1(p_top) of a smoothed classifier (Cohen et al. 2019, with p_runner_up = 1 - p_top).

    The special case alpha = 1, p_runner_up = 1 - p_top of ``smoothing_radius``; 0 for p_top <= 1/2.
    """
    p_top = checked_values(p_top_lower, "p_top_lower", 0.0, 1.0)
    return smoothing_radius(p_top, 1.0 - p_top, 1.0, sigma)


def alpha_min_of(alpha: Alpha) -> Floats:
    """The smallest alpha that counts: alpha itself, or the lower end of an alpha module's range.

    Raises:
        ValueError: alpha outside [0, 1].
    """
    values = alpha.alpha_min if isinstance(alpha, ConstantAlpha | AdaptiveAlpha) else alpha
    return checked_values(values, "alpha", 0.0, 1.0)


def checked_values(values: Values, what: str, low: float, high: float) -> Floats:
    """``values`` (numbers, arrays or tensors) as a float64 array.

    Raises:
        ValueError: one is outside [low, high] or not finite; ``what`` names them.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, dtype=np.float64)
    wrong = ~((low <= array) & (array <= high) & np.isfinite(array))
    if wrong.any():
        allowed = f"in [{low:g}, {high:g}]" if np.isfinite(high) else f"finite and at least {low:g}"
        raise ValueError(f"{what} must be {allowed}, got {array[wrong].flat[0]:g}")
    return array


def _checked_sigma(sigma: Values) -> Floats:
    array = checked_values(sigma, "sigma", 0.0, np.inf)
    if (array == 0.0).any():
        raise ValueError("sigma must be positive, got 0")
    return array


def _up(values: Floats) -> Floats:
    return np.asarray(np.nextafter(values, np.inf))


def _down(values: Floats) -> Floats:
    return np.asarray(np.nextafter(values, -np.inf))


def _shrink(radius: Floats) -> Floats:
    """Less than ``radius`` by more than the last two or three operations on it can have added; infinity stays."""
    return radius * (1.0 - 4 * EPS)


def _quantile_below(p: Floats) -> Floats:
    """Phi^-1(p) or slightly less."""
    quantile: Floats = np.asarray(ndtri(p))
    return quantile * (1.0 - QUANTILE_SLACK * np.sign(quantile))


def _quantile_above(p: Floats) -> Floats:
    """Phi^-1(p) or slightly more."""
    quantile: Floats = np.asarray(ndtri(p))
    return quantile * (1.0 + QUANTILE_SLACK * np.sign(quantile))
