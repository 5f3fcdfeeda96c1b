"""What an experiment is: cases, one measured row on disk for each, and a page that follows from the rows alone."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.publishing import pages
from adaptive_smoothing_zoo.storage.files import write_text, write_with
from adaptive_smoothing_zoo.storage.provenance import (
    device_name,
    installed_versions,
    source_commit,
    tensors_sha256,
)
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from adaptive_smoothing_zoo.experiments.published_curves import PublishedRun

Case = dict[str, str]  # numbers as text, so that a case is the same on disk
ROUNDING = 1e-9  # tolerance of comparisons with a share: 44 of 100 are 80 % of 55 of 100, though 0.44 / 0.55 < 0.8


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured in one case.

    Attributes:
        case: what distinguishes the row from the others.
        values: finite numbers by name; accuracies are fractions. A number that does not exist is left out.
    """

    case: Case
    values: dict[str, float]

    def __getitem__(self, name: str) -> float:
        """A number of the case or of the row; NaN if there is none."""
        return float(self.case[name]) if name in self.case else self.values.get(name, nan)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The data of an experiment. A subclass adds the settings that decide the rows.

    Attributes:
        experiment: its name on the command line.
        dataset, n, data, data_sha256: the data set, and which examples of it were measured on.
        device, versions, commit: what the last rows were measured with.
        rows: in the order of the cases.
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

    @property
    def title(self) -> str:
        """What it was measured on, in a few words."""
        return self.dataset

    def how(self) -> str:
        """How it was measured, for the foot of the page."""
        raise NotImplementedError

    def where(self, **wanted: str) -> Iterator[Row]:
        """The rows whose cases have these values, in order."""
        return (row for row in self.rows if all(row.case.get(key) == value for key, value in wanted.items()))

    def row(self, **wanted: str) -> Row:
        """The one row whose case has these values; ValueError unless there is exactly one."""
        (found,) = self.where(**wanted)
        return found

    def curve(self, x: str, y: str, **wanted: str) -> tuple[list[float], list[float]]:
        """Two columns of the rows that ``where`` gives."""
        rows = list(self.where(**wanted))
        return [row[x] for row in rows], [row[y] for row in rows]

    def lacks(self, names: Sequence[str]) -> str:
        """A clause about the first of these numbers that a row lacks; empty if all rows have all of them."""
        for row in self.rows:
            for name in names:
                if not isfinite(row[name]):
                    return f"there is no {name} for {', '.join(f'{key} {value}' for key, value in row.case.items())}"
        return ""


AnyTable = TypeVar("AnyTable", bound=Measured)


class Apparatus(Protocol):
    """What an experiment is measured with."""

    @property
    def key(self) -> str:
        """What it measures on: the stem of the file names."""

    def table(self, experiment: str) -> Any:
        """A table without rows."""

    def ready(self) -> AbstractContextManager[Any]:
        """The context in which everything is measured."""


AnyBench = TypeVar("AnyBench", bound=Apparatus)


class MisfitError(ConfigError):
    """An experiment that cannot be measured on a triplet, or with the recipe given."""


