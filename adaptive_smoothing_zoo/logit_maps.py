"""Maps that act on a base net's logits before they become probabilities."""

from torch import Tensor, nn


class Scale(nn.Module):
    """Multiply logits by a positive constant (an inverse temperature), without overflow.

    Only differences of logits matter to what follows (a softmax), so the largest logit is moved to zero first,
    and gaps that the floating-point format cannot hold after scaling are cut to the largest it can.
    The result is therefore finite for any finite logits.

    Args:
        scale: the factor, t_g or t_h of the method; finite and > 0.

    Raises:
        ValueError: the scale is not a finite positive number.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not 0.0 < scale < float("inf"):
            raise ValueError(f"a logit scale must be a finite positive number, got {scale}")
        self.scale = float(scale)

    def forward(self, logits: Tensor) -> Tensor:
        """(N, C) logits -> (N, C) scaled logits with maximum 0; half precision comes out as float32."""
        logits = logits.float() if logits.itemsize < 4 else logits
        # A quarter of the range leaves room for the sums in log_softmax and logaddexp.
        smallest = -_LARGEST[logits.itemsize] / (4.0 * max(self.scale, 1.0))
        # Halving first keeps the difference of two huge logits finite; both factors are powers of two, hence exact.
        gaps = 2.0 * (0.5 * logits - 0.5 * logits.detach().amax(dim=-1, keepdim=True)).clamp(min=0.5 * smallest)
        return gaps * self.scale

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


_LARGEST = {4: 3.4028234e38, 8: 1.7976931348623157e308}  # of float32 and float64, by bytes per element
