"""The model decides what is adversarial, and every adversarial example is checked against the threat model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from adaptive_smoothing_zoo.devices import is_out_of_memory
from adaptive_smoothing_zoo.errors import EvaluationError, ZooError, reason

TOLERANCE = 1e-6  # rounding of float32 pixels; distances are computed in float64


@torch.no_grad()
def predict(model: Callable[[Tensor], Tensor], images: Tensor, batch_size: int, device: torch.device) -> Tensor:
    """Labels (N,) on the images' device, always from batches of exactly ``batch_size`` (the last one is filled up).

    Kernels, and with them the last bits of the logits, depend on the shape of a batch; one shape gives one verdict.

    Raises:
        EvaluationError: the model's output is not one float32 number per class, or is NaN or infinity somewhere.
    """
    labels = [torch.empty(0, dtype=torch.int64, device=images.device)]
    for batch in images.split(batch_size) if len(images) else ():
        filled = torch.cat([batch, batch[-1:].expand(batch_size - len(batch), *batch.shape[1:])])
        logits = model(filled.to(device))
        check_logits(logits, batch_size)
        logits = logits[: len(batch)]
        if not bool((logits < torch.inf).all()):
            raise EvaluationError("the model gives NaN or infinity for some image; a verdict on it would mean nothing")
        labels.append(logits.argmax(dim=1).to(images.device))
    return torch.cat(labels)


def count_classes(model: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> int:
    """How many classes a model has, from its answer to the first image, which attacks must be able to use.

    Raises:
        EvaluationError: the model fails, or the output is not one float32 number per class, or has no gradient.
    """
    with torch.enable_grad(), refusals_named(images):
        logits = model(images[:1].to(device, copy=True).requires_grad_())
    check_logits(logits, 1)
    if not logits.requires_grad:
        raise EvaluationError("the model's output has no gradient with respect to the image, which attacks need")
    return logits.shape[1]


@contextmanager
def refusals_named(images: Tensor) -> Iterator[None]:
    """Name the images' shape where a model's code fails at its first pass.

    Raises:
        EvaluationError: it has raised an AssertionError or a RuntimeError, and not for want of memory.
    """
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if isinstance(error, ZooError) or is_out_of_memory(error):
            raise
        kind, text = type(error).__name__, reason(error)
        said = kind if text == kind else f"{kind}: {text}"
        raise EvaluationError(
            f"the model fails on images of shape {tuple(images.shape[1:])} ({said}); "
            "give images of the shape that it takes"
        ) from error


def check_logits(logits: object, count: int) -> None:
    """Check what a model gives for ``count`` images; the values are not read.

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


def without_rounding(originals: Tensor, candidates: Tensor, norm: str, eps: float) -> Tensor:
    """Candidates, those moved into the l_2 ball that float32 alone has put outside; to be judged afterwards.

    An l_2 norm of d float32 pixels is off by about eps times 1e-6 and by sqrt(d) roundings of a pixel, which at 224
    pixels and eps 20 is more than ``TOLERANCE``. The tolerance stays; the points move. Others stay as they are.

    Args:
        originals, candidates: (N, channels, H, W).
        norm, eps: the ball.
    """
    if norm != "L2":
        return candidates
    away = candidates.double() - originals.double()
    distance = away.flatten(1).norm(dim=1)
    rounding = 6e-8 * away[0].numel() ** 0.5 if len(away) else 0.0
    outside = (distance > eps + TOLERANCE) & (distance <= eps + 1e-5 * eps + 2.0 * rounding)
    if not bool(outside.any()):
        return candidates
    scale = max(0.0, eps - rounding) / distance[outside]
    moved = candidates.clone()
    moved[outside] = (originals[outside].double() + scale.view(-1, 1, 1, 1) * away[outside]).to(candidates.dtype)
    return moved


def check_adversarials(originals: Tensor, adversarials: Tensor, indices: Tensor, norm: str, eps: float) -> None:
    """Check that adversarial examples obey the threat model.

    Args:
        originals, adversarials: (N, channels, H, W).
        indices: (N,) what to call them in messages.
        norm, eps: the ball.

    Raises:
        EvaluationError: one is not finite, leaves [0, 1], or leaves the ball by more than 1e-6.
    """
    flat = adversarials.double().flatten(1)
    difference = flat - originals.double().flatten(1)
    distance = difference.abs().amax(dim=1) if norm == "Linf" else difference.norm(dim=1)
    for bad, what in (
        (~torch.isfinite(flat).all(dim=1), "has a pixel that is not finite"),
        ((flat < 0).any(dim=1) | (flat > 1).any(dim=1), "leaves [0, 1]"),
        (distance > eps + TOLERANCE, f"leaves the {norm} ball of radius {eps:g}"),
    ):
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise EvaluationError(f"the adversarial example for image {int(indices[i])} {what}")
