"""The parts of the composite loss, compared at equal clean accuracy [BAKS24, supp., Table SM2]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Experiment, verdict
from adaptive_smoothing_zoo.experiments.table import Case, Row
from adaptive_smoothing_zoo.experiments.training_bench import Mixed, TrainingBench, TrainingTable, noise
from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLITS = (("0", "1.5"), ("0.5", "1"), ("1", "0.5"), ("1.5", "0"))  # c_CE and c_BCE
PRODUCTS = ("0", "0.1", "0.2")  # c_prod
LINES = ("o-", "s--", "^:")  # of them; each shows through the next where two coincide
CONSTANT = "constant"
PAPER = {  # PGD-20 accuracy in %, by c_prod in the order of SPLITS
    "0": (54.5, 52.8, 53.8, 54.4),
    "0.1": (54.3, 54.1, 54.0, 54.1),
    "0.2": (55.1, 54.2, 54.3, 53.9),
}
PAPER_CONSTANT = 52.6
BEST = ("0", "1.5", "0.2")
HEADS = "clean, % | PGD, % | PGD and APGD that lowers alpha, %"


def cases() -> list[Case]:
    """The constant alpha first, which takes no training."""
    return [{"c_ce": CONSTANT, "c_bce": CONSTANT, "c_prod": CONSTANT}] + [
        {"c_ce": ce, "c_bce": bce, "c_prod": product} for product in PRODUCTS for ce, bce in SPLITS
    ]


def measure(bench: TrainingBench, case: Case) -> dict[str, float]:
    """One loss: accuracies of the mix, see ``accuracies``."""
    if case["c_ce"] == CONSTANT:
        return accuracies(bench, bench.constant())
    parts = {name: float(value) for name, value in case.items()}
    return accuracies(bench, bench.adaptive(bench.of("B", CompositeLoss(**parts))))


def accuracies(bench: TrainingBench, mixed: Mixed) -> dict[str, float]:
    """Clean, under PGD, and after APGD that lowers alpha on what PGD left; and what was chosen on held-out examples."""
    model = mixed.model
    standing = bench.logits(model, bench.attack(model)).argmax(dim=1) == bench.labels
    return {
        "clean": bench.accuracy(model, bench.images),
        "attacked": float(standing.double().mean()),
        "lowered": float(bench.standing_lowered(model, standing).double().mean()),
        **mixed.numbers,
    }


def draw(table: TrainingTable, figure: Figure) -> None:
    """A line for each c_prod, here and published."""
    here, published = figure.subplots(1, 2)
    attacked = {p: [_percent(_row(table, ce, bce, p)) for ce, bce in SPLITS] for p in PRODUCTS}
    _panel(here, "here", attacked, _percent(_row(table, CONSTANT, CONSTANT, CONSTANT)))
    _panel(published, "published, CIFAR-10", {p: list(PAPER[p]) for p in PRODUCTS}, PAPER_CONSTANT)
    here.set_ylabel("accuracy under PGD, %, at equal clean accuracy")
    here.legend(fontsize="small")


def _panel(axes: Axes, title: str, attacked: dict[str, list[float]], constant: float) -> None:
    for dashes, (product, values) in zip(LINES, attacked.items(), strict=True):
        axes.plot(range(len(SPLITS)), values, dashes, label=rf"$c_{{prod}} = {product}$")
    axes.axhline(constant, color="grey", linestyle=":", label=r"constant $\alpha$")
    axes.set_xticks(range(len(SPLITS)), [f"{ce}, {bce}" for ce, bce in SPLITS])
    axes.set_xlabel(r"$c_{CE}$, $c_{BCE}$")
    axes.set_title(title, fontsize="medium")


def summary(table: TrainingTable) -> str:
    """Accuracies of every loss, the paper's beside them."""
    lines = [
        f"| c_CE, c_BCE, c_prod | {HEADS} | published, PGD-20 | chosen |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in table.rows:
        if row.case["c_ce"] == CONSTANT:
            name, published = "constant alpha", PAPER_CONSTANT
        else:
            key = row.case["c_ce"], row.case["c_bce"], row.case["c_prod"]
            name, published = ", ".join(key), PAPER[key[2]][SPLITS.index(key[:2])]
        lines.append(f"| {name} | {accuracy_cells(row)} | {published:.1f} | {chosen(row)} |")
    return "\n".join(lines)


def accuracy_cells(row: Row) -> str:
    """What stands under ``HEADS``."""
    return " | ".join(f"{100 * row[name]:.2f}" for name in ("clean", "attacked", "lowered"))


def chosen(row: Row) -> str:
    """What was chosen on held-out examples, and the clean accuracy there."""
    name = "alpha" if "alpha" in row.values else "bias"
    return f"{name} {row[name]:.3g}, {100 * row['held_out']:.2f} % clean on held-out examples"


def agreement(table: TrainingTable) -> str:
    """Is the paper's loss the best one, does the product help, and do all networks beat the constant alpha?"""
    rows = {tuple(row.case.values()): _percent(row) for row in table.rows}
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
    return "\n\n".join(
        [
            verdict(seen),
            f"The highest accuracy under PGD is {best:.2f} %, with c_CE, c_BCE, c_prod = {at_best}; the constant alpha "
            f"has {constant:.2f} %. Means: "
            + ", ".join(f"{mean:.2f} % with c_prod {product}" for product, mean in means.items())
            + f". {noise(table, [value / 100 for value in rows.values()])}",
            after_lowering(table),
        ]
    )


def after_lowering(table: TrainingTable) -> str:
    """How the constant alpha, which is the first row, and the networks compare when alpha is attacked as well."""
    constant, *networks = (100 * row["lowered"] for row in table.rows)
    better = sum(value > constant for value in networks)
    return (
        f"After APGD that lowers alpha the constant alpha has {constant:.2f} %, the networks {min(networks):.2f} to "
        f"{max(networks):.2f} %; {better} of the {len(networks)} are better than it."
    )


def _row(table: TrainingTable, ce: str, bce: str, product: str) -> Row:
    (row,) = table.where(c_ce=ce, c_bce=bce, c_prod=product)
    return row


def _percent(row: Row) -> float:
    return 100 * row["attacked"]


LOSS_ABLATION: Experiment[TrainingBench, TrainingTable] = Experiment(
    name="loss-ablation",
    question="Which parts of the composite loss make the better mixing network?",
    paper="[BAKS24, supp., Table SM2] (CIFAR-10, trained and attacked in setting B, PGD-20, 90 ± 0.02 % clean): "
    "c_CE 0, c_BCE 1.5, c_prod 0.2 is the best one with 55.1 %; a small positive c_prod is generally beneficial; a "
    "constant alpha has 52.6 %, less than every network (52.8 to 55.1 %).",
    steps=20,
    table=TrainingTable,
    cases=cases,
    values=("clean", "attacked", "lowered"),
    measure=measure,
    draw=draw,
    summary=summary,
    agreement=agreement,
)
