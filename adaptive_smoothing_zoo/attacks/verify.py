"""The model decides what is adversarial, and every adversarial example is checked against the threat model."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import margin
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.machine.ready import refusals_named
from adaptive_smoothing_zoo.threat import ThreatModel

SHIFT = 1e-3  # of the largest logit: kernels for other shapes of a batch round differently
MASKED = -1e8  # logits below stand for "never this class"
COMPANY = 4  # images


@torch.no_grad()
def predict(model: Callable[[Tensor], Tensor], images: Tensor, batch_size: int, device: torch.device) -> Tensor:
    """Labels (N,) on the images' device, always from batches of exactly ``batch_size`` (the last one is filled up).

    The last bits of logits depend on the batch's shape through the choice of kernels; a fixed shape makes verdicts
    reproducible. They are computed in full float32, whatever the precision of the search.

    Raises:
        EvaluationError: the model's output is not one float32 number per class, contains NaN or infinity, or is minus
            infinity for all classes.
    """
    labels = [torch.empty(0, dtype=torch.int64, device=images.device)]
    found = _logits(model, images, batch_size, device)
    return torch.cat([*labels, *(logits.argmax(dim=1).to(images.device) for logits in found)])


@torch.no_grad()
def among_likeliest(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, k: int, batch_size: int, device: torch.device
) -> Tensor:
    """Whether fewer than k classes are likelier than the label, (N,), on the labels' device; else as ``predict``."""
    found = _logits(model, images, batch_size, device)
    logits = torch.cat([batch.to(labels.device) for batch in found])
    return (logits > logits.gather(1, labels[:, None])).sum(dim=1) < k


def _logits(
    model: Callable[[Tensor], Tensor], images: Tensor, batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """The logits of the images, from batches of exactly ``batch_size``, checked."""
    for batch in images.split(batch_size) if len(images) else ():
        filled = torch.cat([batch, batch[-1:].expand(batch_size - len(batch), *batch.shape[1:])])
        with float32_precision(tf32=False):
            logits = model(filled.to(device))
        check_logits(logits, batch_size)
        logits = logits[: len(batch)]
        largest = logits.amax(dim=1)  # NaN if one is
        if not bool(((largest > -torch.inf) & (largest < torch.inf)).all()):
            raise EvaluationError("the model gives NaN or infinity for some image, so it cannot be evaluated")
        yield logits


@torch.no_grad()
def on_the_border(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, batch_size: int, device: torch.device
) -> Tensor:
    """Whether another class's logit is as large as the label's up to rounding, (N,), on the labels' device."""
    logits = torch.cat([batch.to(labels.device) for batch in _logits(model, images, batch_size, device)])
    return margin(logits, labels) <= SHIFT * logits.abs().amax(dim=1)


def count_classes(model: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> int:
    """The number of classes of a model, from a forward and a backward pass of the first image.

    Raises:
        EvaluationError: the model fails, or the output is not one float32 number per class, or has no gradient.
    """
    with torch.enable_grad(), refusals_named(images):
        logits = model(images[:1].to(device, copy=True).requires_grad_())
    check_logits(logits, 1)
    if not logits.requires_grad:
        raise EvaluationError("the model's output has no gradient with respect to the image, which attacks need")
    return logits.shape[1]


@torch.no_grad()
def gives_probabilities(net: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> bool:
    """Whether the outputs for the first images are at least 0 and sum to 1, as after a softmax."""
    outputs = net(images[:COMPANY].to(device))
    return bool((outputs >= 0).all() & ((outputs.sum(dim=1) - 1.0).abs() < 1e-3).all())


@torch.no_grad()
def heeds_company(model: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> bool:
    """Whether the outputs for the first images depend on the other images in their batch, by more than rounding.

    Outputs that differ between two equal passes do not count: these say nothing about the company. Later random numbers
    are the same as without this check.
    """
    some = images[:COMPANY].to(device)
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, float32_precision(tf32=False):
        together, again = model(some), model(some)
        alone = torch.cat([model(image) for image in some.split(1)])
    relabelled = alone.argmax(dim=1) != together.argmax(dim=1)
    return together.equal(again) and bool((relabelled | (relative_shift(alone, together) > SHIFT)).any())


def relative_shift(a: Tensor, b: Tensor) -> Tensor:
    """The largest change of a logit, (N,), relative to the image's largest one or 1; without masked classes."""
    masked = (a < MASKED) & (b < MASKED)
    a, b = a.masked_fill(masked, 0.0), b.masked_fill(masked, 0.0)
    return ((a - b).abs().amax(dim=1) / a.abs().amax(dim=1).clamp(min=1.0)).nan_to_num(posinf=1e9)


def check_logits(logits: object, count: int) -> None:
    """Check the shape and dtype of a model's output for ``count`` images; the values are not read.

    Raises:
        EvaluationError: it is not one float32 number per image and class.
    """
    if not isinstance(logits, Tensor):
        raise EvaluationError(f"the model's output must be a torch.Tensor, got {type(logits).__name__}")
    if logits.ndim != 2 or logits.shape[0] != count or logits.shape[1] == 0:
        raise EvaluationError(
            f"the model's output must have shape (N, classes), got {tuple(logits.shape)} for {count} images"
        )
    if logits.dtype != torch.float32 or logits.layout != torch.strided or logits.is_meta:
        raise EvaluationError(
            f"the model's output must be float32, got {logits.dtype}, {logits.layout}, on {logits.device}"
        )


def check_adversarials(originals: Tensor, adversarials: Tensor, indices: Tensor, threat: ThreatModel) -> None:
    """Check that adversarial examples obey the threat model.

    Args:
        originals, adversarials: (N, channels, H, W).
        indices: (N,) their indices for messages.

    Raises:
        EvaluationError: one is not finite, leaves [0, 1], or leaves the ball by more than 1e-6.
    """
    for bad, what in threat.broken_rules(originals, adversarials):
        if bool(bad.any()):
            raise EvaluationError(f"the adversarial example for image {int(indices[bad.nonzero()[0]])} {what}")
