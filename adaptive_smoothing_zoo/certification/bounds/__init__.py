"""The theorems that certify radii: one file and one ``Bound`` each.

A radius r means: no perturbation smaller than r changes the label; at r itself two classes may be equal. A radius of 0
certifies nothing. An alpha module counts with the smallest alpha it can give: an adversary moves an input-dependent
alpha too, and every radius grows with alpha.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Literal, TypeVar

import numpy as np

from adaptive_smoothing_zoo.certification.bounds.bound import (
    Bound,
    LipschitzOutputs,
    OfLipschitz,
    OfSmoothed,
    SmoothedNet,
)
from adaptive_smoothing_zoo.certification.rounding import (
    PROBABILITY_SLACK,
    Alpha,
    Floats,
    Values,
    alpha_min_of,
    checked_sigma,
    checked_values,
)

__all__ = [
    "BOUNDS",
    "Bound",
    "LipschitzOutputs",
    "OfSmoothed",
    "SmoothedNet",
    "bounds_for",
    "of_lipschitz",
    "of_smoothed",
    "vote_needed",
]

T = TypeVar("T")

FILES = (  # a line for each file of this folder that holds a bound, in the order of tables
    "theorem4",
    "theorem5",
    "sharp",
    "cohen",
)
BOUNDS: dict[str, Bound] = {name: import_module(f"{__name__}.{name}").BOUND for name in FILES}


def bounds_for(h: Literal["smoothed", "lipschitz"]) -> tuple[str, ...]:
    """Names of the bounds for a mix with such an h."""
    return tuple(name for name, bound in BOUNDS.items() if getattr(bound, h) is not None)


def of_smoothed(name: str) -> OfSmoothed:
    """What the bound of a name says of a mix with a Gaussian-smoothed h.

    Raises:
        ValueError: there is no such bound, or it says nothing of that.
    """
    return _named(name, {bound.name: bound.smoothed for bound in BOUNDS.values()})


def of_lipschitz(name: str) -> OfLipschitz:
    """What the bound of a name says of a mix with a Lipschitz h; the same errors."""
    return _named(name, {bound.name: bound.lipschitz for bound in BOUNDS.values()})


def _named(name: str, forms: Mapping[str, T | None]) -> T:
    known = {bound: form for bound, form in forms.items() if form is not None}
    if name not in known:
        raise ValueError(f"the bound must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def vote_needed(radius: Values, alpha: Alpha, sigma: Values, *, bound: str = "theorem5") -> Floats:
    """What a Gaussian-smoothed h's probability of its label must reach for the mix to have this l_2 radius.

    The inverse of the radii of ``mix_certificates``.

    Returns:
        Numbers in [1/2, 1), rounded up; infinite where no probability below 1 is enough.

    Raises:
        ValueError: a value outside its range, or a bound that is not about such an h.
    """
    vote = of_smoothed(bound).vote
    r, weight = checked_values(radius, "radii", 0.0, np.inf), alpha_min_of(alpha)
    sigmas = checked_sigma(sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = vote(r, weight, sigmas) * (1.0 + 2 * PROBABILITY_SLACK)
    return np.where((weight > 0.5) & (needed < 1.0), needed, np.inf)
