"""The scale of alpha_logit after training, compared at equal clean accuracy [BAKS24, supp., Table SM3]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Experiment, verdict
from adaptive_smoothing_zoo.experiments.loss_ablation import HEADS, accuracies, accuracy_cells, after_lowering, chosen
from adaptive_smoothing_zoo.experiments.table import Case, Row
from adaptive_smoothing_zoo.experiments.training_bench import TrainingBench, TrainingTable, noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONSTANT = "0"  # no scale: alpha does not depend on the image
PAPER = {"0": 52.6, "0.5": 55.1, "1": 55.5, "2": 55.7, "4": 55.6}  # PGD-20 accuracy in %; the constant's is SM2's
SCALES = tuple(scale for scale in PAPER if scale != CONSTANT)
BEST = "2"


def cases() -> list[Case]:
    return [{"scale": scale} for scale in PAPER]


def measure(bench: TrainingBench, case: Case) -> dict[str, float]:
    """One scale of the same network; see ``loss_ablation.accuracies``."""
    if case["scale"] == CONSTANT:
        return accuracies(bench, bench.constant())
    return accuracies(bench, bench.adaptive(bench.of("B"), float(case["scale"])))


def draw(table: TrainingTable, figure: Figure) -> None:
    """Accuracy against scale, here and published; the constant alpha as a line."""
    here, published = figure.subplots(1, 2)
    for name, label in (("attacked", "PGD"), ("lowered", r"then APGD that lowers $\alpha$")):
        (line,) = here.plot(SCALES, [100 * _row(table, scale)[name] for scale in SCALES], ".-", label=label)
        here.axhline(100 * _row(table, CONSTANT)[name], color=line.get_color(), linestyle=":")
    published.plot(SCALES, [PAPER[scale] for scale in SCALES], ".-")
    published.axhline(PAPER[CONSTANT], linestyle=":")
    for axes, title in ((here, "here"), (published, "published, CIFAR-10, PGD-20")):
        axes.set_xlabel(r"scale of $\alpha$'s logit (dotted: constant $\alpha$)")
        axes.set_title(title, fontsize="medium")
    here.legend(fontsize="small")
    here.set_ylabel("accuracy, %, at equal clean accuracy")


def summary(table: TrainingTable) -> str:
    """Accuracies with every scale, the paper's beside them."""
    lines = [f"| scale | {HEADS} | published, PGD-20 | chosen |", "| --- | --- | --- | --- | --- | --- |"]
    for row in table.rows:
        scale = row.case["scale"]
        name = "0, a constant alpha" if scale == CONSTANT else scale
        lines.append(f"| {name} | {accuracy_cells(row)} | {PAPER[scale]:.1f} | {chosen(row)} |")
    return "\n".join(lines)


def agreement(table: TrainingTable) -> str:
    """Is a scale of 2 the best one, are all close together, and do all beat the constant alpha?"""
    attacked = {scale: 100 * _row(table, scale)["attacked"] for scale in PAPER}
    values = [attacked[scale] for scale in SCALES]
    seen = {
        f"a scale of {BEST} is the best one": attacked[BEST]
        > max(attacked[scale] for scale in SCALES if scale != BEST),
        "0.5 is the worst one of the four": attacked["0.5"] < min(attacked[scale] for scale in SCALES[1:]),
        "every scale is better than the constant alpha": min(values) > attacked[CONSTANT],
    }
    at_best = ", ".join(scale for scale in SCALES if attacked[scale] == max(values))
    return "\n\n".join(
        [
            verdict(seen),
            f"Under PGD the best scale is {at_best}, with {max(values):.2f} %; the four lie "
            f"{max(values) - min(values):.2f} points apart (published: 0.6), and the constant alpha has "
            f"{attacked[CONSTANT]:.2f} %. " + noise(table, [value / 100 for value in values]),
            after_lowering(table),
        ]
    )


def _row(table: TrainingTable, scale: str) -> Row:
    (row,) = table.where(scale=scale)
    return row


SIGMOID_SCALE: Experiment[TrainingBench, TrainingTable] = Experiment(
    name="sigmoid-scale",
    question="How steep should alpha follow the mixing network's output?",
    paper="[BAKS24, supp., Table SM3] (CIFAR-10, setting B, PGD-20, 90 ± 0.02 % clean): scales of alpha_logit of 0.5, "
    "1, 2 and 4 give 55.1, 55.5, 55.7 and 55.6 %: 2 is the best one, and too large a scale makes the mix less stable "
    "under attack. A constant alpha has 52.6 % (Table SM2).",
    steps=20,
    table=TrainingTable,
    cases=cases,
    values=("clean", "attacked", "lowered"),
    measure=measure,
    draw=draw,
    summary=summary,
    agreement=agreement,
)
