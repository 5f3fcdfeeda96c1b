"""All checks on one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.settings import AttackSettings, SettingsWords, settings_of
from adaptive_smoothing_zoo.attacks.verify import count_classes
from adaptive_smoothing_zoo.backbones.asking import original, own_copy
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.evaluation.evaluate import data_sha256
from adaptive_smoothing_zoo.machine.devices import pick_device
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.method.classifier import is_mix
from adaptive_smoothing_zoo.storage.bound_state import BoundState
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel, threat_of
from adaptive_smoothing_zoo.validation.attacked import Journal
from adaptive_smoothing_zoo.validation.check import CHECKS, Check, Outcome, not_applicable
from adaptive_smoothing_zoo.validation.check_result import CheckResult, Verdict
from adaptive_smoothing_zoo.validation.subject import Budget, RecordedRun, Subject

VERDICTS: dict[bool | None, Verdict] = {True: "passed", False: "failed", None: "not applicable"}


@dataclass(frozen=True, kw_only=True)
class CheckProgress:
    """Progress of a validation: the running check, numbers of finished and all checks, and passes so far."""

    check: str
    done: int
    total: int
    passes: int


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The result of a validation.

    Attributes:
        checks: one result for each.
        clean_correct: (N,) bool.
        broken: (N,) bool, correct without an attack, and misclassified after the attack of some check.
        broken_by: (N,) str, that check; "" if none.
        adversarials: (N, channels, H, W), verified; the unchanged image where ``broken`` is False.
        series: curves and samples for figures, by name.
        budget, device, batch_size: how it was done.
    """

    checks: tuple[CheckResult, ...]
    clean_correct: np.ndarray
    broken: np.ndarray
    broken_by: np.ndarray
    adversarials: np.ndarray
    series: dict[str, tuple[tuple[float, ...], ...]]
    budget: Budget
    device: str
    batch_size: int

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(result.name for result in self.checks if result.verdict == "failed")

    @property
    def clean_accuracy(self) -> float:
        return float(self.clean_correct.mean())

    @property
    def accuracy(self) -> float:
        """Share of points that are correct without an attack and after all checks."""
        return float((self.clean_correct & ~self.broken).mean())


class ValidateWords(SettingsWords, total=False):
    """Threat model, settings and the rest of a call as single words; see ``validate``."""

    norm: str
    eps: float | str | None
    budget: Budget | None
    recorded: RecordedRun | None
    only: Collection[str] | None


@own_surroundings()
def validate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel | None = None,
    settings: AttackSettings | None = None,
    device: str | torch.device | None = None,
    state: str | Path | None = None,
    on_progress: Callable[[CheckProgress], None] | None = None,
    **words: Unpack[ValidateWords],
) -> Findings:
    """Check whether attacks on a model, above all AutoAttack, are reliable.

    The model runs in eval mode, with frozen weights, in float32; its own modes are restored afterwards. Checks of the
    parts of a mixed classifier do not apply to other nets.

    Args:
        model: images in [0, 1] to logits (N, C), C >= 2, differentiable.
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        threat: the threat model, with a radius > 0.
        settings: seed, batch size (128 if None) and memory format; the checks use their own attacks.
        device: where to compute; if None "cuda" when available, else "cpu".
        state: a folder for checkpoints; the same call resumes from it after any interruption. It is not removed.
        on_progress: called before each check and as passes are spent.
        words: ``norm`` and ``eps`` in the place of ``threat``; ``seed``, ``batch_size`` and ``channels_last`` in the
            place of ``settings``; the ``budget`` to spend; a ``recorded`` AutoAttack run on the same weights whose
            first points these are, with what adaptive attacks did after it; ``only`` the checks of these names, in the
            order of ``CHECKS``.

    Raises:
        ValueError: images, labels or settings that cannot be used.
        EvaluationError: a weight is not float32, or the output is not one float32 number per class, or has no gradient.
        ResultsError: the state belongs to another validation, another process works with it, or it cannot be written.
    """
    check_examples(images, labels)
    where = pick_device(device)
    budget, recorded, only = words.pop("budget", None), words.pop("recorded", None), words.pop("only", None)
    threat = threat_of(threat, words.pop("norm", None), words.pop("eps", None))
    settings = settings_of(settings, words, batch_size=128)
    _check(threat, settings, only, recorded, len(labels))
    settings = replace(settings, search_precision="float32")
    chosen = [each for name, each in CHECKS.items() if only is None or name in only]
    images, labels = own_copy(images), own_copy(labels)
    with ready(model, where, channels_last=settings.channels_last) as net:
        _check_output(net, images, labels, where)
        subject = Subject(net, images, labels, threat, settings, where, budget or Budget(), recorded)
        with _journal(state, model, subject, chosen) as subject.journal:
            results = tuple(_results(chosen, subject, on_progress or (lambda progress: None)))
        correct = torch.zeros(len(labels), dtype=torch.bool)
        correct[subject.correct.cpu()] = True  # perhaps only now asked for, so while the model is in eval mode
    return Findings(
        checks=results,
        clean_correct=correct.numpy(),
        broken=subject.broken.cpu().numpy(),
        broken_by=subject.broken_by,
        adversarials=subject.adversarials.cpu().numpy(),
        series=subject.series,
        budget=subject.budget,
        device=str(where),
        batch_size=subject.batch_size,
    )


