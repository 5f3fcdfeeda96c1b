"""The record of adaptive attacks, ``<NAME>.adaptive.json`` beside the run record, and what a leaderboard is told."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, shown
from adaptive_smoothing_zoo.evaluation.adapt import STANDARD, AdaptiveEvaluation
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.publishing.records import (
    RunRecord,
    check_falling,
    read_verdicts,
    results_path,
    verdicts_path,
)
from adaptive_smoothing_zoo.storage.files import file_sha256, write_text
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions, tensors_sha256
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json
from adaptive_smoothing_zoo.zoo.entry import Entry


@dataclass(frozen=True, kw_only=True)
class AdaptiveRecord:
    """What the adaptive attacks found, and with what. Accuracies are fractions of all ``n`` examples.

    ``accuracy_after`` begins with "standard", the run whose verdicts it started from; ``fallen`` are the indices of the
    examples that fell to each attack.
    """

    model: str
    dataset: str
    threat_model: str
    eps: str
    protocol: str
    attacks: tuple[str, ...]
    engine: str
    n: int
    data: str
    data_sha256: str
    identity: Identity
    verdicts_sha256: str  # of the standard run's .examples.npz
    seed: int
    batch_size: int
    device: str
    device_name: str
    dtype: str
    tf32: bool
    channels_last: bool
    standard_accuracy: float
    robust_accuracy: float
    accuracy_after: dict[str, float]
    fallen: dict[str, tuple[int, ...]]
    versions: dict[str, str]
    commit: str | None
    seconds: dict[str, float]

    @property
    def all_fallen(self) -> frozenset[int]:
        """Indices of the examples that the standard attacks left and these broke."""
        return frozenset(index for indices in self.fallen.values() for index in indices)


PROTOCOL = "adaptive AutoAttack"


def standard_verdicts(
    out: Path, entry: Entry, record: RunRecord, model: MixedClassifier, examples: Examples
) -> np.ndarray:
    """Which examples a recorded standard run left standing, (N,) bool.

    Raises:
        ResultsError: the run was about another model or other examples, or its verdicts are missing or damaged.
    """
    if record.identity != identity_of(model, examples.images.shape[1:]):
        raise ResultsError(f"the recorded run of {entry.key} was made with another model; run asz eval again")
    if record.data_sha256 != tensors_sha256({"images": examples.images, "labels": examples.labels}):
        raise ResultsError(f"the recorded run of {entry.key} took other examples: {record.n} of {record.data}")
    return read_verdicts(out, entry, record)


def make_adaptive_record(
    out: Path, entry: Entry, standard: RunRecord, found: AdaptiveEvaluation, *, commit: str | None = None
) -> AdaptiveRecord:
    """Everything about a run of adaptive attacks that a reader needs to trust it or to repeat it.

    Args:
        out: where the standard run is recorded.
        standard: its record.
        commit: what ``source_commit`` said when the run began.
    """
    return AdaptiveRecord(
        model=entry.name,
        dataset=entry.dataset,
        threat_model=found.norm,
        eps=standard.eps,
        protocol=PROTOCOL,
        attacks=tuple(attack for attack in found.accuracy_after if attack != STANDARD),
        engine=found.engine,
        n=len(found),
        data=standard.data,
        data_sha256=standard.data_sha256,
        identity=standard.identity,
        verdicts_sha256=file_sha256(verdicts_path(out, entry)),
        seed=found.seed,
        batch_size=found.batch_size,
        device=found.device,
        device_name=device_name(found.device),
        dtype="float32",
        tf32=found.tf32,
        channels_last=found.channels_last,
        standard_accuracy=found.standard_accuracy,
        robust_accuracy=found.robust_accuracy,
        accuracy_after=found.accuracy_after,
        fallen={
            attack: tuple(np.flatnonzero(found.broken_by == attack).tolist())
            for attack in sorted(Counter(name for name in found.broken_by.tolist() if name))
        },
        versions=installed_versions(),
        commit=commit,
        seconds={name: round(value, 2) for name, value in found.seconds.items()},
    )


def write_adaptive(out: Path, entry: Entry, record: AdaptiveRecord) -> None:
    """Write the record, whole or not at all."""
    write_text(_record_path(out, entry), json.dumps(to_json(record), indent=2) + "\n")


def read_adaptive_record(out: Path, entry: Entry) -> AdaptiveRecord | None:
    """The record of adaptive attacks of a triplet under ``out``, or None if there is none.

    Raises:
        ResultsError: the file is damaged, or of another triplet.
    """
    path = _record_path(out, entry)
    if not path.exists():
        return None
    try:
        record = parse(AdaptiveRecord, read_json(path), str(path))
        _check_numbers(record)
    except ConfigError as error:
        raise ResultsError(f"{path} is not a record of adaptive attacks: {error}") from error
    if (record.model, record.dataset, record.threat_model) != (entry.name, entry.dataset, entry.threat_model):
        recorded = shown(f"{record.model}-{record.dataset}-{record.threat_model}")
        raise ResultsError(f"{path} records {recorded}, not {entry.key}")
    return record


def _check_numbers(record: AdaptiveRecord) -> None:
    """Raise ConfigError unless the numbers of a record can be, and agree with each other."""
    check_falling(record.accuracy_after, record.standard_accuracy, record.robust_accuracy)
    fallen = [index for indices in record.fallen.values() for index in indices]
    if record.n < 1 or len(set(fallen)) < len(fallen) or not set(fallen) <= set(range(record.n)):
        raise ConfigError(f"'fallen' must name different examples of {record.n}")
    if len(fallen) != round(record.n * record.standard_accuracy) - round(record.n * record.robust_accuracy):
        raise ConfigError("'fallen' does not add up to the accuracy that was lost")


def adaptive_state_path(out: Path, entry: Entry) -> Path:
    """The file in which an unfinished run of adaptive attacks on a triplet keeps its state."""
    return results_path(out, entry).with_suffix(".adaptive.state")


def _record_path(out: Path, entry: Entry) -> Path:
    return results_path(out, entry).with_suffix(".adaptive.json")
