"""What an experiment is, and all there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from adaptive_smoothing_zoo.experiments.bench import Bench
from adaptive_smoothing_zoo.experiments.table import Case, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AnyBench = TypeVar("AnyBench", bound=Bench)
AnyTable = TypeVar("AnyTable", bound=Table)


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[AnyBench, AnyTable]):
    """One figure or table of the papers.

    Attributes:
        name: what the command line calls it.
        question: what it asks, one sentence.
        paper: which figure or table, and what the authors found.
        steps: of PGD, as in the paper.
        table: what its data are; the bench's ``settings`` are the fields that a plain ``Table`` has not.
        cases: the rows to be measured.
        values: names of the numbers that every row must have for the question to be answered.
        measure: one row.
        draw: the picture, into an empty figure; of rows that may lack numbers.
        summary: what was found, in a few lines of Markdown that follow from the table alone.
        agreement: whether that is what the authors found, a few sentences that follow from the table alone; or, by
            ``not_answered``, why the table does not say.
    """

    name: str
    question: str
    paper: str
    steps: int
    table: type[AnyTable]
    cases: Callable[[], list[Case]]
    values: tuple[str, ...]
    measure: Callable[[AnyBench, Case], dict[str, float]]
    draw: Callable[[AnyTable, Figure], Any]
    summary: Callable[[AnyTable], str]
    agreement: Callable[[AnyTable], str]


def findings(experiment: Experiment[AnyBench, AnyTable], table: AnyTable) -> tuple[str, str]:
    """An experiment's summary and agreement; without all its numbers a table has neither."""
    why = table.lacks(experiment.values)
    if why:
        return "Numbers are missing.", not_answered(why)
    return experiment.summary(table), experiment.agreement(table)


def not_answered(why: str) -> str:
    """The verdict of a table that does not answer the question.

    Args:
        why: a clause.
    """
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
