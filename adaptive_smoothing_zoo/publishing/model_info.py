"""Leaderboard entries in RobustBench's format: the JSON objects of its folder ``model_info``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_smoothing_zoo.errors import ResultsError, reason, shown
from adaptive_smoothing_zoo.publishing.pages import percent
from adaptive_smoothing_zoo.storage.schema import read_json
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.zoo.entry import ModelEntry

_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/((\d{2})(0[1-9]|1[0-2])\.\d{4,5})")
_YEAR = re.compile(r"\b(?:19|20)\d{2}$")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A leaderboard entry, ``<dataset>/<threat model>/<name>.json``. Accuracies are percentages.

    Attributes:
        title, link, venue: of the paper.
        best: the lowest robust accuracy that is known; RobustBench ranks by it.
        additional_data: whether training used more than the data set's own images; None if that is unknown.
        unreliable: whether RobustBench's maintainers call the AutoAttack accuracy unreliable.
    """

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

    @property
    def group(self) -> tuple[str, str, float]:
        """Data set, threat model and eps: what decides the table that ranks it."""
        return self.dataset, self.threat_model, self.eps_value

    @property
    def paper(self) -> str:
        """What tells papers apart: the arXiv number, else the link."""
        found = _ARXIV.search(self.link)
        return found[1] if found else self.link

    @property
    def date(self) -> str:
        """When the paper came out: the arXiv number's month, as "2023-02"; else the year of the venue; else ""."""
        if found := _ARXIV.search(self.link):
            return f"20{found[2]}-{found[3]}"
        year = _YEAR.search(self.venue)
        return year[0] if year else ""


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


def published_info(entry: ModelEntry) -> ModelInfo | None:
    """The leaderboard entry of a model by its published accuracies; None if it has none."""
    published = entry.published
    if published is None:
        return None
    data = leaderboard_entry(entry, float(published.clean) / 100, float(published.autoattack) / 100)
    return _model_info(data, entry.dataset, entry.threat_model, entry.name)


def read_model_info(path: Path) -> ModelInfo:
    """The entry in a file ``<dataset>/<threat model>/<name>.json``.

    Raises:
        ResultsError: it cannot be read, or is no entry for a threat model with a radius.
    """
    try:
        return _model_info(read_json(path), path.parts[-3], path.parts[-2], path.stem)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} is not a leaderboard entry: {type(error).__name__} {reason(error)}") from error


def _model_info(entry: Mapping[str, Any], dataset: str, threat_model: str, name: str) -> ModelInfo:
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
    if not all(isinstance(value, str) for value in texts.values()):
        raise TypeError("a text is not a string")
    one_line = {key: " ".join(value.split()) for key, value in texts.items()}
    return ModelInfo(
        name=name,
        dataset=dataset,
        threat_model=threat_model,
        clean=_percentage(entry["clean_acc"]),
        autoattack=_percentage(autoattack),
        best=_percentage(entry.get("external", autoattack)),
        additional_data={True: True, False: False, None: None}[entry["additional_data"]],
        unreliable=entry.get("unreliable") is True,
        **one_line,
    )


def _percentage(value: Any) -> float:
    """A percentage as a number; RobustBench's entries have texts or numbers."""
    if isinstance(value, bool) or not 0.0 <= float(value) <= 100.0:
        raise ValueError(f"a percentage must be in [0, 100], got {shown(value)}")
    return float(value)
