"""Mixing networks trained in the settings A, B and C, each attacked in A, B, C and D [BAKS24 v1, Tables 1 and 2]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adaptive_smoothing_zoo.attacks.views import GrayBox
from adaptive_smoothing_zoo.experiments.bench import share
from adaptive_smoothing_zoo.experiments.experiment import ROUNDING, Case, markdown_table, not_answered, verdict
from adaptive_smoothing_zoo.experiments.training_bench import (
    Mixed,
    TrainingBench,
    TrainingExperiment,
    TrainingTable,
    noise,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS: tuple[Literal["A", "B", "C"], ...] = ("A", "B", "C")
ATTACKS = {
    "clean": "clean",
    "A": "A, gray-box PGD",
    "B": "B, white-box PGD",
    "C": "C, AutoAttack",
    "D": "D, adaptive AutoAttack",
}
BASELINES = ("h", "constant")  # without a mixing network A is the same as B, and D adds nothing to C
PAPER = {
    "CIFAR-10": {
        "h": {"clean": 84.92, "B": 57.16, "C": 53.09},
        "A": dict(zip(ATTACKS, (92.05, 57.22, 56.63, 40.04, 39.85), strict=True)),
        "B": dict(zip(ATTACKS, (92.07, 57.25, 57.09, 40.02, 39.70), strict=True)),
        "C": dict(zip(ATTACKS, (91.51, 56.30, 56.29, 42.78, 42.66), strict=True)),
    },
    "CIFAR-100": {
        "h": {"clean": 69.17, "B": 40.86, "C": 36.98},
        "A": dict(zip(ATTACKS, (83.99, 40.04, 30.59, 23.54, 23.78), strict=True)),
        "B": dict(zip(ATTACKS, (83.96, 39.80, 34.48, 26.37, 26.17), strict=True)),
        "C": dict(zip(ATTACKS, (80.90, 39.26, 38.92, 32.94, 32.80), strict=True)),
    },
}
KEPT = 0.8  # every published network keeps this share of h's accuracy under the attack of its training


class TrainingSettings(TrainingExperiment):
    name = "settings"
    question = "Which attacks does a mixing network withstand, by the attack that it was trained on?"
    paper = (
        "[BAKS24 v1, Tables 1 and 2]: the networks withstand the attacks that they were trained on (gray-box PGD-20 at "
        "h's level, with nearly g's clean accuracy); the one trained in C, on randomized APGD, is best under "
        "AutoAttack (CIFAR-100: 32.94 % against 23.54 % and 26.37 %, 89 % of h's 36.98 %) at some cost in clean "
        "accuracy (80.90 % against 83.99 %); attacking alpha as well (D) takes hardly more than AutoAttack."
    )
    values = ("accuracy",)

    def cases(self) -> list[Case]:
        """All attacks on a net come before the next net."""
        baselines = [{"net": net, "attack": attack} for net in BASELINES for attack in ("clean", "B", "C")]
        return baselines + [{"net": net, "attack": attack} for net in SETTINGS for attack in ATTACKS]

    def measure(self, bench: TrainingBench, case: Case) -> dict[str, float]:
        """Accuracy of one mix under one attack; the clean row also has what was chosen on held-out examples."""
        mixed = _mix(bench, case["net"])
        model, attack = mixed.model, case["attack"]
        if attack == "clean":
            return {"accuracy": bench.accuracy(model, bench.images), **mixed.numbers}
        if attack in ("A", "B"):
            return {"accuracy": bench.accuracy(model, bench.attack(GrayBox(model) if attack == "A" else model))}
        standing = bench.standing(model)
        if attack == "D":
            standing = bench.standing_lowered(model, standing)
        return {"accuracy": share(standing)}

    def draw(self, table: TrainingTable, figure: Figure) -> None:
        """Draw a group of bars for each attack, a bar for each training, and lines for h and the constant alpha."""
        panels = {"here": {net: _percent(table, net) for net in (*BASELINES, *SETTINGS)}, **PAPER}
        for axes, (name, nets) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
            for i, setting in enumerate(SETTINGS):
                places = [place + 0.26 * (i - 1) for place in range(len(ATTACKS))]
                axes.bar(
                    places, [nets[setting][attack] for attack in ATTACKS], width=0.24, label=f"trained in {setting}"
                )
            for net, color in (("h", "black"), ("constant", "grey")):
                for place, attack in enumerate(ATTACKS):
                    if (value := nets.get(net, {}).get(attack)) is not None:
                        label = {"h": "h alone", "constant": "constant alpha"}[net] if attack == "clean" else None
                        axes.hlines(value, place - 0.45, place + 0.45, colors=color, label=label)
            axes.set_xticks(range(len(ATTACKS)), list(ATTACKS))
            axes.set_title("here" if name == "here" else f"published, {name}", fontsize="medium")
            axes.set_xlabel("attack")
        figure.axes[0].set_ylabel("accuracy, %")
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small"
        )

    def summary(self, table: TrainingTable) -> str:
        """The paper's tables, here and published, and what was chosen on held-out examples."""
        nets = {net: _percent(table, net) for net in (*BASELINES, *SETTINGS)}
        heads = ["h", "constant alpha", *(f"trained in {setting}" for setting in SETTINGS)]
        alpha = table.row(net="constant", attack="clean")["alpha"]
        biases = ", ".join(f"{table.row(net=net, attack='clean')['bias']:.2f}" for net in SETTINGS)
        parts = [_table(heads, nets), f"Chosen: alpha {alpha:.3f}; biases of alpha_logit {biases}."]
        for dataset, published in PAPER.items():
            parts.append(f"Published, {dataset} (each network at its own clean accuracy; h's A is not given):")
            parts.append(_table([heads[0], *heads[2:]], published))
        return "\n\n".join(parts)

    def agreement(self, table: TrainingTable) -> str:
        """Do networks withstand what they were trained on, is C best under C and D, and does D take little more?"""
        here = {net: _percent(table, net) for net in ("h", *SETTINGS)}
        if not min(here["h"][attack] for attack in "BC"):
            return not_answered(f"h is right on none of the {table.n} images under B or C, so no network can keep that")
        kept = {name: _kept(nets) for name, nets in {"here": here, **PAPER}.items()}
        others = max(here[net][attack] - here["C"][attack] for net in ("A", "B") for attack in ("C", "D"))
        keeps = f"each network keeps {KEPT:.0%} of h's accuracy under the attack that it was trained on"
        seen = {
            keeps: min(kept["here"]) >= KEPT - ROUNDING,
            "the one trained in C is the most accurate under C and D": others < 0,
            "D takes at most a point more than C": (
                max(here[net]["C"] - here[net]["D"] for net in SETTINGS) <= 1.0 + ROUNDING
            ),
        }
        shares = "; ".join(f"{name} {', '.join(f'{share:.0%}' for share in kept[name])}" for name in kept)
        under_c = [row["accuracy"] for net in SETTINGS for row in table.where(net=net, attack="C")]
        kept_words = (
            f"Shares of h's accuracy that networks trained in A, B and C keep under that attack: {shares}. Their "
            f"accuracies under C: {noise(table, under_c)}"
        )
        compared = (
            f"The constant alpha has {_percent(table, 'constant')['C']:.2f} % under C; the networks trained in A, B "
            f"and C have {_listed(here, 'C')} % there and {_listed(here, 'D')} % under D."
        )
        return "\n\n".join([verdict(seen), kept_words, compared])


