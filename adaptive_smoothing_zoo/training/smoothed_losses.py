"""Losses for nets to be smoothed by Gaussian noise.

Notation: x an image, y its label, delta_1 to delta_m its noise, drawn from N(0, sigma^2 I); F the net's probabilities,
F_i = F(x + delta_i); Fhat(x) = mean_i F_i the smoothed net's; CE the cross-entropy, KL the divergence, H the entropy.
The constants' defaults are those of [JS21] for MNIST, from the experiments in its authors' code
(github.com/jh-jeong/smoothmix). That code also decides what the equations leave open: warm-up, train and eval modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_smoothing_zoo.storage.schema import BY_KIND

DDN_GAMMA, DDN_LAST = 0.05, 0.01  # of Rony et al. 2019: change of the norm, and the last step as a share of the first

Net = Callable[[Tensor], Tensor]
"""Images (B, channels, H, W) to logits (B, C)."""


@dataclass(kw_only=True)
class NoisyBatch:
    """The arguments of a loss: images, labels and noise."""

    images: Tensor  # x, (N, channels, H, W) in [0, 1]
    labels: Tensor  # y, (N,) int64
    noise: Tensor  # delta, (N, m, channels, H, W)
    mixing: Tensor  # lambda of SmoothMix, (N,) in [0, 1/2)
    sigma: float  # standard deviation of the noise
    strength: float  # factor of the warm-up, in [0, 1]
    start: Tensor  # x, or the attacked image that replaces it; shaped as ``images``
    adversary: Tensor | None = None  # x_T of SmoothMix; shaped as ``images``

    def every(self, first: int, step: int) -> NoisyBatch:
        """Every ``step``-th example from ``first`` on; for a batch that is not attacked yet."""
        names = ("images", "labels", "noise", "mixing", "start")
        return replace(self, **{name: getattr(self, name)[first::step] for name in names})


class SmoothedLoss:
    """A loss, and the attack that it needs, if any; by default mean_i CE(F_i, y) without an attack."""

    noises: int  # m, noisy copies of each image
    warm_up: int = 0  # epochs in which the strength grows linearly to 1

    def strength(self, epoch: int) -> float:
        """The warm-up's factor in an epoch, counted from 0; in [0, 1]."""
        return min(1.0, (epoch + 1) / max(1, self.warm_up))

    def attack(self, net: Net, batch: NoisyBatch) -> None:
        """Put attacked images into the batch. Called with the net in eval mode."""

    def losses(self, net: Net, batch: NoisyBatch) -> Tensor:
        """The loss of each example, (N,). Called with the net in train mode."""
        return natural_losses(noisy_logits(net, batch.start, batch.noise), batch.labels)


@dataclass(frozen=True, kw_only=True)
class GaussianLoss(SmoothedLoss):
    """mean_i CE(F_i, y) [CRK19], [JS21, eq. 4]."""

    kind: Literal["gaussian"] = "gaussian"
    noises: int = 1


@dataclass(frozen=True, kw_only=True)
class StabilityLoss(SmoothedLoss):
    """CE(F(x), y) + weight * mean_i CE(F_i, F(x)) ([LCWC19]; [JS21, section 4]).

    The clean prediction F(x) learns from both terms.
    """

    kind: Literal["stability"] = "stability"
    noises: int = 1
    weight: float = 2.0

    def losses(self, net: Net, batch: NoisyBatch) -> Tensor:
        clean = net(batch.start)
        noisy = noisy_logits(net, batch.start, batch.noise).log_softmax(dim=2)
        stability = -(clean.softmax(dim=1).unsqueeze(1) * noisy).sum(dim=2).mean(dim=1)
        return F.cross_entropy(clean, batch.labels, reduction="none") + self.weight * stability


