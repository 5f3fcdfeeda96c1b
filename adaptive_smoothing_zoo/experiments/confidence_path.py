"""Confidence of two classes on the way from an image to an unrestricted adversarial example [JS21, Fig. 2]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.smoothed_pair import METHODS, PairBench, PairExperiment, PairTable, paths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATIOS = tuple(0.1 * i for i in range(11))
EXAMPLES = ("0", "1")


def column(kind: str, ratio: float) -> str:
    """The name of a confidence at a mixing ratio."""
    return f"{kind}_{ratio:.1f}"


class ConfidencePath(PairExperiment):
    name = "confidence-path"
    question = "How does confidence change on the way to an unrestricted adversarial example?"
    paper = (
        "[JS21, Fig. 2], two images of CIFAR-10, a smoothed ResNet-110 at sigma 0.25: the adversarial example has far "
        "more confidence in its class than the image has in its own."
    )
    values = tuple(column(kind, ratio) for kind in ("true", "adversarial") for ratio in RATIOS)
    steps = 16
    size = (9, 4)

    def cases(self) -> list[Case]:
        return [{"method": method, "example": example} for method in METHODS for example in EXAMPLES]

    def measure(self, bench: PairBench, case: Case) -> dict[str, float]:
        """Confidence in the label, and in the class at the end of the path, at each ratio.

        Of the examples whose class changes, these are the two on whose images the net is least sure. Without a second
        one (or a first) its row has no numbers.
        """
        method, labels = case["method"], bench.examples.labels
        ends = bench.adversarial(method, None)
        first, last = (bench.confidence(method, images) for images in (bench.examples.images, ends))
        changed = (first.argmax(dim=1) == labels) & (last.argmax(dim=1) != labels)
        if int(changed.sum()) <= int(case["example"]):
            return {}
        sure = first.amax(dim=1).where(changed, 2.0)
        row = int(sure.argsort(stable=True)[int(case["example"])])
        found = last[row].argmax()
        ratios = torch.tensor(RATIOS)
        way = paths(bench.examples.images[row : row + 1], ends[row : row + 1], ratios).flatten(0, 1)
        along = bench.confidence(method, way)
        values = {"index": float(row), "adversarial_class": float(found)}
        for ratio, confidence in zip(RATIOS, along, strict=True):
            values[column("true", ratio)] = float(confidence[labels[row]])
            values[column("adversarial", ratio)] = float(confidence[found])
        return values

    def draw(self, table: PairTable, figure: Figure) -> None:
        for axes, (method, label) in zip(figure.subplots(1, len(METHODS), sharey=True), METHODS.items(), strict=True):
            for i, row in enumerate(table.where(method=method)):
                for kind, dashes in (("true", "-"), ("adversarial", "--")):
                    confidences = [100 * row[column(kind, ratio)] for ratio in RATIOS]
                    axes.plot(RATIOS, confidences, dashes, color=f"C{i}", label=f"image {row['index']:g}, {kind} class")
            axes.set_title(label, fontsize="small")
            axes.set_xlabel("mixing ratio")
            axes.legend(fontsize="x-small")
        figure.axes[0].set_ylabel("confidence, %")

    def summary(self, table: PairTable) -> str:
        rows = [
            (
                METHODS[row.case["method"]],
                f"{row['index']:g}",
                *(
                    f"{100 * row[column('true', r)]:.0f} / {100 * row[column('adversarial', r)]:.0f}"
                    for r in RATIOS[::2]
                ),
            )
            for row in table.rows
        ]
        heads = ("training", "image", *(f"ratio {ratio:.1f}" for ratio in RATIOS[::2]))
        return (
            "For each net, the two images on which it is least sure of those whose class changes. Confidence (%) in "
            "the true class / in the class at the end of the path:\n\n" + markdown_table(heads, rows)
        )

    def agreement(self, table: PairTable) -> str:
        rows = list(table.where(method="gaussian"))
        return verdict(
            {
                "the adversarial example has more confidence in its class than the image has in its own": all(
                    row[column("adversarial", 1.0)] > row[column("true", 0.0)] for row in rows
                )
            }
        )


EXPERIMENT = ConfidencePath()
