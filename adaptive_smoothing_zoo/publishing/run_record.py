"""The record of an AutoAttack run, ``<NAME>.run.json``, and its verdicts, ``<NAME>.examples.npz``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, STANDARD_PROTOCOL, AttackSettings
from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, reason
from adaptive_smoothing_zoo.evaluation.adapt import AdaptiveEvaluation
from adaptive_smoothing_zoo.evaluation.evaluate import Evaluation
from adaptive_smoothing_zoo.evaluation.ledger import CLEAN
from adaptive_smoothing_zoo.publishing.pages import percent
from adaptive_smoothing_zoo.publishing.record import (
    TO_KEEP_BOTH,
    Keyed,
    Measurement,
    about,
    check_falling,
    interval_95,
    results_path,
)
from adaptive_smoothing_zoo.storage.files import file_sha256, write_with
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.provenance import device_name
from adaptive_smoothing_zoo.threat import ThreatModel, parse_eps
from adaptive_smoothing_zoo.zoo.entry import Entry, ModelEntry


@dataclass(frozen=True, kw_only=True)
class AttackRecord(Measurement):
    """How many examples a sequence of attacks left robust. ``accuracy_after`` begins with what they started from."""

    protocol: str
    attacks: tuple[str, ...]
    engine: str
    dtype: str
    tf32: bool
    channels_last: bool
    robust_accuracy: float
    accuracy_after: dict[str, float]
    seconds: dict[str, float]
    settings: AttackSettings | None = None  # None in older records, whose settings were the protocol's own

    def check(self) -> None:
        super().check()
        if tuple(self.accuracy_after)[1:] != self.attacks:
            raise ConfigError("'accuracy_after' must name what the attacks started from, and then 'attacks' in order")
        if self.settings is not None and self.settings.names != self.attacks:
            raise ConfigError("'settings' must be those of 'attacks', in their order")


@dataclass(frozen=True, kw_only=True)
class RunRecord(AttackRecord):
    """An evaluation by AutoAttack.

    A claim needs the whole test set in its order (``test_set_size``), the standard protocol (``is_standard``) and a
    model that gives the same logits twice (``deterministic``).
    """

    KIND, TITLE, COMMAND = "run", "a run record", "asz eval"

    test_set_size: int | None  # examples in the official test set, if these are its first n in its order
    verdicts_sha256: str | None = None  # of the file of verdicts; None if that was not noted
    deterministic: bool
    clean_accuracy: float
    broken_by: dict[str, int]  # number of examples by attack; misclassified without one: "clean"
    warnings: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    accuracy_alone: dict[str, float] = field(default_factory=dict)  # after each attack alone, if each attacked all
    chosen_among: int = 0  # how many of the examples chose the mix, as far as its entry says
    failed_checks: tuple[str, ...] = ()  # of asz validate on this model: reasons not to trust the robust accuracy

    @classmethod
    def check_replaceable(
        cls,
        out: Path,
        entry: ModelEntry,
        model: nn.Module,
        *,
        examples: Examples,
        eps: str | None = None,
        seed: int | None = None,
        settings: AttackSettings | None = None,
    ) -> None:
        """As for any record. ``settings``, those of the new run, also keep a record of other attacks or engine."""
        super().check_replaceable(
            out, entry, model, examples=examples, eps=eps, seed=seed if settings is None else settings.seed
        )
        known = cls.find(out, entry)
        if known is None or settings is None:
            return
        where, ways = cls.path(out, entry), TO_KEEP_BOTH
        if known.protocol != settings.protocol:
            raise ResultsError(
                f"{where} is of other attacks ({known.protocol}), this run makes: {settings.protocol}; {ways}"
            )
        if known.settings is not None and known.settings.engine != settings.engine:
            raise ResultsError(
                f"{where} was made by the engine {known.settings.engine!r}, this run has {settings.engine!r}; {ways}"
            )

    def is_about(self, entry: ModelEntry) -> bool:
        """Whether the run is of the weights, alpha and logit maps that a triplet's entry names, if it names any."""
        named = entry.weights.model_sha256 if isinstance(entry, Entry) else None
        return named in (None, self.identity.sha256)

    @property
    def is_standard(self) -> bool:
        """Whether it is the standard protocol with float32 verdicts; only such a run may enter a leaderboard.

        The search may have been in TF32 if the settings say so (see ``AttackSettings.is_standard``). Older records do
        not distinguish search and verdicts.
        """
        same = self.protocol == STANDARD_PROTOCOL and self.attacks == STANDARD_ATTACKS
        float32 = self.dtype == "float32" and self.tf32 == (self.settings is not None and self.settings.tf32)
        return same and float32 and (self.settings is None or self.settings.is_standard)

    @property
    def deviation(self) -> str | None:
        """How the run deviates from the standard protocol; None if it does not."""
        if self.is_standard:
            return None
        settings = self.settings
        if settings is not None and not settings.is_standard:
            return settings.protocol
        how = f"{self.dtype}, TF32 {'on' if self.tf32 else 'off'}"
        return f"not standard: {self.protocol}, {', '.join(self.attacks)}, {how}"

    @property
    def part(self) -> str:
        """Which part of the official test set the examples are, as far as that is known."""
        if self.test_set_size is None:
            return "not known to be of the official test set"
        return "the whole test set" if self.n == self.test_set_size else "not the whole test set"

    @property
    def robust_count(self) -> int:
        """How many examples no attack broke."""
        return round(self.robust_accuracy * self.n)

    @property
    def confidence_interval(self) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the robust accuracy, for the choice of test examples alone."""
        return interval_95(self.robust_count, self.n)

    def check(self) -> None:
        super().check()
        if not 0.0 <= self.robust_accuracy <= self.clean_accuracy <= 1.0:
            raise ConfigError(
                "accuracies are fractions, the robust one at most the clean one, got "
                f"{self.robust_accuracy} and {self.clean_accuracy}"
            )
        check_falling(self.accuracy_after, self.clean_accuracy, self.robust_accuracy)
        if self.accuracy_alone and self.accuracy_alone.keys() != set(self.attacks):
            raise ConfigError("'accuracy_alone' must name the 'attacks'")
        for alone in self.accuracy_alone.values():
            if not self.robust_accuracy <= alone <= self.clean_accuracy:
                raise ConfigError("'accuracy_alone' must lie between the robust and the clean accuracy")
        if sum(self.broken_by.values()) != self.n - self.robust_count:
            raise ConfigError("'broken_by' does not add up to the examples that are not robust")
        if self.broken_by.get(CLEAN, 0) != self.n - round(self.clean_accuracy * self.n):
            raise ConfigError(f"'broken_by' contradicts the clean accuracy, {self.clean_accuracy}")

    def verdicts(self, out: Path, entry: Keyed) -> np.ndarray:
        """Which examples the run left robust, (N,) bool; ResultsError if the file is missing, damaged or another's."""
        path = verdicts_path(out, entry)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                robust: np.ndarray = arrays["robust"]
                clean: np.ndarray = arrays["clean_correct"]
        except Exception as error:  # a damaged header makes NumPy's parser raise almost anything
            raise ResultsError(f"{path} is missing or damaged: {reason(error)}; run asz eval again") from error
        belongs = self.verdicts_sha256 in (None, file_sha256(path))
        alike = robust.shape == clean.shape == (self.n,) and robust.dtype == clean.dtype == np.bool_
        fits = alike and (clean.mean(), robust.mean()) == (self.clean_accuracy, self.robust_accuracy)
        if not (belongs and fits):
            raise ResultsError(f"{path} does not belong to the run record next to it; run asz eval again")
        return robust

    def verdicts_on(
        self, out: Path, entry: ModelEntry, examples: Examples, model: nn.Module | None = None
    ) -> np.ndarray:
        """The verdicts, (N,) bool, if the run was on these examples and, if given, with this model.

        Raises:
            ResultsError: it was not, or as ``verdicts``.
        """
        identity = None if model is None else identity_of(model, examples.images.shape[1:])
        self.require(out, entry, identity=identity, data_sha256=examples.sha256)
        return self.verdicts(out, entry)


