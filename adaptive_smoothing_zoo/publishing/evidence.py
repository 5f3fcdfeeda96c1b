"""All that was recorded of a triplet's robustness, taken together: AutoAttack, adaptive attacks, validation.

Leaderboard entry, claim and card speak from here, so that none of them can know of one record and not of another.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.adaptive_record import AdaptiveRecord, read_adaptive_record
from adaptive_smoothing_zoo.publishing.leaderboard import leaderboard_entry, percent
from adaptive_smoothing_zoo.publishing.records import (
    RunRecord,
    read_record,
    read_verdicts,
    record_path,
    results_path,
    verdicts_path,
    write_record,
)
from adaptive_smoothing_zoo.publishing.validation_record import validation_path
from adaptive_smoothing_zoo.storage.files import file_sha256, write_text
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.validation import Validation, read_validation
from adaptive_smoothing_zoo.zoo.entry import Entry


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was recorded of one model, at one radius.

    Attributes:
        run: the AutoAttack run.
        adaptive: the adaptive attacks on what that run left standing, or None.
        validation: the checks of whether its number can be trusted, or None.
        broken: indices of the examples that AutoAttack left standing and that another attack broke.
        stale: why records that lie there were left aside, a sentence each.
    """

    run: RunRecord
    adaptive: AdaptiveRecord | None = None
    validation: Validation | None = None
    broken: frozenset[int] = frozenset()
    stale: tuple[str, ...] = ()

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """Names of the checks that failed: reasons not to trust the robust accuracy."""
        return () if self.validation is None else tuple(result.name for result in self.validation.failed)

    @property
    def best_known(self) -> float:
        """The share of examples that no recorded attack broke."""
        return (round(self.run.robust_accuracy * self.run.n) - len(self.broken)) / self.run.n

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the footnote of a leaderboard entry; nothing if there is nothing to add to AutoAttack."""
        said = []
        if not self.run.is_full_standard_run:
            said.append(f"Not the whole test set: {self.run.n} examples.")
        if self.run.warnings:
            flags = " ".join(f"{text.split('. ')[0].rstrip('.')}." for text in self.run.warnings)
            said.append(f"AutoAttack's own checks raised a flag in this evaluation: {flags}")
        if self.failed_checks:
            names = ", ".join(self.failed_checks)
            said.append(f"The robust accuracy is not to be trusted as it stands: asz validate failed in {names}.")
        if self.broken:
            said.append(
                f"{percent(self.best_known)}% robust accuracy is due to {' and '.join(self._stronger())}, which broke "
                f"{len(self.broken)} of the {round(self.run.robust_accuracy * self.run.n)} examples that AutoAttack "
                "left."
            )
        return tuple(said)

    def _stronger(self) -> list[str]:
        """The attacks to which ``broken`` is due."""
        names = []
        if self.adaptive is not None and self.adaptive.all_fallen & self.broken:
            names.append("adaptive AutoAttack")
        if self.validation is not None and set(self.validation.newly_broken) & self.broken:
            names.append("the attacks of asz validate")
        return names


def read_evidence(out: Path, entry: Entry, model: nn.Module | None = None) -> Evidence:
    """Whatever is recorded of a triplet under ``out``; at least a run of AutoAttack.

    Records of adaptive attacks and of a validation count if they are about the run beside them: its model, its
    radius, its examples and, for adaptive attacks, its very verdicts.

    Args:
        model: if given, the run must have been made with it.

    Raises:
        ResultsError: there is no run, it is another model's, or a file is damaged.
    """
    run = read_record(out, entry)
    if model is not None and run.identity != identity_of(model, entry.image_shape):
        raise ResultsError(
            f"{record_path(out, entry)} records an evaluation of another model than this {entry.key}: other weights, "
            "another alpha or other maps; evaluate this one (asz eval), or name a folder without results for it"
        )
    adaptive, validation, stale = read_adaptive_record(out, entry), _read_validation(out, entry), []
    verdicts = verdicts_path(out, entry)
    if adaptive is not None and adaptive.identity != run.identity:
        adaptive = None
        stale.append(
            f"the recorded adaptive attacks were made with another model than the run in {verdicts.parent}; "
            "run asz adapt again"
        )
    if adaptive is not None and adaptive.verdicts_sha256 != _sha256_of(verdicts):
        adaptive = None
        stale.append(f"the recorded adaptive attacks started from other verdicts than {verdicts}; run asz adapt again")
    if validation is not None and (why := _why_apart(validation, run)):
        validation = None
        stale.append(
            f"the recorded validation was made {why} than the run in {verdicts.parent}; run asz validate again"
        )
    broken: set[int] = set()
    fallen = frozenset() if adaptive is None else adaptive.all_fallen
    newly = () if validation is None else validation.newly_broken
    if fallen or newly:
        robust = set(np.flatnonzero(read_verdicts(out, entry, run)).tolist())
        if not fallen <= robust:
            raise ResultsError(f"adaptive attacks of {entry.key} broke examples that {verdicts} has as broken already")
        broken = set(fallen) | (set(newly) & robust)
    return Evidence(run=run, adaptive=adaptive, validation=validation, broken=frozenset(broken), stale=tuple(stale))


def check_records(out: Path, entry: Entry) -> None:
    """Find out before a long run whether the records beside its results can be read.

    Raises:
        ResultsError: one is damaged.
    """
    read_adaptive_record(out, entry)
    _read_validation(out, entry)


def update_entry(out: Path, entry: Entry) -> Path:
    """Bring the run record and the leaderboard entry up to all the evidence; the entry's path.

    To be called whenever a record was written.

    Raises:
        ResultsError: a record is missing or damaged, or a file cannot be written.
    """
    evidence = read_evidence(out, entry)
    run = dataclasses.replace(evidence.run, failed_checks=evidence.failed_checks)
    if run != evidence.run:
        write_record(out, entry, run)
    data = leaderboard_entry(
        entry,
        run.clean_accuracy,
        run.robust_accuracy,
        eps=run.eps,
        remarks=evidence.remarks,
        external=evidence.best_known if evidence.broken else None,
    )
    path = results_path(out, entry)
    write_text(path, json.dumps(data, indent=2) + "\n")
    return path


def _read_validation(out: Path, entry: Entry) -> Validation | None:
    path = validation_path(out, entry)
    return read_validation(path) if path.exists() else None


def _why_apart(validation: Validation, run: RunRecord) -> str | None:
    if validation.identity != run.identity:
        return "with another model"
    if parse_eps(validation.eps) != parse_eps(run.eps):
        return f"at another eps, {validation.eps},"
    if validation.newly_broken and validation.recorded_data_sha256 != run.data_sha256:
        return "on other examples"
    return None


def _sha256_of(path: Path) -> str | None:
    return file_sha256(path) if path.exists() else None
