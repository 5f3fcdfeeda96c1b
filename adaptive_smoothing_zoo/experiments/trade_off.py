"""How much of h's clean error a mix removes, and how much of h's robustness it keeps [BAS24, App. A]."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.experiments.bench import (
    APGD,
    LOWERING,
    SHORT_STARTS,
    SHORT_TARGETS,
    Bench,
    Options,
    Table,
    share,
)
from adaptive_smoothing_zoo.experiments.experiment import (
    ROUNDING,
    Case,
    Experiment,
    Row,
    markdown_table,
    not_answered,
    verdict,
)
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve, CurvePoint
from adaptive_smoothing_zoo.publishing.record import interval_95
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.storage.identity import identity_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETS = {"h": "h alone", "mix": "the triplet", "constant": "a constant alpha"}
SAVED, KEPT = 0.5, 0.8  # the authors' claim: of h's clean error, and of its attacked accuracy
GRID = 1000  # alphas tried between 0 and 1


@dataclass(frozen=True, kw_only=True)
class TradeOffTable(Table):
    """What was measured.

    Attributes:
        records: the folder of the records that gave the rows; empty if the nets were attacked.
    """

    records: str = ""

    def how(self) -> str:
        if self.records:
            return f"AutoAttack alone, without the adapted attacks, from the records in {self.records}"
        return (
            "APGD on the cross-entropy and on the targeted DLR loss, and if alpha varies the same two lowering alpha: "
            f"{self.steps} steps, {SHORT_TARGETS} targets, {SHORT_STARTS} start, seed {self.seed}"
        )


@dataclass(frozen=True, kw_only=True)
class TradeOffBench(Bench):
    """A triplet, and where its accuracies come from.

    Attributes:
        results: a folder of records to read them from; None to attack the nets.
    """

    results: Path | None = None

    @classmethod
    def _arguments(cls, options: Options, steps: int) -> dict[str, Any]:
        return super()._arguments(options, steps) | {"results": options.results}

    def table(self, experiment: str) -> TradeOffTable:
        return TradeOffTable(**self._about(experiment), records="" if self.results is None else str(self.results))


class TradeOff(Experiment[TradeOffBench, TradeOffTable]):
    name = "trade-off"
    question = "How much of h's clean error does the mix save, and how much of h's robustness does it keep?"
    paper = (
        "[BAS24, App. A]: a mix with a constant alpha halves h's error rate on clean images and keeps 80 % of its "
        "attacked accuracy (PGD, three pairs of nets). [BAKS24 v1, section 5.2] (CIFAR-100, AutoAttack, mixing "
        "network): a third less error, 89 % kept; the final network has 85.21 % clean and 38.72 % under AutoAttack."
    )
    values = ("clean", "robust")
    bench, table = TradeOffBench, TradeOffTable

    def cases(self) -> list[Case]:
        return [{"net": net} for net in NETS]

    def measure(self, bench: TradeOffBench, case: Case) -> dict[str, float]:
        """Clean and robust accuracy of h, of the triplet, or with the largest constant alpha that halves h's error."""
        if bench.results is not None:
            return _recorded(bench, bench.results, case["net"])
        if case["net"] == "mix":
            return _attacked(bench, bench.model)
        alpha = 1.0 if case["net"] == "h" else halving(bench)
        return {} if alpha is None else {"alpha": alpha, **_attacked(bench, bench.mix(alpha))}

    def findings(self, table: TradeOffTable) -> tuple[str, str]:
        """If no constant halves h's error, that is the answer, and no number is missing."""
        *others, constant = table.rows
        if constant.values or any(name not in row.values for row in others for name in self.values):
            return super().findings(table)
        return self.summary(table), "no: no constant alpha has half of h's clean error."

    def draw(self, table: TradeOffTable, figure: Figure) -> None:
        axes = figure.subplots()
        for row in table.rows:
            axes.plot([100 * row["robust"]], [100 * row["clean"]], "o", label=NETS[row.case["net"]])
        h = table.row(net="h")
        axes.axhline(100 * (1 - SAVED * (1 - h["clean"])), color="grey", linestyle=":", label="half of h's error")
        axes.axvline(100 * KEPT * h["robust"], color="grey", linestyle="--", label="80 % of h's robustness")
        axes.set_xlabel("robust accuracy, %")
        axes.set_ylabel("clean accuracy, %")
        axes.legend(fontsize="small")

    def summary(self, table: TradeOffTable) -> str:
        """Accuracies with their intervals, and both shares."""
        h = table.row(net="h")
        rows = [
            (
                NETS[row.case["net"]] + (f" of {row['alpha']:.3f}" if row.case["net"] == "constant" else ""),
                _with_interval(row["clean"], table.n),
                _with_interval(row["robust"], table.n),
                _percent(saved(row, h)),
                _percent(kept(row, h)),
            )
            for row in table.rows
            if row.values
        ]
        heads = ("net", "clean", "robust", "saved of h's clean error", "kept of h's robustness")
        return (
            f"{markdown_table(heads, rows)}\n\nIn brackets: 95 % Clopper-Pearson intervals, in %. The constant is the "
            "largest tried that halves h's clean error on these very images, which flatters it a little."
        )

    def agreement(self, table: TradeOffTable) -> str:
        """Does a constant alpha halve h's error and keep 80 % of its robustness, and does the triplet?"""
        h, mix, constant = (table.row(net=net) for net in NETS)
        if not h["robust"] or h["clean"] == 1.0:
            return not_answered("h has no robustness to keep, or no error to save")
        is_so = saved(mix, h) >= SAVED - ROUNDING and kept(mix, h) >= KEPT - ROUNDING
        seen = {
            "a constant alpha that halves h's clean error keeps 80 % of its robustness": (
                kept(constant, h) >= KEPT - ROUNDING
            ),
            "the triplet saves half of h's clean error and keeps 80 % of its robustness": is_so,
        }
        return verdict(seen)


