"""Confidence of a smoothed net in wrong classes, by the radius of adversarial examples [JS21, Table 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.smoothed_pair import (
    METHODS,
    PairBench,
    PairExperiment,
    PairTable,
    true_and_off,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RADII = ("0", "2", "4", "6", "8", "10")  # in units of sigma: the paper's 0 to 5 at sigma 0.5
PAPER = {"true": (66.4, 47.1, 24.3, 14.2, 11.3, 10.7), "off": (24.2, 37.8, 59.5, 71.8, 78.5, 82.0)}


class OffClassConfidence(PairExperiment):
    name = "off-class-confidence"
    question = "How sure is a smoothed net of wrong classes at adversarial examples of growing radius?"
    paper = (
        "[JS21, Table 1], ResNet-110 with Gaussian training, CIFAR-10, sigma 0.5, radii 0 to 5: the mean confidence of "
        f"the true class falls ({', '.join(map(str, PAPER['true']))} %); the largest confidence of another class "
        f"rises far above that of clean images in their true class ({', '.join(map(str, PAPER['off']))} %)."
    )
    values = ("true", "off")
    steps = 20

    def cases(self) -> list[Case]:
        return [{"method": method, "radius": radius} for method in METHODS for radius in RADII]

    def measure(self, bench: PairBench, case: Case) -> dict[str, float]:
        """Mean confidence in the true class, and mean of the largest confidence in another class."""
        eps, method = float(case["radius"]) * bench.sigma, case["method"]
        points = bench.adversarial(method, eps) if eps else bench.examples.images
        true, off = true_and_off(bench.confidence(method, points), bench.examples.labels)
        return {"true": float(true.mean()), "off": float(off.mean())}

    def draw(self, table: PairTable, figure: Figure) -> None:
        axes = figure.subplots()
        for i, (method, label) in enumerate(METHODS.items()):
            for name, dashes in (("true", ".-"), ("off", ".--")):
                radii, shares = table.curve("radius", name, method=method)
                axes.plot(radii, [100 * share for share in shares], dashes, color=f"C{i}", label=f"{label}, {name}")
        axes.set_xlabel("radius / sigma")
        axes.set_ylabel("mean confidence, %")
        axes.legend()

    def summary(self, table: PairTable) -> str:
        rows = [
            (label, name, *(f"{100 * value:.1f}" for value in table.curve("radius", name, method=method)[1]))
            for method, label in METHODS.items()
            for name in ("true", "off")
        ]
        rows += [("Gaussian, CIFAR-10 [JS21]", name, *map(str, PAPER[name])) for name in PAPER]
        return "Mean confidence (%) by radius in units of sigma:\n\n" + markdown_table(
            ("training", "class", *RADII), rows
        )

    def agreement(self, table: PairTable) -> str:
        true, off = (table.curve("radius", name, method="gaussian")[1] for name in ("true", "off"))
        mixed = table.curve("radius", "off", method="smoothmix")[1]
        text = verdict(
            {
                "the true class loses confidence with the radius": true[-1] < true[0],
                "the largest other class gains it": off[-1] > off[0],
                "at the largest radius it has more than the true class has on clean images": off[-1] > true[0],
            }
        )
        there = f"{100 * off[-1]:.1f} % after Gaussian training and {100 * mixed[-1]:.1f} % after SmoothMix"
        return f"{text} There the largest other class has {there}."


EXPERIMENT = OffClassConfidence()
