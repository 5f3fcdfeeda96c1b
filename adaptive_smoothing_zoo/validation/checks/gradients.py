"""Whether the gradient that attacks follow is one: finite, not zero, and the derivative of the function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import Loss
from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform_images
from adaptive_smoothing_zoo.validation.check import Outcome, allowed, check, not_applicable
from adaptive_smoothing_zoo.validation.subject import Subject

GROUP = "gradients"
# Of the central difference, in units of pixels. Float64 leaves about 6 digits of it. With a step of 1e-6 one of ten
# differences of a ResNet-18 was off by more than 0.1 %: so many ReLUs have their kink within the step.
STEP = 1e-9
# How far from 0 and 1 pixels are kept, where one could not take half of the difference: each at its own distance, since
# pixels that clipping has made equal tie in maxima (max pooling), and there the function has no derivative.
NEAREST, FARTHEST = 1e-6, 1e-3
CLOSE = 1e-3  # relative error of a slope
# Of the gradient's length: how far float32 may be from float64. Where the input of a ReLU rounds to the other side of
# its kink the gradient jumps: at 1 of 16 points of a ResNet-18, by up to 0.8 %. No attack notices.
APART = 0.02
LEVEL = 0.1  # of the gradient's length: a slope below is as good as none
AUDITED = ("ce", "dlr", "cw")


@check(
    what="Logits, and the gradients of cross-entropy, DLR and margin, at the images and at random points of the balls.",
    rule="None holds NaN or an infinity.",
)
def finite_gradients(subject: Subject) -> Outcome:
    points = _points(subject)
    with torch.no_grad():
        logits = torch.cat([subject.model(batch) for batch in points[0].split(subject.batch_size)])
    subject.spend(len(logits))
    bad_logits = ~torch.isfinite(logits).all(dim=1)
    measured: dict[str, float] = {"logits": int(bad_logits.sum())}
    for name, gradients in _gradients(subject, *points).items():
        measured[name] = int((~torch.isfinite(gradients).flatten(1).all(dim=1)).sum())
    worst = int(max(measured.values()))
    where = f"of {len(points[0])} points have a logit or a gradient that is not finite."
    return Outcome(worst == 0, f"{worst} {where}", measured)


@check(
    what="The same gradients, where the label is the largest logit (elsewhere DLR may rightly be level).",
    rule="None is exactly zero: an attack that follows it would not move.",
)
def nonzero_gradients(subject: Subject) -> Outcome:
    points, labels = _points(subject)
    correct = subject.logits(points).argmax(dim=1) == labels
    gradients = _gradients(subject, points[correct], labels[correct])
    measured: dict[str, float] = {
        name: int((gradient == 0).flatten(1).all(dim=1).sum()) for name, gradient in gradients.items()
    }
    worst = int(max(measured.values()))
    found = f"{worst} of {int(correct.sum())} points have a gradient of zero."
    return Outcome(worst == 0, found, measured)


@check(
    what="The margin's gradient at a random point of each image's ball: in float64 against central differences along "
    "random directions, and in float32 against float64.",
    rule=f"In float64 the relative error is below {CLOSE:g} for 99 % of the directions. In float32 the gradient "
    f"differs by less than {100 * APART:g} % of its length at 99 % of the points, or at all but one.",
)
def finite_differences(subject: Subject) -> Outcome:
    exact = subject.double
    if isinstance(exact, str):
        return not_applicable(exact)
    points, labels = _inside(subject, subject.noise(subject.correct, 0)), subject.labels[subject.correct]
    loss = subject.losses["cw"]
    gradient = _gradient(subject, exact, points.double(), labels, loss).flatten(1)
    rounded = _gradient(subject, subject.model, points, labels, loss).double().flatten(1)
    errors = []
    for number in range(subject.budget.directions):
        keys = run_keys(subject.seed, "directions", number, subject.correct.cpu()).to(subject.device)
        direction = normal_images(keys, points.shape[1:]).double()
        difference = (
            _value(subject, exact, points + STEP * direction, labels, loss)
            - _value(subject, exact, points - STEP * direction, labels, loss)
        ) / (2 * STEP)
        slope = (gradient * direction.flatten(1)).sum(dim=1)
        # A direction that happens to be level has no relative error; its typical slope is the gradient's length.
        scale = torch.maximum(torch.maximum(difference.abs(), slope.abs()), LEVEL * gradient.norm(dim=1))
        errors.append((difference - slope).abs() / scale.clamp(min=1e-30))
    error = torch.stack(errors).flatten().nan_to_num(nan=1.0, posinf=1.0)
    if len(error) == 0:
        return not_applicable("no image is classified correctly")
    close = float((error < CLOSE).double().mean())
    distance = ((rounded - gradient).norm(dim=1) / gradient.norm(dim=1).clamp(min=1e-30)).nan_to_num(nan=1.0)
    apart = int((distance >= APART).sum())
    measured = {
        "close": close,
        "median_error": float(error.median()),
        "largest_error": float(error.max()),
        "apart_in_float32": apart,
        "median_distance_of_float32": float(distance.median()),
        "largest_distance_of_float32": float(distance.max()),
    }
    found = (
        f"{100 * close:.1f} % of {len(error)} differences agree with the gradient; in float32 it is that of float64 at "
        f"all but {apart} of {len(distance)} points."
    )
    return Outcome(close >= 0.99 and apart <= allowed(len(distance), 0.01), found, measured)


def _inside(subject: Subject, points: Tensor) -> Tensor:
    """Points of the correctly classified images, off the border of the box."""
    keys = run_keys(subject.seed, "inside", 0, subject.correct.cpu()).to(subject.device)
    distance = NEAREST + (FARTHEST - NEAREST) * uniform_images(keys, points.shape[1:]).abs()
    return points.clamp(distance, 1.0 - distance)


def _points(subject: Subject) -> tuple[Tensor, Tensor]:
    """The images, and a random point of each ball, with labels."""
    everything = torch.arange(len(subject), device=subject.device)
    images = torch.cat([subject.images, subject.noise(everything, 0)])
    return images, torch.cat([subject.labels, subject.labels])


def _gradients(subject: Subject, points: Tensor, labels: Tensor) -> dict[str, Tensor]:
    losses = {name: loss for name, loss in subject.losses.items() if name in AUDITED}
    return {name: _gradient(subject, subject.model, points, labels, loss) for name, loss in losses.items()}


def _gradient(subject: Subject, model: nn.Module, points: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """(N, channels, H, W), of each loss at its own point; zero where the model's output does not depend on it."""
    parts = []
    for batch, truth in zip(points.split(subject.batch_size), labels.split(subject.batch_size), strict=True):
        batch = batch.detach().requires_grad_()
        with torch.enable_grad():
            total = loss(model(batch), truth).sum()
        (gradient,) = torch.autograd.grad(total, batch) if total.requires_grad else (torch.zeros_like(batch),)
        parts.append(gradient)
    subject.spend(2 * len(points))
    return torch.cat(parts) if parts else points


@torch.no_grad()
def _value(subject: Subject, exact: nn.Module, points: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    subject.spend(len(points))
    size = subject.batch_size
    batches = zip(points.double().split(size), labels.split(size), strict=True)
    return torch.cat([loss(exact(batch), truth) for batch, truth in batches])
