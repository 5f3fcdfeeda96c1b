"""Results on disk: the leaderboard entry, the run record and the verdict on each example.

Under ``OUT/<dataset>/<threat model>/``: ``<NAME>.json``, ``<NAME>.run.json`` and ``<NAME>.examples.npz``.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from adaptive_smoothing_zoo.attacks.autoattack.reference import STANDARD_ATTACKS
from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, reason, shown
from adaptive_smoothing_zoo.evaluation.evaluate import Evaluation
from adaptive_smoothing_zoo.publishing.leaderboard import percent
from adaptive_smoothing_zoo.storage.files import file_sha256, write_text, write_with
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions, tensors_sha256
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.zoo.entry import Entry


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What was measured, on what, and with what. Accuracies are fractions.

    ``deterministic``, ``warnings`` and ``test_set_size`` decide whether a leaderboard may be told of it: a claim needs
    the whole test set in its order, the standard protocol and a model that answers the same twice.
    """

    model: str
    dataset: str
    threat_model: str
    eps: str
    protocol: str
    attacks: tuple[str, ...]
    engine: str
    n: int
    test_set_size: int | None  # examples in the official test set, if these are its first n in its order
    data: str
    data_sha256: str  # of the images' and labels' bytes
    verdicts_sha256: str | None = None  # of the file of verdicts; None if that was not noted
    identity: Identity  # who the model is
    seed: int
    batch_size: int
    device: str
    device_name: str
    dtype: str
    tf32: bool
    channels_last: bool
    deterministic: bool
    clean_accuracy: float
    robust_accuracy: float
    accuracy_after: dict[str, float]
    broken_by: dict[str, int]
    warnings: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    failed_checks: tuple[str, ...] = ()  # of asz validate on this model: reasons not to trust the robust accuracy
    versions: dict[str, str]
    commit: str | None  # of the package's source, if it runs from a checkout
    seconds: dict[str, float]

    @property
    def is_full_standard_run(self) -> bool:
        """Whether every example of the official test set went through the standard protocol, in full float32."""
        whole = self.n == self.test_set_size and self.attacks == STANDARD_ATTACKS
        return whole and self.protocol == STANDARD and self.dtype == "float32" and not self.tf32

    @property
    def confidence_interval(self) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the robust accuracy, for the choice of test examples alone."""
        from scipy.stats import binomtest

        interval = binomtest(round(self.robust_accuracy * self.n), self.n).proportion_ci(0.95, "exact")
        return float(interval.low), float(interval.high)


STANDARD = "AutoAttack standard"


def make_record(
    entry: Entry,
    evaluation: Evaluation,
    examples: Examples,
    model: nn.Module,
    *,
    eps: str | None = None,
    commit: str | None = None,
    remarks: tuple[str, ...] = (),
) -> RunRecord:
    """Everything about a run that a reader needs to trust it or to repeat it.

    Args:
        eps: as text, if it is not the entry's own.
        commit: what ``source_commit`` said when the run began.
        remarks: beside the evaluation's own.
    """
    return RunRecord(
        model=entry.name,
        dataset=entry.dataset,
        threat_model=evaluation.norm,
        eps=eps or entry.eps,
        protocol=STANDARD,
        attacks=tuple(attack for attack in evaluation.accuracy_after if attack != "clean"),
        engine=evaluation.engine,
        n=len(evaluation),
        test_set_size=examples.test_set_size,
        data=examples.source,
        data_sha256=tensors_sha256({"images": examples.images, "labels": examples.labels}),
        identity=identity_of(model, examples.images.shape[1:]),
        seed=evaluation.seed,
        batch_size=evaluation.batch_size,
        device=evaluation.device,
        device_name=device_name(evaluation.device),
        dtype="float32",
        tf32=evaluation.tf32,
        channels_last=evaluation.channels_last,
        deterministic=evaluation.deterministic,
        clean_accuracy=evaluation.clean_accuracy,
        robust_accuracy=evaluation.robust_accuracy,
        accuracy_after=evaluation.accuracy_after,
        broken_by=dict(sorted(Counter(name for name in evaluation.broken_by.tolist() if name).items())),
        warnings=evaluation.warnings,
        remarks=(*evaluation.remarks, *remarks),
        versions=installed_versions(),
        commit=commit,
        seconds={name: round(value, 2) for name, value in evaluation.seconds.items()},
    )


def check_writable(out: Path, entry: Entry) -> None:
    """Find out before a long run whether its results can be written; nothing is left behind, no folder either.

    Raises:
        ResultsError: they cannot.
    """
    path = results_path(out, entry)
    try:
        with tempfile.TemporaryFile(dir=_nearest_that_exists(path)):
            pass
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def _nearest_that_exists(path: Path) -> Path:
    for folder in path.parents:
        with suppress(FileNotFoundError):
            folder.lstat()  # unlike exists(), is not silent about a file in a folder's place or too long a name
            return folder
    return Path()


class Measured(Protocol):
    """What records of one triplet have in common: on how much they speak, at which radius, of which model."""

    @property
    def n(self) -> int: ...
    @property
    def eps(self) -> str: ...
    @property
    def identity(self) -> Identity: ...


def check_replaceable(
    known: Measured | None, what: str, out: Path, entry: Entry, model: nn.Module, *, n: int, eps: str | None = None
) -> None:
    """Find out before a long run whether its record would say less than the one in whose place it would stand.

    A record of another model counts as well: nobody can measure it again without that model.

    Args:
        known: the record that is there, if there is one.
        what: to call it in messages.
        n: examples of the run that is to begin.
        eps: its radius, the entry's own if None.

    Raises:
        ResultsError: it would have fewer examples, or another radius in the place of the entry's own.
    """
    if known is None:
        return
    ways = "choose another folder for this run, or add --overwrite"
    other = known.identity != identity_of(model, entry.image_shape)
    where = f"the {what} of {entry.key} in {out}{' is of another model and' if other else ''}"
    if known.n > n:
        raise ResultsError(f"{where} has {known.n} examples, this run has {n}; {ways}")
    ours = parse_eps(entry.eps)
    if parse_eps(known.eps) == ours != parse_eps(eps or entry.eps):
        raise ResultsError(
            f"{where} has the entry's radius {entry.eps} and {known.n} examples, this run has the "
            f"radius {eps} and {n} examples; {ways}"
        )


def results_path(out: Path, entry: Entry) -> Path:
    """Where the leaderboard entry of a triplet stands under ``out``; the other two files stand beside it."""
    return out / entry.dataset / entry.threat_model / f"{entry.name}.json"


def record_path(out: Path, entry: Entry) -> Path:
    """Where the record of a triplet's evaluation stands."""
    return results_path(out, entry).with_suffix(".run.json")