@contextmanager
def _journal(
    state: str | Path | None, model: nn.Module, subject: Subject, chosen: list[Check]
) -> Iterator[Journal | None]:
    """What keeps the attacks' batches, in a folder that is locked meanwhile."""
    if state is None:
        yield None
        return
    recorded = subject.recorded
    binding = {
        "model": identity_of(model, subject.images.shape[1:]),
        "data_sha256": data_sha256(subject.images.cpu(), subject.labels.cpu()),
        "standing_sha256": "" if recorded is None else sha256(recorded.standing.tobytes()).hexdigest(),
        "threat": to_json(subject.threat),
        "settings": to_json(subject.settings),
        "budget": to_json(subject.budget),
        "checks": [each.name for each in chosen],
        "device": subject.device.type,
        "version": metadata.version("adaptive-smoothing-zoo"),
    }
    kept = BoundState(Path(state), binding)
    with kept.locked():
        yield Journal(kept)


def _results(chosen: list[Check], subject: Subject, report: Callable[[CheckProgress], None]) -> Iterator[CheckResult]:
    for done, each in enumerate(chosen):
        subject.on_pass = lambda done=done, each=each: report(  # type: ignore[misc]
            CheckProgress(check=each.name, done=done, total=len(chosen), passes=subject.passes)
        )
        subject.on_pass()
        yield _make(each, subject)


def _make(each: Check, subject: Subject) -> CheckResult:
    subject.check = each.name
    start, passes, recalled = time.perf_counter(), subject.passes, subject.recalled_seconds
    outcome = _outcome(each, subject)
    seconds = time.perf_counter() - start + subject.recalled_seconds - recalled
    return CheckResult(
        name=each.name,
        group=each.group,
        what=each.what,
        rule=each.rule,
        verdict=VERDICTS[outcome.passed],
        found=outcome.found,
        measured={name: _number(value) for name, value in outcome.measured.items()},
        passes=subject.passes - passes,
        seconds=round(seconds, 2),
    )


def _outcome(each: Check, subject: Subject) -> Outcome:
    mix = original(subject.model)
    if each.needs != "any":
        if not is_mix(mix):
            return not_applicable("the model is not a mix of two nets")
        if each.needs == "adaptive" and not mix.alpha.varies:
            return not_applicable("alpha is a constant")
    return each.function(subject)


def _number(value: float) -> float:
    """A finite number for a JSON file."""
    return float(np.nan_to_num(value, nan=0.0, posinf=1e308, neginf=-1e308))


def _check_output(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> None:
    classes = count_classes(model, images, device)
    if classes < 2:
        raise EvaluationError("the model's output must have shape (N, classes) with at least 2 classes, got 1")
    check_examples(images, labels, classes)


def _check(
    threat: ThreatModel, settings: AttackSettings, only: Collection[str] | None, recorded: RecordedRun | None, n: int
) -> None:
    if threat.eps == 0.0:
        raise ValueError("eps must be a finite number > 0, got 0")
    if not settings.is_standard or settings.engine != "fast" or settings.tf32:
        raise ValueError("checks make their own attacks in float32; set seed, batch_size and channels_last alone")
    if unknown := sorted(set(only or ()) - set(CHECKS)):
        raise ValueError(f"unknown check {unknown[0]!r}; known: {', '.join(CHECKS)}")
    if recorded is not None and len(recorded.robust) < n:
        raise ValueError(f"the recorded run has {len(recorded.robust)} verdicts for {n} points")
