"""The targeted Fast Adaptive Boundary attack (Croce and Hein 2020, arXiv:1907.02044), many runs side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import Model, loss_and_gradient, norm_of, target_gap
from adaptive_smoothing_zoo.attacks.projections import project_on_hyperplane
from adaptive_smoothing_zoo.attacks.state import State

ALPHA_MAX = 0.1  # the most that a step is biased toward the clean image
ETA = 1.05  # overshooting of the hyperplane
BETA = 0.9  # how much of the way remains after a step back toward the clean image


@dataclass
class FABState(State):
    """Beside the fields of every run:

    Attributes:
        iteration: (N,) how many projections led to ``points``.
        points: (N, channels, H, W) where the model is linearized next.
    """

    iteration: Tensor
    points: Tensor


class FAB:
    """Project, again and again, onto the linearized boundary between label and target, with a bias toward the clean
    image; where the result is misclassified, step back toward the image to come closer still.

    It minimizes the norm; here a run ends with the first misclassified point inside the ball, which is all that
    matters at a given radius.

    Args:
        name: what it is called in a protocol.
        norm, eps: the ball, "Linf" or "L2".
        steps: projections per run.

    A step takes one pass with a gradient and one without. (One pass could judge a point and linearize there if it was
    not to be stepped back from; but most are, and then it costs more.) Iterates are those of pyautoattack 0.2.0.
    """

    def __init__(self, name: str, *, norm: str, eps: float, steps: int = 100) -> None:
        self.name, self.norm, self.eps, self.steps = name, norm, eps, steps

    def start(self, images: Tensor, labels: Tensor, targets: Tensor) -> FABState:
        """Begin at the clean images, which are taken to be classified correctly."""
        no = torch.zeros_like(labels, dtype=torch.bool)
        return FABState(
            images=images,
            labels=labels,
            targets=targets,
            found=no,
            adversarials=images.clone(),
            exhausted=no.clone(),
            lost=no.clone(),
            flat=no.clone(),
            iteration=torch.zeros_like(labels),
            points=images.clone(),
        )

    @torch.no_grad()
    def step(self, state: FABState, model: Model) -> int:
        """Linearize the model, project, and step back from points that are misclassified."""
        _, gap, gradient = loss_and_gradient(
            model, state.points, lambda logits: target_gap(logits, state.labels, state.targets)
        )
        state.look_at(gradient, at_start=state.iteration == 0)
        points = self._project(state, gap, gradient)
        misclassified = model(points).argmax(dim=1) != state.labels
        away = points - state.images
        state.meet(points, misclassified & (norm_of(away, self.norm).flatten() <= self.eps))
        state.points = torch.where(misclassified.view(-1, 1, 1, 1), state.images + BETA * away, points)
        state.iteration = state.iteration + 1
        state.exhausted = state.iteration >= self.steps
        return len(state)

    def spent(self, state: FABState) -> Tensor:
        """Which share of its budget each run has spent, (N,)."""
        return (state.iteration / self.steps).clamp(max=1.0)

    def _project(self, state: FABState, gap: Tensor, gradient: Tensor) -> Tensor:
        """Between the projections of the point and of the clean image, nearer to the one that is the shorter move."""
        normal, shape = gradient.flatten(1), gradient.shape
        offset = (normal * state.points.flatten(1)).sum(dim=1) - gap
        from_point, from_image = (
            project_on_hyperplane(start.flatten(1), normal, offset, self.norm).view(shape)
            for start in (state.points, state.images)
        )
        point_length, image_length = (norm_of(move, self.norm).clamp(min=1e-8) for move in (from_point, from_image))
        alpha = (point_length / (point_length + image_length)).clamp(max=ALPHA_MAX)
        near_point, near_image = state.points + ETA * from_point, state.images + ETA * from_image
        return (near_point * (1.0 - alpha) + near_image * alpha).clamp(0.0, 1.0)
