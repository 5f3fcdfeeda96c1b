"""Equal-confidence mixing ratios: how far toward its adversarial example an image keeps its class [JS21, Fig. 3]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.smoothed_pair import METHODS, PairBench, PairExperiment, PairTable, paths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATIOS = 20  # mixing ratios tried, evenly spaced up to 1
BINS = 10
EPS = 32.0  # in units of sigma: the paper's 8 at sigma 0.25


class MixingRatios(PairExperiment):
    name = "mixing-ratios"
    question = "How far toward its adversarial example does an image keep its class?"
    paper = (
        "[JS21, Fig. 3], CIFAR-10, ResNet-110 at sigma 0.25, 50 steps of PGD within an l_2 radius of 8: the ratios are "
        "larger after SmoothMix than after Gaussian training, and closer to one half."
    )
    values = ("mean", "median", "changed")
    steps = 50

    def cases(self) -> list[Case]:
        return [{"method": method} for method in METHODS]

    def measure(self, bench: PairBench, case: Case) -> dict[str, float]:
        """Mean, median and histogram of the ratios, over correctly classified images whose class changes.

        Of an even number of ratios, the median is the lower of the middle two. ``changed`` is the share of correctly
        classified images whose class changes; without one there are no numbers.
        """
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
        heads = ("training", "mean ratio", "lower median", "correct images whose class changes, %")
        return markdown_table(heads, rows)

    def agreement(self, table: PairTable) -> str:
        gaussian, smoothmix = (table.row(method=method) for method in METHODS)
        return verdict({"the ratios are larger after SmoothMix": smoothmix["mean"] > gaussian["mean"]})


def first_changes(classes: Tensor, labels: Tensor, ratios: Tensor) -> tuple[Tensor, int]:
    """Where images lose their label on the way, and how many have it at the start.

    Args:
        classes: (R, N) predictions at the ratios.
        labels: (N,).
        ratios: (R,), rising from 0.

    Returns:
        (N,) the smallest ratio with a wrong class, infinite if there is none or the image itself is misclassified; and
        the number of images that are classified correctly.
    """
    wrong = classes != labels
    right = ~wrong[0]
    first = ratios[wrong.double().argmax(dim=0)]
    return first.where(wrong.any(dim=0) & right, torch.inf), int(right.sum())


EXPERIMENT = MixingRatios()
