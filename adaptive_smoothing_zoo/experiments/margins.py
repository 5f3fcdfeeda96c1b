"""How confident g and h are: the gap between the two largest probabilities [BAS24, Table 1]."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.bench import Bench, Table, TripletExperiment
from adaptive_smoothing_zoo.experiments.experiment import Case, Row, markdown_table, not_answered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETS = {"std": "g", "rob": "h"}


class Margins(TripletExperiment):
    name = "margins"
    question = "How confident are g and h where they are right, and where they are wrong?"
    paper = (
        "[BAS24, Table 1] (PGD-20): mean gaps on clean images, correct / incorrect: g 0.982 / 0.698, h 0.854 / 0.434; "
        "h under attack and right: mean 0.768, median 0.933; h clean and wrong: median 0.378. h is confident where it "
        "is right under attack and not where it is wrong on clean images; on this mixing lives."
    )
    values = ("correct", "incorrect")

    def cases(self) -> list[Case]:
        return [{"net": net, "images": images} for net in NETS for images in ("clean", "attacked")]

    def measure(self, bench: Bench, case: Case) -> dict[str, float]:
        """Number, mean and median gap of correct and of incorrect predictions; a gap of no predictions is left out."""
        net = bench.mix({"std": 0.0, "rob": 1.0}[case["net"]])
        log_probabilities = bench.logits(net, bench.images if case["images"] == "clean" else bench.attack(net))
        top = log_probabilities.double().exp().topk(2, dim=1).values
        gap = top[:, 0] - top[:, 1]
        correct = log_probabilities.argmax(dim=1) == bench.labels
        values = {"correct": float(correct.sum()), "incorrect": float((~correct).sum())}
        for name, gaps in (("correct", gap[correct]), ("incorrect", gap[~correct])):
            if len(gaps):
                values[f"mean_{name}"], values[f"median_{name}"] = float(gaps.mean()), float(gaps.quantile(0.5))
        return values

    def draw(self, table: Table, figure: Figure) -> None:
        axes = figure.subplots()
        for offset, name in ((-0.2, "correct"), (0.2, "incorrect")):
            places = [place + offset for place in range(len(table.rows))]
            means = [row.values.get(f"mean_{name}", 0.0) for row in table.rows]
            axes.bar(places, means, width=0.36, label=f"{name}, mean")
            medians = [row[f"median_{name}"] for row in table.rows]
            axes.plot(places, medians, "k_", markersize=22, label="median" if name == "correct" else None)
        axes.set_xticks(range(len(table.rows)), [_name(row) for row in table.rows])
        axes.set_ylabel("gap of the two largest probabilities")
        axes.legend()

    def summary(self, table: Table) -> str:
        """The table of means and medians."""
        heads = ("net, images", "correct: n, mean, median", "incorrect: n, mean, median")
        return markdown_table(
            heads, [(_name(row), _cell(row, "correct"), _cell(row, "incorrect")) for row in table.rows]
        )

    def agreement(self, table: Table) -> str:
        """Is h more confident where it is right under attack than where it is wrong on clean images?"""
        attacked, clean = (table.row(net="rob", images=images) for images in ("attacked", "clean"))
        right, wrong = attacked["mean_correct"], clean["mean_incorrect"]
        if not (isfinite(right) and isfinite(wrong)):
            return not_answered(
                f"a mean gap is missing; h is right on {attacked['correct']:.0f} attacked images and wrong on "
                f"{clean['incorrect']:.0f} clean ones"
            )
        return (
            f"{'yes' if right > wrong else 'no'}: h's mean gap is {right:.3f} where it is right under attack and "
            f"{wrong:.3f} where it is wrong on clean images."
        )


def _name(row: Row) -> str:
    return f"{NETS[row.case['net']]}, {row.case['images']}"


def _cell(row: Row, name: str) -> str:
    if not row[name]:
        return "0"
    return f"{row[name]:.0f}, {row[f'mean_{name}']:.3f}, {row[f'median_{name}']:.3f}"


EXPERIMENT = Margins()