def attack_fields(found: Evaluation | AdaptiveEvaluation, protocol: str, commit: str | None) -> dict[str, Any]:
    """The fields of a record that come from an evaluation; the first key of its ``accuracy_after`` is no attack."""
    return {
        "threat_model": found.norm,
        "protocol": protocol,
        "attacks": tuple(found.accuracy_after)[1:],
        "engine": found.engine,
        "seed": found.seed,
        "batch_size": found.batch_size,
        "device": found.device,
        "device_name": device_name(found.device),
        "dtype": "float32",
        "tf32": found.tf32,
        "channels_last": found.channels_last,
        "robust_accuracy": found.robust_accuracy,
        "accuracy_after": found.accuracy_after,
        "seconds": {name: round(value, 2) for name, value in found.seconds.items()},
        "settings": found.settings,
        "commit": commit,
    }


def make_record(
    entry: ModelEntry,
    evaluation: Evaluation,
    examples: Examples,
    model: nn.Module,
    *,
    eps: str | None = None,
    commit: str | None = None,
    remarks: tuple[str, ...] = (),
) -> RunRecord:
    """The record of an evaluation.

    Args:
        eps: the radius as text, if it is not the entry's own.
        commit: what ``source_commit`` returned when the run began.
        remarks: in addition to the evaluation's own.

    Raises:
        ResultsError: the evaluation had another threat model than the entry with this radius.
    """
    claimed = ThreatModel(entry.threat_model, parse_eps(eps or entry.eps))
    if evaluation.threat != claimed:
        raise ResultsError(f"the evaluation had {evaluation.threat}, not {claimed}; give the eps that it had")
    fields = about(entry, examples) | attack_fields(evaluation, evaluation.settings.protocol, commit)
    return RunRecord(
        **fields,
        eps=eps or entry.eps,
        identity=identity_of(model, examples.images.shape[1:]),
        test_set_size=examples.test_set_size,
        chosen_among=entry.chosen_among(len(examples)),
        deterministic=evaluation.deterministic,
        clean_accuracy=evaluation.clean_accuracy,
        accuracy_alone=evaluation.accuracy_alone,
        broken_by=dict(sorted(Counter(name for name in evaluation.broken_by.tolist() if name).items())),
        warnings=evaluation.warnings,
        remarks=(*evaluation.remarks, *remarks),
    )


