"""Robust accuracy against the radius, ``<NAME>.radii.json``, and its figure, ``<NAME>.radii.png``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from torch import nn

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.publishing.record import TO_KEEP_BOTH, Record, check_extends, results_path
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.storage.files import write_with
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.zoo.entry import ModelEntry


@dataclass(frozen=True, kw_only=True)
class RadiusPoint:
    """The result of one run of the curve. Accuracies are fractions.

    Attributes:
        eps: the radius, as text.
        low, high: 95 % interval of the robust accuracy, for the choice of examples alone.
        protocol: of the run; it says from which radius the run started.
        record: name of the run's own record, a file next to the curve's.
    """

    eps: str
    robust_accuracy: float
    low: float
    high: float
    protocol: str
    record: str


@dataclass(frozen=True, kw_only=True)
class RadiiCurve(Record):
    """Runs of one model on the same examples at several radii, in rising order. Leaderboards do not accept them."""

    KIND, TITLE, COMMAND = "radii", "a curve of radii", "asz eval --eps RADII"

    identity: Identity
    clean_accuracy: float
    points: tuple[RadiusPoint, ...]

    def check(self) -> None:
        super().check()
        radii = [parse_eps(point.eps) for point in self.points]
        falling = [1.0, self.clean_accuracy, *(point.robust_accuracy for point in self.points)]
        within = all(0.0 <= point.low <= point.robust_accuracy <= point.high for point in self.points)
        if not within or any(a >= b for a, b in pairwise(radii)) or any(a < b for a, b in pairwise(falling)):
            raise ConfigError("'points' must rise in 'eps' and fall in 'robust_accuracy', within their intervals")

    @classmethod
    def check_replaceable(
        cls, out: Path, entry: ModelEntry, model: nn.Module, *, examples: Examples, radii: Sequence[str]
    ) -> None:
        """As for a measurement: raise ResultsError if the curve has another model, other or more examples or radii."""
        known = cls.find(out, entry)
        if known is None:
            return
        where, ways = cls.path(out, entry), TO_KEEP_BOTH
        if known.identity != identity_of(model, entry.image_shape):
            raise ResultsError(f"{where} is of another model (other weights, alpha or logit maps); {ways}")
        check_extends(known, examples, where)
        new = set(map(parse_eps, radii))
        if left := [point.eps for point in known.points if parse_eps(point.eps) not in new]:
            raise ResultsError(f"{where} has radii that this run does not have ({', '.join(left)}); {ways}")


def at_radius(entry: ModelEntry, eps: str) -> ModelEntry:
    """The entry under whose name one run of several is recorded, so that the run at the entry's own radius stays."""
    return replace(entry, name=f"{entry.name}.eps-{eps.replace('/', '_')}")


def write_curve(out: Path, entry: ModelEntry, runs: Sequence[RunRecord]) -> Path:
    """Write the curve and its figure; returns the curve's path.

    Args:
        runs: at least one, from the smallest radius to the largest.

    Raises:
        ImportError: matplotlib is not installed (it comes with the "evaluation" extra).
    """
    same = ("dataset", "threat_model", "n", "data", "data_sha256", "versions", "identity", "clean_accuracy")
    points = []
    for run in runs:
        low, high = run.confidence_interval
        name = RunRecord.path(out, at_radius(entry, run.eps)).name
        points.append(
            RadiusPoint(
                eps=run.eps,
                robust_accuracy=run.robust_accuracy,
                low=low,
                high=high,
                protocol=run.protocol,
                record=name,
            )
        )
    about = {field: getattr(runs[0], field) for field in same}
    curve = RadiiCurve(model=entry.name, **about, points=tuple(points))
    draw(curve, results_path(out, entry).with_suffix(".radii.png"))
    return curve.write(out, entry)


def draw(curve: RadiiCurve, path: Path) -> None:
    """Write a PNG: robust accuracy against the radius with its intervals, and the clean accuracy at radius 0."""
    from matplotlib.figure import Figure  # a figure of its own needs no display and leaves pyplot's state alone

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    radii = [parse_eps(point.eps) for point in curve.points]
    robust = [100 * point.robust_accuracy for point in curve.points]
    below = [100 * (point.robust_accuracy - point.low) for point in curve.points]
    above = [100 * (point.high - point.robust_accuracy) for point in curve.points]
    axes.errorbar(radii, robust, yerr=[below, above], marker="o", capsize=3, label="robust, with 95 % intervals")
    axes.plot([0.0], [100 * curve.clean_accuracy], "s", color="black", label="clean", clip_on=False)
    axes.set_xticks([0.0, *radii], ["0", *(point.eps for point in curve.points)])
    axes.set_xlabel(f"radius ({curve.threat_model})")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    axes.set_title(f"{curve.model}, {curve.n} examples", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
