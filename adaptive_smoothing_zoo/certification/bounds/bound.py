"""The type of a bound: a theorem that gives a certified radius of the mix from properties of h."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from adaptive_smoothing_zoo.certification.rounding import PROBABILITY_SLACK, Floats, Values


@dataclass(frozen=True, kw_only=True, eq=False)
class SmoothedNet:
    """A Gaussian-smoothed h at N images: its own l_2 radii (N,) by [CRK19], 0 for none, and the noise's sigma > 0."""

    radius: Floats
    sigma: float

    @property
    def p_top(self) -> Floats:
        """(N,), a lower bound of h's probability of its label; every other class has at most the rest."""
        return np.asarray(np.maximum(ndtr(self.radius / self.sigma) - PROBABILITY_SLACK, 0.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class LipschitzNetOutputs:
    """The logits (N, C) of a Lipschitz h at N images, and one of two constants.

    Attributes:
        of_logits: of the vector of logits, in l_2.
        of_probabilities: of the probabilities, one or (C,), in the norm of the radii.
    """

    logits: Floats
    of_logits: float | None = None
    of_probabilities: Values | None = None


@dataclass(frozen=True, kw_only=True)
class OfSmoothed:
    """A bound for a mix with a Gaussian-smoothed h.

    Attributes:
        radius: (N,) radii of the mix from h and an alpha in (1/2, 1]; the caller rounds them down and cuts them at 0.
        vote: the label's probability that h needs for a radius, from radius, alpha and sigma, which broadcast; the
            inverse of ``radius``. The caller rounds it up.
        keeps_h: whether alpha = 1 gives the radius of h alone.
        two_bounds: (N,) radii, rounded down, from a lower bound of h's probability of its label, an upper bound of
            every other class, alpha in (1/2, 1] and sigma. If None, the bound uses 1 - p.
        top_k: as ``two_bounds``, for a label that stays among the k likeliest classes: with an upper bound of the k-th
            likeliest other class, alpha in [0, 1], sigma and k. If None, the pair of ``two_bounds`` serves.
    """

    radius: Callable[[SmoothedNet, Floats], Floats]
    vote: Callable[[Floats, Floats, Floats], Floats]
    keeps_h: bool = True
    two_bounds: Callable[[Floats, Floats, Floats, float], Floats] | None = None
    top_k: Callable[[Floats, Floats, Floats, float, int], Floats] | None = None


OfLipschitz = Callable[[LipschitzNetOutputs, Floats], Floats]
TopKOfLipschitz = Callable[[LipschitzNetOutputs, Floats, NDArray[np.int64], int], Floats]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A theorem that certifies radii: of mixes, or, with neither of the two forms, of a smoothed net alone.

    Attributes:
        name: of its file, on the command line and in records.
        paper: key of the paper whose theorem or lemma it rests on.
        sentence: what it is, for people; commands and cards print it.
        with_runner_up: the sentence where the runner-up is bounded on its own; the same if empty.
        smoothed: its form for a Gaussian-smoothed h.
        lipschitz: its form for a Lipschitz h: (N,) radii, rounded down, from outputs and alpha. ValueError where it
            needs the other constant.
        lipschitz_top_k: the same for labels (N,) that stay among the k likeliest classes, from outputs, alpha, labels
            and k. If None, ``lipschitz`` serves where h's class is the label.
    """

    name: str
    paper: str
    sentence: str
    with_runner_up: str = ""
    smoothed: OfSmoothed | None = None
    lipschitz: OfLipschitz | None = None
    lipschitz_top_k: TopKOfLipschitz | None = None

    def words(self, runner_up: bool) -> str:
        """The sentence for a runner-up that is bounded on its own, or by 1 - p."""
        return self.with_runner_up if runner_up and self.with_runner_up else self.sentence

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be known of h: "smoothed", "lipschitz"; "alone" for a bound of h itself."""
        return tuple(name for name in ("smoothed", "lipschitz") if getattr(self, name) is not None) or ("alone",)
