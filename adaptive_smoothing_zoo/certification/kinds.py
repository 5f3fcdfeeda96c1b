"""Certificates of a triplet, or of one of its nets: which kind applies, and every bound that follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification.at_radius import AtRadius, vote_for
from adaptive_smoothing_zoo.certification.bounds import bounds_for
from adaptive_smoothing_zoo.certification.bounds.cohen import BOUND as COHEN
from adaptive_smoothing_zoo.certification.certify import FixedNumber
from adaptive_smoothing_zoo.certification.logs import Certificates
from adaptive_smoothing_zoo.certification.mixes import (
    certify_lipschitz,
    logits_lipschitz,
    mix_certificates,
    smoothed_rob_model,
)
from adaptive_smoothing_zoo.certification.rounding import Alpha
from adaptive_smoothing_zoo.certification.running import Rule, Run, run_certification
from adaptive_smoothing_zoo.certification.sampling import Sampling
from adaptive_smoothing_zoo.method.classifier import MixedClassifier

Found = dict[str, Certificates]  # by the bound's name
PARTS = {"whole": None, "std_model": 0.0, "rob_model": 1.0}  # what is certified of a triplet, and its alpha


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked about a subject.

    Attributes:
        bounds: only these; all that apply if there are none.
        radius: only whether this l_2 radius is certified.
        log: gives the path of a log by its name.
        run: of the sampling; its log is not used.
    """

    bounds: Sequence[str] = ()
    radius: float | None = None
    log: Callable[[str], Path]
    run: Run = field(default_factory=Run)


@dataclass(frozen=True, kw_only=True)
class Subject(ABC):
    """What is to be certified.

    Attributes:
        model: the mix, or one of its nets as a mix with alpha 0 or 1.
        part: "whole", "std_model" or "rob_model".
        sampling: of the smoothing; None for a Lipschitz h.
    """

    model: MixedClassifier
    part: str
    sampling: Sampling | None = None

    smoothed: ClassVar[bool] = False  # whether certified is not the part itself, but its smoothed version

    @property
    @abstractmethod
    def bounds(self) -> tuple[str, ...]:
        """The bounds that apply."""

    @property
    def stem(self) -> str:
        """What its files are called, after the triplet's name."""
        return stem_of(self.part)

    @property
    def logits_lipschitz(self) -> float | None:
        """The constant that a Lipschitz h proves for its scaled logits."""
        return None

    def log_name(self, bound: str) -> str:
        """What the log of a bound is called."""
        return f"{self.stem}-{bound}"

    def certify(self, images: Tensor, labels: Tensor, request: Request) -> Found:
        """Certify it by each bound that is asked for, and write the logs.

        Raises:
            ValueError: a bound that does not apply, or a radius for a Lipschitz h, which needs no samples.
            EvaluationError, ResultsError: as ``certify``.
        """
        if foreign := [bound for bound in request.bounds if bound not in self.bounds]:
            raise ValueError(f"the bound {foreign[0]} does not apply here; those that do: {', '.join(self.bounds)}")
        return self._certify(images, labels, request)

    @abstractmethod
    def _certify(self, images: Tensor, labels: Tensor, request: Request) -> Found:
        """The same for bounds that apply."""

    def _written(self, found: Found, request: Request) -> Found:
        for bound, certificates in found.items():
            certificates.write(request.log(self.log_name(bound)))
        return found


@dataclass(frozen=True, kw_only=True)
class LipschitzMix(Subject):
    """A mix with a Lipschitz h; no sampling."""

    @property
    def bounds(self) -> tuple[str, ...]:
        return bounds_for("lipschitz")

    @property
    def logits_lipschitz(self) -> float:
        return logits_lipschitz(self.model.rob_model, self.model.rob_map)

    def _certify(self, images: Tensor, labels: Tensor, request: Request) -> Found:
        if request.radius is not None:
            raise ValueError("a Lipschitz h is certified without samples at all radii at once; leave the radius away")
        run = {"indices": request.run.indices, "times": request.run.times}
        bounds = request.bounds or self.bounds
        found = {bound: certify_lipschitz(self.model, images, labels, bound=bound, **run) for bound in bounds}
        return self._written(found, request)


