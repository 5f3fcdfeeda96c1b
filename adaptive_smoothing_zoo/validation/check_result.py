"""One check of a validation and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
