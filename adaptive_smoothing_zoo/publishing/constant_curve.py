"""What constant alphas reach with the base nets of a triplet: the yardstick for a mixing network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.publishing.records import RunRecord, results_path
from adaptive_smoothing_zoo.storage.schema import parse, read_json
from adaptive_smoothing_zoo.zoo.entry import Entry


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
class ConstantCurve:
    """Clean and AutoAttack accuracy of one g and h for several constant alphas, in rising order of alpha."""

    name: str  # of the triplet whose g and h these are
    dataset: str
    threat_model: str
    eps: str
    engine: str
    n: int
    seed: int
    batch_size: int
    device: str
    data: str
    data_sha256: str
    std_sha256: str  # of the state dicts of g and h
    rob_sha256: str
    versions: dict[str, str]
    points: tuple[CurvePoint, ...]

    def clean_at(self, robust: float) -> float | None:
        """The highest clean accuracy on the curve, linear between neighbouring alphas, at ``robust`` or more.

        None if no constant alpha on the curve is that robust.
        """
        reached = [point.clean for point in self.points if point.robust >= robust]
        for a, b in zip(self.points, self.points[1:], strict=False):
            low, high = min(a.robust, b.robust), max(a.robust, b.robust)
            if low < robust <= high:
                share = (robust - a.robust) / (b.robust - a.robust)
                reached.append(a.clean + share * (b.clean - a.clean))
        return max(reached, default=None)


def curve_path(out: Path, entry: Entry) -> Path:
    """Where the curve of a data set and threat model stands, beside its results."""
    return results_path(out, entry).parent / "constant_alpha.curve.json"


def matches(curve: ConstantCurve, record: RunRecord) -> bool:
    """Whether curve and run were measured with the same settings on the same examples."""
    fields = ("dataset", "threat_model", "eps", "engine", "n", "seed", "batch_size", "data_sha256")
    return all(getattr(curve, field) == getattr(record, field) for field in fields)


def read_curve(out: Path, entry: Entry) -> ConstantCurve | None:
    """The curve recorded beside the results of ``entry``, or None if none was recorded.

    Whether it is about the same base nets and settings is the caller's question (``matches``, ``std_sha256``).

    Raises:
        ResultsError: the file is damaged.
    """
    path = curve_path(out, entry)
    if not path.exists():
        return None
    try:
        return parse(ConstantCurve, read_json(path), str(path))
    except ConfigError as error:
        raise ResultsError(f"{path} is not a curve of constant alphas: {error}") from error
