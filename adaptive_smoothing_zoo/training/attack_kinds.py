"""The papers' training attacks: settings A, B and C, and attacks on mixes with a constant alpha_t."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.random_streams import run_keys, uniform
from adaptive_smoothing_zoo.attacks.randomized import every_randomized_apgd, randomized_apgd, randomized_pgd
from adaptive_smoothing_zoo.attacks.views import GrayBox, View, WithAlphaLoss, pin_alpha
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.training.task import Batch
from adaptive_smoothing_zoo.training.training_attack import Attackable, Attacked, TrainingAttack, register_kind


@register_kind("A")
def gray_box(given: Attackable, batch: Batch) -> Attacked:
    """PGD without the gradient of the mixing network."""
    return Attacked.of_the_mix(_pgd(given, batch, GrayBox(given.mix), lowers_alpha=False))


@register_kind("B")
def white_box(given: Attackable, batch: Batch) -> Attacked:
    """PGD with the gradient of the mixing network."""
    return Attacked.of_the_mix(_pgd(given, batch, _white_box(given)))


def _runs_of_c(attack: TrainingAttack, classes: int) -> int:
    return 1 + min(attack.targets, classes - 1) if attack.every_run else 1


@register_kind("C", runs=_runs_of_c, least_classes=4)
def apgd(given: Attackable, batch: Batch) -> Attacked:
    """APGD on the cross-entropy and on the targeted DLR loss."""
    options = _options(given, batch) | {"settings": given.attack.randomization}
    options |= {"targets": given.attack.targets, "ranking": given.ranking(), "judge": given.judge}
    run = given.passes(_white_box(given))
    if given.attack.every_run:
        found = every_randomized_apgd(run, batch.images, batch.labels, **options).flatten(0, 1)
    else:
        found = randomized_apgd(run, batch.images, batch.labels, **options)
    return Attacked.of_the_mix(found)


@register_kind("T")
def on_alpha_t(given: Attackable, batch: Batch) -> Attacked:
    """PGD on the mix with a constant alpha_t, drawn for each image; above ``rob_until``, g is the net to trust.

    The mixing network plays no part. The authors attack before training; here each round attacks anew, with other crops
    and another alpha_t.
    """
    logits = alpha_t_logits(given.attack, batch)
    images = _pgd(given, batch, WithAlphaT(given.mix, logits), lowers_alpha=False)
    return Attacked(images, (logits <= given.attack.rob_until).float())


@register_kind("BT")
def either(given: Attackable, batch: Batch) -> Attacked:
    """White-box PGD or PGD on a constant alpha_t, chosen for each image with equal probability."""
    draws = _draws(batch, "attack")
    first, second = ((draws < 0.5).nonzero().squeeze(1), (draws >= 0.5).nonzero().squeeze(1))
    images, use_rob = batch.images.clone(), torch.ones(len(batch.labels), device=batch.images.device)
    for make, rows in ((white_box, first), (on_alpha_t, second)):
        if len(rows):
            some = Batch(batch.images[rows], batch.labels[rows], batch.indices[rows.cpu()], batch.seed)
            found = make(given, some)
            images[rows], use_rob[rows] = found.images, found.use_rob
    return Attacked(images, use_rob)


class WithAlphaT(View):
    """The mix with a constant alpha per image.

    Args:
        logits: (N,), logit(alpha) of each image, in the order of the images.
    """

    def __init__(self, model: MixedClassifier, logits: Tensor) -> None:
        super().__init__(model)
        self.pinned, self.logits = pin_alpha(model, 0.5), logits.unsqueeze(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) float images in [0, 1] -> (N, C) log-probabilities."""
        weights = F.logsigmoid(-self.logits), F.logsigmoid(self.logits)
        return self.pinned.base_outputs(images).mixed(weights)


def alpha_t_logits(attack: TrainingAttack, batch: Batch) -> Tensor:
    """(N,), logit(alpha_t) of each image of a batch, on its device."""
    low, high = attack.alpha_t_logits
    return low + (high - low) * _draws(batch, "alpha_t")


def _draws(batch: Batch, what: str) -> Tensor:
    """(N,) uniform in [0, 1), one number for each image of a batch."""
    keys = run_keys(batch.seed, what, 0, batch.indices)
    return uniform(keys, torch.tensor(0)).float().to(batch.images.device)


def _white_box(given: Attackable) -> nn.Module:
    lowers = given.attack.randomization.alpha_weight is not None
    return WithAlphaLoss(given.mix) if lowers else given.mix


def _pgd(given: Attackable, batch: Batch, view: nn.Module, *, lowers_alpha: bool = True) -> Tensor:
    drawn = given.attack.randomization
    settings = drawn if lowers_alpha else replace(drawn, alpha_weight=None)
    return randomized_pgd(given.passes(view), batch.images, batch.labels, **_options(given, batch), settings=settings)


def _options(given: Attackable, batch: Batch) -> dict[str, Any]:
    threat = given.attack.threat
    return {"norm": threat.norm, "eps": threat.eps, "seed": batch.seed, "indices": batch.indices}
