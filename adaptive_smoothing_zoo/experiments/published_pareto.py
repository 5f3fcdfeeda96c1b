"""Certified against clean accuracy over alpha and sigma ([BAKS24], certified figure), from published logs of h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Case, Experiment, verdict
from adaptive_smoothing_zoo.experiments.frontiers import (
    ALPHAS,
    AT_MOST,
    GAINS,
    certified_values,
    column,
    draw_frontiers,
    frontier_claims,
    gain_table,
)
from adaptive_smoothing_zoo.experiments.published_logs import COHEN_LOGS, LogsBench, LogsTable
from adaptive_smoothing_zoo.experiments.published_mix import BOUNDS, G_ACCURACY, PRINTED, certified_by, clean_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RADII = (0.25, 0.5, 1.0, 1.5)
CLEAN = {"smallest": "clean", "largest": AT_MOST}  # bounds of the clean accuracy of mixes


@dataclass(frozen=True, kw_only=True)
class PublishedParetoTable(LogsTable):
    """What published logs say, at these l_2 radii."""

    radii: tuple[float, ...] = RADII

    @property
    def bounds(self) -> tuple[str, ...]:
        """All: h is smoothed."""
        return BOUNDS


class PublishedParetoBench(LogsBench):
    def table(self, experiment: str) -> PublishedParetoTable:
        return PublishedParetoTable(**self.about(experiment))


class PublishedPareto(Experiment[PublishedParetoBench, PublishedParetoTable]):
    name = "published-pareto"
    question = "Does a mix certify more than a smoothed net alone of the same clean accuracy, over alpha and sigma?"
    paper = (
        "[BAKS24], certified figure, CIFAR-10: by Theorem 4, alpha and sigma can be tuned for the mix's certified "
        "accuracy at each radius at no cost in clean accuracy, and the Pareto frontier has far larger certified radii "
        "than a smoothed net alone. [BAS24, 4.3]: by Theorem 5, the net with less noise certifies more points."
    )
    values = (*CLEAN.values(), *map(column, range(len(RADII))))
    bench, table = PublishedParetoBench, PublishedParetoTable
    size = (12, 3.8)

    def cases(self) -> list[Case]:
        return [
            {"noise": sigma, "alpha": alpha, "bound": bound}
            for sigma in COHEN_LOGS
            for alpha in ALPHAS
            for bound in BOUNDS
        ]

    def measure(self, bench: PublishedParetoBench, case: Case) -> dict[str, float]:
        """Smallest and largest possible clean accuracy of a mix, and what one bound certifies at each radius."""
        sigma, alpha = float(case["noise"]), float(case["alpha"])
        of_h = bench.logs.certificates(COHEN_LOGS[case["noise"]])
        found = certified_by(of_h, alpha, sigma, case["bound"])
        clean = dict(zip(CLEAN.values(), clean_range(of_h, alpha, sigma), strict=True))
        return clean | certified_values(found, RADII)

    def draw(self, table: PublishedParetoTable, figure: Figure) -> None:
        draw_frontiers(table, figure, "sigma")

    def summary(self, table: PublishedParetoTable) -> str:
        parts = [
            "ResNet-110 of [CRK19] as h. The logs bound the clean accuracy of mixes from both sides: g counts as sure, "
            f"and as right on {G_ACCURACY:.2%} of the images whatever h predicts (the authors' g has that accuracy; "
            "its outputs are not published). Where the log does not tell which of the two decides, the smallest clean "
            "accuracy counts the images on which both are right, the largest those on which one of them is. Where h "
            "abstains, a mix counts as wrong for the smallest and as right for the largest; h alone counts as wrong. "
            "In the figure a line leads from the smallest to the largest. Certified accuracies do not depend on this.",
            GAINS,
        ]
        for bound in (PRINTED, "theorem5", "sharp"):
            for which, clean in CLEAN.items():
                parts += [f"By {bound}, with the {which} clean accuracies:", gain_table(table, bound, clean)]
        return "\n\n".join(parts)

    def agreement(self, table: PublishedParetoTable) -> str:
        """A claim is decided if it is the same with the smallest and the largest clean accuracies, see ``gain``."""
        least, most = (frontier_claims(table, PRINTED, clean) for clean in CLEAN.values())
        seen = {claim: is_seen if most[claim] == is_seen else None for claim, is_seen in least.items()}
        text = verdict(seen)
        if None in seen.values():
            text += " The logs do not decide a claim that holds at one bound of the clean accuracies alone."
        return text


EXPERIMENT = PublishedPareto()
