"""Certificates of a triplet, or of one of its nets: the applicable kind and its bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification.at_radius import at_radius
from adaptive_smoothing_zoo.certification.bounds import bounds_for
from adaptive_smoothing_zoo.certification.certify import FixedNumber
from adaptive_smoothing_zoo.certification.logs import Certificates
from adaptive_smoothing_zoo.certification.mixes import (
    certify_lipschitz,
    check_alphas,
    check_question,
    logits_lipschitz,
    mix_certificates,
    smoothed_rob_model,
)
from adaptive_smoothing_zoo.certification.running import Rule, Run, run_certification
from adaptive_smoothing_zoo.certification.sampling import Sampling, Votes
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.method.classifier import MixedClassifier

PARTS = {"whole": None, "std_model": 0.0, "rob_model": 1.0}  # what is certified of a triplet, and its alpha


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The subject of a certification.

    Attributes:
        model: the mix, or one of its nets as a mix with alpha 0 or 1; or any other net.
        part: "whole", "std_model" or "rob_model".
        known: what bounds may need: a mix with a "smoothed" or a "lipschitz" h, or the smoothed version of anything,
            "alone".
        sampling: of the smoothing; None for a Lipschitz h.
        radius: if given, only decide whether this l_2 radius is certified.
        top_k: if given, certify that the label stays among so many likeliest classes.

    Raises:
        ValueError: a radius and a top_k.
    """

    model: nn.Module
    part: str
    known: Literal["smoothed", "lipschitz", "alone"]
    sampling: Sampling | None = None
    radius: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        check_question(self.radius, self.top_k)

    @property
    def is_smoothed_version(self) -> bool:
        """Whether the certificates are for the Gaussian-smoothed version of the part."""
        return self.known == "alone"

    @property
    def mix(self) -> MixedClassifier:
        """The model, where the kind of certificate is one of mixes."""
        assert isinstance(self.model, MixedClassifier)
        return self.model

    @property
    def alpha_min(self) -> float | None:
        """The smallest alpha of a mix; None for a net of its own."""
        return self.model.alpha.alpha_min if isinstance(self.model, MixedClassifier) else None

    @property
    def logits_lipschitz(self) -> float | None:
        """The constant that a Lipschitz h proves for its scaled logits."""
        return logits_lipschitz(self.mix.rob_model, self.mix.rob_map) if self.known == "lipschitz" else None

    @property
    def voter(self) -> nn.Module:
        """The net that votes, where there is noise."""
        return self.model if self.is_smoothed_version else smoothed_rob_model(self.mix).voter

    def votes(self) -> Sampling:
        """How a prediction alone is sampled.

        Raises:
            ValueError: the subject is no smoothed classifier: a mix with one, or a net without noise.
        """
        if self.sampling is None or (self.known == "smoothed" and self.part != "rob_model"):
            raise ValueError(
                "PREDICT is about a smoothed classifier, not about a mix with one; give a sigma, or the part rob_model"
            )
        return self.sampling

    def file_name(self, bound: str | None = None) -> str:
        """What its record is called, or the log of a bound, without the triplet's name and the ending."""
        if self.is_smoothed_version:
            stem = stem_of(self.part, self.sampling, self.top_k)
        else:
            of = "" if bound is None else f"-{bound}"
            stem = stem_of(self.part) + of + _ending(self.sampling, self.top_k)
        return stem if self.radius is None else f"{stem}-at-{self.radius:g}"

    def certify(
        self, images: Tensor, labels: Tensor, bounds: Sequence[str], log: Callable[[str], Path], run: Run
    ) -> dict[str, Certificates]:
        """Certify by each bound and write the logs.

        Args:
            bounds: if empty, all that apply (with a ``radius`` only the papers' theorem, since each bound then needs
                its own samples).
            log: gives the path of a log by its name.
            run: of the sampling, without its log.

        Raises:
            ValueError: a bound that does not apply, or a radius for a Lipschitz h, which needs no samples; or as
                ``check_alphas``.
            EvaluationError, ResultsError: as ``certify``.
        """
        apply = bounds_for(self.known)
        if foreign := [bound for bound in bounds if bound not in apply]:
            raise ValueError(f"the bound {foreign[0]} does not apply here; those that do: {', '.join(apply)}")
        chosen = bounds or (("theorem5",) if self.known == "smoothed" and self.radius is not None else apply)
        if self.known == "smoothed":
            check_examples(images, labels)
            check_alphas(self.mix, images)
        if self.sampling is None:
            found = self._without_samples(images, labels, chosen, run)
        elif self.is_smoothed_version or self.radius is not None:
            runs = {bound: replace(run, log=log(self.file_name(bound))) for bound in chosen}
            return {bound: self._sampled(self.sampling, images, labels, runs[bound], bound) for bound in chosen}
        else:
            run = replace(run, log=log(stem_of("rob_model", self.sampling, self.top_k)))
            of_h, sigma = self._sampled(self.sampling, images, labels, run), self.sampling.sigma
            of_mix = partial(mix_certificates, of_h, self.mix.alpha, sigma)
            found = {bound: of_mix(bound=bound) for bound in chosen}
        for bound, certificates in found.items():
            certificates.write(log(self.file_name(bound)))
        return found

    def _without_samples(
        self, images: Tensor, labels: Tensor, bounds: Sequence[str], run: Run
    ) -> dict[str, Certificates]:
        if self.radius is not None:
            raise ValueError("a Lipschitz h is certified at all radii at once; omit the radius")
        about: dict[str, Any] = {"indices": run.indices, "times": run.times, "top_k": self.top_k}
        return {bound: certify_lipschitz(self.mix, images, labels, bound=bound, **about) for bound in bounds}

    def _sampled(self, sampling: Sampling, images: Tensor, labels: Tensor, run: Run, bound: str = "") -> Certificates:
        """Certificates of the net that votes; at a radius, of what is certified by the bound."""
        alone = self.is_smoothed_version
        rule: Rule = FixedNumber(sampling, self.top_k)
        if self.radius is not None:
            alpha, by = (1.0, "theorem5") if alone else (self.mix.alpha, bound)
            rule = at_radius(sampling, self.radius, alpha, by)
        return run_certification(self.voter, images, labels, rule, run)


