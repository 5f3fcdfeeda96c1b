"""The record of a validation, ``<NAME>.validation.json``, its report and its figure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.publishing.adaptive_record import AdaptiveRecord
from adaptive_smoothing_zoo.publishing.pages import page
from adaptive_smoothing_zoo.publishing.record import Measurement, about
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.storage.files import write_text, write_with
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.provenance import device_name
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.validation import CheckResult, Findings, RecordedRun
from adaptive_smoothing_zoo.validation.figures import write_figure
from adaptive_smoothing_zoo.zoo.entry import ModelEntry


@dataclass(frozen=True, kw_only=True)
class Validation(Measurement):
    """A validation of one model on the first ``n`` examples of the data. Accuracies are fractions.

    Attributes:
        clean_accuracy, accuracy: before any attack, and after the attacks of all checks.
        recorded_n, recorded_accuracy, recorded_data_sha256: of the recorded AutoAttack run of this model; None if there
            is none.
        newly_broken: indices of the examples that the recorded run calls robust and a check broke.
        budget: the limits of the checks, by name.
        series: curves and samples behind the figures: ``loss_<name>`` (mean loss of surviving points, per step),
            ``accuracy_against_eps`` (radii, accuracies), ``alpha`` (clean, attacked).
    """

    KIND, TITLE, COMMAND = "validation", "the record of a validation", "asz validate"

    clean_accuracy: float
    accuracy: float
    recorded_n: int | None
    recorded_accuracy: float | None
    recorded_data_sha256: str | None = None
    newly_broken: tuple[int, ...]
    checks: tuple[CheckResult, ...]
    budget: dict[str, int]
    series: dict[str, tuple[tuple[float, ...], ...]]

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.checks if result.verdict == "failed")

    @property
    def tally(self) -> dict[str, int]:
        """The number of checks by verdict."""
        found = Counter(result.verdict for result in self.checks)
        return {"passed": found["passed"], "failed": found["failed"], "inapplicable": found["not applicable"]}

    @property
    def union_accuracy(self) -> float | None:
        """Share of the recorded run's examples that neither AutoAttack nor a check broke; None without a run."""
        if self.recorded_n is None or self.recorded_accuracy is None:
            return None
        return (round(self.recorded_accuracy * self.recorded_n) - len(self.newly_broken)) / self.recorded_n

    def check(self) -> None:
        super().check()
        fractions = (self.accuracy, self.clean_accuracy, self.recorded_accuracy or 0.0)
        if not all(0.0 <= fraction <= 1.0 for fraction in fractions) or self.accuracy > self.clean_accuracy:
            raise ConfigError("accuracies must be fractions, the attacked one at most the clean one")
        newly, n = set(self.newly_broken), self.recorded_n or self.n
        if len(newly) < len(self.newly_broken) or not newly <= set(range(n)):
            raise ConfigError(f"'newly_broken' must name different examples of {n}")

    def apart_from(self, run: RunRecord) -> str | None:
        """Why the validation is not about this run; None if it is."""
        if why := self.misfit(identity=run.identity, threat=run.threat):
            return why
        elsewhere = self.newly_broken and self.recorded_data_sha256 != run.data_sha256
        return "was made on other examples" if elsewhere else None

    def write(self, out: Path, entry: ModelEntry) -> Path:
        """Write JSON, Markdown and, if matplotlib is installed, the figure, each whole or not at all."""
        path = self.path(out, entry)
        figure: Path | None = path.with_suffix(".png")
        title = f"{self.model}, {self.dataset} {self.threat_model}, eps {self.eps}"
        try:
            write_with(path.with_suffix(".png"), lambda temporary: write_figure(self.series, title, temporary))
        except ModuleNotFoundError:
            figure = None
        write_text(path.with_suffix(".md"), self.report(figure.name if figure else None))
        return super().write(out, entry)

    def report(self, figure: str | None = None) -> str:
        """The Markdown page; ``figure`` is the name of the image file next to it, if there is one."""
        return page("validation.md", v=self, figure=figure)


def recorded_run(
    out: Path, entry: ModelEntry, model: nn.Module, examples: Examples, read: Callable[[int], Examples | None]
) -> RecordedRun | str:
    """The verdicts of the recorded run and adaptive attacks; or a phrase: why there are none to compare with.

    Args:
        out: the folder of results.
        model: must be the recorded one.
        examples: those to validate; the recorded run must cover them.
        read: gives the first so many examples of the data, on which the recorded run must be; None if they are fewer.

    Raises:
        ResultsError: a file is damaged.
    """
    run = RunRecord.find(out, entry)
    if run is None:
        return f"no run is recorded in {out}"
    identity = identity_of(model, examples.images.shape[1:])
    if why := run.misfit(identity=identity, threat=ThreatModel(entry.threat_model, entry.eps_value)):
        return f"the recorded run {why}"
    if not run.is_standard:
        return "the recorded run did not follow the standard protocol"
    if run.n < len(examples):
        return f"the recorded run has {run.n} examples, this validation {len(examples)}"
    if (recorded := read(run.n)) is None:
        return f"the recorded run has {run.n} examples, these data have fewer"
    if why := run.misfit(data_sha256=recorded.sha256):
        return f"the recorded run {why}"
    adaptive = AdaptiveRecord.find(out, entry)
    fallen = frozenset[int]() if adaptive is None else adaptive.fallen_of(run)
    return RecordedRun(robust=run.verdicts(out, entry), fallen=tuple(sorted(fallen)), data_sha256=run.data_sha256)


def make_validation(
    entry: ModelEntry,
    findings: Findings,
    examples: Examples,
    model: nn.Module,
    *,
    seed: int,
    recorded: RecordedRun | None = None,
    commit: str | None = None,
) -> Validation:
    """The record of a validation.

    Args:
        examples: the validated ones.
        recorded: the verdicts that the findings were compared with.
        commit: what ``source_commit`` returned when the validation began.
    """
    newly = () if recorded is None else np.flatnonzero(recorded.robust[: len(examples)] & findings.broken).tolist()
    return Validation(
        **about(entry, examples),
        eps=entry.eps,
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
        newly_broken=tuple(newly),
        checks=findings.checks,
        budget=dataclasses.asdict(findings.budget),
        series=findings.series,
        commit=commit,
    )
