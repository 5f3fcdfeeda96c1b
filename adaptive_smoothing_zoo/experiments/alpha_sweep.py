"""Accuracy against a constant alpha, clean and under attacks on g, on h and on the mix [BAKS24 v1, Fig. 4]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from adaptive_smoothing_zoo.experiments.bench import Bench, Table, TripletExperiment, share
from adaptive_smoothing_zoo.experiments.experiment import Case, not_answered, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adaptive_smoothing_zoo.experiments.published_curves import PublishedRun

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.48, 0.5, 0.52, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
TARGETS = {"clean": "clean", "std": "STD attack", "rob": "ROB attack", "mix": "MIX attack"}


class AlphaSweep(TripletExperiment):
    name = "alpha-sweep"
    question = "How do clean and attacked accuracy change with a constant alpha?"
    paper = (
        "[BAKS24 v1, Fig. 4] and [BAS24, Fig. 2] (PGD-20): the accuracy under the MIX attack jumps from near zero to "
        "two thirds of h's when alpha passes 0.5, from where on h's margin can outweigh g; under the STD attack "
        "accuracy rises with alpha, under the ROB attack it falls; above 0.5 the clean accuracy falls slowly."
    )
    values = ("accuracy",)
    compares = True
    size = (7.2, 4.8)

    def cases(self) -> list[Case]:
        return [{"target": target, "alpha": f"{alpha:g}"} for target in TARGETS for alpha in ALPHAS]

    def measure(self, bench: Bench, case: Case) -> dict[str, float]:
        """Accuracy of the mix with one alpha after an attack on one target.

        The row of the attack on the mix also has ``strongest``: the share of examples on which the mix is right for the
        clean image and after each of the three attacks.
        """
        alpha = float(case["alpha"])
        mix = bench.mix(alpha)
        targets = {"clean": None, "std": 0.0, "rob": 1.0, "mix": alpha}
        names = tuple(TARGETS) if case["target"] == "mix" else (case["target"],)
        right = {name: bench.correct(mix, _points(bench, targets[name])) for name in names}
        values = {"accuracy": share(right[case["target"]])}
        if len(right) > 1:
            values["strongest"] = share(torch.stack(list(right.values())).all(dim=0))
        return values

    def draw(self, table: Table, figure: Figure) -> None:
        axes = figure.subplots()
        curves = {label: _by_alpha(table, target) for target, label in TARGETS.items()}
        curves["the strongest of them"] = strongest(table)
        for label, curve in curves.items():
            dashes = ".-" if label in TARGETS.values() else "k:"
            axes.plot(list(curve), [100 * value for value in curve.values()], dashes, label=label)
        axes.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel(r"$\alpha$")
        axes.set_ylabel("accuracy, %")
        axes.legend()

    def compare(self, table: Table, figure: Figure, published: Sequence[PublishedRun]) -> str:
        """Draw the authors' sweep under the same norm in thin lines; describe its jump at 1/2."""
        runs = [run for run in published if run.norm == table.threat_model and run.is_mix]
        if not runs:
            return f"the file has none of the mixed classifier under {table.threat_model}."
        run, axes = runs[0], figure.axes[0]
        for (target, label), line in zip(TARGETS.items(), axes.get_lines(), strict=False):
            alphas, accuracies = run.by_alpha(target)
            percents = [100 * accuracy for accuracy in accuracies]
            axes.plot(alphas, percents, "--", color=line.get_color(), linewidth=0.8, label=f"published, {label}")
        axes.legend(fontsize="x-small")
        low, high = (_interpolated(run, "mix", alpha) for alpha in (0.45, 0.55))
        return (
            f"CIFAR-10, {run.nets}, PGD, the first {run.n} test images: the MIX attack leaves {low:.1%} at alpha 0.45, "
            f"{high:.1%} at 0.55 and {run.h[1]:.1%} with h alone; clean accuracy is {run.g[0]:.1%} with g alone, "
            f"{_interpolated(run, 'clean', 0.55):.1%} at 0.55 and {run.h[0]:.1%} with h alone."
        )

    def summary(self, table: Table) -> str:
        """Accuracy under the strongest of the attacks around alpha = 1/2, and clean accuracy."""
        worst, clean = strongest(table), _by_alpha(table, "clean")
        rise = "" if unknown(table) else f"; {jump(table):.0%} of the rise from 0 to 1 happens between 0.45 and 0.55"
        counted = (
            "the mix must be right on the clean image and after all three attacks"
            if _is_per_example(table)
            else "the lowest recorded accuracy, an upper bound: what withstands all attacks was not recorded"
        )
        return (
            f"Under the strongest of the attacks ({counted}) the accuracy is {worst[0.45]:.1%} at alpha 0.45, "
            f"{worst[0.55]:.1%} at 0.55 and {worst[1.0]:.1%} at 1{rise}. Clean accuracy is {clean[0.0]:.1%} at 0, "
            f"{clean[0.55]:.1%} at 0.55 and {clean[1.0]:.1%} at 1.{_outdone(table)}"
        )

    def agreement(self, table: Table) -> str:
        """Is there a jump at 1/2, and do the ends of the other curves lie as the authors saw?"""
        if why := unknown(table):
            return not_answered(why)
        std, rob = _by_alpha(table, "std"), _by_alpha(table, "rob")
        seen = {
            "the accuracy under the strongest of the attacks jumps where alpha passes 0.5": jump(table) >= 1 / 3,
            "the accuracy under the STD attack rises with alpha": std[1.0] > std[0.0],
            "the accuracy under the ROB attack falls with alpha": rob[1.0] < rob[0.0],
        }
        return verdict(seen)


