"""Base nets: everything that can serve as g or h, by name."""

from collections.abc import Callable
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.backbones.base import BaseNet
from adaptive_smoothing_zoo.backbones.bit_resnet import BiTResNet
from adaptive_smoothing_zoo.backbones.dm_wide_resnet import DMWideResNet
from adaptive_smoothing_zoo.backbones.ra_wide_resnet import RaWideResNet
from adaptive_smoothing_zoo.backbones.resnet import preact_resnet18, resnet18, resnet20, wide_resnet
from adaptive_smoothing_zoo.backbones.small_cnn import SmallCNN

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "bit_resnet": BiTResNet,
    "dm_wide_resnet": DMWideResNet,
    "preact_resnet18": preact_resnet18,
    "ra_wide_resnet": RaWideResNet,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "small_cnn": SmallCNN,
    "wide_resnet": wide_resnet,
}


def build(architecture: str, **arguments: Any) -> nn.Module:
    """A base net with random weights.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        arguments: of that architecture's function.

    Raises:
        ValueError: an unknown architecture, or arguments it does not take; the message names what exists.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(sorted(ARCHITECTURES))}")
    try:
        return ARCHITECTURES[architecture](**arguments)
    except TypeError as error:
        raise ValueError(f"wrong arguments for architecture {architecture!r}: {error}") from error


__all__ = ["ARCHITECTURES", "BaseNet", "build"]
