"""A net with its resizing and normalization inside, so that it takes pixels in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.architectures import architecture, build_described
from adaptive_smoothing_zoo.backbones.asking import call_net, logits_of
from adaptive_smoothing_zoo.backbones.base import Taps, check_image_tensor

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")

_SHARED = (
    "num_classes",
    "num_features",
    "head_hidden_size",
    "feature_info",
    "forward_head",
    "get_classifier",
    "reset_classifier",
    "set_grad_checkpointing",
    "prune_intermediate_layers",
)
_OF_IMAGES = ("forward_features", "forward_intermediates")
_OF_PARAMETERS = ("group_matcher", "no_weight_decay")


class Preprocessed(nn.Module):
    """``net((resize(images) - mean) / std)``.

    The rest of timm's interface (``feature_info``, ``forward_features``, ``reset_classifier``, ...) is available as far
    as ``net`` has it; its methods also preprocess images.

    Args:
        net: any module from normalized images to logits, or to an output that contains them (``asking.logits_of``).
        mean, std: one number per channel, in units of pixels in [0, 1]; std > 0.
        size: (height, width) to which images are resized; None for no resizing.
        interpolation: "bilinear" or "bicubic" (antialiased where the image shrinks), or "nearest".

    Raises:
        ValueError: mean and std of different length, not finite or not positive; another size or interpolation.
    """

    takes_taps = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int] | None = None,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        _check(mean, std, size, interpolation)
        self.net, self.size, self.interpolation = net, None if size is None else (size[0], size[1]), interpolation
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor, taps: Taps | None = None) -> Any:
        """(N, channels, H, W) images in [0, 1] -> (N, classes) logits; with ``taps``, the output that they select."""
        output = call_net(self.net, self.preprocess(images), taps)
        return logits_of(output) if taps is None or taps.output == "logits" else output

    def preprocess(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) images in [0, 1] -> (N, channels, h, w), resized and normalized.

        Raises:
            TypeError, ValueError: not such images, or another number of channels.
        """
        check_image_tensor(images)
        if images.shape[1] != len(self.mean):
            raise ValueError(f"images must have shape (N, {len(self.mean)}, H, W), got {tuple(images.shape)}")
        images = images.to(torch.promote_types(images.dtype, self.mean.dtype))
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            smooth = {} if self.interpolation == "nearest" else {"antialias": True, "align_corners": False}
            images = F.interpolate(images, self.size, mode=self.interpolation, **smooth)
        return (images - self.mean) / self.std

    def __getattr__(self, name: str) -> Any:
        if name not in (*_SHARED, *_OF_IMAGES, *_OF_PARAMETERS):
            return super().__getattr__(name)
        inner = getattr(self.net, name)
        if name == "group_matcher":
            return partial(_group_matcher, self.net)
        if name == "no_weight_decay":
            return lambda: {f"net.{key}" for key in inner()}
        return inner if name in _SHARED else _of_images(self.preprocess, inner)

    def extra_repr(self) -> str:
        return f"size={self.size}, interpolation={self.interpolation!r}"


@architecture("preprocessed")
def preprocessed(
    *, net: Mapping[str, Any], num_classes: int, size: Sequence[int] | None = None, **looks: Any
) -> Preprocessed:
    """A :class:`Preprocessed` of a described net.

    Args:
        net: a mapping with the net's "architecture" and, optionally, "arguments".
        looks: mean, std and interpolation of :class:`Preprocessed`.

    Raises:
        ValueError: an invalid description, or arguments that :class:`Preprocessed` refuses.
    """
    size = None if size is None else (size[0], size[1])
    return Preprocessed(build_described(net, num_classes, "net"), size=size, **looks)


def _of_images(preprocess: Callable[[Tensor], Tensor], method: Callable[..., Any]) -> Callable[..., Any]:
    def call(images: Tensor, *arguments: Any, **options: Any) -> Any:
        return method(preprocess(images), *arguments, **options)

    return call


def _group_matcher(net: Any, coarse: bool = False) -> Callable[[str], tuple[float, ...]]:
    """A function from a parameter's name to its depth in the inner net, for timm's layer-wise learning rates."""
    from timm.models._manipulate import group_parameters

    depths = group_parameters(net, net.group_matcher(coarse), reverse=True)
    return lambda name: (depths.get(name.removeprefix("net."), math.inf),)


def _check(mean: Sequence[float], std: Sequence[float], size: tuple[int, int] | None, interpolation: str) -> None:
    if len(mean) != len(std) or not mean:
        raise ValueError(f"mean and std need one number per channel each, got {len(mean)} and {len(std)}")
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ValueError(f"mean must be finite and std positive, got {tuple(mean)} and {tuple(std)}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size must be (height, width), both positive, got {size}")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}")
