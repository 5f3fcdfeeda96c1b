"""Confidence of g and of h: the gap between the two largest probabilities [BAS24, Table 1]."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import margin, probability_margin
from adaptive_smoothing_zoo.experiments.bench import Bench, Table, TripletExperiment
from adaptive_smoothing_zoo.experiments.experiment import Case, Row, markdown_table, not_answered
from adaptive_smoothing_zoo.method.classifier import MixedClassifier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETS = {"std": "g", "rob": "h"}
IMAGES = ("clean", "attacked", "gap")  # clean, after PGD on the cross-entropy, and after PGD on the gap itself
BINS = 20  # of a histogram over [0, 1]


class Margins(TripletExperiment):
    name = "margins"
    question = "How confident are g and h where they are right, and where they are wrong?"
    paper = (
        "[BAS24, Table 1] (PGD-20): mean gaps on clean images, correct / incorrect: g 0.982 / 0.698, h 0.854 / 0.434; "
        "h under attack and right: mean 0.768, median 0.933; h clean and wrong: median 0.378. Mixing relies on this: h "
        "is confident where it is right under attack, and not where it is wrong on clean images."
    )
    values = ("correct", "incorrect")
    size = (9.6, 4.4)

    def cases(self) -> list[Case]:
        return [{"net": net, "images": images} for net in NETS for images in IMAGES]

    def measure(self, bench: Bench, case: Case) -> dict[str, float]:
        """Number, mean, median and histogram of the gaps of correct and of incorrect predictions.

        Mean and median of no predictions are left out. "gap" attacks the label's probability minus the largest other
        one with PGD; each image keeps the worse of this end and that of PGD on the cross-entropy.
        """
        net = bench.mix({"std": 0.0, "rob": 1.0}[case["net"]])
        log_probabilities = bench.logits(net, bench.images)
        if case["images"] != "clean":
            log_probabilities = bench.logits(net, bench.once(f"PGD on {case['net']}", lambda: bench.attack(net)))
        if case["images"] == "gap":
            log_probabilities = _lower(bench, net, log_probabilities)
        top = log_probabilities.double().exp().topk(2, dim=1).values
        gap = top[:, 0] - top[:, 1]
        correct = log_probabilities.argmax(dim=1) == bench.labels
        values = {"correct": float(correct.sum()), "incorrect": float((~correct).sum())}
        for name, gaps in (("correct", gap[correct]), ("incorrect", gap[~correct])):
            values |= {f"{name}_{i:02}": float(count) for i, count in enumerate(gaps.histc(BINS, 0.0, 1.0))}
            if len(gaps):
                values[f"mean_{name}"], values[f"median_{name}"] = float(gaps.mean()), float(gaps.quantile(0.5))
        return values

    def draw(self, table: Table, figure: Figure) -> None:
        """Draw a histogram for each net and kind of images: correct against incorrect predictions."""
        panels = figure.subplots(len(NETS), len(IMAGES), sharex=True)
        for axes, row in zip(panels.flat, table.rows, strict=True):
            _histogram(axes, row)
        for axes in panels[-1]:
            axes.set_xlabel("gap of the two largest probabilities", fontsize="small")
        panels[0][0].legend(fontsize="small")

    def summary(self, table: Table) -> str:
        """The table of means and medians, and what the attack on the gap takes from h."""
        heads = ("net, images", "correct: n, mean, median", "incorrect: n, mean, median")
        rows = [(_name(row), _cell(row, "correct"), _cell(row, "incorrect")) for row in table.rows]
        usual, own = (table.row(net="rob", images=images) for images in ("attacked", "gap"))
        said = (
            f"Under the attack on the gap itself h is right on {own['correct']:.0f} images, with a mean gap of "
            f"{_or_none(own['mean_correct'])}; under PGD on the cross-entropy on {usual['correct']:.0f}, with "
            f"{_or_none(usual['mean_correct'])}. [BAS24, Lemma 2] needs the former."
        )
        return f"{markdown_table(heads, rows)}\n\n{said}"

    def agreement(self, table: Table) -> str:
        """Is h more confident where it is right under either attack than where it is wrong on clean images?"""
        clean, attacked, own = (table.row(net="rob", images=images) for images in IMAGES)
        right, least, wrong = attacked["mean_correct"], own["mean_correct"], clean["mean_incorrect"]
        if not (isfinite(right) and isfinite(least) and isfinite(wrong)):
            return not_answered(
                f"a mean gap is missing; h is right on {attacked['correct']:.0f} images after PGD, on "
                f"{own['correct']:.0f} after the attack on its gap, and wrong on {clean['incorrect']:.0f} clean ones"
            )
        ahead = (right > wrong) + (least > wrong)
        word = ("no", "in part", "yes")[ahead]
        return (
            f"{word}: h's mean gap is {right:.3f} where it is right after PGD, {least:.3f} where it is right after the "
            f"attack on its gap, and {wrong:.3f} where it is wrong on clean images."
        )


def _lower(bench: Bench, net: MixedClassifier, known: Tensor) -> Tensor:
    """Log-probabilities (N, C) after PGD on the gap, or the ``known`` ones where these have the lower margin."""
    found = bench.logits(net, bench.attack(net, probability_margin))
    worse = margin(known.exp(), bench.labels) < margin(found.exp(), bench.labels)
    return torch.where(worse[:, None], known, found)


def _histogram(axes: Axes, row: Row) -> None:
    edges = [i / BINS for i in range(BINS)]
    for name, color in (("correct", "tab:blue"), ("incorrect", "tab:red")):
        counts = [row.values.get(f"{name}_{i:02}", 0.0) for i in range(BINS)]
        axes.bar(edges, counts, width=1 / BINS, align="edge", alpha=0.6, color=color, label=name)
        if isfinite(row[f"median_{name}"]):
            axes.axvline(row[f"median_{name}"], color=color, linestyle=":")
    axes.set_title(f"{_name(row)} (dotted: medians)", fontsize="small")


def _name(row: Row) -> str:
    words = {"clean": "clean", "attacked": "after PGD", "gap": "after PGD on the gap"}
    return f"{NETS[row.case['net']]}, {words[row.case['images']]}"


def _cell(row: Row, name: str) -> str:
    if not row[name]:
        return "0"
    return f"{row[name]:.0f}, {_or_none(row[f'mean_{name}'])}, {_or_none(row[f'median_{name}'])}"


def _or_none(value: float) -> str:
    return f"{value:.3f}" if isfinite(value) else "none"


EXPERIMENT = Margins()