@dataclass(frozen=True, kw_only=True)
class SmoothAdvLoss(SmoothedLoss):
    """mean_i CE(F(xhat + delta_i), y) at an attacked image xhat ([SLR19]; [JS21, eq. 6]).

    With ``search`` "pgd", xhat maximizes -log Fhat_y in the l_2 ball around x, by ``steps`` gradient steps of length
    2 * eps / steps, with the same noise. With "ddn", it is the nearest misclassified image that ``decoupled_search``
    finds, moved into that ball.
    """

    kind: Literal["smoothadv"] = "smoothadv"
    noises: int = 4
    eps: float = 1.0  # radius of the ball in pixel units, reached at the end of the warm-up
    steps: int = 10  # T
    warm_up: int = 10
    search: Literal["pgd", "ddn"] = "pgd"

    def attack(self, net: Net, batch: NoisyBatch) -> None:
        eps = batch.strength * self.eps
        if self.search == "ddn":
            batch.start = into_ball(decoupled_search(net, batch, self.steps), batch.images, eps)
            return
        iterates = ascent(net, batch, 2.0 * eps / self.steps, eps)
        *_, batch.start = islice(iterates, self.steps)


@dataclass(frozen=True, kw_only=True)
class MacerLoss(SmoothedLoss):
    """-log Fhat_y(x) + weight * sigma/2 * max(margin - xi, 0) * [y is the top class].

    [ZDH20]. xi = Phi^-1(Z_y) - Phi^-1(max of the other Z_j), where Z = mean_i
    softmax(inverse_temperature * logits_i): sigma/2 * xi is the certified radius of a net with sharper votes. If xi is
    not finite, the second term is 0.
    """

    kind: Literal["macer"] = "macer"
    noises: int = 16
    inverse_temperature: float = 16.0  # beta in the paper
    margin: float = 8.0  # gamma in the paper
    weight: float = 16.0  # lambda in the paper; the authors of [JS21] have 6 where sigma is 1
    deferred: int = 31  # epochs without the second term; in the authors' code it begins in epoch 31, counted from 0

    def strength(self, epoch: int) -> float:
        return float(epoch >= self.deferred)

    def losses(self, net: Net, batch: NoisyBatch) -> Tensor:
        logits = noisy_logits(net, batch.start, batch.noise)
        natural = F.nll_loss(log_smoothed(logits), batch.labels, reduction="none")
        if batch.strength == 0.0:
            return natural
        # In float64, because a quantile of a probability near 1 needs its distance from 1.
        votes = (self.inverse_temperature * logits.double()).softmax(dim=2).mean(dim=1)
        top, classes = votes.topk(2, dim=1)
        inside = (top > 0.0) & (top < 1.0)
        quantiles = torch.special.ndtri(torch.where(inside, top, 0.5))  # an infinite one would have a gradient of NaN
        missing = (self.margin - (quantiles[:, 0] - quantiles[:, 1])).clamp(min=0.0)
        counted = inside.all(dim=1) & (classes[:, 0] == batch.labels)
        hinge = torch.where(counted, missing, 0.0).to(natural.dtype)
        return natural + batch.strength * self.weight * batch.sigma / 2.0 * hinge


@dataclass(frozen=True, kw_only=True)
class ConsistencyLoss(SmoothedLoss):
    """mean_i CE(F_i, y) + weight * mean_i KL(Fhat(x) || F_i) + entropy_weight * H(Fhat(x)) [JS20]."""

    kind: Literal["consistency"] = "consistency"
    noises: int = 2
    weight: float = 5.0  # lambda in the paper; the authors of [JS21] have 10 where sigma is 0.25
    entropy_weight: float = 0.5  # eta in the paper

    def losses(self, net: Net, batch: NoisyBatch) -> Tensor:
        logits = noisy_logits(net, batch.start, batch.noise)
        smoothed = log_smoothed(logits)
        expected = smoothed.unsqueeze(1)
        divergence = (expected.exp() * (expected - logits.log_softmax(dim=2))).sum(dim=-1).mean(dim=1)
        entropy = -(smoothed.exp() * smoothed).sum(dim=1)
        natural = natural_losses(logits, batch.labels)
        return natural + self.weight * divergence + self.entropy_weight * entropy


