"""Closed-form certified radii of base nets and of mixed classifiers ([BAS24]; [BAKS24, supp.]).

Arguments are numbers, arrays or tensors, and broadcast; results are float64 arrays. ``alpha`` is a number in [0, 1],
several of them, or an alpha module, for which the smallest alpha it can give counts: an adversary moves an
input-dependent alpha too, and every radius here grows with alpha.

A radius r means: no perturbation smaller than r changes the label; at r itself two classes may be equal. A radius of
0 certifies nothing.

Rounding. Every step is rounded toward the smaller radius, so the result does not exceed the theorem's value for the
float64 arguments. That covers these formulas only. It does not cover what the arguments stand for: a net that is
evaluated in float32 differs from the function that the theorem is about, by an amount that nothing here bounds.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, ndtr, ndtri
from torch import Tensor

from adaptive_smoothing_zoo.method.alpha import Alpha as AlphaModule

Floats = NDArray[np.float64]
Values = float | Sequence[float] | NDArray[Any] | Tensor
Alpha = Values | AlphaModule
Bound = Literal["theorem4", "theorem5", "sharp"]

BOUNDS = ("theorem4", "theorem5", "sharp")
"""Which theorem turns what is known of h into a radius of the mix [BAS24; the same in BAKS24, supp., Theorems 1 and 2].

- "theorem4": h's probabilities are Lipschitz (``lipschitz_radius``). Any norm, any h with known constants; a
  Gaussian-smoothed h has the constant ``gaussian_lipschitz`` in l_2.
- "theorem5": h is Gaussian-smoothed, l_2 (``smoothing_radius``).
- "sharp": [BAS24, Lemma 2] with what is known of h before its probabilities are compared: for a Gaussian-smoothed h
  ``sharp_smoothing_radius``, for an h whose logits are Lipschitz in l_2 ``lipschitz_logit_radius``. Never smaller than
  the others, and not in the papers; the docstrings prove it.
