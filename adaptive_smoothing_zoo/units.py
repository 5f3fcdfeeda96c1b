"""Units: pixels are in [0, 1], so a radius or noise above 1 is probably meant in steps of 1/255."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import Any

import numpy as np


class UnitsWarning(UserWarning):
    """A number that is allowed but probably a mistake."""


def warn_of_radius(norm: str, eps: float) -> None:
    """Warn (``UnitsWarning``) of an l_inf radius above 1; a limit for l_2 would depend on the images' shape."""
    if norm == "Linf":
        _warn_if_large("the l_inf radius", eps)


def warn_of_noise(sigma: float) -> None:
    """Warn (``UnitsWarning``) of noise with a standard deviation above 1."""
    _warn_if_large("the noise's sigma", sigma)


def pixels_hint(low: float, high: float) -> str:
    """Advice for images with pixels in [low, high] instead of [0, 1]; continues a sentence."""
    if low >= 0.0 and high > 2.0:
        return "; divide images of 0 to 255 by 255"
    if low >= -1e-3 and high <= 1.0 + 1e-3:
        return "; images.clamp(0, 1) removes what rounding has added"
    return "; pass images in [0, 1] and let the model normalize them"


def is_number(value: Any) -> bool:
    """Whether a value is a real number, or a tensor or array that holds a single one without a dimension."""
    return isinstance(value, Real) or getattr(value, "ndim", None) == 0


def shortest(value: float) -> str:
    """A float32 with enough digits to distinguish it from its neighbours, as 1.0000001."""
    return str(np.float32(value))


def _warn_if_large(what: str, value: float) -> None:
    """All warnings come from this line: Python's filter shows a text once per line of code."""
    if value > 1.0:
        meant = f"did you mean {value:g}/255?" if value <= 255.0 else "pixels are in [0, 1], not in 0 to 255"
        sentence = f"{what} {value:g} is larger than all of pixel space, [0, 1]; {meant}"
        warnings.warn(sentence, UnitsWarning, stacklevel=1)
