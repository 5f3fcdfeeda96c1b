"""Records: what was measured of a model, each a file next to its leaderboard entry.

Below ``OUT/<dataset>/<threat model>/``: ``<NAME>.json`` is the leaderboard entry, ``<NAME>.<kind>.json`` a record.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from torch import nn

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, shown
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.storage.provenance import installed_versions
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json
from adaptive_smoothing_zoo.threat import ThreatModel, parse_eps
from adaptive_smoothing_zoo.zoo.entry import ModelEntry


class Keyed(Protocol):
    """The facts that a model's files are named after; entries of all kinds have them."""

    @property
    def name(self) -> str: ...

    @property
    def dataset(self) -> str: ...

    @property
    def threat_model(self) -> str: ...

    @property
    def key(self) -> str: ...


TO_KEEP_BOTH = "choose another folder for this run, or add --overwrite"  # what to do where a record stands in the way


@dataclass(frozen=True)
class ModelKey:
    """What the place of a record says about its model."""

    name: str
    dataset: str
    threat_model: str

    @property
    def key(self) -> str:
        return f"{self.name}-{self.dataset}-{self.threat_model}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was measured, on what, and with which versions.

    A subclass is one kind of record: ``KIND`` is the end of its file's name, ``TITLE`` its name in messages,
    ``COMMAND`` the command that writes it. ``DERIVED`` properties are written for readers and ignored when read;
    ``RENAMED`` maps keys of older files to today's.
    """

    KIND: ClassVar[str]
    TITLE: ClassVar[str]
    COMMAND: ClassVar[str]
    DERIVED: ClassVar[tuple[str, ...]] = ()
    RENAMED: ClassVar[dict[str, str]] = {}

    model: str
    dataset: str
    threat_model: str
    n: int
    data: str
    data_sha256: str  # of the images' and labels' bytes
    versions: dict[str, str]

    @classmethod
    def path(cls, out: Path, entry: Keyed) -> Path:
        """The path of a model's record below ``out``."""
        return results_path(out, entry).with_suffix(f".{cls.KIND}.json")

    @classmethod
    def state_path(cls, out: Path, entry: ModelEntry) -> Path:
        """The path of the state of an unfinished measurement."""
        return cls.path(out, entry).with_suffix(".state")

    @classmethod
    def read(cls, out: Path, entry: Keyed) -> Self:
        """The record of a model below ``out``.

        Raises:
            ResultsError: it is missing or damaged, contradicts itself, or is of another model.
        """
        path = cls.path(out, entry)
        try:
            content = read_json(path)
            if isinstance(content, dict):
                content = {cls.RENAMED.get(key, key): content[key] for key in content if key not in cls.DERIVED}
            record = parse(cls, content, str(path))
            record.check()
        except FileNotFoundError:
            raise ResultsError(
                f"there are no results for {entry.key}: {path} does not exist; run {cls.COMMAND}"
            ) from None
        except ConfigError as error:
            raise ResultsError(f"{path} is not {cls.TITLE}: {error}") from error
        if not record.is_of(entry):
            recorded = shown(f"{record.model}-{record.dataset}-{record.threat_model}")
            raise ResultsError(f"{path} records {recorded}, not {entry.key}")
        return record

    @classmethod
    def find(cls, out: Path, entry: Keyed) -> Self | None:
        """The record of a model, None if there is none; raises as ``read``."""
        return cls.read(out, entry) if cls.path(out, entry).exists() else None

    def write(self, out: Path, entry: ModelEntry) -> Path:
        """Write the record, whole or not at all, and return its path; ResultsError if it cannot be written."""
        path = self.path(out, entry)
        content = to_json(self) | {name: getattr(self, name) for name in self.DERIVED}
        write_text(path, json.dumps(content, indent=2) + "\n")
        return path

    def check(self) -> None:
        """Raise ConfigError if numbers are impossible or contradict each other."""
        if self.n < 1:
            raise ConfigError(f"'n' must be at least 1, got {self.n}")

    def is_of(self, entry: Keyed) -> bool:
        """Whether the record is about this model, data set and threat model."""
        return (self.model, self.dataset, self.threat_model) == (entry.name, entry.dataset, entry.threat_model)