"""

EPS = float(np.finfo(np.float64).eps)
QUANTILE_SLACK = 8 * EPS  # relative error of scipy's ndtri, with room to spare
PROBABILITY_SLACK = 8 * EPS  # absolute error of a difference of two probabilities from scipy's ndtr, likewise
FAR = 38.0  # standard deviations; beyond it Phi is 0 or 1 in float64
BISECTIONS = 64  # leave less than one rounding of a number below 2 FAR


def margin_needed(alpha: Alpha) -> Floats:
    """The margin (1 - alpha) / alpha between h's probabilities that makes g powerless [BAS24, Lemma 2].

    Where h_y - h_i >= margin_needed(alpha) for all i != y, the mix (1 - alpha) g + alpha h has the label y, whatever
    probabilities g gives. The bound is tight: with a smaller margin to some i, a g that is sure of i wins.

    Returns:
        alpha's shape; rounded up. 0 at alpha = 1, 1 at 1/2, infinite at 0. Above 1 no h can reach it.

    Raises:
        ValueError: alpha outside [0, 1].
    """
    weight = alpha_min_of(alpha)
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(weight == 1.0, 0.0, _up((1.0 - weight) / weight))


def probability_needed(alpha: Alpha) -> Floats:
    """The probability 1 / (2 alpha) of h's label that is enough to make g powerless [BAS24, Lemma 2].

    No other class then has more than 1 - 1 / (2 alpha), so the gap is ``margin_needed(alpha)`` at least. With two
    classes it is also necessary; with more, a smaller probability serves where the rest is spread.

    Returns:
        alpha's shape; rounded up. 1/2 at alpha = 1, 1 at 1/2, infinite at 0. Above 1 no h can reach it.

    Raises:
        ValueError: alpha outside [0, 1].
    """
    margin = margin_needed(alpha)
    return np.where(margin == 0.0, 0.5, _up((1.0 + margin) / 2.0))


def gap_radius(gap: Values, alpha: Alpha, lipschitz: Values) -> Floats:
    """Radius of the mix from the gap of a Lipschitz h, for any norm [BAS24, Theorem 4 with equal constants].

        (gap - (1 - alpha) / alpha) / (2 L)

    Args:
        gap: h_y - h_i at the image for its label y and the runner-up i, in [0, 1].
        alpha: weight of h.
        lipschitz: L >= 0, a Lipschitz constant of each of h's probabilities in the norm of the perturbation.

    Returns:
        Radii >= 0 in that norm, rounded down; infinite where the constant is 0.

    Raises:
        ValueError: a value outside its range.
    """
    gaps = checked_values(gap, "gaps", 0.0, 1.0)
    return _used_up(gaps, margin_needed(alpha), 2.0 * checked_values(lipschitz, "lipschitz constants", 0.0, np.inf))


def lipschitz_allowed(radius: Values, gap: Values, alpha: Alpha) -> Floats:
    """The largest Lipschitz constant of h's probabilities with which the mix has a radius [BAS24, Theorem 4, for L].

        (gap - (1 - alpha) / alpha) / (2 radius)

    Args:
        radius: >= 0.
        gap, alpha: as in ``gap_radius``.

    Returns:
        Constants >= 0 in the norm of the radius, rounded down; 0 where the gap is not enough, whatever the constant,
        infinite where it is and the radius is 0.

    Raises:
        ValueError: a value outside its range.
    """
    gaps = checked_values(gap, "gaps", 0.0, 1.0)
    return _used_up(gaps, margin_needed(alpha), 2.0 * checked_values(radius, "radii", 0.0, np.inf))


def lipschitz_radius(probabilities: Values, alpha: Alpha, lipschitz: Values) -> Floats:
    """Radius of the mix with a Lipschitz h, for any norm [BAS24, Theorem 4].

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
    radius = _used_up(gap, margin_needed(alpha)[..., None], slope)
    is_top = np.arange(h.shape[-1]) == top
    return np.asarray(np.where(is_top, np.inf, radius).min(axis=-1))


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
    A large margin counts in full, which probabilities, that end at 1, cannot show.

    Args:
        logits: z(x), (..., C) with C >= 2, finite; what h's softmax is taken of.
        alpha: as in ``lipschitz_radius``.
        lipschitz: L > 0; one, or of the leading dimensions' shape.

    Returns:
        Radii >= 0 in l_2.

    Raises:
        ValueError: fewer than two classes, or a value outside its range.
    """
    z = checked_values(logits, "logits", -np.inf, np.inf)
    if z.ndim == 0 or z.shape[-1] < 2:
        raise ValueError(f"logits must have shape (..., classes) with at least 2 classes, got {z.shape}")
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
    rho = _last_true(holds, np.zeros(shape), np.broadcast_to(np.maximum(margin, 0.0), shape))
    return _shrink(rho / _up(_up(np.sqrt(2.0)) * constant))


def softmax_lipschitz(lipschitz: Values) -> Floats:
    """The l_2 Lipschitz constant sqrt(2) L / 4 of each softmax probability, if the logits have the constant L.

    With p = softmax(z), the gradient of p_i with respect to z is p_i (e_i - p), whose square is
    p_i^2 ((1 - p_i)^2 + sum_{j != i} p_j^2) <= 2 p_i^2 (1 - p_i)^2 <= 1/8. Two classes at 1/2 attain it. ``lipschitz``
    is of the vector z in l_2; for softmax(t z) it is t times that of z. Rounded up.

    Raises:
        ValueError: a constant that is negative or not finite.
    """
    constant = checked_values(lipschitz, "lipschitz constants", 0.0, np.inf)
    return _up(_up(np.sqrt(2.0)) / 4.0 * constant)


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
    """l_2 radius of the mix with a Gaussian-smoothed h [BAS24, Theorem 5].

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
    return np.where((low > high) & (distance > 0.0), _shrink(sigmas * (distance / 2.0)), 0.0)


