"""Attacks adapted to a mix, in addition to AutoAttack: setting D of [BAKS24 v1, section 4.2] and attacks on masked
gradients.

An attack is named by its loss and its view, ``apgd-ce-pinned``: ``apgd-ce`` is the cross-entropy and ``apgd-p`` the
margin of probabilities, both from several random starts. ``apgd-t`` is the targeted DLR loss; with fewer than four
classes ``apgd-gap``, the gap alone, replaces it. A view is one of ``views.VIEWS``; ``lowering`` or ``nudging``, the
white box with the loss ``(1 - w) loss + w BCE(alpha_logit, 1)`` for w = 0.5 or 0.1; or ``surrogate``. With a constant
alpha, all views but the surrogate are the mix itself, attacked again with other random numbers, so the effort equals
that against an adaptive alpha.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD, Fooled
from adaptive_smoothing_zoo.attacks.contract import Setup, State, register
from adaptive_smoothing_zoo.attacks.losses import (
    TargetedLoss,
    cross_entropy,
    lowering_alpha,
    margin,
    mislabelled,
    probability_margin,
    target_gap,
    targeted_dlr,
)
from adaptive_smoothing_zoo.attacks.views import VIEWS, WithAlphaLoss
from adaptive_smoothing_zoo.backbones.asking import Asked, is_own, original
from adaptive_smoothing_zoo.machine.folding import rounding
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.method.classifier import MixedClassifier, is_plain_mix

ADAPTIVE_ENGINE = "adaptive 3"  # bump the number when the same seed no longer gives the same candidates

ADAPTIVE_ATTACKS = (
    "apgd-ce-lowering",
    "apgd-t-lowering",
    "apgd-ce-pinned",
    "apgd-t-pinned",
    "apgd-ce-gray_box",
    "apgd-t-gray_box",
    "apgd-p-nudging",
    "apgd-t-nudging",
    "apgd-p-lowering",
    "apgd-p-mix",
)
"""Three losses through five views: the mix with a large or a small weight on lowering alpha, alpha pinned at alpha_min,
alpha detached, and the mix itself. The small weight with the margin of probabilities is the strongest."""

NET_ATTACKS = ("apgd-ce-mix", "apgd-t-mix", "apgd-p-mix")
"""The three losses on a net that is not a mix, from random starts other than AutoAttack's; other views need alpha."""

RAW_ATTACKS = ("apgd-ce-raw", "apgd-t-raw", "apgd-p-raw")
"""Additional attacks on a mix whose maps are not mere scales, since other maps may hide gradients. On mixes whose g has
a hard maximum they find points that the surrogate of [BZPS24] does not."""

SURROGATE_ATTACKS = ("apgd-ce-surrogate", "apgd-t-surrogate")
"""Additional attacks for a triplet that names a surrogate."""

ALPHA_WEIGHTS = {"lowering": 0.5, "nudging": 0.1}  # w of the part that pulls alpha down

_LOSSES: dict[str, TargetedLoss] = {
    "apgd-ce": cross_entropy,
    "apgd-t": targeted_dlr,
    "apgd-p": probability_margin,
    "apgd-gap": target_gap,
}
_THE_MIX_S_LOGITS = ("mix", "gray_box", *ALPHA_WEIGHTS)  # views that differ from the mix in gradients alone


def make_adaptive(loss_name: str, view_name: str, setup: Setup) -> APGD:
    """APGD on a loss through a view; every iterate is judged by the mix itself.

    Raises:
        TypeError: the view needs a mix and the model is not one.
        ValueError: ``reset_classifier`` has replaced the mix, or no surrogate is given.
    """
    name, model = f"{loss_name}-{view_name}", original(setup.judge)
    loss, view = _LOSSES[loss_name], model
    if isinstance(model, MixedClassifier):
        model.check_mixes(name)
        view = _view(view_name, model, setup)
        if view_name in ALPHA_WEIGHTS and model.alpha.varies:
            loss = lowering_alpha(loss, ALPHA_WEIGHTS[view_name])
    elif view_name != "mix":
        raise TypeError(f"{name} needs a MixedClassifier, got {type(model).__name__}")
    same = view is model or is_plain_mix(model)  # views take a mix apart, and do not see what else changes its answer
    if not is_own(model):  # many views call the model itself
        view = Asked(view)
    fooled = judged_by(setup, alike=same and view_name in _THE_MIX_S_LOGITS)
    return APGD(name, setup.threat, loss, steps=setup.iterations, view=view, fooled=fooled)


def _view(name: str, model: MixedClassifier, setup: Setup) -> nn.Module:
    if name == "surrogate":
        if setup.surrogate is None:
            raise ValueError("an attack through a surrogate needs one, and none is given")
        return setup.surrogate
    if name in ALPHA_WEIGHTS:
        return WithAlphaLoss(model) if model.alpha.varies else model
    return VIEWS[name](model)


def judged_by(setup: Setup, *, alike: bool) -> Fooled:
    """Decide by the model in float32, not by the differentiated function, which points are adversarial.

    The model is asked only where its prepared copy is not sure of the label, unless the copy computes in bfloat16 or
    does not answer the same twice.

    Args:
        alike: the differentiated function gives the model's logits up to rounding, so the copy need not be asked.
    """
    trusted = setup.precision != "bfloat16" and (alike or setup.deterministic)

    @torch.no_grad()
    def fooled(points: Tensor, logits: Tensor, state: State) -> Tensor:
        wrong = ~(state.found | state.exhausted)
        if trusted:
            wrong = wrong & doubtful(logits if alike else setup.prepared(points), state.labels)
        if bool(wrong.any()):
            with float32_precision(tf32=False):
                wrong[wrong.clone()] = mislabelled(setup.judge(points[wrong]), state.labels[wrong])
        return wrong

    return fooled


def doubtful(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the mix might give another label, (N,) bool, by its logits up to a prepared copy's rounding (or NaN)."""
    return ~(margin(logits, labels) > 2.0 * rounding(logits))


def _enter() -> None:
    for view in (*VIEWS, *ALPHA_WEIGHTS, "surrogate"):
        for loss in _LOSSES:
            make: Callable[[Setup], APGD] = partial(make_adaptive, loss, view)
            if loss == "apgd-t":
                four = {"least_classes": 4, "instead": f"apgd-gap-{view}"}
                register(f"{loss}-{view}", targeted=True, **four, iterations=100, targets=9)(make)  # type: ignore[arg-type]
            elif loss == "apgd-gap":
                register(f"{loss}-{view}", targeted=True, iterations=100, targets=9)(make)
            else:
                register(f"{loss}-{view}", iterations=100, restarts=5)(make)


_enter()
