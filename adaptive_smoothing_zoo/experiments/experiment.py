"""What an experiment is, and all there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptive_smoothing_zoo.experiments.bench import Bench
from adaptive_smoothing_zoo.experiments.table import Case, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One figure or table of the papers.

    Attributes:
        name: what the command line calls it.
        question: what it asks, one sentence.
        paper: which figure or table, and what the authors found.
        steps: of PGD, as in the paper.
        cases: the rows to be measured.
        measure: one row.
        draw: the picture, into an empty figure.
        summary: what was found, in a few lines of Markdown that follow from the table alone.
        agreement: whether that is what the authors found, one sentence that follows from the table alone.
    """

    name: str
    question: str
    paper: str
    steps: int
    cases: Callable[[], list[Case]]
    measure: Callable[[Bench, Case], dict[str, float]]
    draw: Callable[[Table, Figure], Any]
    summary: Callable[[Table], str]
    agreement: Callable[[Table], str]
