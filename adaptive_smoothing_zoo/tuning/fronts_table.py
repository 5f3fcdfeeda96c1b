"""The fronts of several forms side by side: how robust each form is at a given clean accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adaptive_smoothing_zoo.tuning.front import Front

ROWS = 16  # at most


def side_by_side(fronts: Mapping[str, Front], lowest: float) -> str:
    """A Markdown table: for levels of clean accuracy, the robust share of each form's best mix, in percent.

    Args:
        fronts: by form.
        lowest: clean accuracy at which the table ends, in [0, 1], such as h's: with less, a mix gains nothing.
    """
    rows = [["clean at least", *fronts], ["---"] * (1 + len(fronts))]
    rows += [
        [f"{level / 10:g} %", *(_robust(front, level / 1000) for front in fronts.values())]
        for level in levels(fronts, lowest)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def levels(fronts: Mapping[str, Front], lowest: float) -> Sequence[int]:
    """Round levels of clean accuracy, in tenths of a percent, from the largest of all forms down to ``lowest``."""
    top = int(1000 * max(front.candidates[0].clean for front in fronts.values()) + 1e-6)
    found: Sequence[int] = [top]
    for step in (100, 50, 20, 10, 5, 2, 1):
        finer = range(top - top % step, round(1000 * lowest) - 1, -step)
        if len(finer) <= ROWS:
            found = finer or found
    return found


def _robust(front: Front, clean: float) -> str:
    reached = [candidate.robust for candidate in front.candidates if candidate.clean >= clean]
    return f"{100 * max(reached):.1f}" if reached else "-"
