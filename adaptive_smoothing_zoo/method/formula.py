"""The formula: the outputs of g and h, and their mix [BAKS24, eq. (4)]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LogWeights = tuple[Tensor | float, Tensor | float]  # log(1 - alpha) and log(alpha): numbers, or (N, 1)


class BaseOutputs(NamedTuple):
    """The outputs of g and h for N images, before alpha weighs them.

    Attributes:
        log_std, log_rob: log-probabilities, (N, C).
        std_maps, rob_maps: the feature maps that alpha reads, if it reads any.
        alpha_logit: (N,), computed by alpha from the maps; None if not computed yet.
    """

    log_std: Tensor
    log_rob: Tensor
    std_maps: Sequence[Tensor] = ()
    rob_maps: Sequence[Tensor] = ()
    alpha_logit: Tensor | None = None

    def mixed(self, weights: LogWeights) -> Tensor:
        """Log-probabilities of the mix, (N, C)."""
        return mix(self.log_std, self.log_rob, *weights)

    def rows(self, chosen: Tensor) -> BaseOutputs:
        """The outputs for the chosen images."""
        return BaseOutputs(
            self.log_std[chosen],
            self.log_rob[chosen],
            [feature_map[chosen] for feature_map in self.std_maps],
            [feature_map[chosen] for feature_map in self.rob_maps],
            None if self.alpha_logit is None else self.alpha_logit[chosen],
        )

    @staticmethod
    def join(parts: Sequence[BaseOutputs]) -> BaseOutputs:
        """Concatenate the outputs of several batches, without ``alpha_logit``."""
        return BaseOutputs(
            torch.cat([part.log_std for part in parts]),
            torch.cat([part.log_rob for part in parts]),
            [torch.cat(maps) for maps in zip(*(part.std_maps for part in parts), strict=True)],
            [torch.cat(maps) for maps in zip(*(part.rob_maps for part in parts), strict=True)],
        )


def mix(log_std: Tensor, log_rob: Tensor, log_std_weight: Tensor | float, log_rob_weight: Tensor | float) -> Tensor:
    """log((1 - alpha) exp(log_std) + alpha exp(log_rob)), given log(1 - alpha) and log(alpha).

    Finite where the log-probabilities are. The log of a sum of softmaxes is -inf, and its gradient NaN, as soon as both
    nets are confident.

    Raises:
        ValueError: g and h have different numbers of classes.
    """
    _check_same_classes(log_std, log_rob)
    if isinstance(log_std_weight, float) and log_std_weight == -math.inf:
        return log_rob
    if isinstance(log_rob_weight, float) and log_rob_weight == -math.inf:
        return log_std
    return logaddexp(log_std + log_std_weight, log_rob + log_rob_weight)


def logaddexp(first: Tensor, second: Tensor) -> Tensor:
    """``torch.logaddexp``, written out for PyTorch's older ONNX exporter, which does not support it."""
    if not torch.onnx.is_in_onnx_export():
        return torch.logaddexp(first, second)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return torch.where(low == high, high + math.log(2.0), high + torch.log1p(torch.exp(low - high)))  # also at -inf


@torch.fx.wrap
def _check_same_classes(log_std: Tensor, log_rob: Tensor) -> None:
    if log_std.shape[-1] != log_rob.shape[-1]:  # they might broadcast
        raise ValueError(
            f"std_model gives {log_std.shape[-1]} classes and rob_model {log_rob.shape[-1]}; "
            "mix nets with the same classes"
        )