@dataclass(frozen=True, kw_only=True)
class SmoothedMix(Subject):
    """A mix with a Gaussian-smoothed h, which is sampled."""

    sampling: Sampling

    @property
    def bounds(self) -> tuple[str, ...]:
        return bounds_for("smoothed")

    def _certify(self, images: Tensor, labels: Tensor, request: Request) -> Found:
        if request.radius is not None:  # each bound needs samples of its own: the papers' theorem, if none is named
            bounds = request.bounds or ("theorem5",)
            return {bound: self._at_radius(request.radius, bound, images, labels, request) for bound in bounds}
        run = replace(request.run, log=request.log(stem_of("rob_model", self.sampling)))
        voter, sigma = smoothed_rob_model(self.model).voter, self.sampling.sigma
        of_h = run_certification(voter, images, labels, FixedNumber(self.sampling), run)
        bounds = request.bounds or self.bounds
        found = {bound: mix_certificates(of_h, self.model.alpha, sigma, bound=bound) for bound in bounds}
        return self._written(found, request)

    def _at_radius(self, radius: float, bound: str, images: Tensor, labels: Tensor, request: Request) -> Certificates:
        rule = _radius_rule(self.sampling, radius, self.model.alpha, bound)
        run = replace(request.run, log=request.log(self.log_name(bound)))
        return run_certification(smoothed_rob_model(self.model).voter, images, labels, rule, run)


@dataclass(frozen=True, kw_only=True)
class SmoothedVersion(Subject):
    """The Gaussian-smoothed version of a mix or a net."""

    sampling: Sampling

    smoothed = True

    @property
    def bounds(self) -> tuple[str, ...]:
        return (COHEN.name,)

    @property
    def stem(self) -> str:
        return stem_of(self.part, self.sampling)

    def log_name(self, bound: str) -> str:
        return self.stem

    def _certify(self, images: Tensor, labels: Tensor, request: Request) -> Found:
        run = replace(request.run, log=request.log(self.stem))
        rule: Rule = FixedNumber(self.sampling)
        if request.radius is not None:
            rule = _radius_rule(self.sampling, request.radius, 1.0, "theorem5")
        return {COHEN.name: run_certification(self.model, images, labels, rule, run)}


def _radius_rule(sampling: Sampling, radius: float, alpha: Alpha, bound: str) -> AtRadius:
    return AtRadius(sampling, float(radius), vote_for(radius, alpha, sampling.sigma, bound))


def stem_of(part: str, sampling: Sampling | None = None) -> str:
    """What the files of a certification are called, after the triplet's name: of a part, or of its smoothed version."""
    own = "" if part == "whole" else f"{part}."
    return own + ("certified" if sampling is None else f"smoothed-{sampling.sigma:g}-{sampling.votes}")


def subject_of(
    model: MixedClassifier,
    part: str = "whole",
    sigma: float | None = None,
    votes: str | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> Subject:
    """Which kind of certificate a mix, or a part of it, can have.

    Args:
        part: "whole", "std_model" or "rob_model".
        sigma: if given, the Gaussian-smoothed version of the part is the subject, unless its h is smoothed already,
            with this very sigma.
        votes: "hard" (the default) or "soft" where ``sigma`` makes the smoothed version; h's own otherwise.
        sampling: other fields of :class:`Sampling`.

    Raises:
        ValueError: there is no such part, nothing is known that certifies it, or h is smoothed otherwise.
    """
    if part not in PARTS:
        raise ValueError(f"the part must be one of {', '.join(PARTS)}, got {part!r}")
    alpha, h, more = PARTS[part], model.rob_model, sampling or {}
    if alpha is not None:
        model = MixedClassifier(
            model.std_model, model.rob_model, alpha, std_map=model.std_map, rob_map=model.rob_map
        ).eval()
    if isinstance(h, GaussianSmoothed) and part != "std_model":
        smoothed_rob_model(model)
        if sigma not in (None, h.sigma) or votes not in (None, h.votes):
            raise ValueError(f"h is smoothed with sigma {h.sigma:g} and {h.votes} votes; leave sigma and votes away")
        return SmoothedMix(model=model, part=part, sampling=Sampling(sigma=h.sigma, votes=h.votes, **more))
    if sigma is not None:
        return SmoothedVersion(
            model=model, part=part, sampling=Sampling(sigma=sigma, **({"votes": votes} if votes else {}), **more)
        )
    if isinstance(h, LipschitzNet) and part != "std_model":
        return LipschitzMix(model=model, part=part)
    net = model.std_model if part == "std_model" else h
    raise ValueError(
        f"nothing is known that certifies a {type(net).__name__}; give a sigma to certify its Gaussian-smoothed version"
    )
