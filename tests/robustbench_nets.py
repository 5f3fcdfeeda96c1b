"""RobustBench's own classes, which parity tests hold ours against, and weights that use every layer."""

import importlib
import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

import adaptive_smoothing_zoo


def architecture(module: str) -> Any:
    """A module of ``robustbench.model_zoo.architectures``; the test is skipped without RobustBench."""
    if importlib.util.find_spec("robustbench") is None:
        pytest.skip("RobustBench is not installed")
    adaptive_smoothing_zoo.register()  # supplies the module autoattack, which RobustBench imports
    return importlib.import_module(f"robustbench.model_zoo.architectures.{module}")


@torch.no_grad()
def randomized(net: nn.Module) -> nn.Module:
    """``net`` in eval mode, its norms and running statistics random."""
    for module in net.modules():
        if isinstance(module, nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d):
            if module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
            if getattr(module, "running_var", None) is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())
