"""All records of a model's robustness: AutoAttack, adaptive attacks, validation.

Leaderboard entry, claim and card all use this module, so they agree on the records.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation.adapt import ADAPTIVE_PROTOCOL
from adaptive_smoothing_zoo.publishing.adaptive_record import AdaptiveRecord
from adaptive_smoothing_zoo.publishing.model_info import leaderboard_entry
from adaptive_smoothing_zoo.publishing.pages import page
from adaptive_smoothing_zoo.publishing.record import Keyed, interval_95, results_path
from adaptive_smoothing_zoo.publishing.run_record import RunRecord, verdicts_path
from adaptive_smoothing_zoo.publishing.validation_record import Validation
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.zoo.entry import ModelEntry


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The records of one model at one radius.

    Attributes:
        run: the AutoAttack run.
        adaptive: the adaptive attacks on what that run left robust, or None.
        validation: the checks of whether the run's number can be trusted, or None.
        earlier: adaptive attacks on what another run of the same model and examples left robust, if they broke examples
            that this run leaves: these count as broken. Else None.
        broken: indices of the examples that are robust to AutoAttack and misclassified after another attack.
        stale: why existing records do not count, one sentence each.
    """

    run: RunRecord
    adaptive: AdaptiveRecord | None = None
    validation: Validation | None = None
    earlier: AdaptiveRecord | None = None
    broken: frozenset[int] = frozenset()
    stale: tuple[str, ...] = ()

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """Names of the checks that failed: reasons not to trust the robust accuracy."""
        return () if self.validation is None else tuple(result.name for result in self.validation.failed)

    @property
    def best_known(self) -> float:
        """The share of examples robust to all recorded attacks."""
        return (self.run.robust_count - len(self.broken)) / self.run.n

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of "clean", "autoattack" and "best" (known) accuracy, for the choice of images alone."""
        run = self.run
        counts = {"clean": round(run.clean_accuracy * run.n), "autoattack": run.robust_count}
        counts["best"] = run.robust_count - len(self.broken)
        return {name: interval_95(count, run.n) for name, count in counts.items()}

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the footnote of a leaderboard entry; none if AutoAttack's result needs no comment."""
        return tuple(page("remarks.txt", evidence=self, run=self.run).splitlines())

    @property
    def stronger(self) -> list[str]:
        """The attacks that broke the examples of ``broken``."""
        names = []
        if self.adaptive is not None and self.adaptive.all_fallen & self.broken:
            names.append(ADAPTIVE_PROTOCOL if self.adaptive.is_whole else "chosen adaptive attacks")
        if self.earlier is not None:
            names.append("earlier adaptive attacks")
        if self.validation is not None and set(self.validation.newly_broken) & self.broken:
            names.append("the attacks of asz validate")
        return names


def read_evidence(out: Path, entry: Keyed, identity: Identity | None = None) -> Evidence:
    """All records of a model below ``out``.

    There must be a run of AutoAttack and the file of its verdicts, which must give its accuracies. Adaptive attacks and
    a validation count only if they belong to that run: same model, radius and examples. Of adaptive attacks that
    started from other verdicts, only the broken examples count.

    Args:
        identity: if given, the run must be of this model.

    Raises:
        ResultsError: there is no run, it is of another model or not what its verdicts give, or a file is damaged.
    """
    run, verdicts = RunRecord.read(out, entry), verdicts_path(out, entry)
    run.require(out, entry, identity=identity)
    robust = frozenset(np.flatnonzero(run.verdicts(out, entry)).tolist())
    adaptive, validation = AdaptiveRecord.find(out, entry), Validation.find(out, entry)
    stale, earlier = [], None
    fallen = frozenset[int]() if adaptive is None else adaptive.fallen_of(run)
    if adaptive is not None and (why := adaptive.apart_from(run, verdicts)):
        earlier = adaptive if fallen & robust else None
        but = " (only the examples that it broke count)" if earlier else ""
        stale.append(_stale(adaptive, why, out, entry) + but)
        adaptive = None
    if validation is not None and (why := validation.apart_from(run)):
        stale.append(_stale(validation, why, out, entry))
        validation = None
    if adaptive is not None and not fallen <= robust:
        raise ResultsError(f"adaptive attacks of {entry.key} broke examples that {verdicts} has as broken already")
    broken = robust & (fallen | frozenset(() if validation is None else validation.newly_broken))
    return Evidence(
        run=run, adaptive=adaptive, validation=validation, earlier=earlier, broken=broken, stale=tuple(stale)
    )


def _stale(record: AdaptiveRecord | Validation, why: str, out: Path, entry: Keyed) -> str:
    return f"{record.path(out, entry)} {why} than the run next to it; run {record.COMMAND} again"


def check_records(out: Path, entry: ModelEntry) -> None:
    """Raise ResultsError, before a long run, if a record next to its results cannot be read."""
    AdaptiveRecord.find(out, entry)
    Validation.find(out, entry)


def update_entry(out: Path, entry: ModelEntry) -> Path:
    """Update run record and leaderboard entry to all the evidence, after a record was written.

    Returns:
        The path of the leaderboard entry. A run that is not of the standard protocol has none: an earlier one is
        deleted, and the path is that of the run record.
    """
    evidence = read_evidence(out, entry)
    among = max(evidence.run.chosen_among, entry.chosen_among(evidence.run.n))  # the entry may have been told later
    run = replace(evidence.run, failed_checks=evidence.failed_checks, chosen_among=among)
    if run != evidence.run:
        run.write(out, entry)
        evidence = replace(evidence, run=run)
    path = results_path(out, entry)
    if not run.is_standard:
        path.unlink(missing_ok=True)
        return run.path(out, entry)
    data = leaderboard_entry(
        entry,
        run.clean_accuracy,
        run.robust_accuracy,
        eps=run.eps,
        remarks=evidence.remarks,
        external=evidence.best_known if evidence.broken else None,
    )
    write_text(path, json.dumps(data, indent=2) + "\n")
    return path
