"""Setting D, adaptive AutoAttack: attacks adapted to the mix after the standard ones [BAKS24 v1, section
4.2]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.adaptive import (
    ADAPTIVE_ATTACKS,
    ADAPTIVE_ENGINE,
    NET_ATTACKS,
    RAW_ATTACKS,
    SURROGATE_ATTACKS,
)
from adaptive_smoothing_zoo.attacks.settings import STANDARD_PLANS, AttackSettings
from adaptive_smoothing_zoo.backbones.asking import own_copy
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.evaluation.attack_run import Progress
from adaptive_smoothing_zoo.evaluation.evaluate import Call, CallWords, Evaluation, Outcome
from adaptive_smoothing_zoo.evaluation.ledger import CLEAN
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import Scale
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel

ADAPTIVE_PROTOCOL = "adaptive AutoAttack"
STANDARD = "standard"  # the stage before the adaptive attacks, in ``accuracy_after``


@dataclass(frozen=True, kw_only=True)
class AdaptiveEvaluation(Outcome):
    """The outcome of adaptive attacks after a standard evaluation; ``robust`` counts both."""

    @property
    def standard_accuracy(self) -> float:
        """Share of points robust after the standard evaluation, in [0, 1]."""
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
    """Attack the points that are robust after a standard evaluation with attacks adapted to the mix.

    The model runs in eval mode, with frozen weights, in float32; its own modes are restored afterwards.

    Args:
        model: the model of the standard evaluation: a mix, or any other net.
        images: (N, channels, H, W) float32 in [0, 1], the same examples in the same order.
        labels: (N,) int64.
        standard: the finished evaluation, or its ``robust``, (N,) bool.
        threat: that of the standard evaluation.
        settings: with the attacks, in order. Default: ``ADAPTIVE_ATTACKS`` for a mix and, if its maps are not mere
            scales, ``RAW_ATTACKS``; ``NET_ATTACKS`` for other nets; then ``SURROGATE_ATTACKS`` if there is a surrogate.
        device: where to compute; if None "cuda" when available, else "cpu".
        surrogate: the net that the triplet's authors attack in its place, from ``Triplet.surrogate``; any module that
            ``evaluate`` accepts. Its modes are restored like the model's.
        attacks: names of attacks, instead of settings.
        state, on_progress, norm, eps, seed, batch_size, search_precision, tf32, channels_last, flush_seconds: as
            in ``evaluate``.

    Raises:
        TypeError: not a module, or a wrapper around a mix, which hides its alpha from the attacks.
        ValueError: images, labels, verdicts, surrogate or settings that do not fit together.
        EvaluationError: the model misclassifies a point that the standard evaluation found robust, or an adversarial
            example is invalid.
        ResultsError: the state belongs to another evaluation, is in use, or cannot be written.
    """
    check_examples(images, labels)
    state, on_progress = words.pop("state", None), words.pop("on_progress", None)
    attacks = words.pop("attacks", None)
    if attacks is not None and settings is not None:
        raise ValueError("give the attacks inside settings=AttackSettings(...), not in addition to it")
    if attacks is None:
        attacks = attacks_on(model, surrogate)
    where = {"device": device, "state": state, "on_progress": on_progress}
    call = Call.of(threat, settings, words, **where, attacks=attacks)  # type: ignore[arg-type]
    if call.settings.attacks == STANDARD_PLANS:
        raise ValueError("settings name the standard attacks; add attacks=ADAPTIVE_ATTACKS to AttackSettings(...)")
    if call.settings.engine != "fast":
        raise ValueError("adaptive attacks run only on the engine 'fast'")
    robust = _verdicts(standard, len(labels))
    if isinstance(standard, Evaluation) and standard.threat != call.threat:
        raise ValueError(f"the standard evaluation used {standard.threat}, not {call.threat}")
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


def attacks_on(model: nn.Module, surrogate: nn.Module | None = None) -> tuple[str, ...]:
    """The attacks that are adapted to a model, in order, and those on its surrogate if there is one.

    Raises:
        TypeError: a wrapper around a mix.
    """
    through = () if surrogate is None else SURROGATE_ATTACKS
    if isinstance(model, MixedClassifier):
        plain = not model.is_mix or all(type(each) is Scale for each in (model.std_map, model.rob_map))
        return (*ADAPTIVE_ATTACKS, *(() if plain else RAW_ATTACKS), *through)
    if isinstance(model, nn.Module) and any(isinstance(part, MixedClassifier) for part in model.modules()):
        raise TypeError(f"adaptive attacks need the MixedClassifier itself, not a {type(model).__name__} around it")
    return (*NET_ATTACKS, *through)


def _sha256(verdicts: Tensor) -> str:
    return sha256(verdicts.numpy().tobytes()).hexdigest()


def _verdicts(standard: Evaluation | np.ndarray, n: int) -> Tensor:
    robust = standard.robust if isinstance(standard, Evaluation) else standard
    if robust.shape != (n,) or robust.dtype != np.bool_:
        raise ValueError(f"{n} examples need a verdict each, bool ({n},); got {robust.dtype} {robust.shape}")
    return torch.from_numpy(robust.copy())
