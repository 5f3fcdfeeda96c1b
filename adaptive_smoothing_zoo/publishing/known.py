"""The known accuracies of a model in the zoo, for lists: recorded, shipped with the package, or published."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from adaptive_smoothing_zoo.publishing.evidence import Evidence, read_evidence
from adaptive_smoothing_zoo.publishing.pages import percent
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.storage.schema import parse, read_json
from adaptive_smoothing_zoo.zoo.entry import Entry, ModelEntry
from adaptive_smoothing_zoo.zoo.registry import entries_named

SHIPPED = Path(str(resources.files("adaptive_smoothing_zoo"))) / "publishing" / "known_accuracies.json"


@dataclass(frozen=True, kw_only=True)
class Known:
    """Accuracies, percentages with two decimals.

    Attributes:
        autoattack: under the standard protocol.
        best: the lowest robust accuracy that is known, after adaptive attacks and the checks of a validation.
        n: number of images; None if it was not published.
        is_whole: whether these are the whole test set.
        failed_checks: the failed checks of a validation: reasons not to trust the robust accuracies.
        source: where the accuracies were published; None if they were measured with this package.
    """

    clean: str
    autoattack: str
    best: str
    n: int | None = None
    is_whole: bool = True
    failed_checks: tuple[str, ...] = ()
    source: str | None = None

    @classmethod
    def of(cls, evidence: Evidence) -> Known:
        """The measured accuracies."""
        run = evidence.run
        return cls(
            clean=percent(run.clean_accuracy),
            autoattack=percent(run.robust_accuracy),
            best=percent(evidence.best_known),
            n=run.n,
            is_whole=run.n == run.test_set_size,
            failed_checks=evidence.failed_checks,
        )


def known_of(entry: Entry, results: Path | None = None) -> Known | None:
    """The known accuracies of a triplet; None if there are none.

    Args:
        results: a folder of records; a standard run there takes precedence over the numbers that the package ships.

    Raises:
        ResultsError: a record there is damaged.
    """
    found = None if results is None else recorded(results, entry)
    of_the_zoo = entry in entries_named(entry.name)  # a saved copy may be another model of the same name
    return found or (_shipped().get(entry.key) if of_the_zoo else None) or _published(entry)


def recorded(results: Path, entry: ModelEntry) -> Known | None:
    """The accuracies from a standard run below ``results`` and all evidence next to it; None without such a run.

    A run of another model of the same name is none.
    """
    if not RunRecord.path(results, entry).exists():
        return None
    evidence = read_evidence(results, entry)
    return Known.of(evidence) if evidence.run.is_standard and evidence.run.is_about(entry) else None


@cache
def _shipped() -> dict[str, Known]:
    return {key: parse(Known, value, str(SHIPPED)) for key, value in read_json(SHIPPED).items()}


def _published(entry: Entry) -> Known | None:
    published = entry.published
    if published is None:
        return None
    best = min(published.adaptive or published.autoattack, published.autoattack, key=float)
    return Known(clean=published.clean, autoattack=published.autoattack, best=best, source=published.source)
