"""What a bound is: a theorem that turns what is known of h into a certified radius of the mix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from adaptive_smoothing_zoo.certification.rounding import PROBABILITY_SLACK, Floats, Values


@dataclass(frozen=True, kw_only=True, eq=False)
class SmoothedNet:
    """A Gaussian-smoothed h at N images.

    Attributes:
        radius: (N,) l_2 radii of h alone by [CRK19], in units of the images; 0 where nothing is certified.
        sigma: of the noise, > 0.
    """

    radius: Floats
    sigma: float

    @property
    def p_top(self) -> Floats:
        """(N,), a lower bound of h's probability of its label; every other class has at most the rest."""
        return np.maximum(ndtr(self.radius / self.sigma) - PROBABILITY_SLACK, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class LipschitzOutputs:
    """An h whose outputs are Lipschitz, at N images.

    Attributes:
        logits: (N, C), what h's softmax is taken of.
        of_logits: the l_2 constant of the vector of logits; None if it is not known.
        of_probabilities: constants of the probabilities, one or (C,), in the norm of the radii; None: those that follow
            from ``of_logits``.
    """

    logits: Floats
    of_logits: float | None = None
    of_probabilities: Values | None = None


OfLipschitz = Callable[[LipschitzOutputs, Floats], Floats]


@dataclass(frozen=True, kw_only=True)
class OfSmoothed:
    """A bound for a mix with a Gaussian-smoothed h.

    Attributes:
        radius: (N,) radii of the mix from h and an alpha in (1/2, 1]; the caller rounds them down and cuts them at 0.
        vote: what h's probability of its label must reach for a radius, from radius, alpha and sigma, which broadcast;
            the inverse of ``radius``. The caller rounds it up; for alpha <= 1/2 the value does not matter.
        keeps_h: whether alpha = 1 gives the radius of h alone.
    """

    radius: Callable[[SmoothedNet, Floats], Floats]
    vote: Callable[[Floats, Floats, Floats], Floats]
    keeps_h: bool = True


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A theorem that certifies radii.

    Attributes:
        name: of its file, on the command line and in records.
        paper: key of the paper whose theorem or lemma it rests on.
        sentence: what it is, for people; commands and cards print it.
        smoothed: the bound for a Gaussian-smoothed h; None if it is not about such.
        lipschitz: (N,) radii of the mix, rounded down, from a Lipschitz h and alpha; None if it is not about such. It
            raises ValueError where it needs other constants.

    With neither it is about a smoothed net alone.
    """

    name: str
    paper: str
    sentence: str
    smoothed: OfSmoothed | None = None
    lipschitz: OfLipschitz | None = None
