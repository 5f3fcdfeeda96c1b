"""Checks that two nets can be mixed, as far as they declare their shapes before the first image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import head_of, number_of_classes
from adaptive_smoothing_zoo.backbones.made_for import MadeFor, channels_of
from adaptive_smoothing_zoo.method.alpha import Alpha
from adaptive_smoothing_zoo.method.taps import check_taps

NAMES = ("std_model", "rob_model")


def check_pair(nets: Sequence[nn.Module], alpha: Alpha) -> None:
    """Raise ValueError if g and h differ in classes or images, have no classifier, or lack feature maps; TypeError if
    they are no modules.

    Properties that the nets do not declare are checked at the first pass.
    """
    for name, net in zip(NAMES, nets, strict=True):
        if not isinstance(net, nn.Module):
            raise TypeError(f"{name} must be a torch.nn.Module, got {type(net).__name__}; wrap it in one")
        _check_has_head(net, name)
    for what, ask in (("classes", number_of_classes), ("channels of images", channels_of)):
        counts = [ask(net) for net in nets]
        if None not in counts and counts[0] != counts[1]:
            raise ValueError(
                f"std_model has {counts[0]} {what} and rob_model {counts[1]}; mix nets with the same {what}"
            )
    check_taps(nets, alpha)


def check_sizes(known: Sequence[MadeFor]) -> None:
    """Raise ValueError if two nets each require one image size and the sizes differ."""
    only = [each for each in known if each.only]
    if len(only) == 2 and only[0].shape != only[1].shape:
        names = [f"{each.name} takes only images of {each.shape[1]} x {each.shape[2]}" for each in only]
        raise ValueError(f"{names[0]} and {names[1]}; wrap one in Preprocessed(net, mean, std, size)")


def check_size(images: Tensor, known: Sequence[MadeFor]) -> None:
    """Raise ValueError for an image size that a net cannot take; warn of a size it was not made for."""
    _check_size(images, tuple(map(tuple, known)))


@torch.fx.wrap  # a traced graph also checks its images
def _check_size(images: Tensor, known: tuple[tuple[Any, ...], ...]) -> None:
    if torch.compiler.is_compiling():
        return
    for name, shape, only in known:
        found = tuple(images.shape[1:])
        if only and found != shape:
            raise ValueError(
                f"{name} takes only images of {shape}, got {found}; resize them, or wrap the net in "
                f"Preprocessed(net, mean, std, size={shape[1:]})"
            )
        if found != shape:
            warnings.warn(
                f"{name} was made for images of {shape}, got {found}; resize them unless this is intended",
                stacklevel=6,
            )


def _check_has_head(net: Any, name: str) -> None:
    if isinstance(head_of(net), nn.Identity) and getattr(net, "num_classes", None) == 0:
        raise ValueError(
            f"{name} ({type(net).__name__}) outputs features, since it has no classifier; make it with num_classes, or "
            "call its reset_classifier(num_classes)"
        )
