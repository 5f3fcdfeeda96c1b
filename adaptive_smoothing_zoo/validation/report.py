"""What a validation leaves behind: a typed record, as JSON, and the same as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json

Verdict = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One check and what came of it.

    Attributes:
        name, group, what, rule: of the check.
        verdict: "passed", "failed" or "not applicable".
        found: one sentence: what was found, or why the check does not apply.
        measured: by name, numbers; accuracies and shares are fractions.
        passes: what it cost, in forward passes of one image (a gradient counts as another one).
        seconds: wall time.
    """

    name: str
    group: str
    what: str
    rule: str
    verdict: Verdict
    found: str
    measured: dict[str, float]
    passes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A validation of one triplet. Accuracies are fractions.

    Attributes:
        n: examples; the first n of the data.
        clean_accuracy, accuracy: before any attack, and after those of all checks.
        recorded_n, recorded_accuracy, recorded_data_sha256: of the recorded AutoAttack run of this model, if there
            is one.
        newly_broken: indices of points that run calls robust and some check broke.
        budget: what the checks could spend.
        series: curves and samples behind the figures: ``loss_<name>`` (mean loss of surviving points, per step),
            ``accuracy_against_eps`` (radii, accuracies), ``alpha`` (clean, attacked).
    """

    model: str
    dataset: str
    threat_model: str
    eps: str
    n: int
    data: str
    data_sha256: str
    identity: Identity
    seed: int
    batch_size: int
    device: str
    device_name: str
    clean_accuracy: float
    accuracy: float
    recorded_n: int | None
    recorded_accuracy: float | None
    recorded_data_sha256: str | None = None
    newly_broken: tuple[int, ...]
    checks: tuple[CheckResult, ...]
    budget: dict[str, int]
    series: dict[str, tuple[tuple[float, ...], ...]]
    versions: dict[str, str]
    commit: str | None

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.checks if result.verdict == "failed")

    @property
    def union_accuracy(self) -> float | None:
        """Of the recorded run's points, the share that neither AutoAttack nor any check broke; None without a run."""
        if self.recorded_n is None or self.recorded_accuracy is None:
            return None
        return (round(self.recorded_accuracy * self.recorded_n) - len(self.newly_broken)) / self.recorded_n

    @property
    def seconds(self) -> float:
        """Wall time of all checks."""
        return sum(result.seconds for result in self.checks)


def to_text(validation: Validation) -> str:
    """The JSON file's content."""
    return json.dumps(to_json(validation), indent=2) + "\n"


def read_validation(path: Path) -> Validation:
    """What a JSON file holds.

    Raises:
        ResultsError: it is missing, damaged or not the record of a validation.
    """
    try:
        validation = parse(Validation, read_json(path), str(path))
        _check_numbers(validation)
        return validation
    except FileNotFoundError:
        raise ResultsError(f"there is no validation {path}; run asz validate") from None
    except ConfigError as error:
        raise ResultsError(f"{path} is not the record of a validation: {error}") from error


def _check_numbers(v: Validation) -> None:
    """Raise ConfigError unless the numbers of a record can be."""
    fractions = (v.accuracy, v.clean_accuracy, v.recorded_accuracy or 0.0)
    if v.n < 1 or not all(0.0 <= fraction <= 1.0 for fraction in fractions) or v.accuracy > v.clean_accuracy:
        raise ConfigError("'n' must be at least 1 and accuracies fractions, the attacked one at most the clean one")
    if len(set(v.newly_broken)) < len(v.newly_broken) or not set(v.newly_broken) <= set(range(v.recorded_n or v.n)):
        raise ConfigError("'newly_broken' must name different examples")


def to_markdown(validation: Validation, figure: str | None = None) -> str:
    """The report for a reader.

    Args:
        figure: name of the image file beside it, if there is one.
    """
    v = validation
    lines = [
        f"# Validation of {v.model}, {v.dataset} {v.threat_model}, eps {v.eps}",
        "",
        _summary(v),
        "",
        f"- Examples: the first {v.n} of {v.data}",
        f"- Clean accuracy {_percent(v.clean_accuracy)}, after the attacks of all checks {_percent(v.accuracy)}",
        *_recorded(v),
        f"- {v.device_name}, batches of {v.batch_size}, seed {v.seed}, {v.seconds:.0f} s",
        f"- Budget: {', '.join(f'{name} {value}' for name, value in v.budget.items())}",
        "- An exception to a rule that allows a share of the points is allowed for one point in any case.",
        "",
    ]
    if figure is not None:
        lines += [f"![Loss curves, accuracy against the radius, alpha]({figure})", ""]
    lines += ["| Check | Verdict | Found | Passes per example | Seconds |", "| --- | --- | --- | --: | --: |"]
    for result in v.checks:
        cells = (result.name, result.verdict, result.found, f"{result.passes / v.n:.0f}", f"{result.seconds:.1f}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    total = sum(result.passes for result in v.checks)
    lines += [f"| all | | | {total / v.n:.0f} | {v.seconds:.1f} |", ""]
    group = None
    for result in v.checks:
        if result.group != group:
            group = result.group
            lines += [f"## {group.capitalize()}", ""]
        lines += _section(result)
    return "\n".join(lines)


def _summary(v: Validation) -> str:
    counts = {verdict: sum(result.verdict == verdict for result in v.checks) for verdict in ("passed", "failed")}
    inapplicable = len(v.checks) - sum(counts.values())
    tally = f"{counts['passed']} checks passed, {counts['failed']} failed, {inapplicable} did not apply."
    if not v.failed:
        return f"{tally} Nothing here speaks against the measured robust accuracy."
    names = ", ".join(result.name for result in v.failed)
    return f"{tally} **The measured robust accuracy is not to be trusted as it stands**: {names}."


def _recorded(v: Validation) -> Sequence[str]:
    if v.recorded_n is None or v.recorded_accuracy is None or v.union_accuracy is None:
        return ["- No recorded AutoAttack run of these weights at this radius to compare with"]
    line = f"- Recorded AutoAttack run: {_percent(v.recorded_accuracy)} of {v.recorded_n} examples are robust"
    if not v.newly_broken:
        return [f"{line}; none of them was broken here"]
    return [
        f"{line}; {len(v.newly_broken)} of them were broken here "
        f"(indices {', '.join(map(str, v.newly_broken))}), so the best known figure is {_percent(v.union_accuracy)}"
    ]


def _section(result: CheckResult) -> list[str]:
    lines = [
        f"### {result.name}: {result.verdict}",
        "",
        result.what,
        "",
        f"*Expected:* {result.rule}",
        "",
        f"*Found:* {result.found}",
        "",
    ]
    if result.measured:
        lines += ["| Measured | |", "| --- | --: |"]
        lines += [f"| {name} | {_number(value)} |" for name, value in result.measured.items()]
        lines.append("")
    return lines


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.4g}"
