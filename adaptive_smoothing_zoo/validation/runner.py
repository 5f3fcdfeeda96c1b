"""All checks on one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import original, own_copy
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.evaluation.evaluate import data_sha256
from adaptive_smoothing_zoo.machine.devices import pick_device
from adaptive_smoothing_zoo.machine.ready import ready, refusals_named
from adaptive_smoothing_zoo.method.classifier import is_mix
from adaptive_smoothing_zoo.storage.bound_state import locked
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel, threat_of
from adaptive_smoothing_zoo.validation.check import CHECKS, Check, Outcome, not_applicable
from adaptive_smoothing_zoo.validation.check_result import CheckResult, Verdict
from adaptive_smoothing_zoo.validation.subject import Budget, RecordedRun, Subject
from adaptive_smoothing_zoo.validation.validation_journal import Journal, ValidationBinding

VERDICTS: dict[bool | None, Verdict] = {True: "passed", False: "failed", None: "not applicable"}


@dataclass(frozen=True, kw_only=True)
class CheckProgress:
    """Where a validation stands: the check that runs, how many are done, of how many, and all passes so far."""

    check: str
    done: int
    total: int
    passes: int


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a validation found.

    Attributes:
        checks: one result for each.
        clean_correct: (N,) bool.
        broken: (N,) bool, correct without an attack, and broken by the attack of some check.
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
        """Share of points that are classified correctly and that no check broke."""
        return float((self.clean_correct & ~self.broken).mean())


@own_surroundings()
def validate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel | None = None,
    norm: str = "Linf",
    eps: float | str | None = None,
    seed: int = 0,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    channels_last: bool = False,
    budget: Budget | None = None,
    recorded: RecordedRun | None = None,
    only: Collection[str] | None = None,
    state: str | Path | None = None,
    on_progress: Callable[[CheckProgress], None] | None = None,
) -> Findings:
    """Ask whether attacks on a model, AutoAttack's above all, can be trusted to find what there is to be found.

    The model is used in eval mode, with its weights frozen, in float32; all of that is put back afterwards. Checks that
    look into a mixed classifier do not apply to other nets.

    Args:
        model: images in [0, 1] to logits (N, C), C >= 2, differentiable.
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        threat: what the attacker may do, with a radius > 0; or norm and eps, as in ``evaluate``.
        seed: of everything drawn, which belongs to examples and not to batches.
        batch_size: most points in one pass.
        device: where to compute; "cuda" if there is one and else "cpu" if None.
        channels_last: keep convolution weights in that memory format: faster for wide nets on CPUs.
        budget: what to spend; the default's if None.
        recorded: an AutoAttack run on the same weights whose first points these are, to compare with, and what
            adaptive attacks did after it.
        only: names of the checks to make, in the order of ``CHECKS``; all if None.
        state: a folder in which what attacks find is kept, so that the same call after an interruption of any kind goes
            on from there; none if None. It is not removed.
        on_progress: called before each check and as passes are spent.

    Raises:
        ValueError: images, labels or settings that cannot be used.
        EvaluationError: a weight is not float32, or the output is not one number per class.
        ResultsError: the state belongs to another validation, another process works with it, or it cannot be written.
    """
    check_examples(images, labels)
    where = pick_device(device)
    threat = threat_of(threat, norm, eps)
    _check_settings(threat, batch_size, only, recorded, len(labels))
    chosen = [each for name, each in CHECKS.items() if only is None or name in only]
    report = on_progress or (lambda progress: None)
    images, labels = own_copy(images), own_copy(labels)
    with ready(model, where, channels_last=channels_last) as net:
        _check_output(net, images, labels, where)
        subject = Subject(
            net,
            images,
            labels,
            threat=threat,
            seed=seed,
            batch_size=min(batch_size, len(labels)),
            device=where,
            budget=budget or Budget(),
            recorded=recorded,
        )
        results = []
        with _journal(state, model, subject, chosen, channels_last) as subject.journal:
            for done, each in enumerate(chosen):
                subject.on_pass = _reporter(report, subject, each, done, len(chosen))
                subject.on_pass()
                results.append(_make(each, subject))
        correct = torch.zeros(len(labels), dtype=torch.bool)
        correct[subject.correct.cpu()] = True  # perhaps only now asked for, so while the model is in eval mode
    return Findings(
        checks=tuple(results),
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
    state: str | Path | None, model: nn.Module, subject: Subject, chosen: list[Check], channels_last: bool
) -> Iterator[Journal | None]:
    """What keeps the attacks' batches, in a folder that is locked meanwhile."""
    if state is None:
        yield None
        return
    recorded = subject.recorded
    binding = ValidationBinding(
        model=identity_of(model, subject.images.shape[1:]),
        data_sha256=data_sha256(subject.images.cpu(), subject.labels.cpu()),
        standing_sha256="" if recorded is None else sha256(recorded.standing.tobytes()).hexdigest(),
        norm=subject.norm,
        eps=subject.eps,
        seed=subject.seed,
        batch_size=subject.batch_size,
        budget=asdict(subject.budget),
        checks=tuple(each.name for each in chosen),
        channels_last=channels_last,
        device=subject.device.type,
        version=metadata.version("adaptive-smoothing-zoo"),
    )
    journal = Journal(Path(state), binding)
    with locked(journal.folder):
        yield journal


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


def _reporter(
    report: Callable[[CheckProgress], None], subject: Subject, each: Check, done: int, total: int
) -> Callable[[], None]:
    return lambda: report(CheckProgress(check=each.name, done=done, total=total, passes=subject.passes))


@torch.no_grad()
def _check_output(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> None:
    with refusals_named(images):
        logits = model(images[:1].to(device))
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise EvaluationError(f"the model's output must have shape (N, classes), got {tuple(logits.shape)}")
    check_examples(images, labels, logits.shape[1])


def _check_settings(
    threat: ThreatModel, batch_size: int, only: Collection[str] | None, recorded: RecordedRun | None, n: int
) -> None:
    if threat.eps == 0.0:
        raise ValueError("eps must be a finite number > 0, got 0")
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    if unknown := sorted(set(only or ()) - set(CHECKS)):
        raise ValueError(f"unknown check {unknown[0]!r}; known: {', '.join(CHECKS)}")
    if recorded is not None and len(recorded.robust) < n:
        raise ValueError(f"the recorded run has {len(recorded.robust)} verdicts for {n} points")
