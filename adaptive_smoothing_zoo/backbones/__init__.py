"""Base nets: everything that can serve as g or h, by name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.backbones.base import BaseNet
from adaptive_smoothing_zoo.backbones.bit_resnet import BiTResNet
from adaptive_smoothing_zoo.backbones.dm_wide_resnet import DMWideResNet
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.layers import layered
from adaptive_smoothing_zoo.backbones.libraries import robustbench_net, timm_net, torchvision_net
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.backbones.ra_wide_resnet import RaWideResNet
from adaptive_smoothing_zoo.backbones.resnet import preact_resnet18, resnet18, resnet20, resnet110, wide_resnet
from adaptive_smoothing_zoo.backbones.small_cnn import SmallCNN
from adaptive_smoothing_zoo.surroundings import ordinary_tensors


def gaussian_smoothed(*, base: Mapping[str, Any], num_classes: int = 10, **arguments: Any) -> GaussianSmoothed:
    """A :class:`GaussianSmoothed` base net, described by data.

    Args:
        base: the net that votes: "architecture", a key of ``ARCHITECTURES``, and "arguments" (optional).
        num_classes: of the base net.
        arguments: of :class:`GaussianSmoothed`.

    Raises:
        ValueError: a base that is not described so.
    """
    if not isinstance(base, Mapping) or "architecture" not in base or set(base) - {"architecture", "arguments"}:
        raise ValueError(f"'base' must hold 'architecture' and, optionally, 'arguments', got {base!r}")
    net = build(base["architecture"], num_classes=num_classes, **base.get("arguments", {}))
    return GaussianSmoothed(net, **arguments)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "bit_resnet": BiTResNet,
    "dm_wide_resnet": DMWideResNet,
    "gaussian_smoothed": gaussian_smoothed,
    "layers": layered,
    "lipschitz": LipschitzNet,
    "preact_resnet18": preact_resnet18,
    "ra_wide_resnet": RaWideResNet,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet110": resnet110,
    "robustbench": robustbench_net,
    "small_cnn": SmallCNN,
    "timm": timm_net,
    "torchvision": torchvision_net,
    "wide_resnet": wide_resnet,
}


@ordinary_tensors()
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
