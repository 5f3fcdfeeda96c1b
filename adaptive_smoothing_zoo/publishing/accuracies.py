"""The known accuracies of a model: clean, attacked, certified."""

from __future__ import annotations

from dataclasses import dataclass

from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS
from adaptive_smoothing_zoo.publishing.certification_record import CertificationRecord
from adaptive_smoothing_zoo.publishing.evidence import Evidence
from adaptive_smoothing_zoo.publishing.pages import percent
from adaptive_smoothing_zoo.zoo.entry import ModelEntry

RADII = 3  # certified accuracies that are shown: at the smallest radii of the record


@dataclass(frozen=True)
class Accuracy:
    """One row of a table for people.

    Attributes:
        name: what the accuracy is of.
        value: the percentage.
        interval: its 95 % interval; empty if that is unknown.
        how: the attacks on the images; of a certificate, the bound.
    """

    name: str
    value: str
    interval: str
    how: str


def known_accuracies(
    entry: ModelEntry, evidence: Evidence | None, certification: CertificationRecord | None = None
) -> list[Accuracy]:
    """The measured accuracies, else the published ones; empty if there are neither."""
    attacked = _published(entry) if evidence is None else _measured(evidence)
    return [*attacked, *(_certified(certification) if certification else [])]


def _measured(evidence: Evidence) -> list[Accuracy]:
    run, stronger = evidence.run, []
    if evidence.adaptive is not None:
        stronger.append("asz adapt" if evidence.adaptive.is_whole else "asz adapt (only chosen ones)")
    if evidence.earlier is not None:
        stronger.append("an earlier asz adapt")
    if evidence.validation is not None:
        stronger.append(f"asz validate on {evidence.validation.n} images")
    intervals = {name: " to ".join(map(percent, found)) for name, found in evidence.intervals.items()}
    attack = "AutoAttack" if run.is_standard else "not the standard protocol"
    rows = [
        Accuracy("clean", percent(run.clean_accuracy), intervals["clean"], "none"),
        Accuracy(attack, percent(run.robust_accuracy), intervals["autoattack"], ", ".join(run.attacks)),
    ]
    if stronger:
        how = f"and those of {' and '.join(stronger)}"
        rows.append(Accuracy("after all attacks", percent(evidence.best_known), intervals["best"], how))
    return rows


def _published(entry: ModelEntry) -> list[Accuracy]:
    published = entry.published
    if published is None:
        return []
    rows = [
        Accuracy("clean", published.clean, "", "none"),
        Accuracy("AutoAttack", published.autoattack, "", ", ".join(STANDARD_ATTACKS)),
    ]
    if published.adaptive is not None:
        rows.append(Accuracy("after all attacks", published.adaptive, "", "and the authors' adaptive attack"))
    return rows


def _certified(record: CertificationRecord) -> list[Accuracy]:
    """The certified accuracy at each of the smallest radii, by the bound that certifies most there."""
    rows = []
    for i in [i for i, radius in enumerate(record.radii) if radius > 0][:RADII]:
        name, best = max(record.bounds.items(), key=lambda bound: bound[1].certified_accuracy[i])
        how = f"any attack within it, by the bound {name}"
        rows.append(
            Accuracy(f"certified, l_2 radius {record.radii[i]:g}", percent(best.certified_accuracy[i]), "", how)
        )
    return rows
