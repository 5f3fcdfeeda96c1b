"""The theorems that certify radii: one file and one ``Bound`` each.

A radius r means: no perturbation smaller than r changes the label; at r itself two classes may be equal. A radius of 0
certifies nothing. For an alpha module its smallest alpha counts: an adversary can move an input-dependent alpha, and
every radius grows with alpha.
"""

from importlib import import_module
from typing import cast

import numpy as np
from numpy.typing import NDArray

from adaptive_smoothing_zoo.certification.bounds.bound import (
    Bound,
    LipschitzNetOutputs,
    OfLipschitz,
    OfSmoothed,
    SmoothedNet,
    TopKOfLipschitz,
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
    "LipschitzNetOutputs",
    "OfSmoothed",
    "SmoothedNet",
    "bounds_for",
    "of_lipschitz",
    "of_smoothed",
    "top_k_of_lipschitz",
    "vote_needed",
]

FILES = (  # a line for each file of this folder that holds a bound, in the order of tables
    "theorem4",
    "theorem5",
    "sharp",
    "cohen",
)
BOUNDS: dict[str, Bound] = {name: import_module(f"{__name__}.{name}").BOUND for name in FILES}


def bounds_for(known: str) -> tuple[str, ...]:
    """Names of the bounds that need no more than what is known of h; see ``Bound.needs``."""
    return tuple(name for name, bound in BOUNDS.items() if known in bound.needs)


def _chosen(name: str, known: str) -> Bound:
    """The bound of a name, which needs no more than what is known of h.

    Raises:
        ValueError: there is none.
    """
    if name not in (names := bounds_for(known)):
        raise ValueError(f"the bound must be one of {', '.join(names)}, got {name!r}")
    return BOUNDS[name]


def of_smoothed(name: str) -> OfSmoothed:
    """What the bound of a name says of a mix with a Gaussian-smoothed h; ValueError if nothing."""
    return cast(OfSmoothed, _chosen(name, "smoothed").smoothed)


def of_lipschitz(name: str) -> OfLipschitz:
    """What the bound of a name says of a mix with a Lipschitz h; ValueError if nothing."""
    return cast(OfLipschitz, _chosen(name, "lipschitz").lipschitz)


def top_k_of_lipschitz(name: str) -> TopKOfLipschitz:
    """What the bound of a name says of a label in the top k of a mix with a Lipschitz h; ValueError if nothing."""
    bound = _chosen(name, "lipschitz")

    def of_the_first(h: LipschitzNetOutputs, alpha: Floats, labels: NDArray[np.int64], k: int) -> Floats:
        return np.where(h.logits.argmax(axis=-1) == labels, cast(OfLipschitz, bound.lipschitz)(h, alpha), 0.0)

    return bound.lipschitz_top_k or of_the_first


def vote_needed(radius: Values, alpha: Alpha, sigma: Values, *, bound: str = "theorem5") -> Floats:
    """The label's probability that a Gaussian-smoothed h needs for the mix to have this l_2 radius.

    The inverse of the radii of ``mix_certificates``.

    Returns:
        Numbers in [1/2, 1), rounded up; infinite where no probability below 1 is enough.

    Raises:
        ValueError: a value out of range, or a bound that does not apply to such an h.
    """
    vote = of_smoothed(bound).vote
    r, weight = checked_values(radius, "radii", 0.0, np.inf), alpha_min_of(alpha)
    sigmas = checked_sigma(sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = vote(r, weight, sigmas) * (1.0 + 2 * PROBABILITY_SLACK)
    return np.where((weight > 0.5) & (needed < 1.0), needed, np.inf)
