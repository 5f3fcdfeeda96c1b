"""Projected gradient descent on a loss, in an l_inf or l_2 ball and the box [0, 1] (Madry et al. 2018)."""

from math import inf
from typing import Literal

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import Model, loss_and_gradient
from adaptive_smoothing_zoo.attacks.objectives import Loss, cross_entropy
from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform, uniform_images
from adaptive_smoothing_zoo.backbones.asking import Asked, free_of_inference_mode, is_own
from adaptive_smoothing_zoo.backbones.base import check_image_tensor
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import check_norm
from adaptive_smoothing_zoo.units import warn_of_radius

__all__ = ["cross_entropy", "pgd", "project"]


@own_surroundings()
def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    steps: int,
    norm: str = "Linf",
    momentum: float | Tensor = 0.0,
    random_start: bool = False,
    restarts: int = 1,
    loss: Loss = cross_entropy,
    keep: Literal["last", "best"] = "last",
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    indices: Tensor | None = None,
) -> Tensor:
    """Projected gradient ascent on ``loss``.

    Args:
        model: images to an output whose argmax is the label, (N, C), or to one that holds it (see
            ``asking.logits_of``); its parameters' gradients are not touched.
        images: (N, channels, H, W) in [0, 1].
        labels: (N,) the labels to move away from.
        eps: radius, one for all or (N,); in the units of the pixels.
        step_size: length of a step in the same norm, one for all or (N,).
        steps: number of gradient steps.
        norm: "Linf" or "L2".
        momentum: decay in [0, 1] of the sum of past gradients, each divided by its l_1 norm, that a step follows (Dong
            et al. 2018, arXiv:1710.06081), one for all or (N,). 0 follows the gradient.
        random_start: begin at a point of the ball drawn uniformly (l_inf) or uniformly in direction and radius (l_2).
        restarts: runs, from one random start each.
        loss: what to increase.
        keep: "last" iterate of a run, or the "best" of all its points, its start among them.
        start: (N, channels, H, W) what to add to the images at the beginning, cut to the ball; instead of a random
            start.
        generator: source of the random starts, which then depend on the batch.
        seed: source of random starts that belong to examples, whatever the batch; instead of ``generator``.
        indices: (N,) the examples' places in their data set, of which the starts depend with ``seed``; 0, 1, ... if
            not given.

    Returns:
        (N, channels, H, W), inside the ball and the box. Of several points (``restarts``, ``keep``) a misclassified one
        is better than one that is not, and then the one of higher loss; of equals the earlier. Nothing says that the
        points are misclassified: ask the model.

    Raises:
        ValueError: images, labels or numbers of a wrong shape, kind or range; an unknown norm or ``keep``, restarts
            without a random start, a start beside a random one, or two sources of randomness.
    """
    _check(norm, keep, steps, random_start, restarts, generator, seed)
    if start is not None and random_start:
        raise ValueError("a run begins at random or where start says, not both")
    check_image_tensor(images)
    for name, numbers in (("labels", labels), ("indices", indices)):
        if numbers is not None or name == "labels":
            _check_numbers(name, numbers, len(images))
    if labels.device != images.device:
        raise ValueError(f"labels on {labels.device} do not fit images on {images.device}")
    for name, value, most in (("eps", eps, inf), ("step_size", step_size, inf), ("momentum", momentum, 1.0)):
        _check_range(name, value, most, len(images))
    if isinstance(eps, float | int):
        warn_of_radius(norm, eps)
    images, labels = free_of_inference_mode(images.detach()), free_of_inference_mode(labels)
    if len(images) == 0:
        return images.clone()
    ask = model if isinstance(model, nn.Module) and is_own(model) else Asked(model)
    radius, step, decay = (_per_example(value, images) for value in (eps, step_size, momentum))
    has_momentum = isinstance(momentum, Tensor) or momentum != 0.0
    best = _Best(images, labels)
    for restart in range(restarts):
        perturbation = torch.zeros_like(images) if start is None else _into_ball(start, radius, norm)
        if random_start and seed is not None:
            places = torch.arange(len(labels)) if indices is None else indices
            perturbation = _keyed_start(images, radius, norm, run_keys(seed, "pgd", restart, places))
        elif random_start:
            perturbation = _random_start(images, radius, norm, generator)
        perturbation = (images + perturbation).clamp(0, 1) - images
        velocity = torch.zeros_like(images)
        for _ in range(steps):
            points = (images + perturbation).detach()
            output, losses, gradient = loss_and_gradient(ask, points, lambda output: loss(output, labels))
            if keep == "best":
                best.offer(points, output, losses)
            if has_momentum:
                velocity = decay * velocity + gradient / _mean_size(gradient).clamp(min=1e-30)
                gradient = velocity
            perturbation = _move(perturbation, gradient, step, radius, norm)
            perturbation = (images + perturbation).clamp(0, 1) - images
        points = (images + perturbation).detach()
        if keep == "last" and restarts == 1:
            return points
        with torch.no_grad():
            output = ask(points)
            best.offer(points, output, loss(output, labels))
    return best.points


