"""Setting D, adaptive AutoAttack: what attacks that know of the mix break beyond the standard ones [BAKS24, 4.2]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.adaptive import ADAPTIVE_ATTACKS, ADAPTIVE_ENGINE, NET_ATTACKS, SURROGATE_ATTACKS
from adaptive_smoothing_zoo.attacks.settings import STANDARD_PLANS, AttackSettings
from adaptive_smoothing_zoo.backbones.asking import own_copy
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.evaluation.attack_run import Progress
from adaptive_smoothing_zoo.evaluation.evaluate import Call, CallWords, Evaluation, Outcome
from adaptive_smoothing_zoo.evaluation.ledger import CLEAN
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel

ADAPTIVE_PROTOCOL = "adaptive AutoAttack"
STANDARD = "standard"  # the stage before the adaptive attacks, in ``accuracy_after``


@dataclass(frozen=True, kw_only=True)
class AdaptiveEvaluation(Outcome):
    """What the adaptive attacks left of a standard evaluation; ``robust`` says what both left."""

    @property
    def standard_accuracy(self) -> float:
        """Share of points that the standard evaluation left robust, in [0, 1]."""
        return self.accuracy_after[STANDARD]


class AdaptiveWords(CallWords, total=False):
    """Keywords of ``evaluate_adaptive`` that have a default."""

    attacks: Sequence[str] | None
    state: str | Path | None
    on_progress: Callable[[Progress], None] | None


@own_surroundings()
def evaluate_adaptive(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    standard: Evaluation | np.ndarray,
    *,
    threat: ThreatModel | None = None,
    settings: AttackSettings | None = None,
    device: str | torch.device | None = None,
    surrogate: nn.Module | None = None,
    **words: Unpack[AdaptiveWords],
) -> AdaptiveEvaluation:
    """Attack what a standard evaluation left robust once more, with attacks adapted to the mix.

    The model is used in eval mode, with its weights frozen, in float32; all of that is put back afterwards.

    Args:
        model: what the standard evaluation was about: a mix, or any other net.
        images: (N, channels, H, W) float32 in [0, 1], the same examples in the same order.
        labels: (N,) int64.
        standard: the finished evaluation, or its ``robust``, (N,) bool.
        threat: that of the standard evaluation.
        settings: with the attacks, in order; if None ``ADAPTIVE_ATTACKS``, of a net that is no mix ``NET_ATTACKS``, and
            ``SURROGATE_ATTACKS`` after them if there is a surrogate.
        device: where to compute; "cuda" if there is one and else "cpu" if None.
        surrogate: what the triplet's authors attack in its place, as ``Triplet.surrogate`` gives it; any module that
            ``evaluate`` takes, and given back like the model.
        attacks: the names alone, instead of settings.
        state, on_progress, norm, eps, seed, batch_size, search_precision, tf32, channels_last, flush_seconds: as
            in ``evaluate``.

    Raises:
        TypeError: no module, or one that only wraps a mix, whose alpha the attacks would not see.
        ValueError: images, labels, verdicts, surrogate or settings that do not fit together.
        EvaluationError: the model misclassifies a point that the standard evaluation found robust, or an adversarial
            example does not hold what it must.
        ResultsError: the state belongs to another evaluation, is in use, or cannot be written.
    """
    check_examples(images, labels)
    state, on_progress = words.pop("state", None), words.pop("on_progress", None)
    attacks = words.pop("attacks", None)
    if attacks is not None and settings is not None:
        raise ValueError("give the attacks within settings=AttackSettings(...), not next to it")
    if attacks is None:
        attacks = _attacks_on(model) + (SURROGATE_ATTACKS if surrogate is not None else ())
    where = {"device": device, "state": state, "on_progress": on_progress}
    call = Call.of(threat, settings, words, **where, attacks=attacks)  # type: ignore[arg-type]
    if call.settings.attacks == STANDARD_PLANS:
        raise ValueError("settings name the standard attacks; add attacks=ADAPTIVE_ATTACKS to AttackSettings(...)")
    if call.settings.engine != "fast":
        raise ValueError("adaptive attacks run on the engine 'fast' alone")
    robust = _verdicts(standard, len(labels))
    if isinstance(standard, Evaluation) and standard.threat != call.threat:
        raise ValueError(f"the standard evaluation was about {standard.threat}, not {call.threat}")
    images, labels = own_copy(images), own_copy(labels)
    bound: dict[str, Any] = {"engine": ADAPTIVE_ENGINE, "protocol": ADAPTIVE_PROTOCOL, "robust_sha256": _sha256(robust)}
    points = torch.arange(len(labels))
    ledger, binding = call.carry_out(model, images, labels, points, robust=robust, surrogate=surrogate, **bound)
    broken_by = ledger.broken_by()
    broken_by[broken_by == CLEAN] = ""
    after = ledger.accuracy_after()
    return AdaptiveEvaluation(
        robust=ledger.standing().numpy(),
        broken_by=broken_by,
        adversarials=ledger.adversarials.numpy(),
        accuracy_after={STANDARD: after.pop(CLEAN)} | after,
        seconds=ledger.seconds,
        threat=call.threat,
        settings=replace(binding.settings, batch_size=ledger.batch_size),
        engine=ADAPTIVE_ENGINE,
        device=str(call.device),
    )


def _attacks_on(model: nn.Module) -> tuple[str, ...]:
    """The attacks that are adapted to a model."""
    if isinstance(model, MixedClassifier):
        return ADAPTIVE_ATTACKS
    if isinstance(model, nn.Module) and any(isinstance(part, MixedClassifier) for part in model.modules()):
        raise TypeError(f"adaptive attacks need the MixedClassifier itself, not a {type(model).__name__} around it")
    return NET_ATTACKS


def _sha256(verdicts: Tensor) -> str:
    return sha256(verdicts.numpy().tobytes()).hexdigest()


def _verdicts(standard: Evaluation | np.ndarray, n: int) -> Tensor:
    robust = standard.robust if isinstance(standard, Evaluation) else standard
    if robust.shape != (n,) or robust.dtype != np.bool_:
        raise ValueError(f"{n} examples need a verdict each, bool ({n},); got {robust.dtype} {robust.shape}")
    return torch.from_numpy(robust.copy())
