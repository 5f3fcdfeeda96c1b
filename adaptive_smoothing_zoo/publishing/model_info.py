"""Leaderboard entries in RobustBench's format: the JSON objects of its folder ``model_info``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_smoothing_zoo.errors import ResultsError, reason, shown
from adaptive_smoothing_zoo.publishing.pages import percent
from adaptive_smoothing_zoo.storage.schema import read_json
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.zoo.entry import ModelEntry


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A leaderboard entry, ``<dataset>/<threat model>/<name>.json``. Accuracies are percentages.

    Attributes:
        title, link, venue: of the paper.
        best: the lowest robust accuracy that is known; RobustBench ranks by it.
        additional_data: whether training used more than the data set's own images; None if that is unknown.
        unreliable: whether RobustBench's maintainers call the AutoAttack accuracy unreliable.
    """

    path: Path
    name: str
    dataset: str
    threat_model: str
    eps: str
    title: str
    link: str
    venue: str
    architecture: str
    footnote: str
    clean: float
    autoattack: float
    best: float
    additional_data: bool | None
    unreliable: bool

    @property
    def key(self) -> str:
        """name-dataset-threat, as in entries of the zoo."""
        return f"{self.name}-{self.dataset}-{self.threat_model}"

    @property
    def eps_value(self) -> float:
        """eps as a number."""
        return parse_eps(self.eps)


def leaderboard_entry(
    entry: ModelEntry,
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
        eps: the radius as text, if it is not the entry's own.
        remarks: sentences about this run for the footnote.
        external: the best known robust accuracy, a fraction, if other attacks than AutoAttack lowered it.

    Returns:
        Keys, order and values as RobustBench has them. Accuracies are strings in percent with two decimals.
        ``reported`` is what the authors published for this radius, under their adaptive attack if they ran one, or else
        the measured accuracy. ``external`` is present only if a stronger attack is known to leave less than AutoAttack.
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


def read_model_info(path: Path) -> ModelInfo:
    """The entry in a file ``<dataset>/<threat model>/<name>.json``.

    Raises:
        ResultsError: it cannot be read, or is no entry for a threat model with a radius.
    """
    try:
        entry = read_json(path)
        parse_eps(str(entry["eps"]))
        autoattack = entry["autoattack_acc"]
        texts = {
            "eps": str(entry["eps"]),
            "title": entry["name"],
            "link": entry["link"],
            "venue": entry["venue"] or "unpublished",
            "architecture": entry["architecture"],
            "footnote": entry.get("footnote") or "",
        }
        numbers = {
            "clean": _percentage(entry["clean_acc"]),
            "autoattack": _percentage(autoattack),
            "best": _percentage(entry.get("external", autoattack)),
        }
        additional_data = {True: True, False: False, None: None}[entry["additional_data"]]
        unreliable = entry.get("unreliable") is True
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} is not a leaderboard entry: {type(error).__name__} {reason(error)}") from error
    if not all(isinstance(value, str) for value in texts.values()):
        raise ResultsError(f"{path} is not a leaderboard entry: a text is not a string")
    one_line = {key: " ".join(value.split()) for key, value in texts.items()}
    fields: dict[str, Any] = {**one_line, **numbers, "additional_data": additional_data, "unreliable": unreliable}
    return ModelInfo(path=path, name=path.stem, dataset=path.parts[-3], threat_model=path.parts[-2], **fields)


def _percentage(value: Any) -> float:
    """A percentage as a number; RobustBench's entries have texts or numbers."""
    if isinstance(value, bool) or not 0.0 <= float(value) <= 100.0:
        raise ValueError(f"a percentage must be in [0, 100], got {shown(value)}")
    return float(value)
