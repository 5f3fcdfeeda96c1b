"""The theorem's alpha(x), compared with the triplet's alpha and with constants [BAKS24, supp., Theorem 3]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import cross_entropy
from adaptive_smoothing_zoo.experiments.bench import Bench, Table, TripletExperiment, share
from adaptive_smoothing_zoo.experiments.experiment import Case, Row, markdown_table, not_answered, verdict
from adaptive_smoothing_zoo.method.classifier import MixedClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORACLE, MIX = "oracle", "mix"
CONSTANTS = ("0", "0.3", "0.45", "0.5", "0.55", "0.6", "0.7", "0.8", "0.9", "0.95", "1")
ATTACKS = {"clean": "clean", "std": "STD attack", "rob": "ROB attack", "own": "attack on itself", "worst": "all"}


class OracleAlpha(TripletExperiment):
    name = "oracle-alpha"
    question = "What would the alpha(x) of the existence theorem give?"
    paper = (
        "[BAKS24, Theorem 4.1; supp., Theorem 3]: there is an alpha(x) with which the mix is right wherever g or h is: "
        "0 where g is right, else 1. So the mix is at least as accurate as the better of the two on any images, clean "
        "or attacked."
    )
    values = tuple(ATTACKS)

    def cases(self) -> list[Case]:
        return [{"net": net} for net in (*CONSTANTS, MIX, ORACLE)]

    def measure(self, bench: Bench, case: Case) -> dict[str, float]:
        """Accuracy of one net on clean images and after attacks on g, on h and on itself; and under all of them."""
        right = {name: _correct(bench, case["net"], points) for name, points in _points(bench, case["net"]).items()}
        right["worst"] = torch.stack(list(right.values())).all(dim=0)
        return {name: share(right[name]) for name in ATTACKS}

    def draw(self, table: Table, figure: Figure) -> None:
        """Draw clean accuracy against that under all attacks: a curve of constants, and two points."""
        axes = figure.subplots()
        constants = [table.row(net=net) for net in CONSTANTS]
        axes.plot([100 * r["worst"] for r in constants], [100 * r["clean"] for r in constants], ".-", label="constants")
        for net, mark, label in ((MIX, "o", "the triplet's alpha"), (ORACLE, "*", "the theorem's alpha(x)")):
            row = table.row(net=net)
            axes.plot([100 * row["worst"]], [100 * row["clean"]], mark, markersize=12, label=label)
        axes.set_xlabel("accuracy under all attacks, %")
        axes.set_ylabel("clean accuracy, %")
        axes.legend()

    def summary(self, table: Table) -> str:
        """All accuracies; the triplet's alpha compared with the theorem's and with constants as accurate."""
        rows = [
            (_name(row.case["net"]), *(f"{row[name]:.1%}" for name in ATTACKS))
            for row in table.rows
            if row.case["net"] in ("0", "0.5", "1", MIX, ORACLE)
        ]
        mix, oracle = table.row(net=MIX), table.row(net=ORACLE)
        text = (
            f"The theorem's alpha(x) has {oracle['clean']:.1%} clean and {oracle['worst']:.1%} under all attacks. It "
            "knows the label, and so does the attack on it, which lowers the larger of g's and h's probabilities of "
            "the label. A mix may also be right where neither net is; no such image is counted here. "
            f"The triplet's alpha has {mix['clean']:.1%} and {mix['worst']:.1%}"
        )
        best = best_constant(table, mix["clean"])
        if best is not None:
            text += (
                f"; constants of at least that clean accuracy have {best['worst']:.1%} at most (alpha "
                f"{best.case['net']})"
            )
        return f"{markdown_table(('alpha', *ATTACKS.values()), rows)}\n\n{text}."

    def agreement(self, table: Table) -> str:
        """Does the theorem hold on all images, and is the triplet's alpha better than constants?"""
        g, h, mix, oracle = (table.row(net=net) for net in ("0", "1", MIX, ORACLE))
        best = best_constant(table, mix["clean"])
        if best is None:
            return not_answered("no constant that was tried has the clean accuracy of the triplet's alpha")
        seen = {
            "the theorem's alpha(x) is at least as accurate as g and h, clean and after attacks on either": all(
                oracle[name] >= max(g[name], h[name]) for name in ("clean", "std", "rob")
            ),
            "under all attacks, also on itself, it is at least as accurate as h": oracle["worst"] >= h["worst"],
            "the triplet's alpha is more accurate under all attacks than constants of its clean accuracy": (
                mix["worst"] > best["worst"]
            ),
        }
        return verdict(seen)


class Both(nn.Module):
    """Log-probabilities of g, then of h, for images of a mix: (N, 2C)."""

    def __init__(self, model: MixedClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model.base_outputs(images)
        return torch.cat([outputs.log_std, outputs.log_rob], dim=1)


def least_loss(output: Tensor, labels: Tensor) -> Tensor:
    """The smaller cross-entropy of g and h, (N,), from an output of ``Both``."""
    std, rob = output.chunk(2, dim=1)
    return torch.minimum(cross_entropy(std, labels), cross_entropy(rob, labels))


def oracle_correct(bench: Bench, points: Tensor) -> Tensor:
    """(N,) bool: where the mix with the theorem's alpha(x) is right, that is, where g or h is."""
    return bench.correct(bench.mix(0.0), points) | bench.correct(bench.mix(1.0), points)


def best_constant(table: Table, clean: float) -> Row | None:
    """The constant with at least this clean accuracy that is most accurate under all attacks; None if none has it."""
    reached = [table.row(net=net) for net in CONSTANTS if table.row(net=net)["clean"] >= clean]
    return max(reached, key=lambda row: row["worst"], default=None)


def _net(bench: Bench, name: str) -> MixedClassifier:
    return bench.model if name == MIX else bench.mix(float(name))


def _correct(bench: Bench, name: str, points: Tensor) -> Tensor:
    return oracle_correct(bench, points) if name == ORACLE else bench.correct(_net(bench, name), points)


def _points(bench: Bench, name: str) -> dict[str, Tensor]:
    std, rob = _end(bench, 0.0), _end(bench, 1.0)
    if name in ("0", "1"):
        own = std if name == "0" else rob
    elif name == ORACLE:
        own = bench.attack(Both(bench.model), least_loss)
    else:
        own = bench.attack(_net(bench, name))
    return {"clean": bench.images, "std": std, "rob": rob, "own": own}


def _end(bench: Bench, alpha: float) -> Tensor:
    """The images after an attack on g or h alone."""
    return bench.once(f"attack on alpha {alpha:g}", lambda: bench.attack(bench.mix(alpha)))


def _name(net: str) -> str:
    words = {"0": "0, g alone", "1": "1, h alone", MIX: "the triplet's", ORACLE: "the theorem's alpha(x)"}
    return words.get(net, net)


EXPERIMENT = OracleAlpha()
