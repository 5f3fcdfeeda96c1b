"""Clean against attacked accuracy for four R_i of eq. (3), with probabilities and with logits [BAKS24, Fig. 1]."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.experiments.bench import Bench, Table, TripletExperiment
from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table, not_answered
from adaptive_smoothing_zoo.method.smoothed_classifier import SPACES, TRUST_OPTIONS, SmoothedClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adaptive_smoothing_zoo.experiments.published_curves import PublishedRun

# Odds alpha / (1 - alpha) of h at a typical image. R_i may have any size, so r is these odds divided by R_i's median.
ODDS = (0.0, 0.25, 0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 1000.0)
LEGEND = {"loc": "outside center right", "fontsize": "small"}
LABELS = {
    "one": "$R_i = 1$",
    "std_gradient": r"$R_i = \|\nabla g_i\|$",
    "max_gradient": r"$R_i = \|\nabla \max_j g_j\|$",
    "gradient_ratio": r"$R_i = \|\nabla g_i\| / \|\nabla h_i\|$",
}


class TrustOptions(TripletExperiment):
    name = "trust-options"
    question = "Which R_i, and probabilities or logits, gives the best trade-off?"
    paper = (
        "[BAKS24, Fig. 1] and [BAS24, Fig. 1] (PGD-10, l_inf; the authors' code, and the variations, one of them in "
        "l_2 [BAKS24, supp., Fig. SM2], use PGD-20): R_i = 1 with probabilities."
    )
    values = ("clean", "attacked")
    compares = True
    size = (9.6, 4.8)

    def cases(self) -> list[Case]:
        return [
            {"trust": trust, "space": space, "odds": f"{odds:g}"}
            for trust in TRUST_OPTIONS
            for space in SPACES
            for odds in ODDS
        ]

    def measure(self, bench: Bench, case: Case) -> dict[str, float]:
        """Clean and attacked accuracy of one form at one ratio r; the attack differentiates R_i, too."""
        odds = float(case["odds"])
        form = partial(_smoothed, bench, trust=case["trust"], space=case["space"])
        size = _median_trust(bench, form(ratio=1.0))
        smoothed = form(ratio=odds / size)
        return {
            "ratio": odds / size,
            "clean": bench.accuracy(smoothed, bench.images),
            "attacked": bench.accuracy(smoothed, bench.attack(smoothed)),
        }

    def draw(self, table: Table, figure: Figure) -> None:
        axes = figure.subplots()
        for trust, label in LABELS.items():
            (line,) = axes.plot(*_curve(table, trust, "probabilities"), ".-", label=f"{label}, probabilities")
            axes.plot(*_curve(table, trust, "logits"), ".:", color=line.get_color(), label=f"{label}, logits")
        axes.set_xlabel("accuracy under PGD, %")
        axes.set_ylabel("clean accuracy, %")
        figure.legend(**LEGEND)

    def compare(self, table: Table, figure: Figure, published: Sequence[PublishedRun]) -> str:
        """Draw the authors' trade-offs under the same norm in thin lines; give their areas."""
        runs = [run for run in published if run.norm == table.threat_model]
        if not runs:
            return f"the file has none under {table.threat_model}."
        axes = figure.axes[0]
        for run in runs:
            clean, attacked = zip(*run.trade_off(), strict=True)
            dashes = "--" if run.probabilities else "-."
            label = f"published: {run.title}"
            axes.plot(_percents(attacked), _percents(clean), dashes, linewidth=0.8, label=label)
        figure.legends.clear()
        figure.legend(**LEGEND)
        nets = f"CIFAR-10, {runs[0].nets}, PGD, the first {runs[0].n} test images"
        rows = [
            (run.title, f"{area_under(run.trade_off(), (run.h[0], run.g[0]), run.h[1]):.2f}", f"{_at_90(run):.1%}")
            for run in runs
        ]
        return f"{nets}:\n\n" + markdown_table(("authors' form", "area", "attacked where clean is 90 % or more"), rows)

    def summary(self, table: Table) -> str:
        """One number per curve: how much of h's attacked accuracy it has at clean accuracies between h's and g's."""
        if why := undefined(table):
            return f"There is no area under the curves: {why}."
        areas = _areas(table)
        usual = ("one", "probabilities")  # named where others are as good
        best = max(areas, key=lambda form: (areas[form], form == usual))
        return "\n".join(
            [
                "Area under the curve: the best attacked accuracy at a clean accuracy or above, averaged between h's "
                "and g's clean accuracies, as a share of the ideal (h's attacked accuracy throughout):",
                "",
                markdown_table(
                    ("R_i", *SPACES), [(trust, *(f"{areas[trust, s]:.2f}" for s in SPACES)) for trust in TRUST_OPTIONS]
                ),
                "",
                f"The best is R_i = {best[0]} with {best[1]}.",
            ]
        )

    def agreement(self, table: Table) -> str:
        """Is the form of the mixed classifier the best one?"""
        if why := undefined(table):
            return not_answered(why)
        areas = _areas(table)
        chosen = areas["one", "probabilities"]
        better = [f"R_i = {trust} with {space}" for (trust, space), value in areas.items() if value > chosen]
        if not better:
            return "yes: no form is better than R_i = 1 with probabilities."
        lead = max(areas.values()) - chosen
        return f"no: {', '.join(better)} had a larger area, by up to {lead:.2f} (n = {table.n})."