@dataclass(frozen=True, kw_only=True)
class SmoothMixLoss(SmoothedLoss):
    """mean_i CE(F_i, y) + weight * mean_i KL(y_mix || F(x_mix + delta_i)) * [y is Fhat(x)'s top class].

    [JS21, eq. 8 to 11]. x_mix = (1 - lambda) x + lambda x_T and y_mix = (1 - lambda) Fhat(x) + lambda / C. x_T is
    reached from x by ``steps`` gradient steps of length ``step_size`` that increase -log Fhat_y, limited by the box
    [0, 1] alone. With ``one_step``, the first of these steps replaces x everywhere but in the attack.

    Eq. 10 has a cross-entropy, which is this divergence plus the entropy of y_mix, and no factor for correct examples.
    The divergence, the factor, the warm-up, the gradient through y_mix and the ball of ``one_step`` are those of the
    authors' code. With ``printed``, the second term is eq. 10's, mean_i CE(F(x_mix + delta_i), y_mix); with a
    ``warm_up`` of 0 as well, the loss is eq. 11.
    """

    kind: Literal["smoothmix"] = "smoothmix"
    noises: int = 4
    step_size: float = 1.0  # alpha in the paper, l_2, in pixel units
    steps: int = 2  # T; the paper has 2, 4 and 8 for MNIST where sigma is 0.25, 0.5 and 1
    weight: float = 5.0  # eta in the paper; grows in the warm-up, as does the length of the one step
    one_step: bool = False  # "+ One-step adversary" in the paper
    warm_up: int = 10
    max_norm: float | None = None  # eps of [JS21, Fig. 7(b)], the l_2 ball of the search; None for no ball
    printed: bool = False

    def attack(self, net: Net, batch: NoisyBatch) -> None:
        iterates = list(islice(ascent(net, batch, self.step_size, self.max_norm), self.steps))
        batch.adversary = iterates[-1]
        if self.one_step:
            batch.start = into_ball(iterates[0], batch.images, batch.strength * self.step_size)

    def losses(self, net: Net, batch: NoisyBatch) -> Tensor:
        assert batch.adversary is not None
        logits = noisy_logits(net, batch.start, batch.noise)
        smoothed = log_smoothed(logits).exp()
        mixing = batch.mixing.to(smoothed.dtype)
        mixed = torch.lerp(batch.start, batch.adversary, mixing.view(-1, 1, 1, 1))
        target = torch.lerp(smoothed, torch.full_like(smoothed, 1.0 / smoothed.shape[1]), mixing.view(-1, 1))
        found = noisy_logits(net, mixed, batch.noise).log_softmax(dim=2)
        natural = natural_losses(logits, batch.labels)
        if self.printed:
            return natural - batch.strength * self.weight * (target.unsqueeze(1) * found).sum(dim=2).mean(dim=1)
        # A class of probability zero adds nothing to the sum and must add nothing to its gradient.
        log_target = target.clamp(min=torch.finfo(target.dtype).tiny).log()
        divergence = (target.unsqueeze(1) * (log_target.unsqueeze(1) - found)).sum(dim=2).mean(dim=1)
        correct = smoothed.argmax(dim=1) == batch.labels
        return natural + batch.strength * self.weight * correct * divergence


AnySmoothedLoss = Annotated[
    GaussianLoss | StabilityLoss | SmoothAdvLoss | MacerLoss | ConsistencyLoss | SmoothMixLoss, BY_KIND
]


def noisy_logits(net: Net, images: Tensor, noise: Tensor) -> Tensor:
    """Logits (N, m, C) of images (N, channels, H, W) under each noise (N, m, channels, H, W), in one pass."""
    logits: Tensor = net((images.unsqueeze(1) + noise).flatten(0, 1))
    return logits.unflatten(0, noise.shape[:2])  # type: ignore[no-any-return]


