"""The one formula: a mix of two probability vectors, from and to logarithms (000, eq. (4))."""

import math

import torch
from torch import Tensor


def mix(log_std: Tensor, log_rob: Tensor, log_std_weight: Tensor | float, log_rob_weight: Tensor | float) -> Tensor:
    """log((1 - alpha) exp(log_std) + alpha exp(log_rob)), given log(1 - alpha) and log(alpha).

    Finite where the log-probabilities are, unlike the log of a sum of softmaxes, which is -inf (and its gradient NaN)
    as soon as both nets are confident.

    Raises:
        ValueError: g and h have not as many classes.
    """
    _check_same_classes(log_std, log_rob)
    if isinstance(log_std_weight, float) and log_std_weight == -math.inf:
        return log_rob
    if isinstance(log_rob_weight, float) and log_rob_weight == -math.inf:
        return log_std
    return logaddexp(log_std + log_std_weight, log_rob + log_rob_weight)


def logaddexp(first: Tensor, second: Tensor) -> Tensor:
    """``torch.logaddexp``; for PyTorch's older ONNX exporter, which does not know it, written out."""
    if not torch.onnx.is_in_onnx_export():
        return torch.logaddexp(first, second)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return torch.where(low == high, high + math.log(2.0), high + torch.log1p(torch.exp(low - high)))  # also at -inf


@torch.fx.wrap
def _check_same_classes(log_std: Tensor, log_rob: Tensor) -> None:
    if log_std.shape[-1] != log_rob.shape[-1]:  # they might broadcast
        raise ValueError(
            f"std_model gives {log_std.shape[-1]} classes and rob_model {log_rob.shape[-1]}; "
            "mix nets that have the same classes"
        )