def _areas(table: Table) -> dict[tuple[str, str], float]:
    return {(trust, space): area(table, trust, space) for trust in TRUST_OPTIONS for space in SPACES}


def area(table: Table, trust: str, space: str) -> float:
    """The area of one form, see ``area_under``; the table must not be ``undefined``."""
    points = list(zip(*table.curve("clean", "attacked", trust=trust, space=space), strict=True))
    low, high, ideal = _ends(table)
    return area_under(points, (low, high), ideal)


def area_under(points: list[tuple[float, float]], ends: tuple[float, float], ideal: float) -> float:
    """The best attacked accuracy at a clean accuracy or above, averaged between two clean accuracies, over the ideal.

    Args:
        points: pairs of clean and attacked accuracy.
        ends: the clean accuracies of h and of g.
        ideal: h's attacked accuracy, > 0.
    """
    grid = torch.linspace(*ends, 101, dtype=torch.float64).tolist()
    return sum(_best_at(points, level) for level in grid) / len(grid) / ideal


def _best_at(points: list[tuple[float, float]], level: float) -> float:
    return max((attacked for clean, attacked in points if clean >= level), default=0.0)


def _at_90(run: PublishedRun) -> float:
    return _best_at(run.trade_off(), 0.9)


def _percents(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def undefined(table: Table) -> str:
    """A clause that says why there are no areas; empty if there are."""
    low, high, ideal = _ends(table)
    if low >= high:
        return (
            f"g is no more accurate than h on the {table.n} clean images ({high:.1%} and {low:.1%}), so there is "
            "nothing to trade off; use more images or another triplet"
        )
    if ideal <= 0:
        return f"h is right on none of the {table.n} images under attack, so there is no robustness to keep"
    return ""


def _ends(table: Table) -> tuple[float, float, float]:
    """Clean accuracy of h and of g, and h's attacked accuracy, from the mix with the largest and the least odds."""
    g, *_, h = table.where(trust="one", space="probabilities")
    return h["clean"], g["clean"], h["attacked"]


def _curve(table: Table, trust: str, space: str) -> tuple[list[float], list[float]]:
    attacked, clean = table.curve("attacked", "clean", trust=trust, space=space)
    return [100 * value for value in attacked], [100 * value for value in clean]


def _smoothed(bench: Bench, *, trust: str, space: str, ratio: float) -> SmoothedClassifier:
    """Eq. (3) with a bench's g and h, and the mix's own maps of their logits."""
    model = bench.model
    std_model, rob_model = _Mapped(model.std_model, model.std_map), _Mapped(model.rob_model, model.rob_map)
    return SmoothedClassifier(
        std_model, rob_model, trust=trust, ratio=ratio, space=space, norm=bench.threat.norm
    ).eval()


class _Mapped(nn.Module):
    """A net followed by a logit map."""

    def __init__(self, net: nn.Module, logit_map: nn.Module) -> None:
        super().__init__()
        self.net, self.logit_map = net, logit_map

    def forward(self, images: Tensor) -> Tensor:
        mapped: Tensor = self.logit_map(self.net(images))
        return mapped


def _median_trust(bench: Bench, smoothed: SmoothedClassifier) -> float:
    """The median over clean images of R_i for g's likeliest class; 1 if that is 0."""
    logits = bench.logits(bench.mix(0.0), bench.images)
    parts = [smoothed.trust_of(batch.to(bench.device)).cpu() for batch in bench.images.split(bench.batch_size)]
    trust = torch.cat(parts).expand(-1, logits.shape[1])
    median = float(trust.gather(1, logits.argmax(dim=1, keepdim=True)).quantile(0.5))
    return median if median > 0 else 1.0


EXPERIMENT = TrustOptions()
