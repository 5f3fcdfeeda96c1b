"""The attacks that a mixing network is trained against, with settings drawn anew for each example ([BAKS24 v1,
section 5.2; supp. B.1]; the distributions are those of the authors' code).

A network trained against one attack overfits to it. Radius, number of steps, momentum and the weight of alpha's loss
are therefore random; they depend on the seed and the example's index, not on the batch. ``model`` may be a faster
stand-in (in bfloat16, say); ``judge`` is then the model itself, which decides what is misclassified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD
from adaptive_smoothing_zoo.attacks.losses import (
    Loss,
    Model,
    TargetedLoss,
    cross_entropy,
    lowering_alpha,
    rank_classes,
    targeted_dlr,
)
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.random_streams import noise_of, normal_images, run_keys, uniform
from adaptive_smoothing_zoo.attacks.search import advance
from adaptive_smoothing_zoo.errors import check_keywords
from adaptive_smoothing_zoo.threat import LINF, ThreatModel

_ALL = -1  # the "index" of random numbers that all examples share


@dataclass(frozen=True, kw_only=True)
class Randomization:
    """Distributions of the random settings. The defaults are the authors' for APGD.

    Attributes:
        radius_factor: range of the factor on the nominal radius, uniform, per example.
        steps: degrees of freedom of the chi-square distribution of the number of steps, which is also its mean; one
            number per run, so that a batch ends together. The authors use 75 for APGD and 20 for PGD.
        budget: factor on the number of steps, for smaller machines.
        reach: of PGD, the total length of all steps in radii; each step has ``reach / steps`` radii.
        momentum: of PGD, uniform, per example. Gradients are divided by their l_1 norms before they are summed; the
            authors sum them as they are.
        alpha_weight: w of ``(1 - w) loss + w BCE(alpha_logit, 1)``, uniform, per example. None for a model that returns
            only logits; a range needs the view ``WithAlphaLoss``.

    Raises:
        ValueError: a range that is reversed or out of bounds, or a number that is not positive.
    """

    radius_factor: tuple[float, float] = (0.4, 1.1)
    steps: int = 75
    budget: float = 1.0
    reach: float = 5.0
    momentum: tuple[float, float] = (0.0, 0.9)
    alpha_weight: tuple[float, float] | None = (0.0, 0.4)

    def __post_init__(self) -> None:
        _check_range("radius_factor", self.radius_factor, 0.0, float("inf"))
        _check_range("momentum", self.momentum, 0.0, 1.0)
        if self.alpha_weight is not None:
            _check_range("alpha_weight", self.alpha_weight, 0.0, 1.0)
        for name in ("steps", "budget", "reach"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} of a randomized attack must be positive, got {getattr(self, name)}")

    def draw_steps(self, seed: int, rank: int = 0) -> int:
        """The number of steps of this run of the call with this seed, at least 1."""
        normals = normal_images(run_keys(seed, "steps", rank, torch.tensor([_ALL])), (self.steps,))
        return max(1, round(self.budget * float((normals.double() ** 2).sum())))


def _check_range(name: str, bounds: tuple[float, float], least: float, most: float) -> None:
    if not least <= bounds[0] <= bounds[1] <= most:
        raise ValueError(f"{name} of a randomized attack must be a range inside [{least}, {most}], got {bounds}")


def randomized_pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    seed: int,
    norm: str = LINF,
    loss: Loss = cross_entropy,
    indices: Tensor | None = None,
    settings: Randomization | None = None,
) -> Tensor:
    """PGD from a random start with total step length ``reach`` radii (settings A and B of [BAKS24 v1, section 4.2]).

    Args:
        model: a mix, or a view of one; see ``Randomization.alpha_weight``.
        images: (N, channels, H, W) in [0, 1].
        labels: (N,) the labels to move away from.
        eps: nominal radius of the ball, in the units of the pixels.
        seed: of all random numbers; use another one for each training step.
        norm: "Linf" or "L2".
        loss: loss to maximize besides alpha's loss.
        indices: (N,), indices of the examples in their data set; default 0, 1, ....
        settings: distributions of the random settings; the defaults if None.

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
        step_size=settings.reach / steps * radius,
        steps=steps,
        norm=norm,
        momentum=_draw(settings.momentum, seed, "momentum", indices, images),
        random_start=True,
        loss=loss,
        seed=seed,
        indices=indices,
    )


class ApgdOptions(TypedDict, total=False):
    """Keywords of the randomized APGD that have a default."""

    norm: str
    targets: int
    indices: Tensor | None
    settings: Randomization | None
    judge: Model | None
    ranking: Tensor | None


