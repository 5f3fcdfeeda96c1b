"""Maps applied to a base net's logits before the softmax: ``Scale``, as in [BAKS24]'s published models, and others."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.scale import Scale, at_least_float32

__all__ = ["HardMax", "NormClampPowerScale", "Scale"]

_FAR = -1e30  # far below every log-probability, with room for sums of many in float32


class HardMax(nn.Module):
    """All probability on the largest logit (on ties the first): the limit of :class:`Scale` at infinity.

    The map of MixedNUTS's accurate net [BZPS24]. The published net replaces it by a steep smooth map whenever gradients
    are tracked; here it is one function. Its gradient is zero, so attacks get no gradient from g without a surrogate.
    """

    def forward(self, logits: Tensor) -> Tensor:
        """(N, C) logits -> (N, C): 0 at the largest, -1e30 elsewhere; half precision comes out as float32.

        The exponential of -1e30 is exactly zero, yet log-probabilities, their sums and their gradients stay finite.
        A logit that is not finite becomes NaN.
        """
        logits = at_least_float32(logits)
        mapped = torch.full_like(logits, _FAR).scatter(-1, logits.argmax(dim=-1, keepdim=True), 0.0)
        # Adding zero connects the result to the graph and propagates a NaN, which argmax would hide.
        return mapped + 0.0 * logits


class NormClampPowerScale(nn.Module):
    """Standardize logits, cut off the low ones, and stretch the others: ``scale * GELU(z + clamp_bias) ** power``.

    The map of MixedNUTS's robust net [BZPS24]: confident where the margin is large, unsure where it is small. z are the
    logits standardized by the mean and standard deviation of the ``top_k`` largest; the power keeps the sign.

    The order of two logits is kept if the larger has z >= -clamp_bias. Below, GELU is not monotone: its values between
    -0.17 and 0 become differences of at most ``scale * 0.17 ** power``.

    Args:
        scale, power, clamp_bias: s, p and c of the paper; scale > 0 and power >= 1.
        top_k: number of logits in the mean and the (unbiased) variance; all of them if there are fewer.

    Raises:
        ValueError: a parameter out of range, or a scale and power for which logits could exceed 1e20.
    """

    def __init__(self, *, scale: float, power: float, clamp_bias: float, top_k: int = 250) -> None:
        super().__init__()
        if not 0.0 < scale < math.inf:
            raise ValueError(f"a logit scale must be a finite positive number, got {scale}")
        if not 1.0 <= power < math.inf:
            raise ValueError(f"the power must be a finite number >= 1, got {power}")
        if not math.isfinite(clamp_bias):
            raise ValueError(f"the clamp bias must be a finite number, got {clamp_bias}")
        if top_k < 2:
            raise ValueError(f"a variance needs top_k >= 2, got {top_k}")
        # No number among k is more than sqrt(k) standard deviations above their mean.
        if math.log(scale) + power * math.log(math.sqrt(top_k) + max(clamp_bias, 0.0)) > math.log(1e20):
            raise ValueError(f"with scale {scale}, power {power} and clamp bias {clamp_bias} logits could exceed 1e20")
        self.scale, self.power, self.clamp_bias, self.top_k = float(scale), float(power), float(clamp_bias), top_k

    def forward(self, logits: Tensor) -> Tensor:
        """(N, C) logits, C >= 2 -> (N, C) mapped logits with maximum 0; half precision comes out as float32.

        The arithmetic is in float64, as in the published net, except for the last step. Only gaps to the largest logit
        matter, and taking them before rounding keeps small ones precise.
        """
        wide = logits.double().clamp(-1e15, 1e15)
        top = wide if self.top_k >= wide.shape[-1] else wide.topk(self.top_k, dim=-1).values
        variance, mean = torch.var_mean(top, dim=-1, keepdim=True)
        clamped = F.gelu((wide - mean) / torch.sqrt(variance + 1e-8) + self.clamp_bias)
        # Unlike x * |x| ** (power - 1), this has a finite gradient at 0 for every power >= 1.
        mapped = self.scale * clamped.sign() * clamped.abs() ** self.power
        gaps = mapped - mapped.detach().amax(dim=-1, keepdim=True)
        return gaps.to(torch.promote_types(logits.dtype, torch.float32))

    def extra_repr(self) -> str:
        return f"scale={self.scale}, power={self.power}, clamp_bias={self.clamp_bias}, top_k={self.top_k}"
