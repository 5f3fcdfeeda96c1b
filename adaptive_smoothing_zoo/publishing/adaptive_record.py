"""The record of adaptive attacks after an AutoAttack run, ``<NAME>.adaptive.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.evaluation.adapt import ADAPTIVE_PROTOCOL, AdaptiveEvaluation
from adaptive_smoothing_zoo.publishing.record import check_falling
from adaptive_smoothing_zoo.publishing.run_record import AttackRecord, RunRecord, attack_fields, verdicts_path
from adaptive_smoothing_zoo.storage.files import file_sha256
from adaptive_smoothing_zoo.storage.provenance import installed_versions
from adaptive_smoothing_zoo.zoo.entry import ModelEntry


@dataclass(frozen=True, kw_only=True)
class AdaptiveRecord(AttackRecord):
    """What the adaptive attacks found. Accuracies are fractions of all ``n`` examples.

    ``accuracy_after`` begins with "standard", the run from whose verdicts the attacks started. ``fallen`` has, for each
    attack, the indices of the examples that it broke.
    """

    KIND, TITLE, COMMAND = "adaptive", "a record of adaptive attacks", "asz adapt"

    verdicts_sha256: str  # of the standard run's .examples.npz
    standard_accuracy: float
    fallen: dict[str, tuple[int, ...]]

    @property
    def all_fallen(self) -> frozenset[int]:
        """Indices of the examples that the standard attacks left and these broke."""
        return frozenset(index for indices in self.fallen.values() for index in indices)

    @property
    def is_whole(self) -> bool:
        """Whether all adaptive attacks ran, and not chosen ones."""
        return self.protocol == ADAPTIVE_PROTOCOL

    @classmethod
    def check_replaceable(
        cls,
        out: Path,
        entry: ModelEntry,
        model: nn.Module,
        *,
        examples: Examples,
        eps: str | None = None,
        attacks: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> None:
        """As for any record. A record of more attacks is kept, too.

        Args:
            attacks: those of the new run; None if the record's do not matter.
        """
        super().check_replaceable(out, entry, model, examples=examples, eps=eps, seed=seed)
        known = cls.find(out, entry)
        if known is None or attacks is None:
            return
        if more := [name for name in known.attacks if name not in attacks]:
            raise ResultsError(
                f"{cls.path(out, entry)} has attacks that this run does not make ({', '.join(more)}); choose another "
                "folder for this run, or add --overwrite"
            )

    def check(self) -> None:
        super().check()
        check_falling(self.accuracy_after, self.standard_accuracy, self.robust_accuracy)
        fallen = [index for indices in self.fallen.values() for index in indices]
        if len(set(fallen)) < len(fallen) or not set(fallen) <= set(range(self.n)):
            raise ConfigError(f"'fallen' must name different examples of {self.n}")
        if len(fallen) != round(self.n * self.standard_accuracy) - round(self.n * self.robust_accuracy):
            raise ConfigError("'fallen' does not add up to the accuracy that was lost")

    def fallen_of(self, run: RunRecord) -> frozenset[int]:
        """Indices of the examples of a run that these attacks broke, whichever verdicts they started from.

        There are none if they attacked another model, at another radius, or other examples.
        """
        apart = self.misfit(identity=run.identity, threat=run.threat, data_sha256=run.data_sha256)
        return frozenset() if apart else self.all_fallen

    def apart_from(self, run: RunRecord, verdicts: Path) -> str | None:
        """Why the attacks did not start from this run and its file of verdicts; None if they did."""
        if why := self.misfit(identity=run.identity):
            return why
        started_here = verdicts.exists() and file_sha256(verdicts) == self.verdicts_sha256
        return None if started_here else "started from other verdicts"


def make_adaptive_record(
    out: Path,
    entry: ModelEntry,
    standard: RunRecord,
    found: AdaptiveEvaluation,
    *,
    protocol: str = ADAPTIVE_PROTOCOL,
    commit: str | None = None,
) -> AdaptiveRecord:
    """The record of a run of adaptive attacks.

    Args:
        out: the folder with the standard run's results.
        standard: the record of that run.
        protocol: which attacks ran.
        commit: what ``source_commit`` returned when the run began.
    """
    same = ("model", "dataset", "n", "data", "data_sha256", "eps", "identity")
    broken_by = sorted({name for name in found.broken_by.tolist() if name})
    return AdaptiveRecord(
        **{name: getattr(standard, name) for name in same},
        **attack_fields(found, protocol, commit),
        versions=installed_versions(),
        verdicts_sha256=file_sha256(verdicts_path(out, entry)),
        standard_accuracy=found.standard_accuracy,
        fallen={attack: tuple(np.flatnonzero(found.broken_by == attack).tolist()) for attack in broken_by},
    )
