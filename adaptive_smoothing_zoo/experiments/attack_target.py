"""Accuracy of g and of h on images that attack the mix with alpha_t [BAKS24 v1, Fig. 2]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.bench import Bench, Table, TripletExperiment
from adaptive_smoothing_zoo.experiments.experiment import Case

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = 5.72  # logit(alpha_t) up to which h is more accurate
LOGITS = tuple(float(value) for value in range(-8, 17, 2))


class AttackTarget(TripletExperiment):
    name = "attack-target"
    question = "Which of g and h survives an attack on the mix with alpha_t?"
    paper = (
        "[BAKS24 v1, Fig. 2] (PGD-20): h is more accurate up to alpha_t = sigmoid(5.72) = 0.9967, and g above, since "
        "an attack on h alone hardly harms g."
    )
    values = ("std", "rob")

    def cases(self) -> list[Case]:
        return [{"alpha_logit": value} for value in ("-inf", *(f"{logit:g}" for logit in LOGITS), "inf")]

    def measure(self, bench: Bench, case: Case) -> dict[str, float]:
        """Accuracies of g and h after an attack on the mix with alpha_t = sigmoid(alpha_logit)."""
        points = bench.attack(bench.mix(_sigmoid(float(case["alpha_logit"]))))
        return {"std": bench.accuracy(bench.mix(0.0), points), "rob": bench.accuracy(bench.mix(1.0), points)}

    def draw(self, table: Table, figure: Figure) -> None:
        axes = figure.subplots()
        for name, label in (("std", "g"), ("rob", "h")):
            logits, accuracies = table.curve("alpha_logit", name)
            places = [min(max(logit, LOGITS[0] - 2), LOGITS[-1] + 2) for logit in logits]
            axes.plot(places, [100 * accuracy for accuracy in accuracies], ".-", label=f"accuracy of {label}")
        axes.axvline(PAPER, color="grey", linestyle=":", label="published: g overtakes h, CIFAR-10")
        axes.set_xticks(places, ["g alone", *(f"{value:g}" for value in LOGITS), "h alone"])
        axes.set_xlabel(r"logit of the attacked $\alpha_t$")
        axes.set_ylabel("accuracy, %")
        axes.legend()

    def summary(self, table: Table) -> str:
        """Where g overtakes h."""
        first, last = table.rows[0], table.rows[-1]
        text = (
            f"Attacking g alone leaves g at {first['std']:.1%} and h at {first['rob']:.1%}; attacking h alone leaves g "
            f"at {last['std']:.1%} and h at {last['rob']:.1%}."
        )
        better = [row["alpha_logit"] for row in table.rows if row["std"] > row["rob"]]
        if not better:
            return f"{text} h is at least as accurate as g whatever alpha_t is attacked."
        if better != [row["alpha_logit"] for row in table.rows[-len(better) :]]:
            return f"{text} g is more accurate only at logit(alpha_t) = {', '.join(f'{x:g}' for x in better)}."
        start = better[0]
        return f"{text} g is more accurate from logit(alpha_t) = {start:g} on (alpha_t {_sigmoid(start):.5g})."

    def agreement(self, table: Table) -> str:
        """Is h more accurate under the attack on g, and g under the attack on h?"""
        against_g, against_h = table.rows[0], table.rows[-1]
        if against_g["rob"] <= against_g["std"]:
            return "no: under the attack on g, h is no more accurate than g."
        if against_h["std"] > against_h["rob"]:
            return "yes: h is more accurate under the attack on g, and g under the attack on h."
        return "in part: h is more accurate under the attack on g, but g is not under the attack on h."


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value > -math.inf else 0.0


EXPERIMENT = AttackTarget()
