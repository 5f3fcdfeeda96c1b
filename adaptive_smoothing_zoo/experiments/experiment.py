"""What an experiment is: cases, each measured into a row on disk, and a page that follows from the rows alone."""

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
ROUNDING = 1e-9  # of what is compared with a round number: 44 of 100 are 80 % of 55, though 0.44 / 0.55 < 0.8


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured in one case.

    Attributes:
        case: what tells the row from the others.
        values: finite numbers by name; accuracies are fractions. A number that cannot be had is left out.
    """

    case: Case
    values: dict[str, float]

    def __getitem__(self, name: str) -> float:
        """A number of the row or of its case; NaN if it is not there."""
        return float(self.case[name]) if name in self.case else self.values.get(name, nan)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An experiment's data; a subclass adds what else decides the rows, which stand in the order of the cases."""

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
        """On what it was measured, in a few words."""
        return self.dataset

    def how(self) -> str:
        """How it was measured, for the foot of the page."""
        raise NotImplementedError

    def where(self, **wanted: str) -> Iterator[Row]:
        """The rows whose cases hold these values, in order."""
        return (row for row in self.rows if all(row.case.get(key) == value for key, value in wanted.items()))

    def row(self, **wanted: str) -> Row:
        """The one row whose case holds these values."""
        (found,) = self.where(**wanted)
        return found

    def curve(self, x: str, y: str, **wanted: str) -> tuple[list[float], list[float]]:
        """Two columns of the rows that ``where`` gives."""
        rows = list(self.where(**wanted))
        return [row[x] for row in rows], [row[y] for row in rows]

    def lacks(self, names: Sequence[str]) -> str:
        """Which of these numbers a row lacks, in words; nothing if all rows have them."""
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
        """On what: the stem of the files."""

    def table(self, experiment: str) -> Any:
        """The table without rows."""

    def ready(self) -> AbstractContextManager[Any]:
        """Around all measurements."""


AnyBench = TypeVar("AnyBench", bound=Apparatus)


class Experiment(ABC, Generic[AnyBench, AnyTable]):
    """One figure or table of the papers.

    Attributes:
        name: what the command line calls it.
        question: what it asks, one sentence.
        paper: which figure or table, and what the authors found.
        values: names of the numbers that every row must have for the question to be answered.
        bench, table: what it is measured with, and what its data are.
        steps: of PGD, as in the paper.
        size: of the picture, in inches.
        compares: whether ``compare`` has something to say of the authors' curves.
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
        """The rows to be measured."""

    @abstractmethod
    def measure(self, bench: AnyBench, case: Case) -> dict[str, float]:
        """The numbers of one row."""

    @abstractmethod
    def draw(self, table: AnyTable, figure: Figure) -> None:
        """The picture, into an empty figure; of rows that may lack numbers."""

    @abstractmethod
    def summary(self, table: AnyTable) -> str:
        """What was found, a few lines of Markdown that follow from the table alone."""

    @abstractmethod
    def agreement(self, table: AnyTable) -> str:
        """Whether that is what the authors found, as ``verdict`` says it; or ``not_answered``, and why."""

    def misfit(self, bench: AnyBench) -> str:
        """Why this cannot be measured on this bench, a clause; nothing if it can."""
        return ""

    def compare(self, table: AnyTable, figure: Figure, published: Sequence[PublishedRun]) -> str:
        """Add the authors' curves to the picture that ``draw`` made; what they say, a few lines of Markdown."""
        raise NotImplementedError

    def findings(self, table: AnyTable) -> tuple[str, str]:
        """Summary and agreement; without all its numbers a table has neither."""
        if why := table.lacks(self.values):
            return "Numbers are missing.", not_answered(why)
        return self.summary(table), self.agreement(table)

    def file(self, out: Path, key: str) -> Path:
        """Of the data on what has this key; picture (.png) and page (.md) stand next to it."""
        return out / self.name / f"{key}.json"

    def run(self, bench: AnyBench, out: Path, published: Sequence[PublishedRun] | None = None) -> Iterator[AnyTable]:
        """Measure the cases that the file does not hold yet, write it after each; then draw, and write the page.

        Args:
            published: the authors' curves, see ``publish``.

        Yields:
            The table so far, after each new row.

        Raises:
            ConfigError: it cannot be measured on this bench.
            ResultsError: the file holds something else, or was measured on or with something else; or cannot be
                written.
        """
        if why := self.misfit(bench):
            raise ConfigError(f"asz experiment {self.name} does not fit {bench.key}: {why}")
        path, table, cases = self.file(out, bench.key), bench.table(self.name), self.cases()
        known = read_table(path, self.table) if path.exists() else table
        _check_same(known, table, path)
        rows = {_key(row.case): row for row in known.rows}
        with bench.ready():
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
        """Make picture and page from a file of data; nothing is measured.

        Args:
            published: the authors' curves; where there are such for this experiment, they join picture and page.

        Raises:
            ResultsError: the data are missing, damaged or not all there.
        """
        table = read_table(path, self.table)
        if [row.case for row in table.rows] != self.cases():
            raise ResultsError(f"{path} does not hold all rows; run asz experiment {self.name} again")
        from matplotlib.figure import Figure  # a figure of its own needs no display and leaves pyplot's state alone

        figure = Figure(figsize=self.size, layout="constrained")
        self.draw(table, figure)
        compared = self._compared(table, figure, published)
        figure.suptitle(f"{table.title}, n = {table.n}", fontsize="medium")
        picture = path.with_suffix(".png")
        write_with(picture, lambda file: figure.savefig(file, dpi=120, metadata={"Software": None}))
        write_text(path.with_suffix(".md"), self.page(table, picture.name, compared))

    def _compared(self, table: AnyTable, figure: Figure, published: Sequence[PublishedRun] | None) -> str:
        """The paragraph about the authors' curves; nothing where there are none."""
        if not self.compares:
            return ""
        if published is None or table.lacks(self.values):
            return "**Published curves:** left out; --published FOLDER adds them.\n\n"
        return f"**Published curves:** {self.compare(table, figure, published)}\n\n"

    def page(self, table: AnyTable, picture: str, compared: str = "") -> str:
        """The Markdown page: what was asked, what the authors found, what was found here.

        Args:
            picture: the name of its file.
            compared: a paragraph about the authors' curves, with an empty line behind it.
        """
        summary, agreement = self.findings(table)
        about = {"table": table, "summary": summary, "agreement": agreement, "picture": picture, "compared": compared}
        return pages.page("experiment.md", experiment=self, **about)


def not_answered(why: str) -> str:
    """The verdict of a table that does not answer the question; ``why`` is a clause."""
    return f"not answered: {why}."


def verdict(seen: Mapping[str, bool]) -> str:
    """One sentence: yes, no, or in part.

    Args:
        seen: what the authors found, each a clause that follows "that", and whether it was seen here.
    """
    missing = [name for name, is_seen in seen.items() if not is_seen]
    if not missing:
        return f"yes: {'; '.join(seen)}."
    found = [name for name, is_seen in seen.items() if is_seen]
    if not found:
        return f"no: it was not seen that {', nor that '.join(missing)}."
    return f"in part: {'; '.join(found)}; but it was not seen that {', nor that '.join(missing)}."


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def provenance(examples: Examples, device: torch.device, **others: torch.Tensor) -> dict[str, Any]:
    """The fields of :class:`Measured` that say what was measured, and with what.

    Args:
        others: further tensors that decide the rows.
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
    """What a file of an experiment's data holds.

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
