"""Certified against clean accuracy over alpha and sigma ([BAKS24], certified figure), from published logs of h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.certified_pareto import (
    ALPHAS,
    certified_values,
    column,
    draw_frontiers,
    frontier_claims,
    frontier_table,
)
from adaptive_smoothing_zoo.experiments.experiment import Case, Experiment, verdict
from adaptive_smoothing_zoo.experiments.published_logs import COHEN_LOGS, LogsBench, LogsTable
from adaptive_smoothing_zoo.experiments.published_mix import BOUNDS, G_ACCURACY, PRINTED, certified_by, clean_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RADII = (0.25, 0.5, 1.0, 1.5)


@dataclass(frozen=True, kw_only=True)
class PublishedParetoTable(LogsTable):
    """What published logs say, at these l_2 radii."""

    radii: tuple[float, ...] = RADII


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
    values = ("clean", *map(column, range(len(RADII))))
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
        """Smallest possible clean accuracy of a mix, and the accuracy that one bound certifies at each radius."""
        sigma, alpha = float(case["noise"]), float(case["alpha"])
        of_h = bench.logs.certificates(COHEN_LOGS[case["noise"]])
        found = certified_by(of_h, alpha, sigma, case["bound"])
        return {"clean": clean_range(of_h, alpha, sigma)[0], **certified_values(found, RADII)}

    def draw(self, table: PublishedParetoTable, figure: Figure) -> None:
        draw_frontiers(table, figure, BOUNDS, "sigma")

    def summary(self, table: PublishedParetoTable) -> str:
        parts = [
            "ResNet-110 of [CRK19] as h. The mix's clean accuracy is a lower bound: g counts as sure, and as right on "
            f"{G_ACCURACY:.2%} of the images whatever h predicts (the authors' g has that accuracy; its outputs are "
            "not published). Where the log does not tell which of the two decides, the mix counts as right only if "
            "both are, and as wrong if h abstains. Certified accuracies do not depend on this."
        ]
        parts += [frontier_table(table, bound, "sigma") for bound in (PRINTED, "theorem5", "sharp")]
        return "\n\n".join(parts)

    def agreement(self, table: PublishedParetoTable) -> str:
        return verdict(frontier_claims(table, PRINTED, "theorem5"))


EXPERIMENT = PublishedPareto()
