"""Units: pixels lie in [0, 1], so radii and noises above 1 are most likely meant in steps of 1/255."""

from __future__ import annotations

import warnings

import numpy as np


class UnitsWarning(UserWarning):
    """A number that is allowed and hardly meant."""


def warn_of_radius(norm: str, eps: float) -> None:
    """Warn (``UnitsWarning``) of an l_inf radius above 1; one in l_2 cannot be judged without the images' shape."""
    if norm == "Linf":
        _warn_if_large("the l_inf radius", eps)


def warn_of_noise(sigma: float) -> None:
    """Warn (``UnitsWarning``) of noise with a standard deviation above 1."""
    _warn_if_large("the noise's sigma", sigma)


def pixels_hint(low: float, high: float) -> str:
    """What to do with images whose pixels lie in [low, high] and not in [0, 1]; continues a sentence."""
    if low >= 0.0 and high > 2.0:
        return "; divide images of 0 to 255 by 255"
    if low >= -1e-3 and high <= 1.0 + 1e-3:
        return "; images.clamp(0, 1) removes what rounding has added"
    return "; give images as they are before any normalization, which belongs into the model"


def shortest(value: float) -> str:
    """A float32 in as many digits as tell it from its neighbours, as 1.0000001."""
    return str(np.float32(value))


def _warn_if_large(what: str, value: float) -> None:
    """All come from this line, because Python's filter shows a text once for each line of code."""
    if value > 1.0:
        meant = f"did you mean {value:g}/255?" if value <= 255.0 else "pixels are not in 0 to 255 here"
        sentence = f"{what} {value:g} is larger than all of pixel space, [0, 1]; {meant}"
        warnings.warn(sentence, UnitsWarning, stacklevel=1)
