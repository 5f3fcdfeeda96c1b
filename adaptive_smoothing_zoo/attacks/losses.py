"""The losses that attacks maximize: per-example losses, margins, and their gradients.

A loss takes logits (N, C), labels (N,) and, if it is targeted, classes (N,) to move toward; it returns (N,).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Model = Callable[[Tensor], Tensor]  # images (N, channels, H, W) to logits (N, C)
Loss = Callable[[Tensor, Tensor], Tensor]  # output (N, C), labels (N,) -> per-example loss (N,) to increase
TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, labels, targets -> (N,)


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross-entropy with the label."""
    return F.cross_entropy(logits, labels, reduction="none")


def cw_margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The largest wrong logit minus the label's [CW17]; positive if misclassified."""
    return -margin(logits, labels)


def probability_margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The largest wrong probability minus the label's, in [-1, 1]; positive if misclassified."""
    return -margin(logits.softmax(dim=1), labels)


def mislabelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the model gives another label, (N,) bool; or NaN or infinity, at which whoever decides must look."""
    return (logits.argmax(dim=1) != labels) | ~logits.amax(dim=1).isfinite()


def dlr(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Difference-of-logits ratio [CH20, eq. (6)]; needs at least 3 classes.

    The CW margin divided by the gap between the largest and the third largest logit; invariant to shifting and scaling
    the logits.
    """
    largest = logits.topk(3, dim=1).values
    return cw_margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted difference-of-logits ratio [CH20, eq. (7)]; needs at least 4 classes.

    The target's logit minus the label's, divided by the gap between the largest logit and the mean of the third and
    fourth.
    """
    largest = logits.topk(4, dim=1).values
    scale = largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3])
    return target_gap(logits, labels, targets) / (scale + 1e-12)


def target_gap(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The target's logit minus the label's."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "dlr": dlr,
    "cw": cw_margin,
    "probability": probability_margin,
}
"""The untargeted losses by their short names."""


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the largest other one, (N,); negative if misclassified."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None]).squeeze(1) - others.amax(dim=1)


def decisive_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """``margin``; minus infinity where the model gives NaN or infinity, as in ``mislabelled``."""
    return torch.where(logits.amax(dim=1).isfinite(), margin(logits, labels), -torch.inf)


def rank_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """The wrong classes from the likeliest to the least likely, (N, C - 1)."""
    order = logits.argsort(dim=1, descending=True)
    place = (order == labels[:, None]).int().argmax(dim=1, keepdim=True)  # of the label, without waiting for it
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    return order.gather(1, columns + (columns >= place))


def append_alpha_loss(logits: Tensor, alpha_logit: Tensor) -> Tensor:
    """Append a column to the logits that encodes the cross-entropy of alpha with label 1.

    Args:
        logits: (N, C).
        alpha_logit: (N,).

    Returns:
        (N, C + 1). The last column is the largest logit minus 1 minus BCE(alpha_logit, 1), so it is never the largest
        and the argmax remains the label. ``alpha_loss`` decodes it; its gradient is that of alpha alone.
    """
    column = logits.detach().amax(dim=1) - 1.0 - F.softplus(-alpha_logit)
    return torch.cat([logits, column.unsqueeze(1)], dim=1)


def alpha_loss(output: Tensor) -> Tensor:
    """BCE(alpha_logit, 1) = -log(sigmoid(alpha_logit)), (N,), of an output of ``append_alpha_loss``."""
    return output[:, :-1].detach().amax(dim=1) - 1.0 - output[:, -1]


def lowering_alpha(loss: Callable[..., Tensor], weight: float | Tensor) -> Callable[..., Tensor]:
    """``(1 - w) loss + w BCE(alpha_logit, 1)``: attacks the mix while lowering alpha toward g.

    [BAKS24 v1, sections 4.2 and 5.2] describe it in words; w and 1 - w are those of the authors' code.

    Args:
        loss: of logits and labels, and of targets if it is targeted.
        weight: w in [0, 1], a number or (N,).

    Returns:
        A loss of an output of ``append_alpha_loss`` and the same further arguments.
    """

    def both(output: Tensor, *classes: Tensor) -> Tensor:
        return (1.0 - weight) * loss(output[:, :-1], *classes) + weight * alpha_loss(output)

    return both


def loss_and_gradient(
    model: Model, points: Tensor, loss: Callable[[Tensor], Tensor], *, passes: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C), losses (N,) and the gradient (N, channels, H, W) of each loss at its own point.

    No gradient of a weight is computed.

    Args:
        passes: number of passes averaged in the gradient; logits and losses are those of the last one.
    """
    logits, losses, gradient = _one_pass(model, points, loss)
    for _ in range(passes - 1):
        logits, losses, more = _one_pass(model, points, loss)
        gradient = gradient + more
    return logits, losses, gradient / passes if passes > 1 else gradient


def _one_pass(model: Model, points: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(points)
        losses = loss(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), points)
    return logits.detach(), losses.detach(), gradient.contiguous()
