"""Pseudo-labels of attacked images in training, compared at equal clean accuracy [BAKS24, supp. B.1]."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Case, Row, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.loss_ablation import accuracies, accuracy_cells, after_all_attacks, chosen
from adaptive_smoothing_zoo.experiments.training_bench import TrainingBench, TrainingExperiment, TrainingTable, noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONSTANT = "constant"
TRAININGS = (("B", "attacked"), ("B", "better"), ("T", "attack"), ("BT", "attack"))
HEADS = ("attack in training, pseudo-labels", "clean, %", "PGD, %", "PGD, APGD and APGD that lowers alpha, %", "chosen")


class PseudoLabels(TrainingExperiment):
    name = "pseudo-labels"
    question = "Which pseudo-labels should attacked images have in training?"
    paper = (
        "[BAKS24, supp. B.1]: the best alpha depends on whether and how an image is attacked: g is to be trusted where "
        "the attack targets h ([BAKS24 v1, Fig. 2]: above logit(alpha_t) = 5.72). The published networks learn from "
        "attacks on the mix alone, all with the pseudo-label 1."
    )
    values = ("clean", "attacked", "adapted")

    def cases(self) -> list[Case]:
        """The constant alpha comes first; it needs no training."""
        pairs = ((CONSTANT, CONSTANT), *TRAININGS)
        return [{"attack": attack, "labels": labels} for attack, labels in pairs]

    def measure(self, bench: TrainingBench, case: Case) -> dict[str, float]:
        """Accuracies of the mix after one training; see ``loss_ablation.accuracies``."""
        if case["attack"] == CONSTANT:
            return accuracies(bench, bench.constant())
        training = replace(bench.of_setting(case["attack"]), pseudo_labels=case["labels"])  # type: ignore[arg-type]
        return accuracies(bench, bench.adaptive(training))

    def draw(self, table: TrainingTable, figure: Figure) -> None:
        axes = figure.subplots()
        for offset, name, label in ((-0.2, "attacked", "PGD"), (0.2, "adapted", r"then APGD, also lowering $\alpha$")):
            places = [place + offset for place in range(len(table.rows))]
            axes.bar(places, [100 * row[name] for row in table.rows], width=0.36, label=label)
        axes.set_xticks(range(len(table.rows)), [_name(row).replace(", ", "\n") for row in table.rows])
        axes.set_ylabel("accuracy, %, at equal clean accuracy")
        axes.legend(fontsize="small")

    def summary(self, table: TrainingTable) -> str:
        """Accuracies after each training."""
        attack = table.training.attack
        low, high = attack.alpha_t_logits
        return (
            f"{markdown_table(HEADS, [[_name(row), *accuracy_cells(row), chosen(row)] for row in table.rows])}\n\n"
            f"T attacks the mix with a constant alpha_t whose logit is uniform between {low:g} and {high:g}; BT is B "
            'or T for each image. Pseudo-labels of attacked images: "attacked", always 1; "attack", 0 above '
            f'logit(alpha_t) = {attack.rob_until:g}, else 1; "better", 0 where g is right and h is wrong, else 1.'
        )

    def agreement(self, table: TrainingTable) -> str:
        """Do other pseudo-labels help, and must the network meet attacks on itself?"""
        attacked = {(row.case["attack"], row.case["labels"]): row["attacked"] for row in table.rows}
        usual = attacked["B", "attacked"]
        seen = {
            "pseudo-labels by which net is better, or by the attack, are better than always 1": (
                max(attacked["B", "better"], attacked["BT", "attack"]) > usual
            ),
            "a network that never met an attack on itself is less robust": attacked["T", "attack"] < usual,
        }
        return "\n\n".join([verdict(seen), after_all_attacks(table), noise(table, [r["attacked"] for r in table.rows])])


def _name(row: Row) -> str:
    attack, labels = row.case["attack"], row.case["labels"]
    return "constant alpha" if attack == CONSTANT else f'{attack}, "{labels}"'


EXPERIMENT = PseudoLabels()
