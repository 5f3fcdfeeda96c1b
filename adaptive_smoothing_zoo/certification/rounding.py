"""Float64 arrays of checked numbers, and arithmetic that is rounded toward the smaller radius.

Every step rounds so that the result does not exceed the theorem's value for the float64 arguments. This covers only the
formulas, not their arguments: a net in float32 differs from the theorem's function by its own rounding.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor, nn

from adaptive_smoothing_zoo.method.alpha import Alpha as AlphaModule

Floats = NDArray[np.float64]
Values = float | Sequence[float] | NDArray[Any] | Tensor
Alpha = Values | AlphaModule

EPS = float(np.finfo(np.float64).eps)
QUANTILE_SLACK = 8 * EPS  # relative error of scipy's ndtri, with room to spare
PROBABILITY_SLACK = 8 * EPS  # absolute error of a difference of two probabilities from scipy's ndtr, likewise


def alpha_min_of(alpha: Alpha) -> Floats:
    """alpha itself, or the lower end of an alpha module's range; ValueError outside [0, 1]."""
    values: Any = alpha.alpha_min if isinstance(alpha, nn.Module) else alpha
    return checked_values(values, "alpha", 0.0, 1.0)


def checked_values(values: Values, what: str, low: float, high: float) -> Floats:
    """``values`` as a float64 array; ValueError if one is outside [low, high] or not finite, ``what`` names them."""
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


def checked_sigma(sigma: Values) -> Floats:
    """Standard deviations of noise as a float64 array; ValueError unless positive and finite."""
    array = checked_values(sigma, "sigma", 0.0, np.inf)
    if (array == 0.0).any():
        raise ValueError("sigma must be positive, got 0")
    return array


def checked_classes(values: Values, what: str, low: float, high: float) -> Floats:
    """``checked_values`` of shape (..., C) with C >= 2."""
    array = checked_values(values, what, low, high)
    if array.ndim == 0 or array.shape[-1] < 2:
        raise ValueError(f"{what} must have shape (..., classes) with at least 2 classes, got {array.shape}")
    return array


def checked_k(k: int, classes: int | None = None) -> int:
    """k; ValueError unless it is a whole number >= 1 and smaller than the number of classes, if that is known."""
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise ValueError(f"top_k must be a whole number >= 1, got {k!r}")
    if classes is not None and k >= classes:
        raise ValueError(f"top_k must be at most {classes - 1}, one less than the {classes} classes, got {k}")
    return int(k)


def class_column(values: Floats, labels: Values | None) -> NDArray[np.int64]:
    """The labels (...) as a last axis, (..., 1), or if None the classes of the largest values (..., C).

    Raises:
        ValueError: a label is not a whole number in [0, C - 1].
    """
    if labels is None:
        return np.asarray(values.argmax(axis=-1))[..., None]
    given = checked_values(labels, "labels", 0.0, values.shape[-1] - 1.0)
    if (given != np.floor(given)).any():
        raise ValueError("labels must be whole numbers")
    return given.astype(np.int64)[..., None]


def last_true(holds: Callable[[Floats], NDArray[np.bool_]], low: Floats, high: Floats, bisections: int) -> Floats:
    """By bisection: points in [low, high] where ``holds``, true up to some point, is still true; ``low`` if nowhere."""
    for _ in range(bisections):
        middle = (low + high) / 2.0
        true = holds(middle)
        low, high = np.where(true, middle, low), np.where(true, high, middle)
    return low


def up(values: Floats) -> Floats:
    """The next larger float64."""
    return np.asarray(np.nextafter(values, np.inf))


def down(values: Floats) -> Floats:
    """The next smaller float64."""
    return np.asarray(np.nextafter(values, -np.inf))


def shrink(radius: Floats) -> Floats:
    """Less than ``radius`` by more than the last two or three operations on it can have added; infinity stays."""
    return radius * (1.0 - 4 * EPS)


def quantile_below(p: Floats) -> Floats:
    """Phi^-1(p) or slightly less."""
    quantile: Floats = np.asarray(ndtri(p))
    return quantile * (1.0 - QUANTILE_SLACK * np.sign(quantile))


def quantile_above(p: Floats) -> Floats:
    """Phi^-1(p) or slightly more."""
    quantile: Floats = np.asarray(ndtri(p))
    return quantile * (1.0 + QUANTILE_SLACK * np.sign(quantile))
