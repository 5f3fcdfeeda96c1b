"""How confident g and h are: the gap between the two largest probabilities, for right and wrong predictions."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.bench import Bench
from adaptive_smoothing_zoo.experiments.experiment import Experiment, not_answered
from adaptive_smoothing_zoo.experiments.table import Case, Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETS = {"std": "g", "rob": "h"}


def cases() -> list[Case]:
    return [{"net": net, "images": images} for net in NETS for images in ("clean", "attacked")]


def measure(bench: Bench, case: Case) -> dict[str, float]:
    """Number, mean and median gap of correct and of incorrect predictions; a gap of no predictions is left out."""
    net = bench.mix({"std": 0.0, "rob": 1.0}[case["net"]])
    points = bench.images if case["images"] == "clean" else bench.attack(net)
    log_probabilities = bench.logits(net, points)
    top = log_probabilities.double().exp().topk(2, dim=1).values
    gap = top[:, 0] - top[:, 1]
    correct = log_probabilities.argmax(dim=1) == bench.labels
    values = {"correct": float(correct.sum()), "incorrect": float((~correct).sum())}
    for name, gaps in (("correct", gap[correct]), ("incorrect", gap[~correct])):
        if len(gaps):
            values[f"mean_{name}"], values[f"median_{name}"] = float(gaps.mean()), float(gaps.quantile(0.5))
    return values


def draw(table: Table, figure: Figure) -> None:
    axes = figure.subplots()
    groups = [(f"{NETS[row.case['net']]}, {row.case['images']}", row.values) for row in table.rows]
    for offset, name in ((-0.2, "correct"), (0.2, "incorrect")):
        places = [place + offset for place in range(len(groups))]
        means = [values.get(f"mean_{name}", 0.0) for _, values in groups]
        medians = [values.get(f"median_{name}", float("nan")) for _, values in groups]
        axes.bar(places, means, width=0.36, label=f"{name}, mean")
        axes.plot(places, medians, "k_", markersize=22, label="median" if name == "correct" else None)
    axes.set_xticks(range(len(groups)), [name for name, _ in groups])
    axes.set_ylabel("gap of the two largest probabilities")
    axes.legend()


def summary(table: Table) -> str:
    """The table of means and medians."""
    lines = ["| net, images | correct: n, mean, median | incorrect: n, mean, median |", "| --- | --- | --- |"]
    for row in table.rows:
        name = f"{NETS[row.case['net']]}, {row.case['images']}"
        lines.append(f"| {name} | {_cell(row, 'correct')} | {_cell(row, 'incorrect')} |")
    return "\n".join(lines)


def agreement(table: Table) -> str:
    """Is h more confident where it is right under attack than where it is wrong on clean images?"""
    h = {row.case["images"]: row for row in table.where(net="rob")}
    right, wrong = h["attacked"]["mean_correct"], h["clean"]["mean_incorrect"]
    if not (isfinite(right) and isfinite(wrong)):
        return not_answered(
            f"a mean gap is missing; h is right on {h['attacked']['correct']:.0f} attacked images and wrong on "
            f"{h['clean']['incorrect']:.0f} clean ones"
        )
    verdict = "yes" if right > wrong else "no"
    return (
        f"{verdict}: h's mean gap is {right:.3f} where it is right under attack and {wrong:.3f} where it is wrong on "
        "clean images."
    )


def _cell(row: Row, name: str) -> str:
    if not row[name]:
        return "0"
    return f"{row[name]:.0f}, {row[f'mean_{name}']:.3f}, {row[f'median_{name}']:.3f}"


MARGINS = Experiment(
    name="margins",
    question="How confident are g and h where they are right, and where they are wrong?",
    paper="[BAS24, Table 1] (PGD-20): mean gaps on clean images, correct / incorrect: g 0.982 / 0.698, h 0.854 / "
    "0.434; h under attack and right: mean 0.768, median 0.933; h clean and wrong: median 0.378. h is confident where "
    "it is right under attack and not where it is wrong on clean images; on this mixing lives.",
    steps=20,
    table=Table,
    cases=cases,
    values=("correct", "incorrect"),
    measure=measure,
    draw=draw,
    summary=summary,
    agreement=agreement,
)