def write_results(out: Path, entry: ModelEntry, evaluation: Evaluation, examples: Examples, record: RunRecord) -> None:
    """Write run record and verdicts, each whole or not at all; ``evidence.update_entry`` writes the leaderboard's."""
    arrays: dict[str, Any] = {
        "index": np.arange(len(evaluation)),
        "label": examples.labels.numpy(),
        "clean_correct": evaluation.clean_correct,
        "robust": evaluation.robust,
        "broken_by": evaluation.broken_by,
    }
    path = verdicts_path(out, entry)
    write_with(path, lambda temporary: np.savez_compressed(temporary, **arrays))
    replace(record, verdicts_sha256=file_sha256(path)).write(out, entry)


def agreement(results: Path, entry: ModelEntry, evaluation: Evaluation, examples: Examples) -> str:
    """A sentence on how far an evaluation agrees with the recorded one of the same model name and examples.

    Raises:
        ResultsError: there is no such record.
    """
    record = RunRecord.read(results, entry)
    recorded = record.verdicts_on(results, entry, examples)
    same = int((recorded == evaluation.robust).sum())
    ours, theirs = (percent(float(robust.mean())) for robust in (evaluation.robust, recorded))
    return (
        f"the verdicts of {evaluation.engine} (seed {evaluation.seed}) equal those of {record.engine} (seed "
        f"{record.seed}) on {same} of {len(recorded)} examples; robust accuracy {ours} % and {theirs} %"
    )


def verdicts_path(out: Path, entry: Keyed) -> Path:
    """The path of the verdicts on single examples."""
    return results_path(out, entry).with_suffix(".examples.npz")


def state_path(out: Path, entry: ModelEntry, shard: tuple[int, int] = (0, 1)) -> Path:
    """The path of the state of an unfinished evaluation, or of one of its shards."""
    which = "" if shard[1] == 1 else f".shard-{shard[0]}-of-{shard[1]}"
    return results_path(out, entry).with_suffix(f"{which}.state")


def shard_states(out: Path, entry: ModelEntry, *others: ModelEntry) -> list[Path]:
    """The states of the shards of an evaluation: of the first entry that has any; ResultsError if none has."""
    path = results_path(out, entry)
    found = sorted(path.parent.glob(f"{path.stem}.shard-*-of-*.state"))
    if not found and others:
        return shard_states(out, *others)
    if not found:
        raise ResultsError(f"there are no shards of {entry.key} in {path.parent}; run asz eval --shard i/k for each i")
    return found
