"""Units: pixels lie in [0, 1], so radii and noises above 1 are most likely meant in steps of 1/255.

``radius_warning`` and ``noise_warning`` return what they find, a sentence or None; ``warn_of_radius`` and
``warn_of_noise`` say it through Python's warnings, which show a sentence once unless told otherwise.
"""

from __future__ import annotations

import warnings

import numpy as np


class UnitsWarning(UserWarning):
    """A number that is allowed and hardly meant."""


def radius_warning(norm: str, eps: float) -> str | None:
    """What is odd about a radius; None if nothing is.

    Args:
        norm: "Linf" or "L2"; only an l_inf radius can be judged without knowing the images' shape.
        eps: in units of pixels in [0, 1].
    """
    return _too_large("the l_inf radius", eps) if norm == "Linf" else None


def noise_warning(sigma: float) -> str | None:
    """What is odd about a standard deviation of noise, in units of pixels in [0, 1]; None if nothing is."""
    return _too_large("the noise's sigma", sigma)


def warn_of_radius(norm: str, eps: float) -> None:
    """Warn (``UnitsWarning``) of an l_inf radius above 1."""
    _warn(radius_warning(norm, eps))


def warn_of_noise(sigma: float) -> None:
    """Warn (``UnitsWarning``) of noise with a standard deviation above 1."""
    _warn(noise_warning(sigma))


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


def _too_large(what: str, value: float) -> str | None:
    if not value > 1.0:
        return None
    meant = f"did you mean {value:g}/255?" if value <= 255.0 else "pixels are not in 0 to 255 here"
    return f"{what} {value:g} is larger than all of pixel space, [0, 1]; {meant}"


def _warn(sentence: str | None) -> None:
    """All come from this line, because Python's filter shows a text once for each line of code."""
    if sentence is not None:
        warnings.warn(sentence, UnitsWarning, stacklevel=1)
