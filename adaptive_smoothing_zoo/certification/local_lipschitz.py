"""An estimate, not a bound, of the local Lipschitz constants of h's probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.backbones.asking import asked, in_eval_mode
from adaptive_smoothing_zoo.certification.bounds.theorem4 import lipschitz_radius
from adaptive_smoothing_zoo.certification.rounding import Floats
from adaptive_smoothing_zoo.machine.ready import refusals_named
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalLipschitzEstimate:
    """The result of an ascent in the balls around N images. It is not a certificate.

    Attributes:
        probabilities: (N, C), h(x).
        constants: (N, C), estimates of Lip^x(h_i) from below: how far h_y (y the label of h) was seen to fall, or
            another h_i to rise, within the ball, divided by eps.
        estimated_radius: (N,), [BAS24, eq. (5)] with these estimates; it means something up to eps only.
        estimated_robust: (N,) bool, whether ``estimated_radius`` is at least eps.
    """

    probabilities: Floats
    constants: Floats
    estimated_radius: Floats
    estimated_robust: NDArray[np.bool_]


@own_surroundings()
def estimate_local_lipschitz(
    model: nn.Module,
    images: Tensor,
    threat: ThreatModel,
    *,
    alpha: float = 1.0,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    batch_size: int = 64,
) -> LocalLipschitzEstimate:
    """Estimate the local Lipschitz constants of h's probabilities by projected gradient ascent.

    The relaxed statement [BAS24, after Theorem 4]: let y be the label of h at x, and suppose that for all perturbations
    d of norm at most eps

        h_y(x) - h_y(x + d) <= eps Lip^x(h_y)   and   h_i(x + d) - h_i(x) <= eps Lip^x(h_i) for all i != y,

    and that the radius of eq. (5) with these constants is at least eps. Then the mix has the label y within eps. An
    ascent finds at most the smallest such constants, so radii are too large, and a better ascent might say otherwise.
    (The idea is that of [YRZSC20], for logits.)

    Args:
        model: h, images to logits (N, C); or a :class:`MixedClassifier`, of which ``rob_model``, ``rob_map`` and
            alpha_min are taken. Used in eval mode.
        images: (N, channels, H, W) in [0, 1]; perturbed images stay in that box.
        threat: norm and radius eps > 0 of the balls.
        alpha: of the mix with h, where ``model`` is h itself.
        steps, restarts, seed: of each ascent; there is one for every image and class.

    Raises:
        ValueError: a value outside its range, or ``reset_classifier`` has replaced the mix.
        EvaluationError: the model fails on such images.
    """
    eps = threat.eps
    if not eps > 0.0:
        raise ValueError(f"eps must be positive, got {eps}")
    h = asked(model)
    if isinstance(model, MixedClassifier):
        model.check_mixes("an estimate of h's constants")
        h, alpha = nn.Sequential(asked(model.rob_model), model.rob_map), model.alpha.alpha_min
    ascent: dict[str, Any] = {"steps": steps, "step_size": 2.5 * eps / steps, "restarts": restarts, "seed": seed}
    starts, batches = range(0, len(images), batch_size), images.split(batch_size)
    with in_eval_mode(h), refusals_named(images):
        found = [_rises(h, batch, threat, start, **ascent) for start, batch in zip(starts, batches, strict=True)]
    probabilities = torch.cat([p for p, _ in found]).cpu().numpy()
    constants = torch.cat([rise for _, rise in found]).cpu().numpy() / eps
    radius = lipschitz_radius(probabilities, alpha, constants)
    return LocalLipschitzEstimate(
        probabilities=probabilities, constants=constants, estimated_radius=radius, estimated_robust=radius >= eps
    )


def _rises(h: nn.Module, images: Tensor, threat: ThreatModel, first: int, **ascent: Any) -> tuple[Tensor, Tensor]:
    """h(x) and how far each class' probability was moved against the label, (N, C) each, in float64."""
    with torch.no_grad():
        before = h(images).double().softmax(dim=1)
    count, classes = before.shape
    which = torch.arange(classes, device=images.device).repeat(count)
    label = before.argmax(dim=1).repeat_interleave(classes)
    sign = torch.where(which == label, -1.0, 1.0)

    def moved(output: Tensor, _: Tensor) -> Tensor:
        return sign * output.softmax(dim=1).gather(1, which[:, None]).squeeze(1)

    points = pgd(
        h,
        images.repeat_interleave(classes, dim=0),
        torch.full_like(which, -1),  # no label: only the loss tells which point is best
        eps=threat.eps,
        norm=threat.norm,
        random_start=True,
        loss=moved,
        keep="best",
        **ascent,
        indices=torch.arange(first * classes, (first + count) * classes),
    )
    with torch.no_grad():
        after = h(points).double().softmax(dim=1).gather(1, which[:, None]).view(count, classes)
    rises = sign.view(count, classes) * (after - before)
    return before, rises.clamp(min=0.0)
