"""Equal-confidence mixing ratios: how far the way to an adversarial example keeps the class [JS21, Fig. 3]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.smoothed_pair import METHODS, PairBench, PairExperiment, PairTable, paths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATIOS = 20  # looked at, at equal distances from 0
BINS = 10
EPS = 32.0  # in units of sigma: the paper's 8 at sigma 0.25


class MixingRatios(PairExperiment):
    name = "mixing-ratios"
    question = "At which share of the way to its adversarial example does an image change its class?"
    paper = (
        "[JS21, Fig. 3], CIFAR-10, ResNet-110 at sigma 0.25, 50-step PGD within 8: after SmoothMix the ratios are "
        "larger than after Gaussian training, nearer to one half."
    )
    values = ("mean", "median", "changed")
    steps = 50

    def cases(self) -> list[Case]:
        return [{"method": method} for method in METHODS]

    def measure(self, bench: PairBench, case: Case) -> dict[str, float]:
        """Mean, median and histogram of the ratios of correctly classified images whose class changes."""
        ends = bench.adversarial(case["method"], EPS * bench.sigma)
        grid = torch.linspace(0.0, 1.0, RATIOS + 1)
        way = paths(bench.examples.images, ends, grid)
        classes = torch.stack([bench.confidence(case["method"], images).argmax(dim=1) for images in way])
        ratios, right = first_changes(classes, bench.examples.labels, grid)
        found = ratios[ratios.isfinite()]
        if not len(found):
            return {}
        shares = torch.histc(found.float(), BINS, 0.0, 1.0) / len(found)
        values = {f"bin_{i}": float(share) for i, share in enumerate(shares)}
        return {**values, "mean": float(found.mean()), "median": float(found.median()), "changed": len(found) / right}

    def draw(self, table: PairTable, figure: Figure) -> None:
        axes = figure.subplots()
        for i, (method, label) in enumerate(METHODS.items()):
            row = table.row(method=method)
            left = [(k + 0.4 * i) / BINS for k in range(BINS)]
            axes.bar(left, [100 * row[f"bin_{k}"] for k in range(BINS)], width=0.4 / BINS, align="edge", label=label)
        axes.set_xlabel("equal-confidence mixing ratio")
        axes.set_ylabel("images, %")
        axes.legend()

    def summary(self, table: PairTable) -> str:
        rows = [
            (METHODS[row.case["method"]], f"{row['mean']:.3f}", f"{row['median']:.2f}", f"{100 * row['changed']:.0f}")
            for row in table.rows
        ]
        heads = ("training", "mean ratio", "median", "correct images whose class changes, %")
        return markdown_table(heads, rows)

    def agreement(self, table: PairTable) -> str:
        gaussian, smoothmix = (table.row(method=method) for method in METHODS)
        return verdict({"the ratios are larger after SmoothMix": smoothmix["mean"] > gaussian["mean"]})


def first_changes(classes: Tensor, labels: Tensor, ratios: Tensor) -> tuple[Tensor, int]:
    """(N,) smallest ratios at which classes (R, N) are wrong; infinite where none is, or the image itself is.

    Also how many images are right themselves.
    """
    wrong = classes != labels
    right = ~wrong[0]
    first = ratios[wrong.double().argmax(dim=0)]
    return first.where(wrong.any(dim=0) & right, torch.inf), int(right.sum())


EXPERIMENT = MixingRatios()
