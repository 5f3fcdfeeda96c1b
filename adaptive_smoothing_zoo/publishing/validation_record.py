"""The record of a validation, ``<NAME>.validation.json`` beside the run record, and what a leaderboard is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from torch import nn

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.publishing.adaptive_record import read_adaptive_record
from adaptive_smoothing_zoo.publishing.records import read_record, read_verdicts, results_path, verdicts_path
from adaptive_smoothing_zoo.storage.files import file_sha256, write_text, write_with
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions, tensors_sha256
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.validation import Findings, RecordedRun, Validation
from adaptive_smoothing_zoo.validation.figures import write_figure
from adaptive_smoothing_zoo.validation.report import to_markdown, to_text
from adaptive_smoothing_zoo.zoo.entry import Entry


def recorded_run(out: Path, entry: Entry, model: nn.Module, examples: Examples, n: int) -> RecordedRun | str:
    """The verdicts of a recorded run and of recorded adaptive attacks, or why there are none to compare with.

    Args:
        out: where results are recorded.
        model: must be the recorded one.
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
    if record.identity != identity_of(model, examples.images.shape[1:]):
        return "the recorded run was made with another model"
    if not n <= record.n <= len(examples):
        return f"the recorded run has {record.n} examples, this validation {n} of {len(examples)}"
    first = examples.first(record.n)
    if record.data_sha256 != tensors_sha256({"images": first.images, "labels": first.labels}):
        return "the recorded run took other examples"
    robust, fallen = read_verdicts(out, entry, record), frozenset[int]()
    adaptive = read_adaptive_record(out, entry)
    if adaptive is not None and adaptive.verdicts_sha256 == file_sha256(verdicts_path(out, entry)):
        fallen = adaptive.all_fallen
    return RecordedRun(robust=robust, fallen=tuple(sorted(fallen)), data_sha256=record.data_sha256)


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
        identity=identity_of(model, examples.images.shape[1:]),
        seed=seed,
        batch_size=findings.batch_size,
        device=findings.device,
        device_name=device_name(findings.device),
        clean_accuracy=findings.clean_accuracy,
        accuracy=findings.accuracy,
        recorded_n=None if recorded is None else len(recorded.robust),
        recorded_data_sha256=None if recorded is None else recorded.data_sha256,
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