def _mix(bench: TrainingBench, net: str) -> Mixed:
    if net == "h":
        return Mixed(model=bench.mix(1.0), numbers={})
    if net == "constant":
        return bench.constant()
    (setting,) = (each for each in SETTINGS if each == net)
    return bench.adaptive(bench.of_setting(setting))


def _kept(nets: dict[str, dict[str, float]]) -> list[float]:
    """For each network the share of h's accuracy under the attack of its training; for h alone, A is B."""
    h = nets["h"]
    return [nets[net][net] / h[against] for net, against in (("A", "B"), ("B", "B"), ("C", "C"))]


def _listed(nets: dict[str, dict[str, float]], attack: str) -> str:
    return ", ".join(f"{nets[net][attack]:.2f}" for net in SETTINGS)


def _percent(table: TrainingTable, net: str) -> dict[str, float]:
    return {row.case["attack"]: 100 * row["accuracy"] for row in table.where(net=net)}


def _table(heads: list[str], nets: dict[str, dict[str, float]]) -> str:
    rows = [
        (label, *(f"{values[attack]:.2f}" if attack in values else "" for values in nets.values()))
        for attack, label in ATTACKS.items()
    ]
    return markdown_table(("attack, %", *heads), rows)


EXPERIMENT = TrainingSettings()