def verdicts_path(out: Path, entry: Entry) -> Path:
    """Where the verdicts on the single examples stand."""
    return results_path(out, entry).with_suffix(".examples.npz")


def state_path(out: Path, entry: Entry, shard: tuple[int, int] = (0, 1)) -> Path:
    """The folder in which an unfinished evaluation of a triplet (or a shard of one) keeps its state."""
    which = "" if shard[1] == 1 else f".shard-{shard[0]}-of-{shard[1]}"
    return results_path(out, entry).with_suffix(f"{which}.state")


def shard_states(out: Path, entry: Entry) -> list[Path]:
    """The states of shards of a triplet's evaluation.

    Raises:
        ResultsError: there are none.
    """
    path = results_path(out, entry)
    found = sorted(path.parent.glob(f"{path.stem}.shard-*-of-*.state"))
    if not found:
        raise ResultsError(f"there are no shards of {entry.key} in {path.parent}; run asz eval --shard i/k for each i")
    return found


def agreement(results: Path, entry: Entry, evaluation: Evaluation, examples: Examples) -> str:
    """By how much an evaluation agrees with a recorded one of the same triplet on the same data, in one sentence.

    Raises:
        ResultsError: there is no such record, or it is of other data.
    """
    record = read_record(results, entry)
    if record.data_sha256 != tensors_sha256({"images": examples.images, "labels": examples.labels}):
        raise ResultsError(f"the run of {entry.key} recorded in {results} is of other data: {record.data}")
    recorded = read_verdicts(results, entry, record)
    same = int((recorded == evaluation.robust).sum())
    ours, theirs = (percent(float(robust.mean())) for robust in (evaluation.robust, recorded))
    return (
        f"the verdicts of {evaluation.engine} (seed {evaluation.seed}) equal those of {record.engine} (seed "
        f"{record.seed}) on {same} of {len(recorded)} examples; robust accuracy {ours} % and {theirs} %"
    )


