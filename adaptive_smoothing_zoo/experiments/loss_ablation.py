"""Weights of the composite loss, compared at equal clean accuracy [BAKS24, supp., Table SM2]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.bench import share
from adaptive_smoothing_zoo.experiments.experiment import Case, Row, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.training_bench import (
    Mixed,
    TrainingBench,
    TrainingExperiment,
    TrainingTable,
    noise,
)
from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLITS = (("0", "1.5"), ("0.5", "1"), ("1", "0.5"), ("1.5", "0"))  # c_CE and c_BCE
PRODUCTS = ("0", "0.1", "0.2")  # c_prod
LINES = ("o-", "s--", "^:")  # styles that stay visible where two lines coincide
CONSTANT = "constant"
PAPER = {  # PGD-20 accuracy in %, by c_prod in the order of SPLITS
    "0": (54.5, 52.8, 53.8, 54.4),
    "0.1": (54.3, 54.1, 54.0, 54.1),
    "0.2": (55.1, 54.2, 54.3, 53.9),
}
PAPER_CONSTANT = 52.6
BEST = ("0", "1.5", "0.2")
HEADS = ("clean, %", "PGD, %", "PGD, APGD and APGD that lowers alpha, %", "published, PGD-20", "chosen")


class LossAblation(TrainingExperiment):
    name = "loss-ablation"
    question = "Which parts of the composite loss make the better mixing network?"
    paper = (
        "[BAKS24, supp., Table SM2] (CIFAR-10, trained and attacked in setting B, PGD-20, 90 ± 0.02 % clean): "
        "c_CE 0, c_BCE 1.5, c_prod 0.2 is best with 55.1 %; a small positive c_prod generally helps; a constant alpha "
        "has 52.6 %, less than every network (52.8 to 55.1 %)."
    )
    values = ("clean", "attacked", "adapted")

    def cases(self) -> list[Case]:
        """The constant alpha comes first; it needs no training."""
        return [{"c_ce": CONSTANT, "c_bce": CONSTANT, "c_prod": CONSTANT}] + [
            {"c_ce": ce, "c_bce": bce, "c_prod": product} for product in PRODUCTS for ce, bce in SPLITS
        ]

    def measure(self, bench: TrainingBench, case: Case) -> dict[str, float]:
        """Accuracies of the mix with the network of one loss; see ``accuracies``."""
        if case["c_ce"] == CONSTANT:
            return accuracies(bench, bench.constant())
        parts = {name: float(value) for name, value in case.items()}
        return accuracies(bench, bench.adaptive(bench.of_setting("B", CompositeLoss(**parts))))

    def draw(self, table: TrainingTable, figure: Figure) -> None:
        """Draw a line for each c_prod, here and published."""
        here, published = figure.subplots(1, 2)
        percent = _percent(table)
        attacked = {p: [percent[ce, bce, p] for ce, bce in SPLITS] for p in PRODUCTS}
        _panel(here, "here", attacked, percent[CONSTANT, CONSTANT, CONSTANT])
        _panel(published, "published, CIFAR-10", {p: list(PAPER[p]) for p in PRODUCTS}, PAPER_CONSTANT)
        here.set_ylabel("accuracy under PGD, %, at equal clean accuracy")
        here.legend(fontsize="small")

    def summary(self, table: TrainingTable) -> str:
        """Accuracies with every loss, next to the paper's."""

        def cells(row: Row) -> list[str]:
            ce, bce, product = row.case.values()
            is_constant = ce == CONSTANT
            name = "constant alpha" if is_constant else ", ".join(row.case.values())
            published = PAPER_CONSTANT if is_constant else PAPER[product][SPLITS.index((ce, bce))]
            return [name, *accuracy_cells(row), f"{published:.1f}", chosen(row)]

        return markdown_table(("c_CE, c_BCE, c_prod", *HEADS), [cells(row) for row in table.rows])

    def agreement(self, table: TrainingTable) -> str:
        """Is the paper's loss best, does the product help, and is every network better than the constant alpha?"""
        rows = _percent(table)
        constant = rows.pop((CONSTANT, CONSTANT, CONSTANT))
        others = [value for parts, value in rows.items() if parts != BEST]
        means = {p: sum(rows[ce, bce, p] for ce, bce in SPLITS) / len(SPLITS) for p in PRODUCTS}
        seen = {
            f"c_CE {BEST[0]}, c_BCE {BEST[1]}, c_prod {BEST[2]} is the best one": rows[BEST] > max(others),
            "c_prod 0.1 and 0.2 are better than 0 on the mean": min(means["0.1"], means["0.2"]) > means["0"],
            "every network is better than the constant alpha": min(rows.values()) > constant,
        }
        best = max(rows.values())
        at_best = "; ".join(", ".join(parts) for parts, value in rows.items() if value == best)
        averages = ", ".join(f"{mean:.2f} % with c_prod {product}" for product, mean in means.items())
        highest = (
            f"The highest accuracy under PGD is {best:.2f} %, with c_CE, c_BCE, c_prod = {at_best}; the constant alpha "
            f"has {constant:.2f} %. Means: {averages}. {noise(table, [value / 100 for value in rows.values()])}"
        )
        return "\n\n".join([verdict(seen), highest, after_all_attacks(table)])