@dataclass(frozen=True, kw_only=True)
class Measurement(Record):
    """A record of one model at one radius. Accuracies in records are fractions."""

    eps: str
    identity: Identity
    seed: int
    batch_size: int
    device: str
    device_name: str
    commit: str | None  # of the package's source, if it runs from a checkout

    @property
    def threat(self) -> ThreatModel:
        """The threat model of the measurement."""
        return ThreatModel(self.threat_model, parse_eps(self.eps))

    def check(self) -> None:
        super().check()
        parse_eps(self.eps)

    def misfit(
        self, *, identity: Identity | None = None, threat: ThreatModel | None = None, data_sha256: str | None = None
    ) -> str | None:
        """Why the record is not about the given model, threat model or data; None if it is about all of them."""
        if identity is not None and self.identity != identity:
            return "was made with another model (other weights, alpha or logit maps)"
        if threat is not None and self.threat != threat:
            return f"was made at another eps, {self.eps},"
        if data_sha256 is not None and self.data_sha256 != data_sha256:
            return f"was made on other examples ({self.n} of {self.data})"
        return None

    def require(
        self, out: Path, entry: Keyed, *, identity: Identity | None = None, data_sha256: str | None = None
    ) -> None:
        """Raise ResultsError unless the record is about this model and these data."""
        if why := self.misfit(identity=identity, data_sha256=data_sha256):
            raise ResultsError(
                f"{self.path(out, entry)} {why} than this {entry.key}; run {self.COMMAND} again, or name a folder "
                "without results for it"
            )

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
    ) -> None:
        """Refuse, before a long run, to replace a record that the new one does not repeat or extend.

        A record of another model is never replaced: nobody can measure it again without that model. Another seed breaks
        other examples, and what was broken once must stay known.

        Args:
            examples: of the new run.
            eps: its radius; the entry's if None.
            seed: its seed; None if the record's does not matter.

        Raises:
            ResultsError: the existing record is of another model, radius or seed, or of other or more examples; or it
                cannot be read.
        """
        known = cls.find(out, entry)
        if known is None:
            return
        where, ways = cls.path(out, entry), TO_KEEP_BOTH
        if known.misfit(identity=identity_of(model, entry.image_shape)):
            raise ResultsError(f"{where} is of another model (other weights, alpha or logit maps); {ways}")
        check_extends(known, examples, where)
        if known.threat.eps != parse_eps(eps or entry.eps):
            raise ResultsError(f"{where} has the radius {known.eps}, this run has {eps or entry.eps}; {ways}")
        if seed not in (None, known.seed):
            raise ResultsError(f"{where} has seed {known.seed}, this run has {seed}; {ways}")


def check_extends(known: Record, examples: Examples, where: Path) -> None:
    """Raise ResultsError unless the examples of a record, at ``where``, are the first of these."""
    if known.n > len(examples):
        raise ResultsError(f"{where} has {known.n} examples, this run has {len(examples)}; {TO_KEEP_BOTH}")
    if examples.first(known.n).sha256 != known.data_sha256:
        raise ResultsError(f"{where} is of other images ({known.data}); {TO_KEEP_BOTH}")


def about(entry: ModelEntry, examples: Examples) -> dict[str, Any]:
    """The fields that every record of a model has."""
    return {
        "model": entry.name,
        "dataset": entry.dataset,
        "threat_model": entry.threat_model,
        "n": len(examples),
        "data": examples.source,
        "data_sha256": examples.sha256,
        "versions": installed_versions(),
    }


def results_path(out: Path, entry: Keyed) -> Path:
    """The path of a model's leaderboard entry below ``out``; its records are next to it."""
    return out / entry.dataset / entry.threat_model / f"{entry.name}.json"


def check_writable(out: Path, entry: ModelEntry) -> None:
    """Raise ResultsError, before a long run, if its results cannot be written. Creates no file and no folder."""
    check_file_writable(results_path(out, entry))


def check_file_writable(path: Path) -> None:
    """As ``check_writable``, for any file."""
    try:
        with tempfile.TemporaryFile(dir=_nearest_that_exists(path)):
            pass
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def _nearest_that_exists(path: Path) -> Path:
    for folder in path.parents:
        with suppress(FileNotFoundError):
            folder.lstat()  # unlike exists(), raises if a parent is a file or a name is too long
            return folder
    return Path()


def interval_95(count: int, n: int) -> tuple[float, float]:
    """95 % Clopper-Pearson interval of a share, for the choice of examples alone."""
    from scipy.stats import binomtest

    found = binomtest(count, n).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def check_falling(accuracy_after: dict[str, float], first: float, last: float) -> None:
    """Raise ConfigError unless the accuracies after some attacks are fractions that fall from ``first`` to ``last``."""
    after = tuple(accuracy_after.values())
    falls = all(1.0 >= a >= b >= 0.0 for a, b in pairwise((*after, 0.0)))
    if not falls or after[:1] != (first,) or after[-1] != last:
        raise ConfigError(f"'accuracy_after' must fall from {first} to {last}")
