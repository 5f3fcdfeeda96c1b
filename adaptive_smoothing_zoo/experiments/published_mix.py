"""The certified figure of [BAS24] and [BAKS24, supp.] from published logs: mixes with alpha = 0.76."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adaptive_smoothing_zoo.certification import Certificates, mix_certificates
from adaptive_smoothing_zoo.certification.bounds import SmoothedNet
from adaptive_smoothing_zoo.certification.bounds.theorem4 import gaussian_lipschitz, lipschitz_radius
from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.published_logs import COHEN_LOGS, LogsBench, LogsExperiment, LogsTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA = 0.76
PAIRS = {"0.50": "0.25", "1.00": "0.50"}  # sigma of h, and of the baseline
PRINTED = "theorem4 as printed"  # with the Lipschitz constant sqrt(2 / pi) / sigma
BOUNDS = (PRINTED, "theorem4", "theorem5", "sharp")
GRID = tuple(round(0.05 * i, 2) for i in range(61))
SHOWN = (0.05, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
G_ACCURACY = 0.9725  # of the authors' g, a ConvNeXT-T


def certified_by(of_h: Certificates, alpha: float, sigma: float, bound: str) -> Certificates:
    """Certificates of a mix from those of its smoothed h.

    Args:
        of_h: of h alone.
        sigma: of h's noise.
        bound: a name that ``mix_certificates`` takes; or ``PRINTED``, Theorem 4 with the papers' constant, twice
            ``gaussian_lipschitz``.
    """
    if bound != PRINTED:
        return mix_certificates(of_h, alpha, sigma, bound=bound)
    p = SmoothedNet(radius=of_h.radius, sigma=sigma).p_top
    radius = lipschitz_radius(np.stack([p, 1.0 - p], axis=1), alpha, 2.0 * gaussian_lipschitz(sigma))
    return of_h.with_radii(np.where(of_h.radius > 0, radius, 0.0))


def clean_range(of_h: Certificates, alpha: float, sigma: float) -> tuple[float, float]:
    """The smallest and the largest clean accuracy of the mix that h's log allows, with the log's bound of p for p.

    Suppose that g gives its class the probability 1, and that g is right on ``G_ACCURACY`` of the images whatever h
    predicts. Then h decides where p > 1 / (2 alpha), since it gives g's class at most 1 - p; g decides where p <= (1 -
    alpha) / alpha. Elsewhere the probability that h gives g's class decides, and the log lacks it: the smallest
    accuracy counts the images on which both are right, the largest those on which one of them is. Where h abstains, the
    smallest counts it as wrong, as for h alone, and the largest as right.
    """
    if alpha == 1.0:
        return float(of_h.correct.mean()), float(of_h.correct.mean())
    h_decides = mix_certificates(of_h, alpha, sigma, bound="sharp").radius > 0
    p_top = SmoothedNet(radius=of_h.radius, sigma=sigma).p_top  # 1/2 where h abstains
    g_decides = ~h_decides & (p_top <= (1.0 - alpha) / alpha)
    is_open = ~(h_decides | g_decides)
    known = (h_decides & of_h.correct).mean() + G_ACCURACY * g_decides.mean()
    may_be_right = of_h.correct | of_h.abstained
    least = known + G_ACCURACY * (is_open & of_h.correct).mean()
    largest = known + (is_open & may_be_right).mean() + G_ACCURACY * (is_open & ~may_be_right).mean()
    return float(least), float(largest)


def column(radius: float) -> str:
    """The name of the certified accuracy at a radius."""
    return f"certified_{radius:g}"


class PublishedMix(LogsExperiment):
    name = "published-mix"
    question = "What is certified of a mix with alpha = 0.76, compared with a net smoothed with less noise?"
    paper = (
        "[BAS24, Fig. 3] and [BAKS24, Fig. SM1], smoothed nets as h, CIFAR-10: by Theorem 4 the curves of the mix and "
        "of the baseline intersect: the mix certifies more at larger radii, the baseline at smaller ones; Theorem 5 "
        "certifies larger radii than Theorem 4 for both; by Theorem 5 the baseline certifies more points."
    )
    values = (*map(column, GRID), "clean", "clean_at_most")
    size = (11, 4.4)

    def cases(self) -> list[Case]:
        return [
            {"h": h, "classifier": classifier, "bound": bound}
            for h in PAIRS
            for classifier in ("mix", "baseline")
            for bound in BOUNDS
        ]

    def measure(self, bench: LogsBench, case: Case) -> dict[str, float]:
        """Certified accuracy at each radius, and the smallest and largest possible clean accuracy."""
        mixed = case["classifier"] == "mix"
        sigma, alpha = (case["h"], ALPHA) if mixed else (PAIRS[case["h"]], 1.0)
        of_h = bench.logs.certificates(COHEN_LOGS[sigma])
        found = certified_by(of_h, alpha, float(sigma), case["bound"])
        accuracies = zip(GRID, found.certified_accuracy(np.maximum(GRID, 1e-9)), strict=True)
        values = {column(radius): float(value) for radius, value in accuracies}
        least, largest = clean_range(of_h, alpha, float(sigma))
        return {**values, "clean": least, "clean_at_most": largest}

    def draw(self, table: LogsTable, figure: Figure) -> None:
        """Draw a panel for each h: a color for each bound, dashes for the baseline."""
        for axes, h in zip(figure.subplots(1, len(PAIRS), sharey=True), PAIRS, strict=True):
            for i, bound in enumerate(BOUNDS):
                for classifier, dashes in (("mix", "-"), ("baseline", "--")):
                    row = table.row(h=h, classifier=classifier, bound=bound)
                    accuracies = [100 * row[column(radius)] for radius in GRID]
                    axes.plot(GRID, accuracies, dashes, color=f"C{i}", label=f"{classifier}, {bound}")
                    if classifier == "mix":
                        axes.plot(0, accuracies[0], "o", color=f"C{i}", markerfacecolor="white", clip_on=False)
            axes.set_title(f"mix: sigma {h}, alpha {ALPHA}; baseline: sigma {PAIRS[h]}", fontsize="small")
            axes.set_xlabel("l_2 radius")
        figure.axes[0].set_ylabel("certified accuracy, %")
        figure.axes[0].legend(fontsize="x-small")

    def summary(self, table: LogsTable) -> str:
        rows = []
        for row in table.rows:
            is_mix = row.case["classifier"] == "mix"
            which = f"mix with sigma {row.case['h']}" if is_mix else f"sigma {PAIRS[row.case['h']]} alone"
            certified = [f"{100 * row[column(radius)]:.1f}" for radius in SHOWN]
            rows.append((which, row.case["bound"], *certified))
        heads = ("classifier", "bound", *(f"{radius:g}" for radius in SHOWN))
        cleans = []
        for h, less in PAIRS.items():
            mixed, alone = (table.row(h=h, classifier=name, bound="sharp") for name in ("mix", "baseline"))
            between = f"between {mixed['clean']:.1%} and {mixed['clean_at_most']:.1%}"
            cleans.append(f"{between} for sigma {h} (sigma {less} alone: {alone['clean']:.1%})")
        return (
            "From h's log alone, which bounds every other class by 1 - p; certified accuracy (%) at l_2 radii:\n\n"
            + markdown_table(heads, rows)
            + "\n\nThe papers chose alpha so that both classifiers have the same clean accuracy. g's outputs are not "
            f"published. With a g that is sure, and right on {G_ACCURACY:.2%} of the images whatever h predicts, the "
            f"mix's clean accuracy would be {' and '.join(cleans)}: where h is not sure, it depends on the probability "
            "that h gives g's class. Here 100,000 hard votes per image bound p; the authors average the probabilities "
            "of 10,000 samples. The papers print Theorem 4 with twice the Lipschitz constant that is proven here, and "
            "do not say which of the four Gaussian-smoothed ResNet-110 the figure shows."
        )

    def agreement(self, table: LogsTable) -> str:
        def gap(h: str, bound: str) -> list[float]:
            mixed, alone = (table.row(h=h, classifier=name, bound=bound) for name in ("mix", "baseline"))
            return [mixed[column(radius)] - alone[column(radius)] for radius in GRID]

        crossing = [gap(h, PRINTED) for h in PAIRS]
        text = verdict(
            {
                "by Theorem 4 the baseline certifies more at the smallest radii": all(g[1] < 0 for g in crossing),
                "by Theorem 4 the mix certifies more at some larger radius": all(max(g) > 0 for g in crossing),
                "Theorem 5 certifies no less than Theorem 4 at every radius": _no_less(table, "theorem5", PRINTED),
                "by Theorem 5 the baseline certifies no less at every radius": all(
                    max(gap(h, "theorem5")) <= 0 for h in PAIRS
                ),
            }
        )
        if _no_less(table, "theorem5", "theorem4"):
            return text
        return f"{text} With the proven constant, Theorem 4 certifies more than Theorem 5 at some radius."


def _no_less(table: LogsTable, larger: str, smaller: str) -> bool:
    """Whether one bound certifies no less than another of every classifier, at every radius."""
    cases = [{"h": h, "classifier": name} for h in PAIRS for name in ("mix", "baseline")]
    pairs = [(table.row(**case, bound=larger), table.row(**case, bound=smaller)) for case in cases]
    return all(more[column(radius)] >= less[column(radius)] for more, less in pairs for radius in GRID)


EXPERIMENT = PublishedMix()
