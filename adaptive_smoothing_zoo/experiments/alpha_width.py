"""Widths of alpha's range after training, compared at equal clean accuracy [BAKS24, supp. B]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Case, Row, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.loss_ablation import accuracies, accuracy_cells, after_all_attacks, chosen
from adaptive_smoothing_zoo.experiments.training_bench import TrainingBench, TrainingExperiment, TrainingTable, noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONSTANT = "0"  # no width: alpha does not depend on the image
WIDTHS = ("0.05", "0.1", "0.15", "0.3", "0.5", "1")
PUBLISHED = ("0.1", "0.15")  # which work well, the authors say
HEADS = ("width", "clean, %", "PGD, %", "PGD, APGD and APGD that lowers alpha, %", "chosen")


class AlphaWidth(TrainingExperiment):
    name = "alpha-width"
    question = "How wide should alpha's range be?"
    paper = (
        "[BAKS24, supp. B]: alpha_max - alpha_min of 0.1 or 0.15 works well, since a slight increase of alpha can add "
        "much robustness where it is most sensitive; alpha_min is then set by a clean accuracy or a robustness. The "
        "published CIFAR-100 models have widths of 0.15 and 0.1."
    )
    values = ("clean", "attacked", "adapted")

    def cases(self) -> list[Case]:
        """The constant alpha comes first; it needs no training."""
        return [{"width": width} for width in (CONSTANT, *WIDTHS)]

    def measure(self, bench: TrainingBench, case: Case) -> dict[str, float]:
        """Accuracies with one width, from the same network for all widths; see ``loss_ablation.accuracies``."""
        if case["width"] == CONSTANT:
            return accuracies(bench, bench.constant())
        return accuracies(bench, bench.in_range(bench.of_setting("B"), float(case["width"])))

    def draw(self, table: TrainingTable, figure: Figure) -> None:
        axes = figure.subplots()
        for name, label in (("attacked", "PGD"), ("adapted", r"then APGD, also lowering $\alpha$")):
            percent = [100 * row[name] for row in table.rows]
            axes.plot([row.case["width"] for row in table.rows], percent, ".-", label=label)
        axes.set_xlabel(r"width of $\alpha$'s range (0: constant $\alpha$)")
        axes.set_ylabel("accuracy, %, at equal clean accuracy")
        axes.legend(fontsize="small")

    def summary(self, table: TrainingTable) -> str:
        """Accuracies with each width."""

        def cells(row: Row) -> list[str]:
            width = row.case["width"]
            name = "0, a constant alpha" if width == CONSTANT else width
            return [name, *accuracy_cells(row), chosen(row)]

        return markdown_table(HEADS, [cells(row) for row in table.rows])

    def agreement(self, table: TrainingTable) -> str:
        """Is a published width better than a constant alpha, and no worse than wider ones once alpha is attacked?"""
        adapted = {row.case["width"]: row["adapted"] for row in table.rows}
        attacked = {row.case["width"]: row["attacked"] for row in table.rows}
        published = max(adapted[width] for width in PUBLISHED)
        wider = max(value for width, value in adapted.items() if float(width) > max(map(float, PUBLISHED)))
        seen = {
            "a width of 0.1 or 0.15 is better than a constant alpha under PGD": (
                max(attacked[width] for width in PUBLISHED) > attacked[CONSTANT]
            ),
            "after all attacks one of them is better than the constant alpha": published > adapted[CONSTANT],
            "no wider range is better there": published >= wider,
        }
        near = noise(table, [adapted[width] for width in WIDTHS])
        return "\n\n".join([verdict(seen), after_all_attacks(table), near])


EXPERIMENT = AlphaWidth()