def accuracies(bench: TrainingBench, mixed: Mixed) -> dict[str, float]:
    """Accuracy on clean images, after PGD, and after PGD, APGD and APGD that lowers alpha; with ``mixed.numbers``.

    Without APGD on the mix itself a constant alpha, which nothing lowers, would meet the stronger attack.
    """
    model = mixed.model
    standing = bench.correct(model, bench.attack(model))
    left = bench.standing_lowered(model, bench.standing_apgd(model, standing))
    return {
        "clean": bench.accuracy(model, bench.images),
        "attacked": share(standing),
        "adapted": share(left),
        **mixed.numbers,
    }


def _panel(axes: Axes, title: str, attacked: dict[str, list[float]], constant: float) -> None:
    for dashes, (product, values) in zip(LINES, attacked.items(), strict=True):
        axes.plot(range(len(SPLITS)), values, dashes, label=rf"$c_{{prod}} = {product}$")
    axes.axhline(constant, color="grey", linestyle=":", label=r"constant $\alpha$")
    axes.set_xticks(range(len(SPLITS)), [f"{ce}, {bce}" for ce, bce in SPLITS])
    axes.set_xlabel(r"$c_{CE}$, $c_{BCE}$")
    axes.set_title(title, fontsize="medium")


def accuracy_cells(row: Row) -> list[str]:
    """The cells under the first three of ``HEADS``."""
    return [f"{100 * row[name]:.2f}" for name in ("clean", "attacked", "adapted")]


def chosen(row: Row) -> str:
    """What was chosen on held-out examples, and the clean accuracy there."""
    (name,) = {"alpha", "alpha_min", "bias"} & set(row.values)
    return f"{name} {row[name]:.3g}, {100 * row['held_out']:.2f} % clean on held-out examples"


def after_all_attacks(table: TrainingTable) -> str:
    """How the networks compare with the constant alpha, the first row, when alpha is attacked as well."""
    constant, *networks = (100 * row["adapted"] for row in table.rows)
    better = sum(value > constant for value in networks)
    return (
        f"After APGD, and APGD that lowers alpha, the constant alpha has {constant:.2f} %, the networks "
        f"{min(networks):.2f} to {max(networks):.2f} %; {better} of the {len(networks)} are better."
    )


def _percent(table: TrainingTable) -> dict[tuple[str, ...], float]:
    """Accuracy under PGD by c_CE, c_BCE and c_prod."""
    return {tuple(row.case.values()): 100 * row["attacked"] for row in table.rows}


EXPERIMENT = LossAblation()
