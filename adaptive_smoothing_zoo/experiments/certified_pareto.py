"""Certified against clean accuracy of mixes, over alpha and the noise of h ([BAKS24], certified figure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification import Certificates, certify, certify_lipschitz, mix_certificates
from adaptive_smoothing_zoo.experiments.bench import Bench, OnStage, Options, Table, share
from adaptive_smoothing_zoo.experiments.experiment import Case, Experiment, not_answered, verdict
from adaptive_smoothing_zoo.experiments.frontiers import (
    ALPHAS,
    GAINS,
    THEOREM5,
    certified_values,
    certifies,
    column,
    draw_frontiers,
    frontier_claims,
    gain_table,
    lead_words,
)
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.formula import mix
from adaptive_smoothing_zoo.method.logit_maps import Scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOISES = ("0.5", "0.75", "1", "1.5")  # in units of h's own
BOUNDS = ("theorem4", THEOREM5, "sharp")
SIGMA = 0.25  # of the noise if h itself is not smoothed
STEPS = (0.5, 1.0, 1.5, 2.0)  # radii in units of sigma; of a Lipschitz h in units of eps


@dataclass(frozen=True, kw_only=True)
class ParetoTable(Table):
    """What was measured.

    Attributes:
        kind: of h: "smoothed", "lipschitz", or "made", any other net, which is smoothed here by Gaussian noise.
        sigma: standard deviation of h's own noise; of a Lipschitz h, 1 over its logit scale.
        radii: l_2 radii of the certified accuracies.
        samples, failure_probability: of each certificate of a smoothed h.
    """

    kind: str
    sigma: float
    radii: tuple[float, ...]
    samples: int
    failure_probability: float

    @property
    def bounds(self) -> tuple[str, ...]:
        """The bounds that are about h: Theorem 5 is about a smoothed one alone."""
        return tuple(bound for bound in BOUNDS if not (bound == THEOREM5 and self.kind == "lipschitz"))

    def lacks(self, names: Sequence[str]) -> str:
        """As of any table, but a row of a bound that is not about h lacks nothing."""
        asked = tuple(row for row in self.rows if row.case["bound"] in self.bounds)
        return Table.lacks(replace(self, rows=asked), names)

    def how(self) -> str:
        if self.kind == "lipschitz":
            return (
                "certificates follow from h's Lipschitz constant, without samples; a noise of 1 is h's own logit "
                "scale, another noise divides it"
            )
        made = " h is the hard-vote smoothed version of the triplet's robust net." if self.kind == "made" else ""
        return (
            f"each certificate from n0 = 100, n = {self.samples} samples, failure probability "
            f"{self.failure_probability:g}, seed {self.seed}; clean accuracy is that of the mix whose h votes over a "
            f"fixed bank of noise.{made} A noise of 1 is sigma {self.sigma:g}; the weights of h are the same for all"
        )


Certified = Callable[[float, str], Certificates]  # by alpha and bound


@dataclass(frozen=True, kw_only=True)
class ParetoBench(Bench):
    """A triplet, and the settings of its h's certificates.

    Attributes:
        samples, failure_probability: of each certificate of a smoothed h.
    """

    samples: int = 1000
    failure_probability: float = 0.001

    @classmethod
    def of(cls, options: Options, steps: int, on_stage: OnStage) -> Self:
        return cls(**cls._arguments(options, steps), samples=options.samples, on_stage=on_stage)

    @property
    def kind(self) -> str:
        """See :class:`ParetoTable`."""
        h = self.model.rob_model
        return {GaussianSmoothed: "smoothed", LipschitzNet: "lipschitz"}.get(type(h), "made")

    @property
    def sigma(self) -> float:
        """See :class:`ParetoTable`."""
        if self.kind == "lipschitz":
            return 1.0 / self._logit_scale
        return self.model.rob_model.sigma if self.kind == "smoothed" else SIGMA

    @property
    def _logit_scale(self) -> float:
        rob_map = self.model.rob_map
        assert isinstance(rob_map, Scale)  # see ``CertifiedPareto.misfit``
        return rob_map.scale

    @property
    def radii(self) -> tuple[float, ...]:
        """See :class:`ParetoTable`."""
        unit = self.threat.eps if self.kind == "lipschitz" else self.sigma
        return tuple(step * unit for step in STEPS)

    def table(self, experiment: str) -> ParetoTable:
        return ParetoTable(
            **self._about(experiment),
            kind=self.kind,
            sigma=self.sigma,
            radii=self.radii,
            samples=self.samples,
            failure_probability=self.failure_probability,
        )

    def noisy(self, noise: str) -> tuple[Tensor, Certified]:
        """h with a noise from ``NOISES``: its log-probabilities (N, C), and the certificates of mixes with it."""
        return self.once(f"h {noise}", lambda: self._with_noise(self.sigma * float(noise)))

    def _with_noise(self, sigma: float) -> tuple[Tensor, Certified]:
        model = self.model
        if self.kind == "lipschitz":
            maps = {"std_map": model.std_map, "rob_map": Scale(1.0 / sigma)}

            def by_constant(alpha: float, bound: str) -> Certificates:
                mixed = MixedClassifier(model.std_model, model.rob_model, alpha, **maps).eval()
                return certify_lipschitz(mixed, self.images, self.labels, bound=bound)

            h = MixedClassifier(model.std_model, model.rob_model, 1.0, **maps).eval()
            return self.logits(h, self.images), by_constant
        smoothed = self._smoothed(sigma)
        settings: dict[str, Any] = {"n": self.samples, "failure_probability": self.failure_probability}
        settings |= {"sigma": sigma, "votes": smoothed.votes, "seed": self.seed, "device": self.device}
        of_h = certify(smoothed.voter, self.images, self.labels, **settings)
        return self.logits(smoothed, self.images), lambda alpha, bound: mix_certificates(
            of_h, alpha, sigma, bound=bound
        )

    def _smoothed(self, sigma: float) -> GaussianSmoothed:
        """h with another sigma, or the triplet's robust net smoothed with it."""
        h, shape = self.model.rob_model, self.images.shape[1:]
        if not isinstance(h, GaussianSmoothed):
            made = GaussianSmoothed(self.mix(1.0), sigma=sigma, image_shape=shape, votes="hard")
        else:
            about: dict[str, Any] = {"votes": h.votes, "logit_scale": h.logit_scale.scale, "num_noises": len(h.noise)}
            made = GaussianSmoothed(h.base, sigma=sigma, image_shape=shape, **about)
        return made.to(self.device).eval()