def write_results(out: Path, entry: Entry, evaluation: Evaluation, examples: Examples, record: RunRecord) -> None:
    """Write the run record and the verdicts, each whole or not at all.

    The leaderboard entry is for :func:`adaptive_smoothing_zoo.publishing.evidence.update_entry` to write.

    Raises:
        ResultsError: they cannot be written.
    """
    arrays: dict[str, Any] = {
        "index": np.arange(len(evaluation)),
        "label": examples.labels.numpy(),
        "clean_correct": evaluation.clean_correct,
        "robust": evaluation.robust,
        "broken_by": evaluation.broken_by,
    }
    path = verdicts_path(out, entry)
    write_with(path, lambda temporary: np.savez_compressed(temporary, **arrays))
    write_record(out, entry, replace(record, verdicts_sha256=file_sha256(path)))


def write_record(out: Path, entry: Entry, record: RunRecord) -> None:
    """Write a run record."""
    write_text(record_path(out, entry), json.dumps(to_json(record), indent=2) + "\n")


def read_record(out: Path, entry: Entry) -> RunRecord:
    """The run record of a triplet under ``out``.

    Raises:
        ResultsError: there is none, or it is damaged, or it is of another triplet.
    """
    path = record_path(out, entry)
    try:
        record = parse(RunRecord, read_json(path), str(path))
        _check_numbers(record)
    except FileNotFoundError:
        raise ResultsError(f"there are no results for {entry.key}: {path} does not exist; run asz eval") from None
    except ConfigError as error:
        raise ResultsError(f"{path} is not a run record: {error}") from error
    if (record.model, record.dataset, record.threat_model) != (entry.name, entry.dataset, entry.threat_model):
        recorded = shown(f"{record.model}-{record.dataset}-{record.threat_model}")
        raise ResultsError(f"{path} records {recorded}, not {entry.key}")
    return record


def _check_numbers(record: RunRecord) -> None:
    """Raise ConfigError unless the numbers of a record can be, and agree with each other."""
    parse_eps(record.eps)
    if record.n < 1:
        raise ConfigError(f"'n' must be at least 1, got {record.n}")
    if not 0.0 <= record.robust_accuracy <= record.clean_accuracy <= 1.0:
        raise ConfigError(
            "accuracies are fractions, the robust one at most the clean one, got "
            f"{record.robust_accuracy} and {record.clean_accuracy}"
        )
    check_falling(record.accuracy_after, record.clean_accuracy, record.robust_accuracy)
    if sum(record.broken_by.values()) != record.n - round(record.n * record.robust_accuracy):
        raise ConfigError("'broken_by' does not add up to the examples that are not robust")


def check_falling(accuracy_after: dict[str, float], first: float, last: float) -> None:
    """Raise ConfigError unless the accuracies after some attacks are fractions that fall from ``first`` to ``last``."""
    after = tuple(accuracy_after.values())
    falls = all(1.0 >= a >= b >= 0.0 for a, b in pairwise((*after, 0.0)))
    if not falls or after[:1] != (first,) or after[-1] != last:
        raise ConfigError(f"'accuracy_after' must fall from {first} to {last}")


def read_verdicts(out: Path, entry: Entry, record: RunRecord) -> np.ndarray:
    """Which examples a recorded run left standing, (N,) bool.

    Raises:
        ResultsError: they are missing, damaged or of another run.
    """
    path = verdicts_path(out, entry)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            robust: np.ndarray = arrays["robust"]
    except Exception as error:  # a damaged header makes NumPy's parser raise almost anything
        raise ResultsError(f"{path} is missing or damaged: {reason(error)}; run asz eval again") from error
    belongs = record.verdicts_sha256 in (None, file_sha256(path))
    fits = robust.shape == (record.n,) and robust.dtype == np.bool_ and robust.mean() == record.robust_accuracy
    if not (belongs and fits):
        raise ResultsError(f"{path} does not belong to the run record beside it; run asz eval again")
    return robust
