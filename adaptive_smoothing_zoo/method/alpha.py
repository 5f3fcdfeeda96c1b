"""Where alpha comes from: a constant, or a mixing network with its range.

Both are used through their logarithms, log(1 - alpha) and log(alpha), because a mix is computed with logaddexp:
an alpha that rounds to 0 or 1 then still has the right weight and a gradient.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.method.logit_maps import at_least_float32
from adaptive_smoothing_zoo.method.mix import logaddexp
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork


def log_weights_of(alpha: float) -> tuple[float, float]:
    """log(1 - alpha) and log(alpha) of a number in [0, 1], -inf for the log of zero."""
    return (
        math.log1p(-alpha) if alpha < 1.0 else -math.inf,
        math.log(alpha) if alpha > 0.0 else -math.inf,
    )


def check_alpha(value: float, what: str = "alpha") -> float:
    """Return ``value`` as a float, or raise ValueError if it is not in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{what} must be in [0, 1], got {value}")
    return float(value)


class ConstantAlpha(nn.Module):
    """The same weight of the robust net for every input.

    Args:
        value: alpha, in [0, 1]; 0 is the standard net alone, 1 the robust net alone.

    Raises:
        ValueError: the value is outside [0, 1].
    """

    std_taps: tuple[int, ...] | None = None  # no feature maps are read
    rob_taps: tuple[int, ...] | None = None

    def __init__(self, value: float) -> None:
        super().__init__()
        self.alpha_min = self.alpha_max = check_alpha(value)

    def forward(self, images: Tensor) -> Tensor:
        """(N, ...) -> alpha, (N,); float32 for images in half precision, which would round it."""
        dtype = torch.promote_types(images.dtype, torch.float32)
        return torch.full((len(images),), self.alpha_min, device=images.device, dtype=dtype)

    def log_weights(self, std_maps: Sequence[Tensor], rob_maps: Sequence[Tensor]) -> tuple[float, float]:
        """log(1 - alpha) and log(alpha); -inf where alpha is 1 or 0."""
        return log_weights_of(self.alpha_min)

    def log_weights_at(self, alpha_logit: Tensor) -> tuple[float, float]:
        """The same, whatever alpha_logit is."""
        return log_weights_of(self.alpha_min)

    def extra_repr(self) -> str:
        return f"{self.alpha_min}"


class AdaptiveAlpha(nn.Module):
    """The weight of the robust net, chosen per input by a mixing network (000, section 4; 003, supplement).

    ``alpha_logit = logit_scale * batch_norm(network output) + logit_bias`` and
    ``alpha = alpha_min + (alpha_max - alpha_min) * sigmoid(alpha_logit)``.

    The range and the clamp are settings, never consequences of ``train()`` or ``eval()``: a trainer uses the full
    range (0, 1) and a clamp, a published model its own range and none.

    Args:
        mixing_network: from feature maps of both base nets to one value per input.
        alpha_min, alpha_max: range of alpha, 0 <= alpha_min <= alpha_max <= 1.
        logit_scale, logit_bias: applied to the batch-normalized output.
        std_taps, rob_taps: indices of the two feature maps taken from each base net.
        clamp: if given, the raw output is limited to its batch mean +- clamp * batch standard deviation before the
            batch norm (training; the papers use 0.6). An input's alpha then depends on its batch.

    Raises:
        ValueError: the range is not inside [0, 1] or is reversed; or the taps are not in rising order (timm nets give
            their maps in the net's order, whatever order is asked for).
    """

    def __init__(
        self,
        mixing_network: MixingNetwork,
        *,
        alpha_min: float = 0.0,
        alpha_max: float = 1.0,
        logit_scale: float = 2.0,
        logit_bias: float = 0.4,
        std_taps: Sequence[int] = (0, 1),
        rob_taps: Sequence[int] = (0, 1),
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.mixing_network = mixing_network
        self.norm = nn.BatchNorm1d(1, affine=False, momentum=0.01)
        self.set_range(alpha_min, alpha_max)
        self.logit_scale, self.logit_bias = float(logit_scale), float(logit_bias)
        self.std_taps: tuple[int, ...] = tuple(std_taps)
        self.rob_taps: tuple[int, ...] = tuple(rob_taps)
        for taps in (self.std_taps, self.rob_taps):
            if list(taps) != sorted(set(taps)):
                raise ValueError(f"feature maps are tapped in rising order, got the indices {taps}")
        self.clamp = clamp

    def set_range(self, alpha_min: float, alpha_max: float) -> None:
        """Choose the range of alpha; the mixing network is unchanged."""
        check_alpha(alpha_min, "alpha_min")
        check_alpha(alpha_max, "alpha_max")
        if alpha_min > alpha_max:
            raise ValueError(f"alpha_min must not exceed alpha_max, got {alpha_min} > {alpha_max}")
        self.alpha_min, self.alpha_max = float(alpha_min), float(alpha_max)

    def forward(self, std_maps: Sequence[Tensor], rob_maps: Sequence[Tensor]) -> Tensor:
        """Two feature maps of each base net -> alpha_logit, shape (N,), any real number."""
        # Batch norm takes the number format of its statistics alone; autocast may have lowered the network's output.
        output = self.mixing_network(std_maps, rob_maps).to(self.norm.running_mean.dtype)  # type: ignore[union-attr]
        if self.clamp is not None:
            # One image has no deviation from its batch; its output stays as it is.
            centre, spread = output.detach().mean(), output.detach().std(correction=int(len(output) > 1))
            output = output.clamp(centre - self.clamp * spread, centre + self.clamp * spread)
        normalized = at_least_float32(self.norm(output).squeeze(1))  # (N,)
        return self.logit_scale * normalized + self.logit_bias

    def alpha(self, alpha_logit: Tensor) -> Tensor:
        """alpha in [alpha_min, alpha_max], the shape of ``alpha_logit``."""
        return self.alpha_min + (self.alpha_max - self.alpha_min) * torch.sigmoid(alpha_logit)

    def log_weights(self, std_maps: Sequence[Tensor], rob_maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """log(1 - alpha) and log(alpha), (N, 1) each, from the feature maps of both nets."""
        return self.log_weights_at(self(std_maps, rob_maps).unsqueeze(1))

    def log_weights_at(self, alpha_logit: Tensor) -> tuple[Tensor, Tensor]:
        """log(1 - alpha) and log(alpha), with a gradient even where alpha itself rounds to 0 or 1.

        alpha is the average of alpha_min and alpha_max with weights sigmoid(-alpha_logit) and sigmoid(alpha_logit),
        and so is 1 - alpha of 1 - alpha_min and 1 - alpha_max.
        """
        log_low, log_high = F.logsigmoid(-alpha_logit), F.logsigmoid(alpha_logit)
        at_min, at_max = log_weights_of(self.alpha_min), log_weights_of(self.alpha_max)
        log_std, log_rob = (
            _log_average(low, log_low, high, log_high) for low, high in zip(at_min, at_max, strict=True)
        )
        return log_std, log_rob

    def extra_repr(self) -> str:
        return (
            f"range=[{self.alpha_min}, {self.alpha_max}], logit_scale={self.logit_scale}, logit_bias={self.logit_bias}"
        )


def _log_average(low: float, log_low_weight: Tensor, high: float, log_high_weight: Tensor) -> Tensor:
    """log(exp(low) * low_weight + exp(high) * high_weight); a term of weight zero is left out, not multiplied."""
    if high == -math.inf:
        return low + log_low_weight
    if low == -math.inf:
        return high + log_high_weight
    return logaddexp(low + log_low_weight, high + log_high_weight)
