"""Accuracy of g and of h at points that attack the mix with alpha_t: whom to trust depends on the attack."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.bench import Bench
from adaptive_smoothing_zoo.experiments.experiment import Experiment
from adaptive_smoothing_zoo.experiments.table import Case, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOGITS = tuple(float(value) for value in range(-8, 17, 2))


def cases() -> list[Case]:
    return [{"alpha_logit": value} for value in ("-inf", *(f"{logit:g}" for logit in LOGITS), "inf")]


def measure(bench: Bench, case: Case) -> dict[str, float]:
    """Accuracies of g and h after an attack on the mix with alpha_t = sigmoid(alpha_logit)."""
    points = bench.attack(bench.mix(_sigmoid(float(case["alpha_logit"]))))
    return {"std": bench.accuracy(bench.mix(0.0), points), "rob": bench.accuracy(bench.mix(1.0), points)}


def draw(table: Table, figure: Figure) -> None:
    axes = figure.subplots()
    rows = _rows(table)
    places = [min(max(logit, LOGITS[0] - 2), LOGITS[-1] + 2) for logit, _, _ in rows]
    for column, label in ((1, "g"), (2, "h")):
        axes.plot(places, [100 * row[column] for row in rows], ".-", label=f"accuracy of {label}")
    names = ["g alone", *(f"{value:g}" for value in LOGITS), "h alone"]
    axes.set_xticks(places, names)
    axes.set_xlabel(r"logit of the attacked $\alpha_t$")
    axes.set_ylabel("accuracy, %")
    axes.legend()


def summary(table: Table) -> str:
    """Where g overtakes h."""
    rows = _rows(table)
    first, last = rows[0], rows[-1]
    text = (
        f"Attacking g alone leaves g at {first[1]:.1%} and h at {first[2]:.1%}; attacking h alone leaves g at "
        f"{last[1]:.1%} and h at {last[2]:.1%}."
    )
    better = [logit for logit, std, rob in rows if std > rob]
    if not better:
        return f"{text} h is at least as accurate as g whatever alpha_t is attacked."
    return f"{text} g is the more accurate one from logit(alpha_t) = {min(better):g} on (alpha_t {_name(min(better))})."


def agreement(table: Table) -> str:
    """Is h the better one against attacks on g, and g against attacks on h?"""
    rows = _rows(table)
    against_g, against_h = rows[0], rows[-1]
    if against_g[2] <= against_g[1]:
        return "no: h does not survive the attack on g better than g does."
    if against_h[1] > against_h[2]:
        return "yes: h is the better one against attacks on g, and g against attacks on h."
    return (
        "in part: h is the better one against attacks on g, but g is not against attacks on h alone, from which it "
        "suffers too."
    )


def _rows(table: Table) -> list[tuple[float, float, float]]:
    """(alpha_logit, accuracy of g, of h) in rising order."""
    return sorted((float(row.case["alpha_logit"]), row["std"], row["rob"]) for row in table.rows)


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value > -math.inf else 0.0


def _name(logit: float) -> str:
    return f"{_sigmoid(logit):.5g}"


ATTACK_TARGET = Experiment(
    name="attack-target",
    question="Which of g and h survives an attack on the mix with alpha_t?",
    paper="[BAKS24 v1, Fig. 2] (PGD-20): h is the better one while alpha_t <= sigmoid(5.72) = 0.9967, and g "
    "beyond, since what fools h alone hardly harms g.",
    steps=20,
    table=Table,
    cases=cases,
    values=("std", "rob"),
    measure=measure,
    draw=draw,
    summary=summary,
    agreement=agreement,
)
