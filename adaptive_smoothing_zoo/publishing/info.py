"""What ``asz info`` says about a model: a page of plain text."""

from __future__ import annotations

from pathlib import Path

from adaptive_smoothing_zoo.publishing.card import citation, how_to_load
from adaptive_smoothing_zoo.publishing.known import Known, known_of, recorded
from adaptive_smoothing_zoo.publishing.pages import page
from adaptive_smoothing_zoo.publishing.record import interval_95
from adaptive_smoothing_zoo.zoo.entry import Entry, ModelEntry
from adaptive_smoothing_zoo.zoo.registry import entries_named


def info_page(entry: ModelEntry, results: Path, reference: str) -> str:
    """The page's text.

    Args:
        reference: loads the model if it is not the zoo's own.
        results: a folder of records; where it has none, the accuracies that ``known_of`` knows are shown.

    Raises:
        ResultsError: a record there is damaged.
    """
    triplet = entry if isinstance(entry, Entry) else None
    by = None if entry in entries_named(entry.name) else reference
    found = recorded(results, entry)
    known = found or (None if triplet is None else known_of(triplet))
    return page(
        "info.txt",
        entry=entry,
        triplet=triplet,
        known=known,
        where=f", recorded in {results}" if found else "",
        accuracies=_accuracies(known) if known is not None else {},
        code=None if triplet is None else _code(how_to_load(triplet, by)),
        citation=citation(entry.paper),
    )


def _accuracies(known: Known) -> dict[str, tuple[str, str]]:
    """By name, a percentage and its 95 % interval, which is empty if the number of images is unknown."""
    named = {"clean": known.clean, "AutoAttack": known.autoattack, "best known": known.best}
    return {name: (value, _interval(float(value), known.n)) for name, value in named.items()}


def _interval(percentage: float, n: int | None) -> str:
    if n is None:
        return ""
    low, high = interval_95(round(percentage / 100 * n), n)
    return f"95 % interval {100 * low:.2f} to {100 * high:.2f}"


def _code(block: str) -> str:
    """The content of a fenced block, indented."""
    return "\n".join(f"  {line}".rstrip() for line in block.splitlines()[1:-1])
