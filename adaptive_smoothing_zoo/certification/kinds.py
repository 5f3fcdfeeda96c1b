"""Certificates of a triplet, or of one of its nets: which kind applies, and every bound that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification.at_radius import certify_at_radius
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.certify_mix import (
    certify_lipschitz,
    certify_mix,
    logits_lipschitz,
    smoothed_rob_model,
)
from adaptive_smoothing_zoo.certification.logs import Certificates, mix_certificates
from adaptive_smoothing_zoo.certification.radii import Bound
from adaptive_smoothing_zoo.method.classifier import MixedClassifier

Kind = Literal["lipschitz", "smoothed_rob_model", "smoothing"]
KINDS = ("lipschitz", "smoothed_rob_model", "smoothing")
"""What can be certified: a mix by its Lipschitz h; a mix by its smoothed h; the smoothed version of anything."""

BOUNDS_OF: dict[Kind, tuple[Bound, ...]] = {
    "lipschitz": ("theorem4", "sharp"),
    "smoothed_rob_model": ("theorem4", "theorem5", "sharp"),
    "smoothing": (),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be certified.

    Attributes:
        model: the mix, or one of its nets as a mix with alpha 0 or 1.
        part: "whole", "std_model" or "rob_model".
        kind: one of ``KINDS``.
        sigma, votes: of the smoothing; None for a Lipschitz h.
    """

    model: MixedClassifier
    part: str
    kind: Kind
    sigma: float | None
    votes: Literal["hard", "soft"] | None

    @property
    def logits_lipschitz(self) -> float | None:
        """The constant that a Lipschitz h proves for its scaled logits."""
        return logits_lipschitz(self.model.rob_model, self.model.rob_map) if self.kind == "lipschitz" else None


def subject_of(
    model: MixedClassifier,
    part: str = "whole",
    sigma: float | None = None,
    votes: Literal["hard", "soft"] | None = None,
) -> Subject:
    """Which kind of certificate a mix, or a part of it, can have.

    Args:
        part: "whole", "std_model" or "rob_model".
        sigma: if given, the Gaussian-smoothed version of the part is the subject, unless its h is smoothed already,
            with this very sigma.
        votes: "hard" (the default) or "soft" where ``sigma`` makes the smoothed version; h's own otherwise.

    Raises:
        ValueError: there is no such part, nothing is known that certifies it, or h is smoothed otherwise.
    """
    parts = {"whole": None, "std_model": 0.0, "rob_model": 1.0}
    if part not in parts:
        raise ValueError(f"the part must be one of {', '.join(parts)}, got {part!r}")
    alpha, h = parts[part], model.rob_model
    if alpha is not None:
        model = MixedClassifier(
            model.std_model, model.rob_model, alpha, std_map=model.std_map, rob_map=model.rob_map
        ).eval()
    if isinstance(h, GaussianSmoothed) and part != "std_model":
        smoothed_rob_model(model)
        if sigma not in (None, h.sigma) or votes not in (None, h.votes):
            raise ValueError(f"h is smoothed with sigma {h.sigma:g} and {h.votes} votes; leave sigma and votes away")
        return Subject(model=model, part=part, kind="smoothed_rob_model", sigma=h.sigma, votes=h.votes)
    if sigma is not None:
        return Subject(model=model, part=part, kind="smoothing", sigma=sigma, votes=votes or "hard")
    if isinstance(h, LipschitzNet) and part != "std_model":
        return Subject(model=model, part=part, kind="lipschitz", sigma=None, votes=None)
    net = model.std_model if part == "std_model" else h
    raise ValueError(
        f"nothing is known that certifies a {type(net).__name__}; give a sigma to certify its Gaussian-smoothed version"
    )


def certify_subject(
    subject: Subject,
    images: Tensor,
    labels: Tensor,
    *,
    bounds: Sequence[Bound] = (),
    radius: float | None = None,
    log: Callable[[str | None], Path],
    indices: Sequence[int],
    times: bool = True,
    **settings: Any,
) -> dict[str, Certificates]:
    """Certify a subject by each bound that applies.

    Args:
        bounds: only these; all that apply to its kind if there are none (with a ``radius``, the papers' theorem, since
            each bound then needs samples of its own).
        radius: only whether this l_2 radius is certified.
        log: gives the path of the log of a bound, or, for None, of what is sampled before any bound.
        indices, times, settings: as in ``certify``; ``settings`` are not used for a Lipschitz h.

    Returns:
        Certificates by bound; by "cohen" for the smoothed version of a net. Logs of all of them are written.

    Raises:
        ValueError: a bound that does not apply, or a radius for a Lipschitz h, which needs no samples.
        EvaluationError, ResultsError: as ``certify``.
    """
    wanted = tuple(bounds) or BOUNDS_OF[subject.kind]
    if foreign := [bound for bound in wanted if bound not in BOUNDS_OF[subject.kind]]:
        known = ", ".join(BOUNDS_OF[subject.kind]) or "none, but Cohen's own"
        raise ValueError(f"the bound {foreign[0]} does not apply here; those that do: {known}")
    if subject.kind == "lipschitz":
        if radius is not None:
            raise ValueError("a Lipschitz h is certified without samples at all radii at once; leave the radius away")
        found: dict[str, Certificates] = {
            bound: certify_lipschitz(subject.model, images, labels, bound=bound, indices=indices, times=times)
            for bound in wanted
        }
    elif subject.kind == "smoothing":
        settings |= {"sigma": subject.sigma, "votes": subject.votes, "indices": indices, "times": times}
        where = log(None)
        if radius is None:
            return {"cohen": certify(subject.model, images, labels, log=where, **settings)}
        return {"cohen": certify_at_radius(subject.model, images, labels, radius=radius, log=where, **settings)}
    elif radius is not None:
        settings |= {"radius": radius, "indices": indices, "times": times}
        chosen = tuple(bounds) or ("theorem5",)
        return {
            bound: certify_mix(subject.model, images, labels, bound=bound, log=log(bound), **settings)
            for bound in chosen
        }
    else:
        h = smoothed_rob_model(subject.model)
        settings |= {"sigma": h.sigma, "votes": h.votes, "indices": indices, "times": times}
        of_h = certify(h.voter, images, labels, log=log(None), **settings)
        found = {bound: mix_certificates(of_h, subject.model.alpha, h.sigma, bound=bound) for bound in wanted}
    for bound, certificates in found.items():
        certificates.write(log(bound))
    return found
