"""The record of a validation, ``<NAME>.validation.json`` beside the run record, and what a leaderboard is told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import nn

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation.validation import Findings, RecordedRun, Validation, read_validation
from adaptive_smoothing_zoo.evaluation.validation.figures import write_figure
from adaptive_smoothing_zoo.evaluation.validation.report import to_markdown, to_text
from adaptive_smoothing_zoo.files import write_text, write_with
from adaptive_smoothing_zoo.publishing.leaderboard import percent
from adaptive_smoothing_zoo.publishing.results import (
    RunRecord,
    device_name,
    installed_versions,
    read_record,
    results_path,
    tensors_sha256,
)
from adaptive_smoothing_zoo.zoo.entry import Entry, parse_eps


def recorded_run(out: Path, entry: Entry, model: nn.Module, examples: Examples, n: int) -> RecordedRun | str:
    """The verdicts of a recorded run on the first examples, or why there are none to compare with.

    Args:
        out: where results are recorded.
        model: must have the recorded weights.
        examples: all of the data; the recorded run must have taken the first of them.
        n: examples to be validated; the recorded run must cover them.

    Raises:
        ResultsError: a file is damaged.
    """
    path = results_path(out, entry)
    if not path.with_suffix(".run.json").exists():
        return f"no run is recorded in {out}"
    record = read_record(out, entry)
    if parse_eps(record.eps) != parse_eps(entry.eps):
        return f"the recorded run has eps {record.eps}, not {entry.eps}"
    if record.weights_sha256 != tensors_sha256(model.state_dict()):
        return "the recorded run was made with other weights"
    if not n <= record.n <= len(examples):
        return f"the recorded run has {record.n} examples, this validation {n} of {len(examples)}"
    first = examples.first(record.n)
    if record.data_sha256 != tensors_sha256({"images": first.images, "labels": first.labels}):
        return "the recorded run took other examples"
    verdicts = path.with_suffix(".examples.npz")
    try:
        with np.load(verdicts, allow_pickle=False) as arrays:
            robust: np.ndarray = arrays["robust"]
    except (OSError, ValueError, KeyError) as error:
        raise ResultsError(f"{verdicts} does not hold the verdicts of asz eval: {error}") from error
    if robust.shape != (record.n,) or robust.dtype != np.bool_ or robust.mean() != record.robust_accuracy:
        raise ResultsError(f"{verdicts} does not belong to the run record beside it; run asz eval again")
    return RecordedRun(robust=robust)


def make_validation(
    entry: Entry,
    findings: Findings,
    examples: Examples,
    model: nn.Module,
    *,
    seed: int,
    recorded: RecordedRun | None = None,
    commit: str | None = None,
) -> Validation:
    """Everything about a validation that a reader needs to trust it or to repeat it.

    Args:
        examples: those validated.
        recorded: what the findings were compared with.
        commit: what ``source_commit`` said when the validation began.
    """
    n = len(examples)
    newly = np.zeros(n, dtype=bool) if recorded is None else recorded.robust[:n] & findings.broken
    return Validation(
        model=entry.name,
        dataset=entry.dataset,
        threat_model=entry.threat_model,
        eps=entry.eps,
        n=n,
        data=examples.source,
        data_sha256=tensors_sha256({"images": examples.images, "labels": examples.labels}),
        weights_sha256=tensors_sha256(model.state_dict()),
        seed=seed,
        batch_size=findings.batch_size,
        device=findings.device,
        device_name=device_name(findings.device),
        clean_accuracy=findings.clean_accuracy,
        accuracy=findings.accuracy,
        recorded_n=None if recorded is None else len(recorded.robust),
        recorded_accuracy=None if recorded is None else float(recorded.robust.mean()),
        newly_broken=tuple(np.flatnonzero(newly).tolist()),
        checks=findings.checks,
        budget=dataclasses.asdict(findings.budget),
        series=findings.series,
        versions=installed_versions(),
        commit=commit,
    )


def write_validation(out: Path, entry: Entry, validation: Validation) -> Path:
    """Write JSON, Markdown and, if matplotlib is installed, the figure; each whole or not at all.

    Returns:
        The JSON file's path.

    Raises:
        ResultsError: they cannot be written.
    """
    path = validation_path(out, entry)
    figure: Path | None = path.with_suffix(".png")
    try:
        write_with(path.with_suffix(".png"), lambda temporary: write_figure(validation, temporary))
    except ModuleNotFoundError:
        figure = None
    write_text(path.with_suffix(".md"), to_markdown(validation, figure.name if figure else None))
    write_text(path, to_text(validation))
    return path


def validation_path(out: Path, entry: Entry) -> Path:
    """Where the record of a validation stands, beside the other results."""
    return results_path(out, entry).with_suffix(".validation.json")


def read_validation_of(out: Path, entry: Entry, record: RunRecord) -> Validation | None:
    """The validation recorded beside a run, if it is about the same weights and radius; None if there is none.

    Raises:
        ResultsError: the file is damaged.
    """
    path = validation_path(out, entry)
    if not path.exists():
        return None
    validation = read_validation(path)
    same = validation.weights_sha256 == record.weights_sha256 and parse_eps(validation.eps) == parse_eps(record.eps)
    return validation if same else None


def remarks(validation: Validation) -> list[str]:
    """What a leaderboard entry's footnote, a run record and a card must say of a validation; nothing if all is well."""
    said = []
    if validation.failed:
        names = ", ".join(result.name for result in validation.failed)
        said.append(f"The robust accuracy is not to be trusted as it stands: asz validate failed in {names}.")
    if validation.newly_broken and validation.union_accuracy is not None:
        said.append(
            f"{percent(validation.union_accuracy)}% robust accuracy is due to the attacks of asz validate, which broke "
            f"{len(validation.newly_broken)} of the examples that AutoAttack left, looking at the first {validation.n}."
        )
    return said


def external(record: RunRecord, broken: Iterable[int]) -> str | None:
    """The best known robust accuracy for a leaderboard entry's ``external``, in percent; None if AutoAttack's is it.

    Args:
        record: of the AutoAttack run.
        broken: indices of points that it calls robust and other attacks broke: ``Validation.newly_broken``, and those
            of ``AdaptiveRecord.fallen``. Duplicates count once.
    """
    count = len(set(broken))
    return percent((round(record.robust_accuracy * record.n) - count) / record.n) if count else None


def add_to_leaderboard_entry(path: Path, record: RunRecord, validation: Validation, also: Iterable[int] = ()) -> None:
    """Add the remarks and ``external`` to a leaderboard entry that does not know of the validation yet.

    Args:
        also: indices that adaptive attacks broke, see ``external``.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    data["footnote"] = " ".join([data["footnote"], *remarks(validation)]).strip()
    if (best := external(record, [*validation.newly_broken, *also])) is not None:
        data["external"] = best
    write_text(path, json.dumps(data, indent=2) + "\n")
