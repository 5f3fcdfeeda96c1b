"""Projected gradient descent on a loss, in an l_inf or l_2 ball and the box [0, 1] ([MMSTV18])."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import Loss, Model, cross_entropy, loss_and_gradient
from adaptive_smoothing_zoo.attacks.random_streams import noise_of, run_keys, uniform
from adaptive_smoothing_zoo.backbones.asking import Asked, free_of_inference_mode, is_own
from adaptive_smoothing_zoo.backbones.base import check_image_tensor
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import LINF, ThreatModel, check_norm
from adaptive_smoothing_zoo.units import warn_of_radius

__all__ = ["cross_entropy", "pgd"]


class PgdOptions(TypedDict, total=False):
    """Keywords of ``pgd`` that have a default."""

    norm: str
    momentum: float | Tensor
    random_start: bool
    restarts: int
    loss: Loss
    keep: Literal["last", "best"]
    start: Tensor | None
    generator: torch.Generator | None
    seed: int | None
    indices: Tensor | None


@own_surroundings()
def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    steps: int,
    **options: Unpack[PgdOptions],
) -> Tensor:
    """Projected gradient ascent on ``loss``.

    Args:
        model: images to logits (N, C), or to an output that contains them (see ``asking.logits_of``); its parameters'
            gradients are not touched.
        images: (N, channels, H, W) in [0, 1].
        labels: (N,) the labels to move away from.
        eps: radius in units of pixels, a number or (N,).
        step_size: length of a step in the same norm, a number or (N,).
        steps: number of gradient steps.
        norm: "Linf" (the default) or "L2".
        momentum: decay in [0, 1], a number or (N,): steps follow the sum of past gradients, each divided by its l_1
            norm [DLP18]. 0, the default, follows the gradient.
        random_start: start from a random point of the ball, uniform (l_inf) or uniform in direction and radius (l_2).
        restarts: number of runs, one random start each; default 1.
        loss: loss to maximize; default cross-entropy.
        keep: return the "last" iterate of a run (the default), or the "best" of all its points including the start.
        start: (N, channels, H, W), initial perturbation, clipped to the ball; instead of a random start.
        generator: source of the random starts, which then depend on the batch.
        seed: source of random starts that depend on the example, not on the batch; instead of ``generator``.
        indices: (N,), indices of the examples in their data set, used with ``seed``; default 0, 1, ....

    Returns:
        (N, channels, H, W), inside the ball and the box. Of several points (``restarts``, ``keep``) a misclassified one
        is preferred, then the one with higher loss, then the earlier. The points need not be misclassified.

    Raises:
        ValueError: images, labels or numbers of a wrong shape, dtype or range; an unknown norm or ``keep``, restarts
            without a random start, a start next to a random one, or two sources of randomness.
    """
    run = _Pgd(eps=eps, step_size=step_size, steps=steps, **options)
    run.check(images, labels)
    images, labels = free_of_inference_mode(images.detach()), free_of_inference_mode(labels)
    if len(images) == 0:
        return images.clone()
    ask = model if isinstance(model, nn.Module) and is_own(model) else Asked(model)
    return run.go(ask, images, labels)


@dataclass(frozen=True, kw_only=True)
class _Pgd:
    """The arguments of a call of ``pgd``; the attributes are its keywords."""

    eps: float | Tensor
    step_size: float | Tensor
    steps: int
    norm: str = LINF
    momentum: float | Tensor = 0.0
    random_start: bool = False
    restarts: int = 1
    loss: Loss = cross_entropy
    keep: Literal["last", "best"] = "last"
    start: Tensor | None = None
    generator: torch.Generator | None = None
    seed: int | None = None
    indices: Tensor | None = None

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Raise ValueError or TypeError for invalid arguments."""
        check_norm(self.norm)
        if self.keep not in ("last", "best"):
            raise ValueError(f"keep must be 'last' or 'best', got {self.keep!r}")
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")
        if self.restarts < 1 or (self.restarts > 1 and not self.random_start):
            raise ValueError(f"restarts must be at least 1, and more need random_start=True; got {self.restarts}")
        if self.generator is not None and self.seed is not None:
            raise ValueError("give a generator or a seed for random starts, not both")
        if self.start is not None and self.random_start:
            raise ValueError("give random_start or start, not both")
        check_image_tensor(images)
        _check_numbers("labels", labels, len(images))
        if self.indices is not None:
            _check_numbers("indices", self.indices, len(images))
            if self.indices.is_meta:
                raise ValueError("indices must have values, got a tensor on the device meta")
        if labels.device != images.device:
            raise ValueError(f"labels on {labels.device} do not fit images on {images.device}")
        for name, most in (("eps", inf), ("step_size", inf), ("momentum", 1.0)):
            _check_range(name, getattr(self, name), most, len(images))
        if isinstance(self.eps, float | int):
            warn_of_radius(self.norm, self.eps)

    def go(self, ask: Model, images: Tensor, labels: Tensor) -> Tensor:
        """All runs; the point of each example."""
        ball = _Ball(ThreatModel(self.norm, 0.0), images, _per_example(self.eps, images))
        best = _Best(images, labels)
        for restart in range(self.restarts):
            points = self._run(ask, ball, labels, self._begin(ball, restart), best)
            if self.keep == "last" and self.restarts == 1:
                return points
            with torch.no_grad():
                output = ask(points)
                best.offer(points, output, self.loss(output, labels))
        return best.points

    def _run(self, ask: Model, ball: _Ball, labels: Tensor, perturbation: Tensor, best: _Best) -> Tensor:
        """The last point of one run; earlier points are offered to ``best`` if it is to be kept."""
        images = ball.images
        step, decay = _per_example(self.step_size, images), _per_example(self.momentum, images)
        has_momentum = isinstance(self.momentum, Tensor) or self.momentum != 0.0
        velocity = torch.zeros_like(images)
        for _ in range(self.steps):
            points = (images + perturbation).detach()
            output, losses, gradient = loss_and_gradient(ask, points, lambda output: self.loss(output, labels))
            if self.keep == "best":
                best.offer(points, output, losses)
            if has_momentum:
                velocity = decay * velocity + gradient / _mean_size(gradient).clamp(min=1e-30)
                gradient = velocity
            perturbation = ball.cut(perturbation + step * ball.threat.steepest(gradient, safe=True))
        return (images + perturbation).detach()

    def _begin(self, ball: _Ball, restart: int) -> Tensor:
        """The perturbation at the beginning, in the box."""
        images, threat = ball.images, ball.threat
        if self.start is not None:
            return ball.cut(self.start)
        if not self.random_start:
            return ball.into_box(torch.zeros_like(images))
        if self.seed is None:
            noise, length = self._drawn(images, threat)
        else:
            places = torch.arange(len(images)) if self.indices is None else self.indices
            keys = run_keys(self.seed, "pgd", restart, places).to(images.device)
            noise = noise_of(threat, keys, images)
            length = uniform(keys, torch.tensor(-1, device=keys.device)).to(images.dtype)  # no pixel's counter
        return ball.into_box(threat.random_start(noise, length.view(-1, 1, 1, 1), ball.radius))

    def _drawn(self, images: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        """Noise and lengths, (N,), from the generator; the l_inf ball needs no lengths, and none are drawn."""
        noise, length = torch.empty_like(images), torch.empty(len(images), device=images.device, dtype=images.dtype)
        if threat.is_linf:
            return noise.uniform_(-1, 1, generator=self.generator), length
        return noise.normal_(generator=self.generator), length.uniform_(generator=self.generator)


@dataclass(frozen=True)
class _Ball:
    """Balls of one norm and of several radii, (N, 1, 1, 1), around images."""

    threat: ThreatModel
    images: Tensor
    radius: Tensor

    def cut(self, perturbation: Tensor) -> Tensor:
        """A perturbation, inside the ball and then inside the box."""
        return self.into_box(self.threat.shorten(perturbation, self.radius, safe=True))

    def into_box(self, perturbation: Tensor) -> Tensor:
        return (self.images + perturbation).clamp(0, 1) - self.images


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


def _check_numbers(name: str, numbers: object, count: int) -> None:
    if not isinstance(numbers, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(numbers).__name__}")
    _check_dense(name, numbers)
    if numbers.dtype != torch.int64 or numbers.shape != (count,):
        raise ValueError(f"{name} must be int64 ({count},), got {numbers.dtype} {tuple(numbers.shape)}")


def _check_dense(name: str, numbers: Tensor) -> None:
    if numbers.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {numbers.layout}; give {name}.to_dense()")


def _check_range(name: str, value: float | Tensor, most: float, count: int) -> None:
    """A finite number of 0 to ``most``, or one per example; not read on an accelerator, to avoid synchronization."""
    if isinstance(value, Tensor):
        _check_dense(name, value)
        if value.is_meta:
            raise ValueError(f"{name} must have values, got a tensor on the device meta")
        if value.ndim > 1 or value.numel() not in (1, count):
            raise ValueError(f"{name} must be one number or ({count},), got shape {tuple(value.shape)}")
        fine = value.device.type != "cpu" or bool(((value >= 0) & (value <= most) & (value < inf)).all())
    else:
        fine = 0.0 <= value <= most and value < inf
    if not fine:
        raise ValueError(f"{name} must be finite, at least 0 and at most {most:g}, got {value}")


def _per_example(value: float | Tensor, images: Tensor) -> Tensor:
    """A number, or one number per example, in a shape that broadcasts against images."""
    return torch.as_tensor(value, dtype=images.dtype, device=images.device).reshape(-1, 1, 1, 1)


def _mean_size(gradient: Tensor) -> Tensor:
    """The l_1 norm divided by the number of pixels, so that its magnitude does not depend on the image size."""
    return gradient.abs().flatten(1).mean(dim=1).view(-1, 1, 1, 1)