def saved(row: Row, h: Row) -> float:
    """The share of h's clean error that is gone; NaN if h has none."""
    return (row["clean"] - h["clean"]) / (1 - h["clean"]) if h["clean"] < 1.0 else float("nan")


def kept(row: Row, h: Row) -> float:
    """The share of h's robust accuracy that is left; NaN if h has none."""
    return row["robust"] / h["robust"] if h["robust"] else float("nan")


def halving(bench: Bench) -> float | None:
    """The largest of ``GRID`` alphas above 0 whose mix has at most half of h's clean error; None if there is none."""
    std, rob = (bench.logits(bench.mix(alpha), bench.images).double().exp() for alpha in (0.0, 1.0))
    alphas = torch.linspace(0.0, 1.0, GRID + 1, dtype=torch.float64)[1:]
    errors = torch.stack([((1 - a) * std + a * rob).argmax(dim=1) != bench.labels for a in alphas]).double().mean(dim=1)
    fine = (errors <= (1 - SAVED) * errors[-1] + 1e-12).nonzero()
    return float(alphas[int(fine[-1])]) if len(fine) else None


def _attacked(bench: Bench, model: MixedClassifier) -> dict[str, float]:
    right = bench.correct(model, bench.images)
    limits = {"iterations": bench.pgd.steps, "targets": SHORT_TARGETS, "restarts": SHORT_STARTS}
    standing = bench.searched(model, (*APGD, *LOWERING) if model.alpha.varies else APGD, right, limits)
    return {"clean": share(right), "robust": share(standing)}


def _recorded(bench: Bench, results: Path, net: str) -> dict[str, float]:
    """The numbers of a row, from the records of AutoAttack on the triplet and on constants.

    Raises:
        ResultsError: a record is missing, is about other nets, examples or settings, or lacks h.
    """
    model, entry = bench.model, bench.model.entry
    run, curve = RunRecord.read(results, entry), ConstantCurve.read(results, entry)
    run.require(results, entry, identity=identity_of(model, entry.image_shape), data_sha256=bench.examples.sha256)
    if not run.is_standard or run.threat != bench.threat:
        raise ResultsError(
            f"{RunRecord.path(results, entry)} is no standard run of AutoAttack under {bench.threat}; leave out "
            "--results"
        )
    if not (curve.matches(run) and curve.is_with(model.std_model, model.rob_model)):
        raise ResultsError(
            f"{ConstantCurve.path(results, entry)} is about other nets, examples or settings than the run of "
            f"{entry.key}; run {ConstantCurve.COMMAND} again"
        )
    if net == "mix":
        return {"clean": run.clean_accuracy, "robust": run.robust_accuracy}
    h = next((point for point in curve.points if point.alpha == 1.0), None)
    if h is None:
        raise ResultsError(
            f"{ConstantCurve.path(results, entry)} lacks h, which is alpha 1; run {ConstantCurve.COMMAND} with it"
        )
    if net == "h":
        return _values(h)
    halves = [point for point in curve.points if 1 - point.clean <= (1 - SAVED) * (1 - h.clean) + 1e-12]
    largest = max(halves, key=lambda point: point.alpha, default=None)
    if largest is None or largest.alpha == 0.0:
        raise ResultsError(
            f"{ConstantCurve.path(results, entry)} has no mix with half of h's clean error; run "
            f"{ConstantCurve.COMMAND} with more alphas, or leave out --results"
        )
    return _values(largest)


def _values(point: CurvePoint) -> dict[str, float]:
    return {"alpha": point.alpha, "clean": point.clean, "robust": point.robust}


def _with_interval(accuracy: float, n: int) -> str:
    low, high = interval_95(round(accuracy * n), n)
    return f"{accuracy:.2%} ({100 * low:.1f} to {100 * high:.1f})"


def _percent(share: float) -> str:
    return "none" if isnan(share) else f"{share:.0%}"


EXPERIMENT = TradeOff()
