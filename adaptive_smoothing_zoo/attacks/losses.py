"""What attacks increase, and what they ask of a model: per-example losses, margins, and their gradients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Model = Callable[[Tensor], Tensor]  # images (N, channels, H, W) to logits (N, C)
TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, labels, targets -> (N,)


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with the label, (N,); the targets are not used."""
    return F.cross_entropy(logits, labels, reduction="none")


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted difference-of-logits ratio, (N,) (Croce and Hein 2020, arXiv:2003.01690, eq. (7)).

    Minus the gap between the label's logit and the target's, over the gap between the largest logit and the mean of
    the third and fourth; it changes with neither a shift nor a scale of the logits. Needs at least 4 classes.
    """
    largest = logits.topk(4, dim=1).values
    scale = largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3])
    return target_gap(logits, labels, targets) / (scale + 1e-12)


def target_gap(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The target's logit minus the label's, (N,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the largest other one, (N,); negative if misclassified."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None]).squeeze(1) - others.amax(dim=1)


def loss_and_gradient(model: Model, points: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C), losses (N,) and the gradient (N, channels, H, W) of each loss at its own point.

    No gradient of a weight is computed.
    """
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(points)
        losses = loss(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), points)
    return logits.detach(), losses.detach(), gradient.contiguous()


def norm_of(perturbation: Tensor, norm: str) -> Tensor:
    """The l_inf or l_2 norm per example, in the shape (N, 1, 1, 1)."""
    flat = perturbation.flatten(1)
    size = flat.abs().amax(dim=1) if norm == "Linf" else (flat * flat).sum(dim=1).sqrt()
    return size.view(-1, 1, 1, 1)


def normalized(perturbation: Tensor, norm: str) -> Tensor:
    """The perturbation at norm 1; zero stays zero."""
    return perturbation / (norm_of(perturbation, norm) + 1e-12)
