"""Two recorded models on the same examples: which is better, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.evidence import Evidence, read_evidence
from adaptive_smoothing_zoo.publishing.record import ModelKey
from adaptive_smoothing_zoo.publishing.run_record import RunRecord, verdicts_path

_Z = 1.959963984540054  # 95 % of a normal distribution are within this


@dataclass(frozen=True, kw_only=True)
class PairedShares:
    """How many of the same ``n`` examples two models classify correctly.

    Attributes:
        both, first, second: how many both do, only the first, and only the second.
    """

    n: int
    both: int
    first: int
    second: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> PairedShares:
        """The counts of two arrays of verdicts, (N,) bool each."""
        both = int((first & second).sum())
        return cls(n=len(first), both=both, first=int(first.sum()) - both, second=int(second.sum()) - both)

    @property
    def shares(self) -> tuple[float, float]:
        """The two shares, fractions."""
        return (self.both + self.first) / self.n, (self.both + self.second) / self.n

    @property
    def difference(self) -> float:
        """The first share minus the second."""
        return (self.first - self.second) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference, by the score test [TAN98], for the choice of examples alone."""
        return -self._highest(self.second, self.first), self._highest(self.first, self.second)

    def _highest(self, ahead: int, behind: int) -> float:
        """The largest difference that the score test does not reject: where the score, which falls, is -1.96."""
        from scipy.optimize import brentq

        def score(difference: float) -> float:
            # The likeliest share of the examples behind, given the difference, solves a quadratic equation.
            linear = -ahead - behind + (2 * self.n - ahead + behind) * difference
            root = math.sqrt(max(0.0, linear**2 + 8 * self.n * behind * difference * (1 - difference)))
            share = (root - linear) / (4 * self.n)
            variance = self.n * (2 * share + difference * (1 - difference))
            return (ahead - behind - self.n * difference) / math.sqrt(variance) + _Z

        least, most = (ahead - behind) / self.n, 1 - 1e-12
        return 1.0 if least >= most or score(most) > 0 else float(brentq(score, least + 1e-12, most))

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the exact sign test on the examples that only one model classifies correctly."""
        from scipy.stats import binomtest

        alone = self.first + self.second
        return 1.0 if alone == 0 else float(binomtest(self.first, alone).pvalue)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same examples.

    Attributes:
        data: a description of the examples and the threat model.
        clean, run, best: correct without an attack, after the recorded run, and after all recorded attacks.
        attacks: for each model, the attacks behind ``best``.
    """

    data: str
    clean: PairedShares
    run: PairedShares
    best: PairedShares
    attacks: tuple[str, str]


def compare(first: Path, second: Path) -> Comparison:
    """Compare two models by their records.

    Args:
        first, second: run records, ``<OUT>/<dataset>/<threat model>/<NAME>.run.json``. If one has more examples, only
            those of both count; then the labels alone show that they are the same.

    Raises:
        ResultsError: a file is no run record or damaged, or the two are not about the same examples and radius.
    """
    (a, in_a), (b, in_b) = _read(first), _read(second)
    n = min(a.run.n, b.run.n)
    same_images = a.run.dataset == b.run.dataset and (a.run.n != b.run.n or a.run.data_sha256 == b.run.data_sha256)
    if not (same_images and np.array_equal(in_a["label"][:n], in_b["label"][:n])):
        raise ResultsError(f"{first} and {second} are not about the same examples; evaluate both on the same ones")
    if a.run.threat != b.run.threat:
        radii = (f"{run.threat_model} {run.eps}" for run in (a.run, b.run))
        raise ResultsError(f"{first} and {second} have {' and '.join(radii)}; evaluate both with the same radius")
    return Comparison(
        data=f"{n} examples ({a.run.data}), {a.run.threat_model} {a.run.eps}",
        **{key: PairedShares.of(in_a[key][:n], in_b[key][:n]) for key in ("clean", "run", "best")},
        attacks=(_attacks(a), _attacks(b)),
    )


def _read(path: Path) -> tuple[Evidence, dict[str, np.ndarray]]:
    """The records next to a run record, and verdicts by example."""
    ending = f".{RunRecord.KIND}.json"
    if not path.name.endswith(ending) or len(path.absolute().parents) < 3:
        raise ResultsError(f"{path} is no run record; asz eval writes OUT/DATASET/THREAT_MODEL/NAME{ending}")
    threat_model, dataset, out = path.absolute().parent, path.absolute().parents[1], path.absolute().parents[2]
    named = ModelKey(path.name.removesuffix(ending), dataset.name, threat_model.name)
    evidence = read_evidence(out, named)
    robust = evidence.run.verdicts(out, named)
    with np.load(verdicts_path(out, named), allow_pickle=False) as arrays:
        label, clean = arrays["label"], arrays["clean_correct"]
    best = robust.copy()
    best[list(evidence.broken)] = False
    return evidence, {"label": label, "clean": clean, "run": robust, "best": best}


def _attacks(evidence: Evidence) -> str:
    """All recorded attacks on a model."""
    met = [evidence.run.protocol]
    if evidence.adaptive is not None:
        met.append(evidence.adaptive.protocol)
    if evidence.earlier is not None:
        met.append(f"an earlier {evidence.earlier.protocol}")
    if evidence.validation is not None:
        met.append(f"asz validate on {evidence.validation.n}")
    return "; ".join(met)
