"""The accuracies that constant alphas reach with the base nets of a triplet: the yardstick for a mixing network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from torch import nn

from adaptive_smoothing_zoo.publishing.record import Keyed, Record, results_path
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.publishing.trade_off_plot import Point
from adaptive_smoothing_zoo.storage.provenance import tensors_sha256

NEAR = 0.1 + 1e-9  # in clean accuracy: further apart, nothing is said of the mixes between two alphas
_ENDS = {0.0: " (g alone)", 1.0: " (h alone)"}


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Accuracies (fractions) of the mix with one constant alpha."""

    alpha: float
    clean: float
    robust: float

    def __post_init__(self) -> None:
        if not (0.0 <= self.alpha <= 1.0 and 0.0 <= self.robust <= self.clean <= 1.0):
            raise ValueError(f"alpha and accuracies are fractions, the robust one at most the clean one, got {self}")


@dataclass(frozen=True, kw_only=True)
class ConstantCurve(Record):
    """Clean and AutoAttack accuracy of one g and h for several constant alphas, in rising order of alpha.

    There is one file for all triplets of a data set and threat model. Before comparing a triplet with it, ask whether
    it has the triplet's base nets (``is_with``) and the run's settings (``matches``).
    """

    KIND, TITLE, COMMAND = "curve", "a curve of constant alphas", "eval/constant_curve.py"
    RENAMED: ClassVar[dict[str, str]] = {"name": "model"}

    eps: str
    engine: str
    seed: int
    batch_size: int
    device: str
    std_sha256: str  # of the state dicts of g and h
    rob_sha256: str
    points: tuple[CurvePoint, ...]

    @classmethod
    def path(cls, out: Path, entry: Keyed) -> Path:
        return results_path(out, entry).with_name(f"constant_alpha.{cls.KIND}.json")

    def is_of(self, entry: Keyed) -> bool:
        return True

    def is_with(self, std_model: nn.Module | None, rob_model: nn.Module | None) -> bool:
        """Whether it was measured with the weights of these base nets."""
        nets = [None if net is None else tensors_sha256(net.state_dict()) for net in (std_model, rob_model)]
        return nets == [self.std_sha256, self.rob_sha256]

    def matches(self, run: RunRecord) -> bool:
        """Whether curve and run were measured with the same settings on the same examples."""
        fields = ("dataset", "threat_model", "eps", "engine", "n", "seed", "batch_size", "data_sha256")
        return all(getattr(self, field) == getattr(run, field) for field in fields)

    @property
    def line(self) -> tuple[Point, ...]:
        """The points of the curve for a picture."""
        return tuple(
            Point(
                label=f"alpha {point.alpha:.4g}{_ENDS.get(point.alpha, '')}",
                clean=100 * point.clean,
                robust=100 * point.robust,
                kind="alpha",
                note="AutoAttack, constant alpha",
            )
            for point in self.points
        )

    def clean_at(self, robust: float) -> float | None:
        """The highest clean accuracy on the curve, linear between neighbouring alphas, at ``robust`` or more.

        None if no constant alpha on the curve is that robust, or if those around it are more than ``NEAR`` apart.
        """
        reached = [point.clean for point in self.points if point.robust >= robust]
        for a, b in pairwise(self.points):
            low, high = min(a.robust, b.robust), max(a.robust, b.robust)
            if low < robust <= high:
                if abs(a.clean - b.clean) > NEAR:
                    return None
                share = (robust - a.robust) / (b.robust - a.robust)
                reached.append(a.clean + share * (b.clean - a.clean))
        return max(reached, default=None)