def _points(bench: Bench, target: float | None) -> Tensor:
    """The images after an attack on the mix with alpha ``target``, or as they are; g and h alone are attacked once."""
    if target is None:
        return bench.images
    if target in (0.0, 1.0):
        return bench.once(f"attack on alpha {target:g}", lambda: bench.attack(bench.mix(target)))
    return bench.attack(bench.mix(target))


def _outdone(table: Table) -> str:
    """The alphas at which an attack on g or h alone is stronger than the attack on the mix; empty if there are none."""
    std, rob, mix = (_by_alpha(table, target) for target in ("std", "rob", "mix"))
    outdone = [alpha for alpha in mix if (mix[alpha] - min(std[alpha], rob[alpha])) * table.n > 1.5]
    if not outdone:
        return ""
    return (
        f"\n\nAt alpha {', '.join(f'{alpha:g}' for alpha in outdone)} the STD or the ROB attack leaves at least two "
        f"fewer examples right than the MIX attack ({mix[0.45]:.1%} at 0.45, {mix[0.55]:.1%} at 0.55): PGD on the "
        "mix's cross-entropy is a weak attack there."
    )


def strongest(table: Table) -> dict[float, float]:
    """Accuracy by alpha under all attacks, example by example; in tables that lack it the lowest, an upper bound."""
    if _is_per_example(table):
        return dict(zip(*table.curve("alpha", "strongest", target="mix"), strict=True))
    curves = [_by_alpha(table, target) for target in TARGETS]
    return {alpha: min(curve[alpha] for curve in curves) for alpha in curves[0]}


def jump(table: Table) -> float:
    """The share of the rise of ``strongest`` from alpha 0 to 1 that happens between 0.45 and 0.55."""
    worst = strongest(table)
    return (worst[0.55] - worst[0.45]) / (worst[1.0] - worst[0.0])


def unknown(table: Table) -> str:
    """A clause that says why the jump is undefined; empty if it is defined."""
    worst = strongest(table)
    if worst[1.0] > worst[0.0]:
        return ""
    return (
        f"h is no more accurate than g under the strongest of the attacks ({worst[1.0]:.1%} and {worst[0.0]:.1%}), so "
        "nothing rises with alpha"
    )


def _interpolated(run: PublishedRun, target: str, alpha: float) -> float:
    """A published accuracy at an alpha, linear between its neighbours."""
    return float(np.interp(alpha, *run.by_alpha(target)))


def _by_alpha(table: Table, target: str) -> dict[float, float]:
    return dict(zip(*table.curve("alpha", "accuracy", target=target), strict=True))


def _is_per_example(table: Table) -> bool:
    return all("strongest" in row.values for row in table.where(target="mix"))


EXPERIMENT = AlphaSweep()
