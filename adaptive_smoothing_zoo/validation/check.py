"""What a check is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.validation.subject import Subject

Needs = Literal["any", "mix", "adaptive"]  # any net; a mixed classifier; one whose alpha is a mixing network's


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        passed: whether the rule holds; None if the check does not apply.
        found: one sentence: what was found, or why the check does not apply.
        measured: by name, finite numbers. Accuracies and shares are fractions; counts are whole numbers.
    """

    passed: bool | None
    found: str
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a model and its evaluation, with its expected outcome.

    Attributes:
        name: of the function that asks it.
        group: what kind of question it is.
        what: what is done, one sentence.
        rule: the expected outcome, one sentence.
        needs: what kind of model it applies to.
        function: the question.
    """

    name: str
    group: str
    what: str
    rule: str
    needs: Needs
    function: Callable[[Subject], Outcome]


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order in which they are made."""

CheckFunction = Callable[["Subject"], Outcome]


def check(*, what: str, rule: str, needs: Needs = "any") -> Callable[[CheckFunction], CheckFunction]:
    """Enter a function into the list of checks; its group is the ``GROUP`` of its module."""

    def enter(function: CheckFunction) -> CheckFunction:
        name, group = function.__name__, function.__globals__["GROUP"]
        CHECKS[name] = Check(name=name, group=group, what=what, rule=rule, needs=needs, function=function)
        return function

    return enter


def not_applicable(reason: str) -> Outcome:
    """The outcome of a check that has nothing to say about this model."""
    return Outcome(None, reason)


def allowed(n: int, share: float) -> int:
    """Number of exceptions among ``n`` points that a rule allows, given a share: at least one.

    0.1 % of 100 points is less than one point, and a single point is no evidence.
    """
    return max(1, int(share * n))
