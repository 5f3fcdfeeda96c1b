"""Leaderboard entries in RobustBench's format, and pages made of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptive_smoothing_zoo.errors import ResultsError, reason, shown
from adaptive_smoothing_zoo.publishing.pages import page, percent
from adaptive_smoothing_zoo.storage.schema import read_json
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.zoo.entry import Entry

_NO_ENTRIES = tuple(
    f"{kind}.json" for kind in (".run", ".curve", ".radii", ".verify", ".adaptive", ".validation", "agreement")
)


def leaderboard_entry(
    entry: Entry,
    clean: float,
    robust: float,
    *,
    eps: str | None = None,
    remarks: Sequence[str] = (),
    external: float | None = None,
) -> dict[str, Any]:
    """The JSON object that RobustBench's ``model_info`` folder holds for a model.

    Args:
        clean, robust: measured accuracies, fractions.
        eps: as text, if it is not the entry's own.
        remarks: sentences on this run that the footnote must hold.
        external: the best known robust accuracy, a fraction, if other attacks than AutoAttack made it lower.

    Returns:
        Keys, order and values as RobustBench has them. Accuracies are strings in percent with two decimals.
        ``reported`` is what the authors published for this radius, under their adaptive attack if they ran one, or else
        what was measured. ``external`` is there only if a stronger attack is known to leave less than AutoAttack.
        ``unreliable`` is a judgement of RobustBench's maintainers and starts as false.
    """
    eps = eps or entry.eps
    published = entry.published if parse_eps(eps) == entry.eps_value else None
    adaptive = None if published is None or published.adaptive is None else float(published.adaptive) / 100
    best = min(value for value in (robust, external, adaptive) if value is not None)
    return {
        "link": entry.paper.link,
        "name": entry.paper.title,
        "authors": entry.paper.authors,
        "additional_data": entry.additional_data,
        "number_forward_passes": entry.number_forward_passes,
        "dataset": entry.dataset,
        "venue": entry.paper.venue,
        "architecture": entry.architecture,
        "eps": eps,
        "clean_acc": percent(clean),
        "reported": percent(robust) if published is None else published.adaptive or published.autoattack,
        "autoattack_acc": percent(robust),
        **({"external": percent(best)} if best < robust else {}),
        "footnote": " ".join([entry.footnote, *remarks]).strip(),
        "unreliable": False,
    }


def render(folder: Path) -> tuple[str, str]:
    """An HTML page and a Markdown text with one table per data set, threat model and eps below ``folder``.

    Entries are ranked as RobustBench ranks them: by the best known robust accuracy.

    Raises:
        ResultsError: no entry there, or a file that is not one.
    """
    tables: dict[str, list[dict[str, str]]] = {}
    for path in sorted(folder.glob("*/*/*.json")):
        if not path.name.endswith(_NO_ENTRIES):
            row = _row(path)
            tables.setdefault(f"{path.parts[-3]} {path.parts[-2]}, eps {row['eps']}", []).append(row)
    if not tables:
        raise ResultsError(f"there are no leaderboard entries (<dataset>/<threat model>/<name>.json) in {folder}")
    for rows in tables.values():
        rows.sort(key=lambda row: -float(row["best"]))
        for rank, row in enumerate(rows, 1):
            row["rank"] = str(rank)
    html, markdown = (page(f"leaderboard.{kind}", tables=tables) for kind in ("html", "md"))
    return html, markdown


def _row(path: Path) -> dict[str, str]:
    try:
        entry = read_json(path)
        parse_eps(str(entry["eps"]))
        row = {
            "method": path.stem,
            "title": entry["name"],
            "link": entry["link"],
            "footnote": entry.get("footnote") or "",
            "eps": str(entry["eps"]),
            "clean": _percentage(entry["clean_acc"]),
            "autoattack": _percentage(entry["autoattack_acc"]),
            "best": _percentage(entry.get("external", entry["autoattack_acc"])),
            "extra": {True: "yes", False: "no"}[entry["additional_data"]],
            "architecture": entry["architecture"],
            "venue": entry["venue"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} is not a leaderboard entry: {type(error).__name__} {reason(error)}") from error
    if not all(isinstance(value, str) for value in row.values()):
        raise ResultsError(f"{path} is not a leaderboard entry: a text is not a string")
    return {key: " ".join(value.split()) for key, value in row.items()}


def _percentage(value: Any) -> str:
    """RobustBench's entries hold percentages as texts or as numbers."""
    if isinstance(value, bool) or not 0.0 <= float(value) <= 100.0:
        raise ValueError(f"a percentage must be in [0, 100], got {shown(value)}")
    return f"{float(value):.2f}"
