"""Certificates of a triplet, or of one of its nets: which kind applies, and every bound that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification.at_radius import at_radius
from adaptive_smoothing_zoo.certification.bounds import bounds_for
from adaptive_smoothing_zoo.certification.certify import FixedNumber
from adaptive_smoothing_zoo.certification.logs import Certificates
from adaptive_smoothing_zoo.certification.mixes import (
    certify_lipschitz,
    logits_lipschitz,
    mix_certificates,
    smoothed_rob_model,
)
from adaptive_smoothing_zoo.certification.running import Run, run_certification
from adaptive_smoothing_zoo.certification.sampling import Sampling, Votes
from adaptive_smoothing_zoo.method.classifier import MixedClassifier

PARTS = {"whole": None, "std_model": 0.0, "rob_model": 1.0}  # what is certified of a triplet, and its alpha


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked about a subject.

    Attributes:
        bounds: by which it is certified; all that apply if there are none (with a ``radius``, the papers' theorem,
            since each bound then needs samples of its own).
        radius: only whether this l_2 radius is certified.
        log: gives the path of a log by its name.
        run: of the sampling, without its log.
    """

    bounds: Sequence[str]
    radius: float | None
    log: Callable[[str], Path]
    run: Run


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be certified.

    Attributes:
        model: the mix, or one of its nets as a mix with alpha 0 or 1.
        part: "whole", "std_model" or "rob_model".
        known: what bounds may need: a mix with a "smoothed" or a "lipschitz" h, or the smoothed version of anything,
            "alone".
        sampling: of the smoothing; None for a Lipschitz h.
    """

    model: MixedClassifier
    part: str
    known: Literal["smoothed", "lipschitz", "alone"]
    sampling: Sampling | None = None

    @property
    def is_smoothed_version(self) -> bool:
        """Whether certified is not the part itself, but its Gaussian-smoothed version."""
        return self.known == "alone"

    @property
    def logits_lipschitz(self) -> float | None:
        """The constant that a Lipschitz h proves for its scaled logits."""
        return logits_lipschitz(self.model.rob_model, self.model.rob_map) if self.known == "lipschitz" else None

    @property
    def stem(self) -> str:
        """What its files are called, after the triplet's name."""
        return stem_of(self.part, self.sampling if self.is_smoothed_version else None)

    def log_name(self, bound: str) -> str:
        """What the log of a bound is called."""
        return self.stem if self.is_smoothed_version else f"{self.stem}-{bound}"

    def certify(self, images: Tensor, labels: Tensor, request: Request) -> dict[str, Certificates]:
        """Certificates by each bound that is asked for. Logs of all of them are written.

        Raises:
            ValueError: a bound that does not apply, or a radius for a Lipschitz h, which needs no samples.
            EvaluationError, ResultsError: as ``certify``.
        """
        apply, run = bounds_for(self.known), request.run
        if foreign := [bound for bound in request.bounds if bound not in apply]:
            raise ValueError(f"the bound {foreign[0]} does not apply here; those that do: {', '.join(apply)}")
        bounds = request.bounds or apply
        if self.sampling is None:
            if request.radius is not None:
                raise ValueError("a Lipschitz h is certified at all radii at once; leave the radius away")
            settings: dict[str, Any] = {"indices": run.indices, "times": run.times}
            found = {bound: certify_lipschitz(self.model, images, labels, bound=bound, **settings) for bound in bounds}
        elif self.is_smoothed_version:
            return {bound: self._sampled(images, labels, request, self.stem, "theorem5") for bound in bounds}
        elif request.radius is not None:
            bounds = request.bounds or ("theorem5",)
            return {bound: self._sampled(images, labels, request, self.log_name(bound), bound) for bound in bounds}
        else:
            of_h = self._sampled(images, labels, request, stem_of("rob_model", self.sampling), "")
            sigma = self.sampling.sigma
            found = {bound: mix_certificates(of_h, self.model.alpha, sigma, bound=bound) for bound in bounds}
        for bound, certificates in found.items():
            certificates.write(request.log(self.log_name(bound)))
        return found

    def _sampled(self, images: Tensor, labels: Tensor, request: Request, log: str, bound: str) -> Certificates:
        """Certificates of the net that votes; with a radius, of what is certified by the bound."""
        assert self.sampling is not None
        alone, run = self.is_smoothed_version, replace(request.run, log=request.log(log))
        voter = self.model if alone else smoothed_rob_model(self.model).voter
        if request.radius is None:
            return run_certification(voter, images, labels, FixedNumber(self.sampling), run)
        rule = at_radius(self.sampling, request.radius, 1.0 if alone else self.model.alpha, bound)
        return run_certification(voter, images, labels, rule, run)


def stem_of(part: str, sampling: Sampling | None = None) -> str:
    """What the files of a certification are called, after the triplet's name: of a part, or of its smoothed version."""
    own = "" if part == "whole" else f"{part}."
    return own + ("certified" if sampling is None else f"smoothed-{sampling.sigma:g}-{sampling.votes}")


def subject_of(
    model: MixedClassifier,
    part: str = "whole",
    sigma: float | None = None,
    votes: Votes | None = None,
    **sampling: Any,
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
    alpha, h = PARTS[part], model.rob_model
    if alpha is not None:
        maps = {"std_map": model.std_map, "rob_map": model.rob_map}
        model = MixedClassifier(model.std_model, model.rob_model, alpha, **maps).eval()
    if isinstance(h, GaussianSmoothed) and part != "std_model":
        smoothed_rob_model(model)
        if sigma not in (None, h.sigma) or votes not in (None, h.votes):
            raise ValueError(f"h is smoothed with sigma {h.sigma:g} and {h.votes} votes; leave sigma and votes away")
        own = Sampling(sigma=h.sigma, votes=h.votes, **sampling)
        return Subject(model=model, part=part, known="smoothed", sampling=own)
    if sigma is not None:
        own = Sampling(sigma=sigma, votes=votes or "hard", **sampling)
        return Subject(model=model, part=part, known="alone", sampling=own)
    if isinstance(h, LipschitzNet) and part != "std_model":
        return Subject(model=model, part=part, known="lipschitz")
    net = model.std_model if part == "std_model" else h
    raise ValueError(
        f"nothing is known that certifies a {type(net).__name__}; give a sigma to certify its Gaussian-smoothed version"
    )