class Experiment(ABC, Generic[AnyBench, AnyTable]):
    """One figure or table of the papers.

    Attributes:
        name: on the command line.
        question: one sentence.
        paper: which figure or table, and what the authors found.
        values: the numbers that every row needs; without one the question is not answered.
        bench, table: classes of what it is measured with, and of its data.
        steps: number of PGD steps in the paper.
        size: of the picture, in inches.
        compares: whether it implements ``compare``.
    """

    name: str
    question: str
    paper: str
    values: tuple[str, ...]
    bench: type[AnyBench]
    table: type[AnyTable]
    steps: int = 20
    size: tuple[float, float] = (6.4, 4.4)
    compares: bool = False

    @abstractmethod
    def cases(self) -> list[Case]:
        """The cases to measure, in the order of the rows."""

    @abstractmethod
    def measure(self, bench: AnyBench, case: Case) -> dict[str, float]:
        """The numbers of one row."""

    @abstractmethod
    def draw(self, table: AnyTable, figure: Figure) -> None:
        """Draw the picture into an empty figure; rows may lack numbers."""

    @abstractmethod
    def summary(self, table: AnyTable) -> str:
        """What was found: a few lines of Markdown that follow from the table alone."""

    @abstractmethod
    def agreement(self, table: AnyTable) -> str:
        """Whether the authors found the same, in the words of ``verdict`` or ``not_answered``."""

    def misfit(self, bench: AnyBench) -> str:
        """A clause that says why this bench cannot measure the experiment; empty if it can."""
        return ""

    def check_fits(self, bench: AnyBench) -> None:
        """Raise MisfitError if this bench cannot measure the experiment."""
        if why := self.misfit(bench):
            raise MisfitError(f"{self.name} does not fit {bench.key}: {why}")

    def compare(self, table: AnyTable, figure: Figure, published: Sequence[PublishedRun]) -> str:
        """Add the authors' curves to the picture of ``draw``, and describe them in a few lines of Markdown."""
        raise NotImplementedError

    def findings(self, table: AnyTable) -> tuple[str, str]:
        """Summary and agreement; a table that lacks a number has neither."""
        if why := table.lacks(self.values):
            return "Numbers are missing.", not_answered(why)
        return self.summary(table), self.agreement(table)

    def file(self, out: Path, key: str) -> Path:
        """The data file of the bench with this key; the picture (.png) and the page (.md) stand next to it."""
        return out / self.name / f"{key}.json"

    def run(self, bench: AnyBench, out: Path, published: Sequence[PublishedRun] | None = None) -> Iterator[AnyTable]:
        """Measure the cases that the data file lacks, and write it after each; then write picture and page.

        Args:
            out: folder of all experiments.
            published: the authors' curves, see ``publish``.

        Yields:
            The table so far, after each new row.

        Raises:
            MisfitError: this bench cannot measure the experiment.
            ResultsError: the file is damaged, belongs to other data or settings, or cannot be written.
        """
        self.check_fits(bench)
        path, cases = self.file(out, bench.key), self.cases()
        with bench.ready():
            table = bench.table(self.name)
            known = read_table(path, self.table) if path.exists() else table
            _check_same(known, table, path)
            rows = {_key(row.case): row for row in known.rows}
            for case in cases:
                if _key(case) in rows:
                    continue
                values = self.measure(bench, case)
                rows[_key(case)] = Row(case=case, values={name: v for name, v in values.items() if isfinite(v)})
                table = replace(table, rows=tuple(rows[_key(each)] for each in cases if _key(each) in rows))
                write_text(path, json.dumps(to_json(table), indent=2) + "\n")
                yield table
        self.publish(path, published)

    def publish(self, path: Path, published: Sequence[PublishedRun] | None = None) -> None:
        """Write picture and page from a data file; nothing is measured.

        Args:
            published: the authors' curves; picture and page include them if the experiment ``compares``.

        Raises:
            ResultsError: the file is missing, damaged or incomplete.
        """
        table = read_table(path, self.table)
        if [row.case for row in table.rows] != self.cases():
            raise ResultsError(f"{path} does not hold all rows; run asz experiment {self.name} again")
        from matplotlib.figure import Figure  # without pyplot: needs no display, leaves its state alone

        figure = Figure(figsize=self.size, layout="constrained")
        self.draw(table, figure)
        compared = self._compared(table, figure, published)
        figure.suptitle(f"{table.title}, n = {table.n}", fontsize="medium")
        picture = path.with_suffix(".png")
        write_with(picture, lambda file: figure.savefig(file, dpi=120, metadata={"Software": None}))
        write_text(path.with_suffix(".md"), self.page(table, picture.name, compared))

    def _compared(self, table: AnyTable, figure: Figure, published: Sequence[PublishedRun] | None) -> str:
        """The paragraph about the authors' curves; empty if there is nothing to compare."""
        if not self.compares or table.lacks(self.values):
            return ""
        if published is None:
            return "**Published curves:** left out; --published FOLDER adds them.\n\n"
        return f"**Published curves:** {self.compare(table, figure, published)}\n\n"

    def page(self, table: AnyTable, picture: str, compared: str = "") -> str:
        """The Markdown page: what was asked, what the authors found, what was found here.

        Args:
            picture: its file name.
            compared: a paragraph about the authors' curves, followed by an empty line; or nothing.
        """
        summary, agreement = self.findings(table)
        about = {"table": table, "summary": summary, "agreement": agreement, "picture": picture, "compared": compared}
        return pages.page("experiment.md", experiment=self, **about)


def not_answered(why: str) -> str:
    """The verdict on a table that does not answer the question; ``why`` is a clause."""
    return f"not answered: {why}."


def verdict(seen: Mapping[str, bool | None]) -> str:
    """One sentence: yes, no, in part, or not answered.

    Args:
        seen: the authors' findings, each a clause that follows "that", and whether it was seen here; None if the data
            do not decide it.
    """
    undecided = [name for name, is_seen in seen.items() if is_seen is None]
    missing = [name for name, is_seen in seen.items() if not is_seen and name not in undecided]
    found = [name for name, is_seen in seen.items() if is_seen]
    doubts = []
    if missing:
        doubts.append(f"it was not seen that {', nor that '.join(missing)}")
    if undecided:
        doubts.append(f"the data do not decide whether {', nor whether '.join(undecided)}")
    if not doubts:
        return f"yes: {'; '.join(found)}."
    if found:
        return f"in part: {'; '.join(found)}; but {'; '.join(doubts)}."
    return not_answered("; ".join(doubts)) if undecided else f"no: {doubts[0]}."


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def provenance(examples: Examples, device: torch.device, **others: torch.Tensor) -> dict[str, Any]:
    """The fields of :class:`Measured` that say what was measured, and with what.

    Args:
        examples: what is measured on.
        others: further tensors that decide the rows; they join the hash of the data.
    """
    return {
        "n": len(examples),
        "data": examples.source,
        "data_sha256": tensors_sha256({"images": examples.images, "labels": examples.labels, **others}),
        "device": device_name(str(device)),
        "versions": installed_versions(),
        "commit": source_commit(),
    }


def read_table(path: Path, kind: type[AnyTable]) -> AnyTable:
    """The table in a data file.

    Args:
        kind: class of the experiment's table.

    Raises:
        ResultsError: the file is missing or damaged, or holds something else.
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
                "--out, or move the file away"
            )


def _key(case: Case) -> str:
    return json.dumps(case, sort_keys=True)