def log_smoothed(logits: Tensor) -> Tensor:
    """log Fhat (N, C), from logits (N, m, C)."""
    return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])


def natural_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """mean_i CE(F_i, y) (N,), from logits (N, m, C)."""
    repeated = labels.unsqueeze(1).expand(-1, logits.shape[1])
    return F.cross_entropy(logits.transpose(1, 2), repeated, reduction="none").mean(dim=1)


def ascent(net: Net, batch: NoisyBatch, step_size: float, eps: float | None) -> Iterator[Tensor]:
    """Iterates of gradient ascent on -log Fhat_y, in the box and the l_2 ball of radius ``eps`` around x [JS21, eq. 8].

    Each step has l_2 length ``step_size`` along the gradient; where the gradient is zero, the point stays. Without
    ``eps`` there is no ball.
    """
    points = batch.images
    while True:
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            smoothed = log_smoothed(noisy_logits(net, points, batch.noise))
            loss = F.nll_loss(smoothed, batch.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, points)
        points = (points.detach() + step_size * unit(gradient)).clamp(0, 1)
        if eps is not None:
            points = into_ball(points, batch.images, eps)
        yield points


def decoupled_search(net: Net, batch: NoisyBatch, steps: int) -> Tensor:
    """Of the images visited from each x, the nearest that the smoothed net misclassifies; without any, the last.

    Decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600, Algorithm 1) on -log Fhat_y. Each step adds a
    multiple of the unit gradient to the perturbation, from 1 down to 0.01 along a cosine. It then scales the result to
    an l_2 length that starts at 1, shrinks by 5 % where the image is misclassified, and grows by 5 % elsewhere. An x
    that is misclassified itself is returned. Their quantization of pixels is left out, since noise is added to pixels.

    The code of [SLR19] starts at the radius of the ball and never leaves it, takes a majority of votes for the smoothed
    net's class, and returns x itself where nothing misclassified was found.
    """
    points = nearest = batch.images
    length = torch.ones(len(points), dtype=points.dtype, device=points.device)
    distance = torch.full_like(length, math.inf)
    for step in range(steps + 1):
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            smoothed = log_smoothed(noisy_logits(net, points, batch.noise))
            loss = F.nll_loss(smoothed, batch.labels, reduction="sum")
        wrong = smoothed.argmax(dim=1) != batch.labels
        away = (points.detach() - batch.images).flatten(1).norm(dim=1)
        nearer = wrong & (away < distance)
        nearest = torch.where(nearer.view(-1, 1, 1, 1), points.detach(), nearest)
        distance = torch.where(nearer, away, distance)
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(loss, points)
        stride = DDN_LAST + (1.0 - DDN_LAST) * (1.0 + math.cos(math.pi * step / steps)) / 2.0
        moved = points.detach() - batch.images + stride * unit(gradient)
        length = torch.where(wrong, (1.0 - DDN_GAMMA) * length, (1.0 + DDN_GAMMA) * length)
        points = (batch.images + length.view(-1, 1, 1, 1) * unit(moved)).clamp(0, 1)
    return torch.where(distance.isfinite().view(-1, 1, 1, 1), nearest, points.detach())


def unit(gradient: Tensor) -> Tensor:
    """Each example's gradient scaled to l_2 length 1, however small it is; zero stays zero."""
    tiny = torch.finfo(gradient.dtype).tiny
    flat = gradient.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=tiny)  # squares of small numbers would underflow
    length: Tensor = flat.norm(dim=1, keepdim=True)
    return (flat / length.clamp(min=tiny)).view(gradient.shape)


def into_ball(points: Tensor, center: Tensor, radius: float) -> Tensor:
    """The points, projected into the l_2 balls of that radius around ``center``."""
    away = (points - center).flatten(1)
    length: Tensor = away.norm(dim=1, keepdim=True)
    factor = radius / length.clamp(min=max(radius, torch.finfo(points.dtype).tiny))
    return center + (factor * away).view(points.shape)
