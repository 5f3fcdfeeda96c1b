"""Accuracy against a constant alpha, clean and under attacks on g, on h and on the mix itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from adaptive_smoothing_zoo.experiments.bench import Bench
from adaptive_smoothing_zoo.experiments.experiment import Experiment, verdict
from adaptive_smoothing_zoo.experiments.table import Case, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.48, 0.5, 0.52, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
TARGETS = {"clean": "clean", "std": "STD attack", "rob": "ROB attack", "mix": "MIX attack"}


def cases() -> list[Case]:
    return [{"target": target, "alpha": f"{alpha:g}"} for target in TARGETS for alpha in ALPHAS]


def measure(bench: Bench, case: Case) -> dict[str, float]:
    """Accuracy of the mix with one alpha after an attack on one target."""
    alpha = float(case["alpha"])
    target = {"std": 0.0, "rob": 1.0, "mix": alpha}.get(case["target"])
    return {"accuracy": bench.accuracy(bench.mix(alpha), _points(bench, target))}


def _points(bench: Bench, target: float | None) -> Tensor:
    """The images, or what an attack on the mix with alpha ``target`` makes of them; on g or h alone it is made once."""
    if target is None:
        return bench.images
    if target in (0.0, 1.0):
        return bench.once(f"attack on alpha {target:g}", lambda: bench.attack(bench.mix(target)))
    return bench.attack(bench.mix(target))


def draw(table: Table, figure: Figure) -> None:
    axes = figure.subplots()
    for target, label in TARGETS.items():
        alphas, accuracies = table.curve("alpha", "accuracy", target=target)
        axes.plot(alphas, [100 * value for value in accuracies], ".-", label=label)
    axes.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel(r"$\alpha$")
    axes.set_ylabel("accuracy, %")
    axes.legend()


def summary(table: Table) -> str:
    """The accuracy under the MIX attack around alpha = 1/2, and what the clean accuracy pays."""
    mix, clean = _by_alpha(table, "mix"), _by_alpha(table, "clean")
    return (
        f"Under the MIX attack the accuracy is {mix[0.45]:.1%} at alpha 0.45, {mix[0.55]:.1%} at 0.55 and "
        f"{mix[1.0]:.1%} at 1; {_jump(mix):.0%} of the rise happens between 0.45 and 0.55. Clean accuracy goes from "
        f"{clean[0.0]:.1%} at 0 over {clean[0.55]:.1%} at 0.55 to {clean[1.0]:.1%} at 1.{_outdone(table)}"
    )


def _outdone(table: Table) -> str:
    """Where an attack on g or h alone does more harm than the one on the mix, which is no strong attack there."""
    std, rob, mix = (_by_alpha(table, target) for target in ("std", "rob", "mix"))
    least = {alpha: min(std[alpha], rob[alpha], mix[alpha]) for alpha in mix}
    outdone = [alpha for alpha in mix if (mix[alpha] - least[alpha]) * table.n > 1.5]
    if not outdone:
        return ""
    return (
        f"\n\nAt alpha {', '.join(f'{alpha:g}' for alpha in outdone)} the STD or the ROB attack leaves at least two "
        "examples less than the MIX attack: PGD on the cross-entropy of the mix is no strong attack there, and the "
        f"mix no more robust than the strongest of the three shows, with {least[0.45]:.1%} at 0.45 and "
        f"{least[0.55]:.1%} at 0.55."
    )


def agreement(table: Table) -> str:
    """Is there a jump at 1/2, and do the other curves go the ways that the authors saw?"""
    mix, std, rob = (_by_alpha(table, target) for target in ("mix", "std", "rob"))
    slack = 1.0 / table.n
    seen = {
        "the accuracy under the MIX attack jumps where alpha passes 0.5": _jump(mix) >= 1 / 3,
        "the accuracy under the STD attack rises with alpha": std[1.0] >= std[0.0] - slack,
        "the accuracy under the ROB attack falls with alpha": rob[1.0] <= rob[0.0] + slack,
    }
    return verdict(seen)


def _by_alpha(table: Table, target: str) -> dict[float, float]:
    return dict(zip(*table.curve("alpha", "accuracy", target=target), strict=True))


def _jump(mix: dict[float, float]) -> float:
    """The share of the rise from alpha 0 to 1 that happens between 0.45 and 0.55."""
    rise = mix[1.0] - mix[0.0]
    return (mix[0.55] - mix[0.45]) / rise if rise > 0 else 0.0


ALPHA_SWEEP = Experiment(
    name="alpha-sweep",
    question="How do clean and attacked accuracy change with a constant alpha?",
    paper="000 Fig. 4, 001 Fig. 2 (PGD-20): the accuracy under the MIX attack jumps from near zero to two thirds of "
    "h's when alpha passes 0.5, where the theorem on h's margins begins to speak; under the STD attack accuracy rises "
    "with alpha, under the ROB attack it falls; the clean accuracy falls slowly above 0.5.",
    steps=20,
    table=Table,
    cases=cases,
    measure=measure,
    draw=draw,
    summary=summary,
    agreement=agreement,
)
