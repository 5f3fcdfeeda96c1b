"""Certification logs that authors published, and experiments that need nothing else.

A folder of logs contains a clone of each repository, named ``OWNER+NAME``: of locuslab/smoothing,
Hadisalman/smoothing-adversarial, jh-jeong/smoothing-consistency and jh-jeong/smoothmix. It may also contain
``index.tsv``, with ACR and certified accuracy of logs that are not in the folder.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from adaptive_smoothing_zoo.certification import Certificates, read_log
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, reason
from adaptive_smoothing_zoo.experiments.bench import OnStage, Options
from adaptive_smoothing_zoo.experiments.experiment import Experiment, Measured
from adaptive_smoothing_zoo.storage.provenance import installed_versions, source_commit

SUMMARIES = "summaries"  # the number of a row's runs that only the index has
RADII = tuple(0.25 * i for i in range(12))
CIFAR10_SIZE = 10_000
COHEN = "Hadisalman+smoothing-adversarial/data/certify/best_models/cifar10/cohen/resnet110"
COHEN_LOGS = {  # ResNet-110 of [CRK19] on all of CIFAR-10's test images, by sigma
    sigma: f"{COHEN}/noise_{sigma}/test/sigma_{sigma}" for sigma in ("0.12", "0.25", "0.50", "1.00")
}


def column(radius: float) -> str:
    """The name of the certified accuracy at a radius."""
    return f"certified_{radius:g}"


@dataclass(frozen=True)
class PublishedLogs:
    """A folder of logs, see above.

    Raises:
        ConfigError: there is no such folder.
    """

    folder: Path
    _read: dict[str, Certificates] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise ConfigError(f"there is no folder {self.folder} of published logs; name one with --logs")

    @cached_property
    def index(self) -> Mapping[str, Mapping[str, str]]:
        """The rows of ``index.tsv`` by path; empty without that file."""
        path = self.folder / "index.tsv"
        if not path.exists():
            return {}
        try:
            rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), delimiter="\t")
            return {row["path"]: row for row in rows}
        except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
            raise ResultsError(f"cannot read {path}: {reason(error)}") from error

    def matching(self, pattern: str) -> list[str]:
        """Sorted paths of the logs, in the folder or in the index, that match a pattern."""
        there = (path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern) if path.is_file())
        return sorted({*there, *(path for path in self.index if fnmatch(path, pattern))})

    def has(self, path: str) -> bool:
        """Whether the folder contains a log; else the index may have a summary of it."""
        return (self.folder / path).is_file()

    def certificates(self, path: str) -> Certificates:
        """The certificates in a log; ResultsError if it is not in the folder."""
        if path not in self._read:
            self._read[path] = read_log(self.folder / path)
        return self._read[path]

    def summary(self, path: str) -> dict[str, float]:
        """ACR, and certified accuracy at ``RADII``, or at those of the index if only that has the log.

        Raises:
            ResultsError: neither folder nor index has the log, or it cannot be read.
        """
        if self.has(path) or path not in self.index:
            found = self.certificates(path)
            accuracies = zip(RADII, found.certified_accuracy(RADII).tolist(), strict=True)
            return {"acr": found.average_certified_radius(), **{column(r): value for r, value in accuracies}}
        row = self.index[path]
        try:
            names = {column(radius): name for radius in RADII if (name := _index_name(radius)) in row}
            return {"acr": float(row["ACR"]), **{ours: float(row[theirs]) for ours, theirs in names.items()}}
        except (KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"{self.folder / 'index.tsv'} has no numbers for {path}: {reason(error)}") from error

    def sha256(self) -> str:
        """Hash of the index, or, without one, of the names of all files."""
        index = self.folder / "index.tsv"
        names = "\n".join(sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")))
        return sha256(index.read_bytes() if index.exists() else names.encode()).hexdigest()


def _index_name(radius: float) -> str:
    return "cert0" if radius == 0 else f"cert{radius:.2f}"


@dataclass(frozen=True, kw_only=True)
class LogsTable(Measured):
    """What published logs say."""

    @property
    def title(self) -> str:
        return "published logs"

    def how(self) -> str:
        return f"{self._sources()}; no net ran here"

    def _sources(self) -> str:
        """How many rows come from logs, and how many have a run that only the index has, and where that ends."""
        summarized = [row for row in self.rows if row[SUMMARIES] > 0]
        if not summarized:
            return "all numbers come from the logs, whose radii have three digits"
        logs = sum(row[SUMMARIES] == 0 for row in self.rows)
        last = max((r for r in RADII if any(column(r) in row.values for row in summarized)), default=0.0)
        return (
            f"rows from the logs, whose radii have three digits: {logs}; rows from summaries (index.tsv) of logs that "
            f"are not in the folder, with four digits and up to radius {last:g}: {len(summarized)}"
        )


@dataclass(frozen=True, kw_only=True)
class LogsBench:
    """A folder of published logs."""

    logs: PublishedLogs
    key: str = "published"

    @classmethod
    def of(cls, options: Options, steps: int, on_stage: OnStage) -> Self:
        if options.logs is None:
            raise ConfigError("this experiment reads published certification logs; name their folder with --logs")
        return cls(logs=PublishedLogs(options.logs))

    def ready(self) -> AbstractContextManager[None]:
        return nullcontext()

    def table(self, experiment: str) -> LogsTable:
        return LogsTable(**self.about(experiment))

    def about(self, experiment: str) -> dict[str, Any]:
        """The fields of the table, without rows."""
        return {
            "experiment": experiment,
            "dataset": "cifar10",
            "n": CIFAR10_SIZE,
            "data": "the official test sets of CIFAR-10 and MNIST, from published certification logs",
            "data_sha256": self.logs.sha256(),
            "device": "the authors' GPUs",
            "versions": installed_versions(),
            "commit": source_commit(),
        }


class LogsExperiment(Experiment[LogsBench, LogsTable]):
    """An experiment that needs only published logs."""

    bench, table = LogsBench, LogsTable
