"""Scales a net's logits before they become probabilities, in a mix or in a smoothed net."""

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.units import is_number

_LARGEST = {4: 3.4028234e38, 8: 1.7976931348623157e308}  # of float32 and float64, by bytes per element


class Scale(nn.Module):
    """Multiply logits by a positive constant (an inverse temperature); finite for any finite logits.

    Only differences of logits matter to the softmax that follows. The largest logit is therefore moved to zero first,
    and gaps too large for the floating-point format after scaling are cut.

    Args:
        scale: the factor, > 0 and at most 3.4e38.

    Raises:
        ValueError: another factor.
        TypeError: no number.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not is_number(scale):
            raise TypeError(f"a logit scale must be a finite positive number, got {scale!r}")
        if not 0.0 < scale <= _LARGEST[4]:
            raise ValueError(f"a logit scale must be a finite positive number that float32 holds, got {scale}")
        self.scale = float(scale)

    def forward(self, logits: Tensor) -> Tensor:
        """(N, C) logits -> (N, C) scaled logits with maximum 0 per row; half precision becomes float32."""
        logits = at_least_float32(logits)
        smallest = _smallest_gap(logits, self.scale)
        # Halving first keeps the difference of two huge logits finite; both factors are powers of two, hence exact.
        gaps = 2.0 * (0.5 * logits - 0.5 * logits.detach().amax(dim=-1, keepdim=True)).clamp(min=0.5 * smallest)
        return gaps * self.scale

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision converted to float32; finer formats unchanged."""
    return _at_least_float32(values)


@torch.fx.wrap
def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.itemsize < 4 else values


@torch.fx.wrap
def _smallest_gap(logits: Tensor, scale: float) -> float:
    # A quarter of the range leaves room for the sums in log_softmax and logaddexp.
    return -_LARGEST[logits.itemsize] / (4.0 * max(scale, 1.0))
