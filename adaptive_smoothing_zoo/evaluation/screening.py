"""A quick look at a model: how much a few steps of the strongest attack of the protocol break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.fast import FastEngine
from adaptive_smoothing_zoo.attacks.verify import check_adversarials, count_classes, predict
from adaptive_smoothing_zoo.backbones.asking import own_copy
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.evaluation.evaluate import check_settings
from adaptive_smoothing_zoo.machine.batch_size import largest_batch_size
from adaptive_smoothing_zoo.machine.devices import pick_device
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel, threat_of

TARGETS, STEPS = 3, 20  # of the protocol's 9 and 100


@dataclass(frozen=True, kw_only=True)
class Screening:
    """What a screening found.

    Attributes:
        clean_correct, standing: (N,) bool, classified correctly; and not broken by the few steps.
        passes: forward-equivalents that were spent (a pass forward and backward counts as two).

    The standard protocol can only break more points, so its robust accuracy is at most ``upper_bound``, but for the
    randomness of its attacks. A leaderboard takes no such number.
    """

    clean_correct: np.ndarray
    standing: np.ndarray
    passes: int

    @property
    def clean_accuracy(self) -> float:
        """Share of points classified correctly, in [0, 1]."""
        return float(self.clean_correct.mean())

    @property
    def upper_bound(self) -> float:
        """Share of points that stand: the robust accuracy is at most this, in [0, 1]."""
        return float(self.standing.mean())


@own_surroundings()
def screen(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel | None = None,
    norm: str = "Linf",
    eps: float | str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    channels_last: bool = False,
    on_progress: Callable[[int], object] | None = None,
) -> Screening:
    """Attack every correctly classified point by APGD-T with 3 targets of 20 steps; the model judges.

    Args:
        model, images, labels, threat, norm, eps, seed, batch_size, device, channels_last: as for ``evaluate``.
        on_progress: told of the number of points that were finished.

    Raises:
        ValueError: images, labels or settings that cannot be evaluated.
        EvaluationError: as in ``evaluate``.
    """
    check_examples(images, labels)
    chosen = pick_device(device)
    threat = threat_of(threat, norm, eps)
    check_settings(batch_size)
    images, labels = own_copy(images), own_copy(labels)
    with ready(model, chosen, channels_last=channels_last) as model:
        size = min(batch_size or largest_batch_size(model, images, chosen), len(labels))
        classes = count_classes(model, images, chosen)
        if classes < 4:
            raise EvaluationError(f"AutoAttack's targeted loss needs at least 4 classes, got {classes}")
        check_examples(images, labels, classes)
        correct = predict(model, images, size, chosen) == labels
        engine = FastEngine(
            model,
            norm=threat.norm,
            eps=threat.eps,
            seed=seed,
            batch_size=size,
            num_classes=classes,
            device=chosen,
        )
        engine.iterations, engine.num_targets = STEPS, min(TARGETS, classes - 1)
        points = correct.nonzero().squeeze(1)
        standing = correct.clone()
        if len(points) and threat.eps > 0:
            for positions, candidates in engine.attack("apgd-t", images[points], labels[points], points):
                indices = points[positions]
                broken = predict(model, candidates, size, chosen) != labels[indices]
                check_adversarials(images[indices[broken]], candidates[broken], indices[broken], threat)
                standing[indices[broken]] = False
                if on_progress is not None:
                    on_progress(len(positions))
    passes = len(labels) + 2 * engine.asked["apgd-t"]
    return Screening(clean_correct=correct.numpy(), standing=standing.numpy(), passes=passes)
