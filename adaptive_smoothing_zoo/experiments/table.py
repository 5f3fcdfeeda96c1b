"""An experiment's data: rows that are measured one by one, kept on disk as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite, nan
from pathlib import Path
from typing import TypeVar

from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, shown
from adaptive_smoothing_zoo.experiments.papers_pgd import PAPERS_STEP, Pgd, PgdName
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json
from adaptive_smoothing_zoo.threat import parse_eps

Case = dict[str, str]  # numbers as text, so that a case is the same on disk


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured in one case.

    Attributes:
        case: what tells the row from the others.
        values: numbers by name; accuracies are fractions. A number that cannot be had is left out.
    """

    case: Case
    values: dict[str, float]

    def __getitem__(self, name: str) -> float:
        """A number of the row; NaN if it is not there."""
        return self.values.get(name, nan)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an experiment measured, on what and with what.

    Attributes:
        experiment, dataset, n: which, and on how many examples.
        data, data_sha256: the examples.
        device, versions, commit: with what; rows that were measured later may have other ones.
        rows: in the order of the experiment's cases.
    """

    experiment: str
    dataset: str
    n: int
    data: str
    data_sha256: str
    device: str
    versions: dict[str, str]
    commit: str | None
    rows: tuple[Row, ...] = ()

    def where(self, **wanted: str) -> Iterator[Row]:
        """The rows whose cases hold these values, in order."""
        return (row for row in self.rows if all(row.case.get(key) == value for key, value in wanted.items()))

    def curve(self, x: str, y: str, **wanted: str) -> tuple[list[float], list[float]]:
        """Two columns of the rows that ``where`` gives; each a name in the case or in the values."""
        rows = list(self.where(**wanted))
        return [_number(row, x) for row in rows], [_number(row, y) for row in rows]

    def lacks(self, names: Sequence[str]) -> str:
        """Which of these numbers a row lacks, in words; nothing if all rows have them."""
        for row in self.rows:
            for name in names:
                if not isfinite(row[name]):
                    return f"there is no {name} for {', '.join(f'{key} {value}' for key, value in row.case.items())}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Table(Measured):
    """What an experiment on a triplet measured.

    Attributes:
        model, threat_model, eps, steps, seed: what else decides the rows.
        identity: who the model is.
        pgd: which form of PGD; tables from before there were two have no such field, and this one.
    """

    model: str
    threat_model: str
    eps: str
    steps: int
    seed: int
    identity: Identity
    pgd: PgdName = "random-start"

    def __post_init__(self) -> None:
        parse_eps(self.eps)
        if min(self.n, self.steps) < 1 or self.threat_model not in PAPERS_STEP:
            raise ValueError(
                f"n and steps must be at least 1 and the threat model Linf or L2, got {self.n}, {self.steps} and "
                f"{shown(self.threat_model)}"
            )

    def how(self) -> str:
        """How it was measured, in a few words."""
        attack = Pgd(name=self.pgd, steps=self.steps, norm=self.threat_model, eps=parse_eps(self.eps))
        return attack.words(self.seed)


AnyTable = TypeVar("AnyTable", bound=Measured)


def complete(
    table: AnyTable, cases: list[Case], measure: Callable[[Case], dict[str, float]], path: Path
) -> Iterator[tuple[Row, AnyTable]]:
    """Measure the cases that the file does not hold yet; the file is written after each.

    Args:
        table: without rows.
        cases: all of the experiment's.
        measure: what a case gives.
        path: of the JSON file.

    Yields:
        Each new row, and the table so far.

    Raises:
        ResultsError: the file holds something else, damaged data, or was measured on or with something else.
    """
    known = read_measured(path, type(table)) if path.exists() else table
    _check_same(known, table, path)
    rows = {_key(row.case): row for row in known.rows}
    for case in cases:
        if _key(case) in rows:
            continue
        row = Row(case=case, values={name: value for name, value in measure(case).items() if isfinite(value)})
        rows[_key(case)] = row
        table = replace(table, rows=tuple(rows[_key(each)] for each in cases if _key(each) in rows))
        write_text(path, json.dumps(to_json(table), indent=2) + "\n")
        yield row, table


def read_table(path: Path) -> Table:
    """What a file of an experiment on a triplet holds; see ``read_measured``."""
    return read_measured(path, Table)


def read_measured(path: Path, kind: type[AnyTable]) -> AnyTable:
    """What a file holds.

    Args:
        kind: of the experiment's table.

    Raises:
        ResultsError: it is missing, damaged or something else.
    """
    try:
        return parse(kind, read_json(path), str(path))
    except FileNotFoundError:
        raise ResultsError(f"there is no {path}; run asz experiment") from None
    except ConfigError as error:
        raise ResultsError(f"{path} does not hold an experiment's data: {error}") from error


_MAY_DIFFER = ("data", "device", "versions", "commit", "rows")


def _check_same(known: Measured, table: Measured, path: Path) -> None:
    for name in (field.name for field in fields(table) if field.name not in _MAY_DIFFER):
        if getattr(known, name) != getattr(table, name):
            raise ResultsError(
                f"{path} was measured with {name} {getattr(known, name)}, not {getattr(table, name)}; name another "
                "--out, or move it away"
            )


def _key(case: Case) -> str:
    return json.dumps(case, sort_keys=True)


def _number(row: Row, name: str) -> float:
    return float(row.case[name]) if name in row.case else row[name]