def sharp_smoothing_radius(p_top_lower: Values, p_runner_up_upper: Values, alpha: Alpha, sigma: Values) -> Floats:
    """The largest l_2 radius that holds for every mix with a Gaussian-smoothed h of these probabilities.

    Phi^-1(h_i) has the Lipschitz constant 1 / sigma (Salman et al. 2019, Lemma 2). At distance t sigma therefore

        h_y - h_i >= Phi(Phi^-1(p_top) - t) - Phi(Phi^-1(p_runner_up) + t),

    and with [BAS24, Lemma 2] the label stands as long as that is at least (1 - alpha) / alpha; this returns sigma times
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
    found = holds(np.zeros(shape))
    high = np.where(found, top - runner_up, 0.0) / 2.0  # there both probabilities are equal
    sharp = np.where(found, _shrink(sigmas * _last_true(holds, np.zeros(shape), high)), 0.0)
    sharp = np.where(found & (p_top == 1.0), np.inf, sharp)
    return np.maximum(sharp, smoothing_radius(p_top, p_runner_up, weight, sigmas))


def smoothing_ceiling(alpha: Alpha, sigma: Values) -> Floats:
    """The l_2 radius sigma Phi^-1(alpha) that no Gaussian-smoothed h takes Theorem 5 beyond [BAS24, Theorem 5].

    It is what the theorem gives where h's probability of its label is 1. ``sharp_smoothing_radius`` has no ceiling.

    Returns:
        Radii >= 0; infinite at alpha = 1, 0 for alpha <= 1/2.

    Raises:
        ValueError: a value outside its range.
    """
    return smoothing_radius(1.0, 0.0, alpha, sigma)


def cohen_radius(p_top_lower: Values, sigma: Values) -> Floats:
    """l_2 radius sigma Phi^-1(p_top) of a smoothed classifier (Cohen et al. 2019, with p_runner_up = 1 - p_top).

    The special case alpha = 1, p_runner_up = 1 - p_top of ``smoothing_radius``; 0 for p_top <= 1/2.
    """
    p_top = checked_values(p_top_lower, "p_top_lower", 0.0, 1.0)
    return smoothing_radius(p_top, 1.0 - p_top, 1.0, sigma)


def vote_needed(radius: Values, alpha: Alpha, sigma: Values, *, bound: Bound = "theorem5") -> Floats:
    """What a Gaussian-smoothed h's probability of its label must reach for the mix to have this l_2 radius.

    The inverse of the radii of ``mix_certificates``, with p_runner_up = 1 - p_top:

    - "theorem4": 1 / (2 alpha) + radius / (sigma sqrt(2 pi)),
    - "theorem5": Phi(radius / sigma) / alpha,
    - "sharp": Phi(radius / sigma + Phi^-1(1 / (2 alpha))).

    Returns:
        Numbers in [1/2, 1), rounded up; infinite where no probability below 1 is enough.

    Raises:
        ValueError: a value outside its range, or another bound.
    """
    check_bound(bound)
    r, weight = checked_values(radius, "radii", 0.0, np.inf), alpha_min_of(alpha)
    sigmas = _checked_sigma(sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = 0.5 / weight
        if bound == "theorem4":
            needed = half + r * gaussian_lipschitz(sigmas)
        elif bound == "theorem5":
            needed = ndtr(r / sigmas) / weight
        else:
            needed = np.where(weight == 1.0, ndtr(r / sigmas), ndtr(r / sigmas + ndtri(np.minimum(half, 1.0))))
        needed = needed * (1.0 + 2 * PROBABILITY_SLACK)
    return np.where((weight > 0.5) & (needed < 1.0), needed, np.inf)


def check_bound(bound: str) -> None:
    """Raise ValueError unless ``bound`` is one of ``BOUNDS``."""
    if bound not in BOUNDS:
        raise ValueError(f"the bound must be one of {', '.join(BOUNDS)}, got {bound!r}")


def alpha_min_of(alpha: Alpha) -> Floats:
    """The smallest alpha that counts: alpha itself, or the lower end of an alpha module's range.

    Raises:
        ValueError: alpha outside [0, 1].
    """
    values = alpha.alpha_min if isinstance(alpha, AlphaModule) else alpha
    return checked_values(values, "alpha", 0.0, 1.0)


def checked_values(values: Values, what: str, low: float, high: float) -> Floats:
    """``values`` (numbers, arrays or tensors) as a float64 array.

    Raises:
        ValueError: one is outside [low, high] or not finite; ``what`` names them.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy() if values.itemsize >= 4 else values.detach().cpu().double().numpy()
    if np.iscomplexobj(values):
        raise ValueError(f"{what} must be real numbers")
    array = np.asarray(values, dtype=np.float64)
    wrong = ~((low <= array) & (array <= high) & np.isfinite(array))
    if wrong.any():
        at_least = f" and at least {low:g}" if np.isfinite(low) else ""
        allowed = f"in [{low:g}, {high:g}]" if np.isfinite(high) else f"finite{at_least}"
        raise ValueError(f"{what} must be {allowed}, got {array[wrong].flat[0]:g}")
    return array


def _last_true(holds: Callable[[Floats], NDArray[np.bool_]], low: Floats, high: Floats) -> Floats:
    """By bisection: points in [low, high] where ``holds``, true up to some point, is still true; ``low`` if nowhere."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        true = holds(middle)
        low, high = np.where(true, middle, low), np.where(true, high, middle)
    return low


def _checked_sigma(sigma: Values) -> Floats:
    array = checked_values(sigma, "sigma", 0.0, np.inf)
    if (array == 0.0).any():
        raise ValueError("sigma must be positive, got 0")
    return array


def _up(values: Floats) -> Floats:
    return np.asarray(np.nextafter(values, np.inf))


def _down(values: Floats) -> Floats:
    return np.asarray(np.nextafter(values, -np.inf))


def _used_up(gap: Floats, margin: Floats, slope: Floats) -> Floats:
    """How far a gap that falls with a slope stays at a margin or above; rounded down, infinite without a slope."""
    spare = gap - margin - 2 * EPS  # two roundings of numbers of at most 1 each; the margin is rounded up already
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(spare > 0, _shrink(spare / slope), 0.0)


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
