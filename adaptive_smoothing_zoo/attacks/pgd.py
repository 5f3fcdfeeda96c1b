"""Projected gradient descent on a loss, in an l_inf or l_2 ball and the box [0, 1] (Madry et al. 2018)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (N, C), labels (N,) -> per-example loss (N,) to increase


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Per-example cross-entropy, (N,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def pgd(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    steps: int,
    norm: str = "Linf",
    random_start: bool = False,
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The last iterate of projected gradient ascent on ``loss``.

    Args:
        model: images to logits; its parameters' gradients are not touched.
        images: (N, channels, H, W) in [0, 1].
        labels: (N,) the labels to move away from.
        eps: radius, one for all or (N,); in the units of the pixels.
        step_size: length of a step in the same norm, one for all or (N,).
        steps: number of gradient steps.
        norm: "Linf" or "L2".
        random_start: begin at a point of the ball drawn uniformly (l_inf) or uniformly in direction and radius (l_2).
        loss: what to increase.
        generator: source of the random start.

    Returns:
        (N, channels, H, W), inside the ball and the box. Nothing says that the points are misclassified: ask the model.

    Raises:
        ValueError: an unknown norm.
    """
    if norm not in ("Linf", "L2"):
        raise ValueError(f"the norm must be 'Linf' or 'L2', got {norm!r}")
    radius, step = _per_example(eps, images), _per_example(step_size, images)
    perturbation = _random_start(images, radius, norm, generator) if random_start else torch.zeros_like(images)
    perturbation = (images + perturbation).clamp(0, 1) - images
    for _ in range(steps):
        points = (images + perturbation).detach().requires_grad_()
        with torch.enable_grad():
            total = loss(model(points), labels).sum()
        (gradient,) = torch.autograd.grad(total, points)
        if norm == "Linf":
            perturbation = (perturbation + step * gradient.sign()).clamp(-radius, radius)
        else:
            perturbation = perturbation + step * gradient / _l2(gradient).clamp(min=1e-12)
            perturbation = perturbation * (radius / _l2(perturbation).clamp(min=1e-12)).clamp(max=1.0)
        perturbation = (images + perturbation).clamp(0, 1) - images
    return (images + perturbation).detach()


def _per_example(value: float | Tensor, images: Tensor) -> Tensor:
    """A number, or one number per example, in a shape that broadcasts against images."""
    return torch.as_tensor(value, dtype=images.dtype, device=images.device).reshape(-1, 1, 1, 1)


def _l2(perturbation: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(perturbation.flatten(1), dim=1)
    return norms.view(-1, 1, 1, 1)


def _random_start(images: Tensor, radius: Tensor, norm: str, generator: torch.Generator | None) -> Tensor:
    if norm == "Linf":
        uniform = torch.empty_like(images).uniform_(-1, 1, generator=generator)
        return radius * uniform
    direction = torch.empty_like(images).normal_(generator=generator)
    length = torch.empty(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
    return radius * length.uniform_(generator=generator) * direction / _l2(direction)