def stem_of(part: str, sampling: Sampling | None = None, top_k: int | None = None) -> str:
    """What the files of a certification are called, after the triplet's name: of a part, or of its smoothed version."""
    own = "" if part == "whole" else f"{part}."
    if sampling is None:
        return f"{own}certified"
    return f"{own}smoothed-{sampling.sigma:g}-{sampling.votes}{_ending(sampling, top_k)}"


def _ending(sampling: Sampling | None, top_k: int | None) -> str:
    """What a file name says of the statement and of how it is bounded."""
    of_k = "" if top_k is None else f"-top-{top_k}"
    return f"{of_k}-runner-up" if sampling is not None and sampling.runner_up else of_k


def subject_of(
    model: nn.Module,
    part: str = "whole",
    sigma: float | None = None,
    votes: Votes | None = None,
    radius: float | None = None,
    top_k: int | None = None,
    **sampling: Any,
) -> Subject:
    """Which kind of certificate a mix, a part of it, or any other net can have.

    Args:
        model: a mix; of another net, the smoothed version alone can be certified.
        part: "whole", "std_model" or "rob_model" of a mix; of another net "whole".
        sigma: if given, the Gaussian-smoothed version of the part is the subject, unless its h is smoothed already,
            with this very sigma.
        votes: "hard" (the default) or "soft" where ``sigma`` makes the smoothed version; h's own otherwise.
        radius, top_k: as in :class:`Subject`.
        sampling: other fields of :class:`Sampling`.

    Raises:
        ValueError: there is no such part, nothing is known that certifies it, or h is smoothed otherwise; or as
            :class:`Subject`.
    """
    return replace(_certifiable(model, part, sigma, votes, **sampling), radius=radius, top_k=top_k)


def _certifiable(model: nn.Module, part: str, sigma: float | None, votes: Votes | None, **sampling: Any) -> Subject:
    """``subject_of`` without a question."""
    if part not in PARTS:
        raise ValueError(f"the part must be one of {', '.join(PARTS)}, got {part!r}")
    if not isinstance(model, MixedClassifier):
        return _of_a_net(model, part, sigma, votes, **sampling)
    alpha, h = PARTS[part], model.rob_model
    if alpha is not None:
        maps = {"std_map": model.std_map, "rob_map": model.rob_map}
        model = MixedClassifier(model.std_model, model.rob_model, alpha, **maps)
    if isinstance(h, GaussianSmoothed) and part != "std_model":
        smoothed_rob_model(model)
        if sigma not in (None, h.sigma) or votes not in (None, h.votes):
            raise ValueError(f"h is smoothed with sigma {h.sigma:g} and {h.votes} votes; omit sigma and votes")
        own = Sampling(sigma=h.sigma, votes=h.votes, **sampling)
        return Subject(model=model, part=part, known="smoothed", sampling=own)
    if sigma is not None:
        own = Sampling(sigma=sigma, votes=votes or "hard", **sampling)
        return Subject(model=model, part=part, known="alone", sampling=own)
    if isinstance(h, LipschitzNet) and part != "std_model":
        return Subject(model=model, part=part, known="lipschitz")
    raise ValueError(_unknown(model.std_model if part == "std_model" else h))


def _of_a_net(net: nn.Module, part: str, sigma: float | None, votes: Votes | None, **sampling: Any) -> Subject:
    """The certificates of a net that is no mix: those of its smoothed version."""
    if part != "whole":
        raise ValueError(f"a {type(net).__name__} is not a mix and has no {part}; omit the part")
    if sigma is None:
        raise ValueError(_unknown(net))
    own = Sampling(sigma=sigma, votes=votes or "hard", **sampling)
    return Subject(model=net, part=part, known="alone", sampling=own)


def _unknown(net: nn.Module) -> str:
    name = type(net).__name__
    return f"nothing is known that certifies a {name}; give a sigma to certify its Gaussian-smoothed version"