def project(points: Tensor, images: Tensor, radius: Tensor, norm: str) -> Tensor:
    """The points, in the ball around the images and then in the box; ``radius`` is (N, 1, 1, 1)."""
    if norm == "Linf":
        return points.clamp(images - radius, images + radius).clamp(0.0, 1.0)
    away = points - images
    return (images + _shorten(away, radius)).clamp(0.0, 1.0)


class _Best:
    """The best point of each example so far."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.labels = labels
        self.points = images
        self._loss = images.new_full((len(labels),), -torch.inf)
        self._wrong = torch.zeros_like(labels, dtype=torch.bool)

    def offer(self, points: Tensor, output: Tensor, losses: Tensor) -> None:
        wrong = output.argmax(dim=1) != self.labels
        better = (wrong & ~self._wrong) | ((wrong == self._wrong) & (losses > self._loss))
        self.points = torch.where(better.view(-1, 1, 1, 1), points, self.points)
        self._loss = torch.where(better, losses.to(self._loss.dtype), self._loss)
        self._wrong = self._wrong | wrong


def _check(
    norm: str,
    keep: str,
    steps: int,
    random_start: bool,
    restarts: int,
    generator: torch.Generator | None,
    seed: int | None,
) -> None:
    check_norm(norm)
    if keep not in ("last", "best"):
        raise ValueError(f"keep must be 'last' or 'best', got {keep!r}")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if restarts < 1 or (restarts > 1 and not random_start):
        raise ValueError(f"restarts must be at least 1, and more need random_start=True; got {restarts}")
    if generator is not None and seed is not None:
        raise ValueError("random starts come from a generator or from a seed, not from both")


def _check_numbers(name: str, numbers: object, count: int) -> None:
    if not isinstance(numbers, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(numbers).__name__}")
    if numbers.dtype != torch.int64 or numbers.shape != (count,):
        raise ValueError(f"{name} must be int64 ({count},), got {numbers.dtype} {tuple(numbers.shape)}")


def _check_range(name: str, value: float | Tensor, most: float, count: int) -> None:
    """A finite number of 0 to ``most``, or one per example; unread on an accelerator, which one would have to await."""
    if isinstance(value, Tensor):
        if value.ndim > 1 or value.numel() not in (1, count):
            raise ValueError(f"{name} must be one number or ({count},), got shape {tuple(value.shape)}")
        fine = value.device.type != "cpu" or bool(((value >= 0) & (value <= most) & (value < inf)).all())
    else:
        fine = 0.0 <= value <= most and value < inf
    if not fine:
        raise ValueError(f"{name} must be finite, at least 0 and at most {most:g}, got {value}")


def _move(perturbation: Tensor, direction: Tensor, step: Tensor, radius: Tensor, norm: str) -> Tensor:
    """One step along the direction, back into the ball."""
    away = step * (direction.sign() if norm == "Linf" else _unit(direction))
    return _into_ball(perturbation + away, radius, norm)


def _into_ball(perturbation: Tensor, radius: Tensor, norm: str) -> Tensor:
    return perturbation.clamp(-radius, radius) if norm == "Linf" else _shorten(perturbation, radius)


def _unit(direction: Tensor) -> Tensor:
    """The direction at an l_2 norm of 1; zero stays zero. Its squares may be beyond what its number format holds."""
    largest = direction.abs().flatten(1).amax(dim=1).view(-1, 1, 1, 1)
    direction = direction / torch.where(largest > 0, largest, 1.0)
    return direction / _l2(direction).clamp(min=1e-12)


def _shorten(perturbation: Tensor, radius: Tensor) -> Tensor:
    """The perturbation at an l_2 norm of the radius at most."""
    return perturbation * (radius / _l2(perturbation).clamp(min=1e-12)).clamp(max=1.0)


def _per_example(value: float | Tensor, images: Tensor) -> Tensor:
    """A number, or one number per example, in a shape that broadcasts against images."""
    return torch.as_tensor(value, dtype=images.dtype, device=images.device).reshape(-1, 1, 1, 1)


def _l2(perturbation: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(perturbation.flatten(1), dim=1)
    return norms.view(-1, 1, 1, 1)


def _mean_size(gradient: Tensor) -> Tensor:
    """The l_1 norm over the number of pixels, which is of the order of 1 pixel's gradient for images of any size."""
    return gradient.abs().flatten(1).mean(dim=1).view(-1, 1, 1, 1)


def _random_start(images: Tensor, radius: Tensor, norm: str, generator: torch.Generator | None) -> Tensor:
    if norm == "Linf":
        drawn = torch.empty_like(images).uniform_(-1, 1, generator=generator)
        return radius * drawn
    direction = torch.empty_like(images).normal_(generator=generator)
    length = torch.empty(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
    return radius * length.uniform_(generator=generator) * direction / _l2(direction)


def _keyed_start(images: Tensor, radius: Tensor, norm: str, keys: Tensor) -> Tensor:
    """What ``_random_start`` draws, from one key per example."""
    keys = keys.to(images.device)
    if norm == "Linf":
        return radius * uniform_images(keys, images.shape[1:]).to(images.dtype)
    direction = normal_images(keys, images.shape[1:]).to(images.dtype)
    length = uniform(keys, torch.tensor(-1, device=keys.device)).to(images.dtype)  # a counter that no pixel has
    return radius * length.view(-1, 1, 1, 1) * direction / _l2(direction)
