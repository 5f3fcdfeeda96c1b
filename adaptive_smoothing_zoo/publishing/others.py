"""Which entries a leaderboard ranks besides those of its folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adaptive_smoothing_zoo.errors import ResultsError, shown


@dataclass(frozen=True, kw_only=True)
class Others:
    """Entries of RobustBench and of the zoo, and two limits, which never leave out an entry of the folders.

    The month of a paper is that of its arXiv number, otherwise the year of its venue, which counts as January. An entry
    without either stays. So a limit by month may keep an entry that is too late, and never leaves out one of its time.
    Accuracies remain those of the files: attacks that were found later count.

    Attributes:
        model_info: RobustBench's folder of that name.
        published: whether the zoo's triplets are ranked by their published accuracies.
        known_by: a month, as "2023-04": papers that came out later are left out.
        best_per_paper: whether only the most robust entry of each paper (arXiv number, or else link) is ranked.

    Raises:
        ResultsError: the month is none, or there are no entries to limit.
    """

    model_info: Path | None = None
    published: bool = False
    known_by: str | None = None
    best_per_paper: bool = False

    def __post_init__(self) -> None:
        if self.known_by is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", self.known_by):
            raise ResultsError(f"a month is written as 2023-04, got {shown(self.known_by)}")
        if self.limits and self.model_info is None and not self.published:
            raise ResultsError(
                "known_by and best_per_paper limit RobustBench's and published entries: add --with-robustbench "
                "MODEL_INFO_DIR or --published"
            )

    @property
    def limits(self) -> tuple[str, ...]:
        """What is left out, one phrase each."""
        late = () if self.known_by is None else (f"papers after {self.known_by}",)
        return (*late, "all but the most robust entry of each paper") if self.best_per_paper else late
