"""Auto-PGD (Croce and Hein 2020, arXiv:2003.01690, Algorithm 1), many runs side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import Model, TargetedLoss, loss_and_gradient, norm_of, normalized
from adaptive_smoothing_zoo.attacks.state import State

MOMENTUM = 0.75  # weight of the gradient step against the last move
RHO = 0.75  # the share of steps between two checkpoints that must increase the loss


@dataclass
class APGDState(State):
    """Beside the fields of every run:

    Attributes:
        iteration: (N,) how many gradient steps led to ``points``.
        points: (N, channels, H, W) where the model is asked next.
        previous: the point from which the last gradient step was made.
        step_size: (N, 1, 1, 1).
        loss: (N,) at the last point that a step led to.
        best_points, best_gradient, best_loss: where the loss was highest.
        increases: (N,) steps since the last checkpoint that increased the loss.
        checked_loss: (N,) ``best_loss`` at the last checkpoint.
        halved: (N,) bool, the last checkpoint halved the step size.
    """

    iteration: Tensor
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


class APGD:
    """Projected gradient ascent with momentum that halves its step size where progress stalls, and then goes on from
    the best point so far.

    Args:
        name: what it is called in a protocol.
        norm, eps: the ball, "Linf" or "L2".
        loss: what to increase.
        steps: gradient steps; a run asks the model once more than that.

    Iterates are those of pyautoattack 0.2.0.
    """

    def __init__(self, name: str, *, norm: str, eps: float, loss: TargetedLoss, steps: int = 100) -> None:
        self.name, self.norm, self.eps, self.loss, self.steps = name, norm, eps, loss, steps
        checked = checkpoints(steps)
        windows = [later - earlier for earlier, later in zip([0, *checked], checked, strict=False)]
        # By iteration: steps since the last checkpoint if this is one, else 0. Idle runs go beyond the last iteration.
        self._window = torch.zeros(steps + 2, dtype=torch.int64)
        self._window[checked] = torch.tensor(windows)

    def start(self, images: Tensor, labels: Tensor, targets: Tensor, noise: Tensor) -> APGDState:
        """Begin at the images plus noise, scaled to the ball's radius and cut to the box.

        Args:
            noise: the images' shape, uniform in [-1, 1] for l_inf and standard normal for l_2.
        """
        n = len(labels)
        points = (images + self.eps * normalized(noise, self.norm)).clamp(0.0, 1.0)
        numbers = images.new_zeros(n)
        no = torch.zeros_like(labels, dtype=torch.bool)
        return APGDState(
            images=images,
            labels=labels,
            targets=targets,
            found=no,
            adversarials=images.clone(),
            exhausted=no.clone(),
            lost=no.clone(),
            flat=no.clone(),
            iteration=torch.zeros_like(labels),
            points=points,
            previous=points.clone(),
            step_size=images.new_full((n, 1, 1, 1), 2.0 * self.eps),
            # The first step is compared with a loss of zero, not with the loss at the start. The paper would have the
            # latter; iterates are to be the reference's.
            loss=numbers,
            best_points=points.clone(),
            best_gradient=torch.zeros_like(images),
            best_loss=numbers.clone(),
            increases=torch.zeros_like(labels),
            checked_loss=numbers.clone(),
            halved=torch.ones_like(no),
        )

    @torch.no_grad()
    def step(self, state: APGDState, model: Model) -> int:
        """Ask the model at the current points, judge the last steps, make the next ones."""
        logits, loss, gradient = loss_and_gradient(
            model, state.points, lambda logits: self.loss(logits, state.labels, state.targets)
        )
        state.meet(state.points, logits.argmax(dim=1) != state.labels)
        state.look_at(gradient, at_start=state.iteration == 0)
        self._keep_best(state, loss, gradient)
        gradient = self._check_progress(state, gradient)
        self._move(state, gradient)
        state.exhausted = state.iteration >= self.steps
        state.iteration = (state.iteration + 1).clamp(max=self.steps + 1)
        return len(state)

    def spent(self, state: APGDState) -> Tensor:
        """Which share of its budget each run has spent, (N,)."""
        return (state.iteration / (self.steps + 1)).clamp(max=1.0)

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
        direction = gradient.sign() if self.norm == "Linf" else normalized(gradient, self.norm)
        ahead = self._project(state.points + state.step_size * direction, state.images)
        weight = torch.where(state.iteration == 0, 1.0, MOMENTUM).to(gradient.dtype).view(-1, 1, 1, 1)
        mixed = state.points + weight * (ahead - state.points) + (1.0 - weight) * last_move
        state.points = self._project(mixed, state.images)

    def _project(self, points: Tensor, images: Tensor) -> Tensor:
        """Into the ball, then into the box."""
        if self.norm == "Linf":
            return points.clamp(images - self.eps, images + self.eps).clamp(0.0, 1.0)
        away = points - images
        length = norm_of(away, self.norm)
        return (images + away / (length + 1e-12) * length.clamp(max=self.eps)).clamp(0.0, 1.0)


def checkpoints(steps: int) -> list[int]:
    """The iterations at which progress is judged: 22 % of the steps, then intervals that shrink by 3 % down to 6 %."""
    interval, shrink, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, iteration = [], interval
    while iteration <= steps:
        found.append(iteration)
        interval = max(interval - shrink, shortest)
        iteration += interval
    return found
