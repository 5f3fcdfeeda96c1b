"""The one formula: a mix of two probability vectors, from and to logarithms (000, eq. (4))."""

import math

import torch
from torch import Tensor


def mix(log_std: Tensor, log_rob: Tensor, log_std_weight: Tensor | float, log_rob_weight: Tensor | float) -> Tensor:
    """log((1 - alpha) exp(log_std) + alpha exp(log_rob)), given log(1 - alpha) and log(alpha).

    Finite where the log-probabilities are, unlike the log of a sum of softmaxes, which is -inf (and its gradient NaN)
    as soon as both nets are confident.
    """
    if isinstance(log_std_weight, float) and log_std_weight == -math.inf:
        return log_rob
    if isinstance(log_rob_weight, float) and log_rob_weight == -math.inf:
        return log_std
    return torch.logaddexp(log_std + log_std_weight, log_rob + log_rob_weight)
