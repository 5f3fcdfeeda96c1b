"""Whether a measured robustness can be trusted: checks with expected outcomes, next to AutoAttack."""

from adaptive_smoothing_zoo.validation import checks  # noqa: F401  (enters them in CHECKS)
from adaptive_smoothing_zoo.validation.check import CHECKS
from adaptive_smoothing_zoo.validation.check_result import CheckResult
from adaptive_smoothing_zoo.validation.runner import CheckProgress, Findings, validate
from adaptive_smoothing_zoo.validation.subject import Budget, RecordedRun

__all__ = [
    "CHECKS",
    "Budget",
    "CheckProgress",
    "CheckResult",
    "Findings",
    "RecordedRun",
    "validate",
]
