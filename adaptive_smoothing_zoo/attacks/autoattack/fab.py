"""The Fast Adaptive Boundary attack [CH20b], many runs in parallel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.contract import Attack, Setup, State, register
from adaptive_smoothing_zoo.attacks.losses import Model, loss_and_gradient, mislabelled, target_gap
from adaptive_smoothing_zoo.attacks.projections import project_on_hyperplane
from adaptive_smoothing_zoo.attacks.random_streams import noise_of
from adaptive_smoothing_zoo.threat import ThreatModel

ALPHA_MAX = 0.1  # maximal bias of a step toward the clean image
ETA = 1.05  # overshooting of the hyperplane
BETA = 0.9  # fraction of the perturbation that remains after a step back toward the clean image


@dataclass
class FABState(State):
    """Next to the fields of every run:

    Attributes:
        points: (N, channels, H, W) where the model is linearized next.
    """

    points: Tensor


class FAB(Attack[FABState]):
    """Repeatedly project onto the linearized boundary between the label and another class, with a bias toward the clean
    image; from misclassified points, step back toward the image.

    FAB minimizes the norm; here a run ends at its first misclassified point inside the ball, which suffices at a given
    radius.

    Args:
        threat: the ball.
        steps: projections per run.
        targeted: if True, the other class is the run's target; if False, the class with the nearest boundary at each
            step. The latter needs a gradient per class and restarts from random points.

    A targeted step takes one pass with a gradient and one without. (Merging them would cost more, since most points are
    stepped back from.) Iterates equal those of pyautoattack 0.2.0.
    """

    recordable = True

    def __init__(self, threat: ThreatModel, *, steps: int = 100, targeted: bool = True) -> None:
        self.threat, self.length, self.targeted = threat, steps, targeted
        self.name = "fab-t" if targeted else "fab"

    def start(self, images: Tensor, labels: Tensor, targets: Tensor, keys: Tensor) -> FABState:
        """Start from the clean images, assumed correctly classified; nothing is random."""
        return FABState.begin(images, labels, targets, points=images.clone())

    def restart(self, images: Tensor, labels: Tensor, targets: Tensor, keys: Tensor, restarts: Tensor) -> FABState:
        """Start from the clean images first, then from noise of half the radius, derived from the keys."""
        if self.targeted:
            return self.start(images, labels, targets, keys)
        noise = noise_of(self.threat, keys, images)
        again = (restarts > 0).view(-1, 1, 1, 1)
        return self.start_at(images, labels, targets, torch.where(again, noise, 0.0))

    def start_at(self, images: Tensor, labels: Tensor, targets: Tensor, noise: Tensor) -> FABState:
        """Start from the images plus nonzero noise, scaled to half the radius and clipped to the box."""
        points = (images + 0.5 * self.threat.eps * self.threat.unit(noise)).clamp(0.0, 1.0)
        return FABState.begin(images, labels, targets, points=points)

    @torch.no_grad()
    def step(self, state: FABState, model: Model) -> int:
        """Linearize the model, project, and step back from points that are misclassified."""
        gap, gradient = self._linearized(state, model)
        state.look_at(gradient)
        points = self._project(state, gap, gradient)
        misclassified = mislabelled(model(points), state.labels)
        away = points - state.images
        state.meet(points, misclassified & (self.threat.size(away).flatten() <= self.threat.eps))
        state.points = torch.where(misclassified.view(-1, 1, 1, 1), state.images + BETA * away, points)
        state.iteration = state.iteration + 1
        state.exhausted = state.iteration >= self.length
        return len(state)

    def _linearized(self, state: FABState, model: Model) -> tuple[Tensor, Tensor]:
        """The other class's logit minus the label's, (N,), and its gradient."""
        if not self.targeted:
            return nearest_boundary(model, state.points, state.labels, self.threat)
        _, gap, gradient = loss_and_gradient(
            model, state.points, lambda logits: target_gap(logits, state.labels, state.targets)
        )
        return gap, gradient

    def _project(self, state: FABState, gap: Tensor, gradient: Tensor) -> Tensor:
        """A point between the projections of the current point and of the clean image, closer to the shorter move."""
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


def nearest_boundary(model: Model, points: Tensor, labels: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """The nearest linearized decision boundary of each point.

    Returns:
        The logit of the class beyond it minus the label's, (N,), and its gradient, (N, channels, H, W). Classes are
        processed one by one to save memory.
    """
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(points)

    def gradient_of(classes: Tensor) -> Tensor:
        chosen = torch.zeros_like(logits).scatter_(1, classes[:, None], 1.0)
        return torch.autograd.grad(logits, points, chosen, retain_graph=True)[0]

    own, own_gradient = logits.detach().gather(1, labels[:, None]).squeeze(1), gradient_of(labels)
    best_gap, best_gradient = torch.zeros_like(own), torch.zeros_like(own_gradient)
    shortest = torch.full_like(own, torch.inf)
    for label in range(logits.shape[1]):
        gap = logits.detach()[:, label] - own
        gradient = gradient_of(torch.full_like(labels, label)) - own_gradient
        distance = gap.abs() / (1e-12 + threat.dual_size(gradient))
        nearer = (distance < shortest) & (labels != label)
        shortest = torch.where(nearer, distance, shortest)
        best_gap = torch.where(nearer, gap, best_gap)
        best_gradient = torch.where(nearer.view(-1, 1, 1, 1), gradient, best_gradient)
    return best_gap, best_gradient.contiguous()


@register("fab-t", cost=3, targeted=True, iterations=100, targets=9)
def _fab_t(setup: Setup) -> FAB:
    return FAB(setup.threat, steps=setup.iterations)


@register("fab", cost=3, class_cost=1, iterations=100, restarts=1)
def _fab(setup: Setup) -> FAB:
    return FAB(setup.threat, steps=setup.iterations, targeted=False)
