"""Whether a measured robustness can be trusted: checks with expected outcomes, beside AutoAttack."""

# The modules enter their checks in the order of these imports; the later ones use what the earlier ones found.
from adaptive_smoothing_zoo.evaluation.validation import (  # noqa: F401  # isort: skip
    oracles,
    function,
    gradients,
    strength,
    radii,
    mixture,
    examples,
)
from adaptive_smoothing_zoo.evaluation.validation.check import CHECKS
from adaptive_smoothing_zoo.evaluation.validation.report import CheckResult, Validation, read_validation
from adaptive_smoothing_zoo.evaluation.validation.runner import CheckProgress, Findings, validate
from adaptive_smoothing_zoo.evaluation.validation.subject import Budget, RecordedRun

__all__ = [
    "CHECKS",
    "Budget",
    "CheckProgress",
    "CheckResult",
    "Findings",
    "RecordedRun",
    "Validation",
    "read_validation",
    "validate",
]
