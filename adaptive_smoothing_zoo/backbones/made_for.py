"""The images that a net was made for, as far as the net says so."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from adaptive_smoothing_zoo.backbones.base import BaseNet
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed

Shape = tuple[int, int, int]  # channels, height, width


class MadeFor(NamedTuple):
    """The images that a net was made for.

    Attributes:
        name: of the net, for messages.
        shape: (channels, height, width).
        only: whether it accepts no other size.
    """

    name: str
    shape: Shape
    only: bool = False


def image_shape_of(net: Any) -> Shape | None:
    """(channels, height, width) of the images that a net was made for; None if it does not say."""
    if isinstance(net, Preprocessed):
        return image_shape_of(net.net) if net.size is None else (len(net.mean), *net.size)
    if isinstance(net, GaussianSmoothed):
        channels, height, width = net.noise.shape[1:]
        return channels, height, width
    if (shape := timm_cfg_of(net).get("input_size")) is None:
        return None
    channels, height, width = shape
    height, width = getattr(getattr(net, "patch_embed", None), "img_size", None) or (height, width)
    return channels_of(net) or channels, height, width


def channels_of(net: Any) -> int | None:
    """The number of channels of a net's images; None if it does not say."""
    if isinstance(net, (BaseNet, Preprocessed)):
        return len(net.mean)
    if isinstance(net, GaussianSmoothed):
        return int(net.noise.shape[1])
    first = next((layer for layer in net.modules() if isinstance(layer, nn.Conv2d)), None) if timm_cfg_of(net) else None
    return None if first is None or first.groups > 1 else first.in_channels


def made_for(net: Any, name: str) -> MadeFor | None:
    """The images that a net was made for; None if it does not say, or resizes its images itself."""
    if isinstance(net, Preprocessed):
        return made_for(net.net, name) if net.size is None else None
    shape = image_shape_of(net)
    patches = getattr(net, "patch_embed", None)
    fixed = getattr(patches, "strict_img_size", False) and getattr(patches, "img_size", None) is not None
    return None if shape is None else MadeFor(name, shape, bool(fixed) or isinstance(net, GaussianSmoothed))


def timm_cfg_of(net: Any) -> dict[str, Any]:
    """The metadata that timm stores in its own nets; empty for others."""
    cfg = getattr(net, "pretrained_cfg", None) if type(net).__module__.startswith("timm.") else None
    return cfg if isinstance(cfg, dict) else {}
