"""Nets of timm and torchvision as base nets: by name, with their preprocessing inside, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.surroundings import real_device

_READS_FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # options of create_model

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@architecture("timm")
def timm_net(
    *,
    model: str,
    num_classes: int,
    mean: Sequence[float] | None = IMAGENET_MEAN,
    std: Sequence[float] | None = IMAGENET_STD,
    size: Sequence[int] | None = None,
    interpolation: str = "bicubic",
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """The timm model of that name, with random weights.

    Args:
        model: a name of ``timm.create_model``; a part after a dot, which names weights, is ignored.
        mean, std, size, interpolation: see :class:`Preprocessed`. With mean and std None, the net is bare: it does not
            resize or normalize.
        options: further arguments of ``timm.create_model``, except those that read files.

    Raises:
        ValueError: an unknown name, an option that reads files, or only one of mean and std.
    """
    import timm

    name = model.partition(".")[0]  # the part after the dot names weights
    if not timm.is_model(name):
        raise ValueError(unknown("timm", model, timm.list_models()))
    if named := sorted(set(options or {}).intersection(_READS_FILES)):
        raise ValueError(f"the option {named[0]} of timm reads files, which a described net must not; remove it")
    with real_device():
        net = timm.create_model(name, pretrained=False, num_classes=num_classes, **options or {})
    return _preprocessed(net, mean, std, size, interpolation)


@architecture("torchvision")
def torchvision_net(
    *,
    model: str,
    num_classes: int,
    mean: Sequence[float] | None = IMAGENET_MEAN,
    std: Sequence[float] | None = IMAGENET_STD,
    size: Sequence[int] | None = None,
    interpolation: str = "bilinear",
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """The torchvision classifier of that name, with random weights; for the arguments see ``timm_net``.

    Raises:
        ValueError: an unknown name, or only one of mean and std.
    """
    from torchvision import models

    if model not in models.list_models(module=models):
        raise ValueError(unknown("torchvision", model, models.list_models(module=models)))
    with real_device():
        net = models.get_model(model, weights=None, num_classes=num_classes, **options or {})
    return _preprocessed(net, mean, std, size, interpolation)


def unknown(who: str, name: str, known: Sequence[str]) -> str:
    """The message for a name that a library does not know, with near matches."""
    near = get_close_matches(name, known, n=5, cutoff=0.5)
    return f"{who} knows no model {name!r}" + (f"; near: {', '.join(near)}" if near else f"; it knows {len(known)}")


def _preprocessed(
    net: nn.Module,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    size: Sequence[int] | None,
    interpolation: str,
) -> nn.Module:
    if mean is None or std is None:
        if mean is not std or size is not None:
            raise ValueError("give both mean and std, or neither of mean, std and size for a bare net")
        return net
    return Preprocessed(net, mean, std, None if size is None else (int(size[0]), int(size[1])), interpolation)
