"""Auto-PGD [CH20, Algorithm 1], many runs in parallel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.contract import Attack, Setup, State, register
from adaptive_smoothing_zoo.attacks.losses import (
    Model,
    TargetedLoss,
    cross_entropy,
    cw_margin,
    dlr,
    loss_and_gradient,
    mislabelled,
    target_gap,
    targeted_dlr,
)
from adaptive_smoothing_zoo.attacks.random_streams import noise_of
from adaptive_smoothing_zoo.threat import ThreatModel

# Points, the logits there, the runs -> (N,) bool, which of the points are adversarial.
Fooled = Callable[[Tensor, Tensor, State], Tensor]

MOMENTUM = 0.75  # weight of the gradient step relative to the last move
RHO = 0.75  # the share of steps between two checkpoints that must increase the loss


@dataclass
class APGDState(State):
    """Next to the fields of every run:

    Attributes:
        points: (N, channels, H, W), inputs of the next forward pass.
        previous: the point from which the last gradient step was made.
        step_size: (N, 1, 1, 1).
        loss: (N,) at the latest point.
        best_points, best_gradient, best_loss: where the loss was highest.
        increases: (N,) steps since the last checkpoint that increased the loss.
        checked_loss: (N,) ``best_loss`` at the last checkpoint.
        halved: (N,) bool, the last checkpoint halved the step size.
    """

    points: Tensor
    previous: Tensor
    step_size: Tensor
    loss: Tensor
    best_points: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    increases: Tensor
    checked_loss: Tensor
    halved: Tensor


class APGD(Attack[APGDState]):
    """Projected gradient ascent with momentum that, when progress stalls, halves its step size and returns to the best
    point so far.

    Args:
        name: in the catalogue.
        threat: the ball.
        loss: what to increase.
        steps: gradient steps; a run makes one more forward pass than that.
        radius: (N, 1, 1, 1), a radius per run that replaces the ball's, for N runs that stay together.
        view: the function to differentiate in place of the model.
        fooled: decides which points are adversarial; by default those where the differentiated function gives another
            label.
        eot: passes averaged in each gradient. With more than one the model is considered randomized: a run uses all
            its steps and returns its last adversarial point.

    Iterates equal those of pyautoattack 0.2.0.
    """

    recordable = True

    def __init__(
        self,
        name: str,
        threat: ThreatModel,
        loss: TargetedLoss,
        *,
        steps: int = 100,
        radius: Tensor | None = None,
        view: nn.Module | None = None,
        fooled: Fooled | None = None,
        eot: int = 1,
    ) -> None:
        self.name, self.threat, self.loss, self.steps, self.length = name, threat, loss, steps, steps + 1
        self.radius, self.view, self.eot = radius, view, eot
        self.fooled: Fooled = fooled or (lambda points, logits, state: mislabelled(logits, state.labels))
        checked = checkpoints(steps)
        windows = [later - earlier for earlier, later in zip([0, *checked], checked, strict=False)]
        # By iteration: steps since the last checkpoint if this is one, else 0. Idle runs go beyond the last iteration.
        self._window = torch.zeros(steps + 2, dtype=torch.int64)
        self._window[checked] = torch.tensor(windows)

    def start(self, images: Tensor, labels: Tensor, targets: Tensor, keys: Tensor) -> APGDState:
        """Start from random noise derived from the keys."""
        return self.start_at(images, labels, targets, noise_of(self.threat, keys, images))

    def start_at(self, images: Tensor, labels: Tensor, targets: Tensor, noise: Tensor) -> APGDState:
        """Start from the images plus noise, scaled to the ball's radius and clipped to the box.

        Args:
            noise: the images' shape, uniform in [-1, 1] for l_inf and standard normal for l_2.
        """
        radius = self.threat.eps if self.radius is None else self.radius
        points = (images + radius * self.threat.unit(noise)).clamp(0.0, 1.0)
        # The first step is compared with a loss of zero, as in the reference; in the paper, with the loss at the start.
        zero = images.new_zeros(len(labels))
        return APGDState.begin(
            images,
            labels,
            targets,
            points=points,
            previous=points.clone(),
            step_size=images.new_zeros((len(labels), 1, 1, 1)) + 2.0 * radius,
            loss=zero,
            best_points=points.clone(),
            best_gradient=torch.zeros_like(images),
            best_loss=zero.clone(),
            increases=torch.zeros_like(labels),
            checked_loss=zero.clone(),
            halved=torch.ones_like(labels, dtype=torch.bool),
        )

    @torch.no_grad()
    def step(self, state: APGDState, model: Model) -> int:
        """Evaluate the model at the current points, judge the last steps, make the next ones."""
        logits, loss, gradient = loss_and_gradient(
            model, state.points, lambda logits: self.loss(logits, state.labels, state.targets), passes=self.eot
        )
        fooled = self.fooled(state.points, logits, state)
        if self.eot == 1:
            state.meet(state.points, fooled)
        else:
            state.keep(state.points, fooled)
        state.look_at(gradient)
        self._keep_best(state, loss, gradient)
        gradient = self._check_progress(state, gradient)
        self._move(state, gradient)
        state.exhausted = state.iteration >= self.steps
        state.iteration = (state.iteration + 1).clamp(max=self.steps + 1)
        if self.eot > 1:
            state.found = state.exhausted & (state.adversarials != state.images).flatten(1).any(dim=1)
        return len(state) * self.eot

    def _keep_best(self, state: APGDState, loss: Tensor, gradient: Tensor) -> None:
        at_start = state.iteration == 0
        better = at_start | (loss > state.best_loss)
        state.best_loss = torch.where(better, loss, state.best_loss)
        state.best_points = torch.where(better.view(-1, 1, 1, 1), state.points, state.best_points)
        state.best_gradient = torch.where(better.view(-1, 1, 1, 1), gradient, state.best_gradient)
        state.checked_loss = torch.where(at_start, loss, state.checked_loss)
        state.increases = state.increases + (~at_start & (loss > state.loss))
        state.loss = torch.where(at_start, state.loss, loss)

    def _check_progress(self, state: APGDState, gradient: Tensor) -> Tensor:
        """At a checkpoint: halve the step size and return to the best point if progress stalls (conditions 1 and 2)."""
        self._window = self._window.to(state.labels.device)  # copied once
        window = self._window[state.iteration]
        here = window > 0
        too_few = state.increases <= RHO * window
        no_better = ~state.halved & (state.checked_loss >= state.best_loss)
        halve = here & (too_few | no_better)
        back = halve.view(-1, 1, 1, 1)
        state.step_size = torch.where(back, state.step_size / 2.0, state.step_size)
        state.points = torch.where(back, state.best_points, state.points)
        state.halved = torch.where(here, halve, state.halved)
        state.checked_loss = torch.where(here, state.best_loss, state.checked_loss)
        state.increases = torch.where(here, 0, state.increases)
        return torch.where(back, state.best_gradient, gradient)

    def _move(self, state: APGDState, gradient: Tensor) -> None:
        last_move = state.points - state.previous
        state.previous = state.points
        ahead = self._project(state.points + state.step_size * self.threat.steepest(gradient), state.images)
        weight = torch.where(state.iteration == 0, 1.0, MOMENTUM).to(gradient.dtype).view(-1, 1, 1, 1)
        mixed = state.points + weight * (ahead - state.points) + (1.0 - weight) * last_move
        state.points = self._project(mixed, state.images)

    def _project(self, points: Tensor, images: Tensor) -> Tensor:
        return self.threat.project(images, points, self.radius, safe=self.radius is not None)


@register("apgd-ce", iterations=100, restarts=1, eot=1)
def _apgd_ce(setup: Setup) -> APGD:
    return APGD("apgd-ce", setup.threat, cross_entropy, steps=setup.iterations, eot=setup.eot)


@register("apgd-dlr", least_classes=3, instead="apgd-cw", iterations=100, restarts=1, eot=1)
def _apgd_dlr(setup: Setup) -> APGD:
    return APGD("apgd-dlr", setup.threat, dlr, steps=setup.iterations, eot=setup.eot)


@register("apgd-cw", iterations=100, restarts=1, eot=1)
def _apgd_cw(setup: Setup) -> APGD:
    """The DLR loss without its ratio, which needs no third class."""
    return APGD("apgd-cw", setup.threat, cw_margin, steps=setup.iterations, eot=setup.eot)


@register("apgd-t", targeted=True, least_classes=4, instead="apgd-gap", iterations=100, targets=9, restarts=1, eot=1)
def _apgd_t(setup: Setup) -> APGD:
    return APGD("apgd-t", setup.threat, targeted_dlr, steps=setup.iterations, eot=setup.eot)


@register("apgd-gap", targeted=True, iterations=100, targets=9, restarts=1, eot=1)
def _apgd_gap(setup: Setup) -> APGD:
    """The targeted DLR loss without its ratio, which needs no third and fourth class."""
    return APGD("apgd-gap", setup.threat, target_gap, steps=setup.iterations, eot=setup.eot)


def checkpoints(steps: int) -> list[int]:
    """The iterations that check progress: at 22 % of the steps, then at intervals that shrink by 3 % down to 6 %."""
    interval, shrink, shortest = intervals(steps)
    found, iteration = [], interval
    while iteration <= steps:
        found.append(iteration)
        interval = max(interval - shrink, shortest)
        iteration += interval
    return found


def intervals(steps: int) -> tuple[int, int, int]:
    """The first interval between checkpoints, the decrement of later ones, and the minimum."""
    return max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
