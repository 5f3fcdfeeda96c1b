"""Eq. (1) to (3) of [BAKS24]: the earlier forms of adaptive smoothing."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import free_of_inference_mode, run_base_net
from adaptive_smoothing_zoo.backbones.base import check_image_tensor
from adaptive_smoothing_zoo.threat import LINF, check_norm

TRUST_OPTIONS = ("one", "std_gradient", "max_gradient", "gradient_ratio")
SPACES = ("probabilities", "logits")


class SmoothedClassifier(nn.Module):
    """``(g_i + r R_i h_i) / (1 + r R_i)`` for each class i, eq. (3).

    With ``normalize=False`` the denominator is omitted: eq. (1) when R_i is the gradient norm of g_i. Eq. (2) is
    ``trust="std_gradient"``. With ``trust="one"`` and ``space="probabilities"`` this is the mixed classifier with
    alpha = ratio / (1 + ratio). In the space "logits", eq. (1) of two classes with logits (-g, g) and (-h, h), h in
    {-1, 1}, is locally biased smoothing with the direction oracle h [BAKS24, section 2.3].

    Args:
        std_model, rob_model: g and h, images to logits.
        trust: R_i. "one": 1. "std_gradient": the norm of the gradient of g_i. "max_gradient": that of max_j g_j, the
            same for all i. "gradient_ratio": that of g_i over that of h_i.
        ratio: r >= 0, the trust ratio (gamma in the paper).
        space: "probabilities": g and h are softmax outputs, and the result their logarithm. "logits": both are logits.
        norm: the attack's norm; gradients with respect to the image are measured in its dual.
        normalize: whether to divide by 1 + r R_i.

    Raises:
        ValueError: an unknown option, or a negative ratio.

    For study only: a trust that uses gradients costs one backward pass per class in each forward pass. Gradients of the
    output are exact (they pass through the gradient norms).
    """

    def __init__(
        self,
        std_model: nn.Module,
        rob_model: nn.Module,
        *,
        trust: str = "one",
        ratio: float = 1.0,
        space: str = "probabilities",
        norm: str = LINF,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        check_norm(norm)
        for value, options, what in ((trust, TRUST_OPTIONS, "trust"), (space, SPACES, "space")):
            if value not in options:
                raise ValueError(f"{what} must be one of {', '.join(options)}, got {value!r}")
        if not 0.0 <= ratio < float("inf"):
            raise ValueError(f"the trust ratio must be a finite number >= 0, got {ratio}")
        self.std_model, self.rob_model = std_model, rob_model
        self.trust, self.ratio, self.space, self.norm, self.normalize = trust, float(ratio), space, norm, normalize

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) images in [0, 1] -> (N, C): log-probabilities, or logits in that space.

        Without ``normalize``, or with a trust that differs between classes, the probabilities do not sum to 1.
        """
        check_image_tensor(images)
        if self.trust == "one":
            return self._smooth(self._output(self.std_model, images), self._output(self.rob_model, images), None)
        keep_graph = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            points = images if images.requires_grad else free_of_inference_mode(images.detach()).requires_grad_()
            g, h = self._output(self.std_model, points), self._output(self.rob_model, points)
            smoothed = self._smooth(g, h, self._trust(points, g, h, keep_graph))
        return smoothed if keep_graph else smoothed.detach()

    def trust_of(self, images: Tensor) -> Tensor:
        """R_i at (N, channels, H, W) images in [0, 1]: (N, C), or (N, 1) where it is the same for all classes."""
        check_image_tensor(images)
        if self.trust == "one":
            return torch.ones_like(images.flatten(1)[:, :1])
        with torch.inference_mode(False), torch.enable_grad():
            points = free_of_inference_mode(images.detach()).requires_grad_()
            g, h = self._output(self.std_model, points), self._output(self.rob_model, points)
            return self._trust(points, g, h, keep_graph=False)

    def _output(self, net: nn.Module, images: Tensor) -> Tensor:
        """The output of g or h in the chosen space: log-probabilities or logits."""
        logits, _ = run_base_net(net, images, None)
        return F.log_softmax(logits, dim=1) if self.space == "probabilities" else logits

    def _smooth(self, g: Tensor, h: Tensor, trust: Tensor | None) -> Tensor:
        weight = self.ratio * (torch.ones_like(g) if trust is None else trust)  # r R_i, (N, C)
        if self.space == "logits":
            total = g + weight * h
            return total / (1.0 + weight) if self.normalize else total
        # log(g_i + r R_i h_i), from logarithms so that confident nets do not give -inf. For a weight of zero the
        # logarithm and its gradient are not finite; that case is g alone.
        positive = weight.clamp(min=torch.finfo(weight.dtype).tiny)
        total = torch.where(weight > 0, torch.logaddexp(g, h + positive.log()), g)
        return total - torch.log1p(weight) if self.normalize else total

    def _trust(self, images: Tensor, g: Tensor, h: Tensor, keep_graph: bool) -> Tensor:
        """R_i(x), (N, C) or (N, 1)."""
        if self.space == "probabilities":
            g, h = g.exp(), h.exp()
        if self.trust == "max_gradient":
            return self._gradient_norm(g.amax(dim=1), images, keep_graph).unsqueeze(1)
        std = torch.stack([self._gradient_norm(g_i, images, keep_graph) for g_i in g.unbind(1)], dim=1)
        if self.trust == "std_gradient":
            return std
        rob = torch.stack([self._gradient_norm(h_i, images, keep_graph) for h_i in h.unbind(1)], dim=1)
        return std / rob.clamp(min=1e-12)

    def _gradient_norm(self, values: Tensor, images: Tensor, keep_graph: bool) -> Tensor:
        """Dual norm of the gradient of each example's value, (N,)."""
        (gradient,) = torch.autograd.grad(values.sum(), images, retain_graph=True, create_graph=keep_graph)
        flat = gradient.flatten(1)
        if self.norm == LINF:
            return flat.abs().sum(dim=1)
        # The norm's own gradient is not defined at zero.
        return (flat.square().sum(dim=1) + torch.finfo(flat.dtype).tiny).sqrt()
