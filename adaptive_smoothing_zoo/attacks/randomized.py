"""The attacks that a mixing network is trained against, with settings drawn anew for each example (003, supplement).

A network trained against one attack learns that attack. Radius, number of steps, momentum and the weight of the part
that pulls alpha down are therefore random; all of them belong to the seed and to the example's index, not to the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks import losses
from adaptive_smoothing_zoo.attacks.apgd import APGD, APGDState
from adaptive_smoothing_zoo.attacks.losses import Model, TargetedLoss, normalized, targeted_dlr
from adaptive_smoothing_zoo.attacks.objectives import Loss, cross_entropy, lowering_alpha
from adaptive_smoothing_zoo.attacks.pgd import pgd, project
from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform, uniform_images

_ALL = -1  # the "index" of what all examples share


@dataclass(frozen=True, kw_only=True)
class Randomization:
    """What is drawn. The defaults are the final paper's.

    Attributes:
        radius_factor: of the nominal radius, uniform, per example.
        steps: degrees of freedom of the chi-square distribution of the number of steps, which is also its mean; one
            number per call, so that a batch ends together.
        budget: factor on the number of steps, for machines that cannot afford the paper's.
        momentum: of PGD, uniform, per example.
        alpha_weight: w of ``(1 - w) loss + w BCE(alpha_logit, 1)``, uniform, per example. None for a model that gives
            logits alone; with a range the model must be a view ``WithAlphaLoss``.
    """

    radius_factor: tuple[float, float] = (0.4, 1.1)
    steps: int = 75
    budget: float = 1.0
    momentum: tuple[float, float] = (0.0, 0.9)
    alpha_weight: tuple[float, float] | None = (0.0, 0.4)

    def draw_steps(self, seed: int) -> int:
        """The number of steps of the call with this seed, at least 1."""
        normals = normal_images(run_keys(seed, "steps", 0, torch.tensor([_ALL])), (self.steps,))
        return max(1, round(self.budget * float((normals.double() ** 2).sum())))


def randomized_pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    seed: int,
    norm: str = "Linf",
    loss: Loss = cross_entropy,
    indices: Tensor | None = None,
    settings: Randomization | None = None,
) -> Tensor:
    """PGD from a random start with steps of 2.5 radii over their number, so that every point of the ball is in reach.

    Args:
        model: a mix, or a view of one; see ``Randomization.alpha_weight``.
        images: (N, channels, H, W) in [0, 1].
        labels: (N,) the labels to move away from.
        eps: nominal radius of the ball, in the units of the pixels.
        seed: of everything drawn; another one for each step of a training.
        norm: "Linf" or "L2".
        loss: what to increase beside alpha's part.
        indices: (N,) the examples' places in their data set; 0, 1, ... if not given.
        settings: what is drawn; the defaults if None.

    Returns:
        (N, channels, H, W), the last iterates, inside balls of up to ``max(radius_factor) * eps`` and the box.

    Raises:
        ValueError: an unknown norm.
    """
    settings = settings or Randomization()
    indices = torch.arange(len(labels)) if indices is None else indices.cpu()
    steps = settings.draw_steps(seed)
    radius = eps * _draw(settings.radius_factor, seed, "radius", indices, images)
    if settings.alpha_weight is not None:
        loss = lowering_alpha(loss, _draw(settings.alpha_weight, seed, "alpha weight", indices, images))
    return pgd(
        model,
        images,
        labels,
        eps=radius,
        step_size=2.5 / steps * radius,
        steps=steps,
        norm=norm,
        momentum=_draw(settings.momentum, seed, "momentum", indices, images),
        random_start=True,
        loss=loss,
        seed=seed,
        indices=indices,
    )


def randomized_apgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    seed: int,
    norm: str = "Linf",
    targets: int = 9,
    indices: Tensor | None = None,
    settings: Randomization | None = None,
) -> Tensor:
    """APGD on the cross-entropy, and then, where that fails, on the targeted DLR loss toward likely wrong classes.

    Args:
        targets: wrong classes to try; fewer if there are not so many, and 0 for the cross-entropy alone.
        model, images, labels, eps, seed, norm, indices, settings: as for ``randomized_pgd``; ``momentum`` is not used.

    Returns:
        (N, channels, H, W), inside balls of up to ``max(radius_factor) * eps`` and the box. From the first run that
        fools the model: its point of highest loss, or its first misclassified one if that is not; where no run does,
        the highest loss of the first.

    Raises:
        ValueError: an unknown norm.
    """
    if norm not in ("Linf", "L2"):
        raise ValueError(f"the norm must be 'Linf' or 'L2', got {norm!r}")
    settings = settings or Randomization()
    indices = torch.arange(len(labels)) if indices is None else indices.cpu()
    steps = settings.draw_steps(seed)
    radius = (eps * _draw(settings.radius_factor, seed, "radius", indices, images)).view(-1, 1, 1, 1)
    weight = None
    if settings.alpha_weight is not None:
        weight = _draw(settings.alpha_weight, seed, "alpha weight", indices, images)
    ranking = _rank_classes(model, images, labels, logits_only=weight is None)
    found = images.clone()
    left = torch.arange(len(labels), device=images.device)
    for rank in range(-1, min(targets, ranking.shape[1])):  # -1 is the cross-entropy
        if len(left) == 0:
            break
        loss: TargetedLoss = losses.cross_entropy if rank < 0 else targeted_dlr
        if weight is not None:
            loss = lowering_alpha(loss, weight[left])
        attack = _APGDWithRadii(norm=norm, radius=radius[left], loss=loss, steps=steps)
        keys = run_keys(seed, "apgd", rank + 1, indices[left.cpu()]).to(images.device)
        noise = (uniform_images if norm == "Linf" else normal_images)(keys, images.shape[1:]).to(images.dtype)
        goal = labels[left] if rank < 0 else ranking[left, rank]
        points, fooled = _run(attack, attack.start(images[left], labels[left], goal, noise), model)
        taken = fooled | (rank < 0)
        found[left[taken]] = points[taken]
        left = left[~fooled]
    return found


class _APGDWithRadii(APGD):
    """APGD in balls of different radii, (N, 1, 1, 1)."""

    def __init__(self, *, norm: str, radius: Tensor, loss: TargetedLoss, steps: int) -> None:
        super().__init__("apgd", norm=norm, eps=1.0, loss=loss, steps=steps)
        self.radius = radius

    def start(self, images: Tensor, labels: Tensor, targets: Tensor, noise: Tensor) -> APGDState:
        state = super().start(images, labels, targets, noise)
        points = (images + self.radius * normalized(noise, self.norm)).clamp(0.0, 1.0)
        state.points, state.previous, state.best_points = points, points.clone(), points.clone()
        state.step_size = 2.0 * self.radius
        return state

    def _project(self, points: Tensor, images: Tensor) -> Tensor:
        return project(points, images, self.radius, self.norm)


def _run(attack: APGD, state: APGDState, model: Model) -> tuple[Tensor, Tensor]:
    """All steps of one run per example: its point (see ``randomized_apgd``), and whether it is misclassified."""
    for _ in range(attack.steps + 1):
        attack.step(state, model)
    with torch.no_grad():
        wrong = model(state.best_points).argmax(dim=1) != state.labels
    points = torch.where((state.found & ~wrong).view(-1, 1, 1, 1), state.adversarials, state.best_points)
    return points, state.found | wrong


@torch.no_grad()
def _rank_classes(model: Model, images: Tensor, labels: Tensor, *, logits_only: bool) -> Tensor:
    """The wrong classes from likely to unlikely, (N, C - 1)."""
    output = model(images)
    order = (output if logits_only else output[:, :-1]).argsort(dim=1, descending=True)
    return order[order != labels[:, None]].view(len(labels), -1)


def _draw(bounds: tuple[float, float], seed: int, what: str, indices: Tensor, images: Tensor) -> Tensor:
    """(N,) uniform between the bounds, one number per example."""
    low, high = bounds
    draws = uniform(run_keys(seed, what, 0, indices), torch.tensor(0))
    return (low + (high - low) * draws).to(images.device, images.dtype)