class CertifiedPareto(Experiment[ParetoBench, ParetoTable]):
    name = "certified-pareto"
    question = "Does a mix certify more than h alone of the same clean accuracy?"
    paper = (
        "[BAKS24], certified figure: by Theorem 4, alpha and sigma can be tuned for the certified accuracy at each "
        "radius at no cost in clean accuracy, and the frontier of mixes lies above that of smoothed nets alone. "
        "[BAS24, 4.3]: by Theorem 5, a net smoothed with less noise certifies more points than the mix."
    )
    values = ("clean", *map(column, range(len(STEPS))))
    bench, table = ParetoBench, ParetoTable
    size = (12, 3.6)

    def cases(self) -> list[Case]:
        return [
            {"noise": noise, "alpha": alpha, "bound": bound} for noise in NOISES for alpha in ALPHAS for bound in BOUNDS
        ]

    def misfit(self, bench: ParetoBench) -> str:
        rob_map = bench.model.rob_map
        if bench.kind == "smoothed" and not (isinstance(rob_map, Scale) and rob_map.scale == 1.0):
            return "certificates of a smoothed h do not hold behind its rob_map; they need a scale of 1"
        if bench.kind == "lipschitz" and not isinstance(rob_map, Scale):
            return f"certificates of a Lipschitz h need a scale as rob_map, not {type(rob_map).__name__}"
        if bench.kind == "lipschitz" and bench.threat.is_linf:
            return "certificates of a Lipschitz h are in l_2, not in Linf; leave out --norm, or give --norm L2"
        return ""

    def measure(self, bench: ParetoBench, case: Case) -> dict[str, float]:
        """Clean accuracy of a mix, and the accuracy that one bound certifies at each radius, if it is about h."""
        alpha, bound = float(case["alpha"]), case["bound"]
        log_rob, certified = bench.noisy(case["noise"])
        log_std = bench.once("g", lambda: bench.logits(bench.mix(0.0), bench.images))
        weights = (float(torch.tensor(1.0 - alpha).log()), float(torch.tensor(alpha).log()))
        right = mix(log_std, log_rob, *weights).argmax(dim=1) == bench.labels
        clean = {"clean": share(right)}
        if bench.kind == "lipschitz" and bound == THEOREM5:
            return clean
        return clean | certified_values(certified(alpha, bound), bench.radii)

    def draw(self, table: ParetoTable, figure: Figure) -> None:
        draw_frontiers(table, figure, "noise")

    def summary(self, table: ParetoTable) -> str:
        parts = [GAINS]
        for bound in table.bounds:
            parts += [f"By {bound}:", gain_table(table, bound)]
        return "\n\n".join(parts)

    def agreement(self, table: ParetoTable) -> str:
        if not certifies(table):
            return not_answered("no mix has a certificate at any of these radii")
        text = verdict(frontier_claims(table, "theorem4")) + lead_words(table, "theorem4")
        return text if THEOREM5 in table.bounds else f"{text} Theorem 5 is not about a Lipschitz h."


EXPERIMENT = CertifiedPareto()
