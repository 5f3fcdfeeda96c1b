"""The targeted Fast Adaptive Boundary attack (Croce and Hein 2020, arXiv:1907.02044), many runs side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.contract import Attack, Setup, State, register
from adaptive_smoothing_zoo.attacks.losses import Model, loss_and_gradient, target_gap
from adaptive_smoothing_zoo.attacks.projections import project_on_hyperplane
from adaptive_smoothing_zoo.threat import ThreatModel

ALPHA_MAX = 0.1  # the most that a step is biased toward the clean image
ETA = 1.05  # overshooting of the hyperplane
BETA = 0.9  # how much of the way remains after a step back toward the clean image


@dataclass
class FABState(State):
    """Next to the fields of every run:

    Attributes:
        points: (N, channels, H, W) where the model is linearized next.
    """

    points: Tensor


class FAB(Attack[FABState]):
    """Project, again and again, onto the linearized boundary between label and target, with a bias toward the clean
    image; where the result is misclassified, step back toward the image to come closer still.

    It minimizes the norm; here a run ends with the first misclassified point inside the ball, which is all that
    matters at a given radius.

    Args:
        threat: the ball.
        steps: projections per run.

    A step takes one pass with a gradient and one without. (One pass could judge a point and linearize there if it was
    not to be stepped back from; but most are, and then it costs more.) Iterates are those of pyautoattack 0.2.0.
    """

    name = "fab-t"

    def __init__(self, threat: ThreatModel, *, steps: int = 100) -> None:
        self.threat, self.length = threat, steps

    def start(self, images: Tensor, labels: Tensor, targets: Tensor, keys: Tensor) -> FABState:
        """Begin at the clean images, which are taken to be classified correctly; nothing is random."""
        return FABState.begin(images, labels, targets, points=images.clone())

    @torch.no_grad()
    def step(self, state: FABState, model: Model) -> int:
        """Linearize the model, project, and step back from points that are misclassified."""
        _, gap, gradient = loss_and_gradient(
            model, state.points, lambda logits: target_gap(logits, state.labels, state.targets)
        )
        state.look_at(gradient)
        points = self._project(state, gap, gradient)
        misclassified = model(points).argmax(dim=1) != state.labels
        away = points - state.images
        state.meet(points, misclassified & (self.threat.size(away).flatten() <= self.threat.eps))
        state.points = torch.where(misclassified.view(-1, 1, 1, 1), state.images + BETA * away, points)
        state.iteration = state.iteration + 1
        state.exhausted = state.iteration >= self.length
        return len(state)

    def _project(self, state: FABState, gap: Tensor, gradient: Tensor) -> Tensor:
        """Between the projections of the point and of the clean image, nearer to the one that is the shorter move."""
        normal, shape = gradient.flatten(1), gradient.shape
        offset = (normal * state.points.flatten(1)).sum(dim=1) - gap
        from_point, from_image = (
            project_on_hyperplane(start.flatten(1), normal, offset, self.threat).view(shape)
            for start in (state.points, state.images)
        )
        point_length, image_length = (self.threat.size(move).clamp(min=1e-8) for move in (from_point, from_image))
        alpha = (point_length / (point_length + image_length)).clamp(max=ALPHA_MAX)
        near_point, near_image = state.points + ETA * from_point, state.images + ETA * from_image
        return (near_point * (1.0 - alpha) + near_image * alpha).clamp(0.0, 1.0)


@register("fab-t", cost=3, targeted=True, iterations=100, targets=9)
def _fab_t(setup: Setup) -> FAB:
    return FAB(setup.threat, steps=setup.iterations)
