"""Scales of alpha_logit after training, compared at equal clean accuracy [BAKS24, supp., Table SM3]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Case, Row, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.loss_ablation import (
    HEADS,
    accuracies,
    accuracy_cells,
    after_all_attacks,
    chosen,
)
from adaptive_smoothing_zoo.experiments.training_bench import TrainingBench, TrainingExperiment, TrainingTable, noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONSTANT = "0"  # no scale: alpha does not depend on the image
PAPER = {"0": 52.6, "0.5": 55.1, "1": 55.5, "2": 55.7, "4": 55.6}  # PGD-20 accuracy in %; the constant's is SM2's
SCALES = tuple(scale for scale in PAPER if scale != CONSTANT)
BEST = "2"


class SigmoidScale(TrainingExperiment):
    name = "sigmoid-scale"
    question = "How steeply should alpha follow the mixing network's output?"
    paper = (
        "[BAKS24, supp., Table SM3] (CIFAR-10, setting B, PGD-20, 90 ± 0.02 % clean): scales of alpha_logit of 0.5, 1, "
        "2 and 4 give 55.1, 55.5, 55.7 and 55.6 %: 2 is best, and too large a scale makes the mix less stable under "
        "attack. A constant alpha has 52.6 % (Table SM2)."
    )
    values = ("clean", "attacked", "adapted")

    def cases(self) -> list[Case]:
        return [{"scale": scale} for scale in PAPER]

    def measure(self, bench: TrainingBench, case: Case) -> dict[str, float]:
        """Accuracies with one scale, from the same network for all scales; see ``loss_ablation.accuracies``."""
        if case["scale"] == CONSTANT:
            return accuracies(bench, bench.constant())
        return accuracies(bench, bench.adaptive(bench.of_setting("B"), float(case["scale"])))

    def draw(self, table: TrainingTable, figure: Figure) -> None:
        """Draw accuracy against scale, here and published, and the constant alpha as a line."""
        here, published = figure.subplots(1, 2)
        for name, label in (("attacked", "PGD"), ("adapted", r"then APGD, also lowering $\alpha$")):
            percent = {row.case["scale"]: 100 * row[name] for row in table.rows}
            (line,) = here.plot(SCALES, [percent[scale] for scale in SCALES], ".-", label=label)
            here.axhline(percent[CONSTANT], color=line.get_color(), linestyle=":")
        published.plot(SCALES, [PAPER[scale] for scale in SCALES], ".-")
        published.axhline(PAPER[CONSTANT], linestyle=":")
        for axes, title in ((here, "here"), (published, "published, CIFAR-10, PGD-20")):
            axes.set_xlabel(r"scale of $\alpha$'s logit (dotted: constant $\alpha$)")
            axes.set_title(title, fontsize="medium")
        here.legend(fontsize="small")
        here.set_ylabel("accuracy, %, at equal clean accuracy")

    def summary(self, table: TrainingTable) -> str:
        """Accuracies with every scale, next to the paper's."""

        def cells(row: Row) -> list[str]:
            scale = row.case["scale"]
            name = "0, a constant alpha" if scale == CONSTANT else scale
            return [name, *accuracy_cells(row), f"{PAPER[scale]:.1f}", chosen(row)]

        return markdown_table(("scale", *HEADS), [cells(row) for row in table.rows])

    def agreement(self, table: TrainingTable) -> str:
        """Is a scale of 2 best and 0.5 worst, and is every scale better than the constant alpha?"""
        attacked = {row.case["scale"]: 100 * row["attacked"] for row in table.rows}
        constant = attacked.pop(CONSTANT)
        best, worst = max(attacked.values()), min(attacked.values())
        seen = {
            f"a scale of {BEST} is the best one": all(attacked[BEST] > attacked[s] for s in SCALES if s != BEST),
            "0.5 is the worst one of the four": all(attacked["0.5"] < attacked[s] for s in SCALES if s != "0.5"),
            "every scale is better than the constant alpha": worst > constant,
        }
        at_best = ", ".join(scale for scale in SCALES if attacked[scale] == best)
        highest = (
            f"Under PGD the best scale is {at_best}, with {best:.2f} %; the four lie {best - worst:.2f} points apart "
            f"(published: 0.6), and the constant alpha has {constant:.2f} %. "
            + noise(table, [value / 100 for value in attacked.values()])
        )
        return "\n\n".join([verdict(seen), highest, after_all_attacks(table)])


EXPERIMENT = SigmoidScale()