def randomized_apgd(
    model: Model, images: Tensor, labels: Tensor, *, eps: float, seed: int, **options: Unpack[ApgdOptions]
) -> Tensor:
    """APGD on the cross-entropy; where that fails, on the targeted DLR loss toward likely wrong classes.

    Args:
        model, images, labels, eps, seed, norm, indices, settings: as for ``randomized_pgd``; ``momentum`` and
            ``reach`` are not used.
        targets: number of wrong classes to try, default 9, at most all; 0 for the cross-entropy alone.
        judge: images to logits; decides what is misclassified; ``model`` itself if None.
        ranking: the wrong classes of each image from likely to unlikely (``rank_classes``), if known.

    Returns:
        (N, channels, H, W), inside balls of up to ``max(radius_factor) * eps`` and the box. From the first successful
        run: its point of highest loss if misclassified, else its first misclassified point. If no run succeeds: the
        point of highest loss of the first run.

    Raises:
        ValueError: an unknown norm.
    """
    runs = _ApgdRuns(model, images, labels, eps, seed, options)
    drawn, found = runs.draw(0), images.clone()
    left = torch.arange(len(labels), device=images.device)
    for rank in range(runs.count):
        if len(left) == 0:
            break
        points, fooled = runs.run(rank, drawn, left)
        taken = fooled | (rank == 0)
        found[left[taken]] = points[taken]
        left = left[~fooled]
    return found


def every_randomized_apgd(
    model: Model, images: Tensor, labels: Tensor, *, eps: float, seed: int, **options: Unpack[ApgdOptions]
) -> Tensor:
    """APGD on the cross-entropy and on the targeted DLR loss toward each likely wrong class, without early stopping.

    The authors train on this (setting C of [BAKS24 v1, section 4.2]): every run of every image has its own radius,
    number of steps and weight of alpha's loss.

    Args:
        model, images, labels, eps, seed, norm, targets, indices, settings, judge, ranking: as for ``randomized_apgd``.

    Returns:
        (runs, N, channels, H, W), the cross-entropy's run first: the point of highest loss if misclassified, else the
        first misclassified point.

    Raises:
        ValueError: an unknown norm.
    """
    runs = _ApgdRuns(model, images, labels, eps, seed, options)
    every = torch.arange(len(labels), device=images.device)
    return torch.stack([runs.run(rank, runs.draw(rank), every)[0] for rank in range(runs.count)])


@dataclass(frozen=True)
class _Drawn:
    """The random settings of a run: radii (N, 1, 1, 1), steps, and weights (N,) of alpha's loss."""

    radius: Tensor
    steps: int
    weight: Tensor | None


class _ApgdRuns:
    """The runs of a randomized APGD on a batch: 0 on the cross-entropy, the others toward one class each."""

    def __init__(
        self, model: Model, images: Tensor, labels: Tensor, eps: float, seed: int, options: ApgdOptions
    ) -> None:
        check_keywords(options, ApgdOptions)
        self.model, self.images, self.labels, self.seed = model, images, labels, seed
        self.threat = ThreatModel(options.get("norm", LINF), eps)
        self.settings, self.judge = options.get("settings") or Randomization(), options.get("judge")
        indices, ranking = options.get("indices"), options.get("ranking")
        self.indices = torch.arange(len(labels)) if indices is None else indices.cpu()
        if ranking is None:
            with torch.no_grad():
                output = model(images)
            # A view ``WithAlphaLoss`` has one column after the logits.
            ranking = rank_classes(output if self.settings.alpha_weight is None else output[:, :-1], labels)
        self.ranking = ranking
        self.count = 1 + min(options.get("targets", 9), ranking.shape[1])

    def draw(self, rank: int) -> _Drawn:
        """The random settings of the run of a rank."""
        settings, weight = self.settings, None
        if settings.alpha_weight is not None:
            weight = _draw(settings.alpha_weight, self.seed, "alpha weight", self.indices, self.images, rank)
        factor = _draw(settings.radius_factor, self.seed, "radius", self.indices, self.images, rank)
        radius = (self.threat.eps * factor).view(-1, 1, 1, 1)
        return _Drawn(radius=radius, steps=settings.draw_steps(self.seed, rank), weight=weight)

    def run(self, rank: int, drawn: _Drawn, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One run of these rows: its point (see ``randomized_apgd``), and whether it is misclassified."""
        loss: TargetedLoss = cross_entropy if rank == 0 else targeted_dlr
        if drawn.weight is not None:
            loss = lowering_alpha(loss, drawn.weight[rows])
        attack = APGD("apgd", self.threat, loss, steps=drawn.steps, radius=drawn.radius[rows])
        images, labels = self.images[rows], self.labels[rows]
        goal = labels if rank == 0 else self.ranking[rows, rank - 1]
        noise = noise_of(self.threat, run_keys(self.seed, "apgd", rank, self.indices[rows.cpu()]), images)
        state = advance(attack, attack.start_at(images, labels, goal, noise), self.model, stop=False)
        judge = self.judge or self.model
        with torch.no_grad():
            wrong = judge(state.best_points).argmax(dim=1) != labels
            other = state.found & ~wrong
            if self.judge is not None and bool(other.any()):
                other[other.clone()] = judge(state.adversarials[other]).argmax(dim=1) != labels[other]
        points = torch.where(other.view(-1, 1, 1, 1), state.adversarials, state.best_points)
        return points, other | wrong


def _draw(bounds: tuple[float, float], seed: int, what: str, indices: Tensor, images: Tensor, rank: int = 0) -> Tensor:
    """(N,) uniform between the bounds, one number per example."""
    low, high = bounds
    draws = uniform(run_keys(seed, what, rank, indices), torch.tensor(0))
    return (low + (high - low) * draws).to(images.device, images.dtype)
