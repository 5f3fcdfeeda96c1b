"""Where alpha comes from: a constant, a mixing network with its range, or a class of your own.

A mix works with log(1 - alpha) and log(alpha). An alpha that rounds to 0 or 1 then keeps its exact weight and a
gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import runs_as_written
from adaptive_smoothing_zoo.backbones.scale import at_least_float32
from adaptive_smoothing_zoo.method.formula import BaseOutputs, LogWeights, logaddexp
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork
from adaptive_smoothing_zoo.units import is_number


class Alpha(nn.Module):
    """The weight of the robust net. A subclass defines ``log_weights``, and its range if that is not [0, 1].

    Attributes:
        alpha_min, alpha_max: range that alpha never leaves; fast prediction, margins and certificates rely on it.
            Certificates of a class of your own check it at the images alone, not around them.
        std_taps, rob_taps: indices, in ascending order, of the feature maps of g and h that it reads; None for none. An
            alpha with taps is called with both lists of maps and gives alpha_logit, (N,); ``log_weights`` then begins
            with ``self.alpha_logit(outputs)``.
        varies: whether alpha depends on the image, so that an attack can move it.
    """

    alpha_min: float = 0.0
    alpha_max: float = 1.0
    std_taps: tuple[int, ...] | None = None
    rob_taps: tuple[int, ...] | None = None
    varies: bool = True

    def log_weights(self, outputs: BaseOutputs) -> LogWeights:
        """log(1 - alpha) and log(alpha): (N, 1) tensors, or numbers for all images; -inf for the log of 0."""
        raise NotImplementedError(f"{type(self).__name__} has no log_weights")

    def alpha_logit(self, outputs: BaseOutputs) -> Tensor:
        """A real number per image, (N,), that increases with alpha; attacks on alpha minimize it.

        Computed once from the feature maps; without taps it is logit(alpha).
        """
        if outputs.alpha_logit is not None:
            return outputs.alpha_logit
        if self.std_taps is not None or self.rob_taps is not None:
            return self(outputs.std_maps, outputs.rob_maps)  # type: ignore[no-any-return]
        log_std_weight, log_rob_weight = self.log_weights(outputs)
        return (log_rob_weight - log_std_weight).squeeze(1)  # type: ignore[union-attr]

    def alpha(self, alpha_logit: Tensor) -> Tensor:
        """alpha, in [alpha_min, alpha_max] and in the shape of ``alpha_logit``."""
        return torch.sigmoid(alpha_logit)

    def numbers(self) -> dict[str, float]:
        """The numbers that an entry stores."""
        return {"alpha_min": self.alpha_min, "alpha_max": self.alpha_max}


def as_alpha(alpha: float | nn.Module) -> Alpha:
    """Wrap a number in a :class:`ConstantAlpha`; return a module with the interface of :class:`Alpha` unchanged.

    Raises:
        ValueError: a number or a range outside [0, 1].
        TypeError: a module without that interface.
    """
    if not isinstance(alpha, nn.Module):
        return ConstantAlpha(alpha)
    for name in ("alpha_min", "alpha_max", "std_taps", "rob_taps", "varies", "log_weights", "alpha_logit", "alpha"):
        if not hasattr(alpha, name):
            raise TypeError(
                f"alpha must be a number in [0, 1] or a module like method.alpha.Alpha; {type(alpha).__name__} has no "
                f"{name}"
            )
    check_range(alpha.alpha_min, alpha.alpha_max)  # type: ignore[arg-type]
    return alpha  # type: ignore[return-value]


def with_mixing_network(alpha: Alpha) -> AdaptiveAlpha:
    """Return ``alpha`` if it has a mixing network; raise ValueError if it has none."""
    if not isinstance(alpha, AdaptiveAlpha):
        kind = "a constant alpha" if isinstance(alpha, ConstantAlpha) else f"a {type(alpha).__name__}"
        raise ValueError(f"the model has {kind}; there is no mixing network to train")
    return alpha


class ConstantAlpha(Alpha):
    """The same weight of the robust net for every input.

    Args:
        value: alpha, in [0, 1]; 0 is the standard net alone, 1 the robust net alone.

    Raises:
        ValueError: the value is outside [0, 1].
    """

    varies = False

    def __init__(self, value: float) -> None:
        super().__init__()
        self.alpha_min = self.alpha_max = check_alpha(value)

    def log_weights(self, outputs: BaseOutputs) -> LogWeights:
        """Two numbers."""
        return log_weights_of(self.alpha_min)

    def alpha_logit(self, outputs: BaseOutputs) -> Tensor:
        """Raises TypeError: there is none."""
        raise TypeError("a constant alpha has no alpha_logit")

    def numbers(self) -> dict[str, float]:
        return {"value": self.alpha_min}

    def extra_repr(self) -> str:
        return f"{self.alpha_min}"


class AdaptiveAlpha(Alpha):
    """The weight of the robust net, chosen per input by a mixing network [BAKS24, section 4 and supp.].

    ``alpha_logit = logit_scale * batch_norm(network output) + logit_bias`` and
    ``alpha = alpha_min + (alpha_max - alpha_min) * sigmoid(alpha_logit)``.

    The range and the clamp are settings; ``train()`` and ``eval()`` do not change them. A trainer uses the full range
    (0, 1) and a clamp, a published model its own range and no clamp.

    Args:
        mixing_network: from feature maps of both base nets to one value per input.
        alpha_min, alpha_max: range of alpha, 0 <= alpha_min <= alpha_max <= 1.
        logit_scale, logit_bias: applied to the batch-normalized output.
        std_taps, rob_taps: indices of the two feature maps taken from each base net.
        clamp: if given, the raw output is limited to its batch mean +- clamp * batch standard deviation before the
            batch norm (training; the authors' code has 0.6). An input's alpha then depends on its batch.

    Raises:
        ValueError: the range is not inside [0, 1] or is reversed; or the taps are not in ascending order (timm nets
            return maps in the net's order, regardless of the request).
    """

    std_taps: tuple[int, ...]
    rob_taps: tuple[int, ...]

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
        self.std_taps, self.rob_taps = tuple(std_taps), tuple(rob_taps)
        for taps in (self.std_taps, self.rob_taps):
            if list(taps) != sorted(set(taps)):
                raise ValueError(f"the indices of tapped feature maps must be ascending, got {taps}")
        self.clamp = clamp

    def set_range(self, alpha_min: float, alpha_max: float) -> None:
        """Choose the range of alpha; the mixing network is unchanged."""
        self.alpha_min, self.alpha_max = check_range(alpha_min, alpha_max)

    def with_numbers(
        self, *, alpha_min: float, alpha_max: float, logit_scale: float, logit_bias: float, clamp: float | None = None
    ) -> AdaptiveAlpha:
        """The same mixing network and batch norm, not copied, with other numbers around them."""
        other = AdaptiveAlpha(
            self.mixing_network,
            alpha_min=alpha_min,
            alpha_max=alpha_max,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            std_taps=self.std_taps,
            rob_taps=self.rob_taps,
            clamp=clamp,
        )
        other.norm = self.norm
        return other

    def forward(self, std_maps: Sequence[Tensor], rob_maps: Sequence[Tensor]) -> Tensor:
        """Two feature maps of each base net -> alpha_logit, shape (N,), any real number."""
        # Batch norm accepts only the dtype of its statistics; autocast may have lowered the network's output.
        output = self.mixing_network(std_maps, rob_maps).to(self.norm.running_mean.dtype)  # type: ignore[union-attr]
        if self.clamp is not None:
            # One image has no deviation from its batch; its output stays as it is.
            centre, spread = output.detach().mean(), output.detach().std(correction=int(len(output) > 1))
            output = output.clamp(centre - self.clamp * spread, centre + self.clamp * spread)
        normalized = at_least_float32(self.norm(output).squeeze(1))  # (N,)
        return self.logit_scale * normalized + self.logit_bias

    def alpha(self, alpha_logit: Tensor) -> Tensor:
        return self.alpha_min + (self.alpha_max - self.alpha_min) * torch.sigmoid(alpha_logit)

    def log_weights(self, outputs: BaseOutputs) -> tuple[Tensor, Tensor]:
        """(N, 1) each."""
        return self.log_weights_at(self.alpha_logit(outputs).unsqueeze(1))

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

    def numbers(self) -> dict[str, float]:
        return {**super().numbers(), "logit_scale": self.logit_scale, "logit_bias": self.logit_bias}

    def extra_repr(self) -> str:
        return (
            f"range=[{self.alpha_min}, {self.alpha_max}], logit_scale={self.logit_scale}, logit_bias={self.logit_bias}"
        )


def keeps_its_range(alpha: Alpha) -> bool:
    """Whether alpha provably stays in its range for every image; code of a user's own only declares its range."""
    return type(alpha) in (ConstantAlpha, AdaptiveAlpha) and runs_as_written(alpha)


def log_weights_of(alpha: float) -> tuple[float, float]:
    """log(1 - alpha) and log(alpha) of a number in [0, 1], -inf for the log of zero."""
    return (
        math.log1p(-alpha) if alpha < 1.0 else -math.inf,
        math.log(alpha) if alpha > 0.0 else -math.inf,
    )


def check_alpha(value: float, what: str = "alpha") -> float:
    """Return ``value`` as a float; raise ValueError if it is not in [0, 1], or TypeError if it is no number."""
    if not is_number(value):
        raise TypeError(f"{what} must be a number in [0, 1], got {value!r}")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{what} must be in [0, 1], got {value}")
    return float(value)


def check_range(alpha_min: float, alpha_max: float) -> tuple[float, float]:
    """Return both as floats, or raise ValueError if they are no range inside [0, 1]."""
    low, high = check_alpha(alpha_min, "alpha_min"), check_alpha(alpha_max, "alpha_max")
    if low > high:
        raise ValueError(f"alpha_min must not exceed alpha_max, got {alpha_min} > {alpha_max}")
    return low, high


def _log_average(low: float, log_low_weight: Tensor, high: float, log_high_weight: Tensor) -> Tensor:
    """log(exp(low) * low_weight + exp(high) * high_weight); a term of weight zero is left out, not multiplied."""
    if high == -math.inf:
        return low + log_low_weight
    if low == -math.inf:
        return high + log_high_weight
    return logaddexp(low + log_low_weight, high + log_high_weight)
