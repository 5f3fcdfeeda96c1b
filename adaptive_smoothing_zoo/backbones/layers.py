"""Nets that are trees of PyTorch's own layers, described as data: a user's net travels with its triplet without code.

``describe`` turns such a net into JSON values, and ``layered`` makes it again. A layer is
``{"layer": "Conv2d", "in_channels": 3, ...}``; ``Sequential`` and ``Residual`` hold others.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed


class Subsample(nn.Module):
    """Every ``stride``-th row and column, with ``pad`` channels of zeros before and behind: option A of [HZRS16].

    Args:
        stride, pad: at least 1 and 0.
    """

    def __init__(self, stride: int, pad: int) -> None:
        super().__init__()
        if stride < 1 or pad < 0:
            raise ValueError(f"a stride is at least 1 and a padding at least 0, got {stride} and {pad}")
        self.stride, self.pad = stride, pad

    def forward(self, features: Tensor) -> Tensor:
        return F.pad(features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, pad={self.pad}"


LAYERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.AdaptiveAvgPool2d,
        nn.AvgPool2d,
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.Conv2d,
        nn.Dropout,
        nn.ELU,
        nn.Flatten,
        nn.GELU,
        nn.GroupNorm,
        nn.Identity,
        nn.LeakyReLU,
        nn.Linear,
        nn.MaxPool2d,
        nn.ReLU,
        nn.ReLU6,
        nn.SiLU,
        nn.Sigmoid,
        nn.Softplus,
        nn.Tanh,
        nn.Upsample,
        Subsample,
    )
}
"""What a description may name, besides ``Sequential`` and ``Residual``."""

_IGNORED = {"device", "dtype", "inplace", "bias", "_random_samples"}


class Residual(nn.Module):
    """``main(x) + shortcut(x)``.

    Args:
        main: the branch.
        shortcut: the identity if None.
    """

    def __init__(self, main: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.main, self.shortcut = main, nn.Identity() if shortcut is None else shortcut

    def forward(self, features: Tensor) -> Tensor:
        return self.main(features) + self.shortcut(features)  # type: ignore[no-any-return]


@architecture("layers")
def layered(*, net: Mapping[str, Any], num_classes: int | None = None, **preprocessing: Any) -> nn.Module:
    """The net of a description, with random weights.

    Args:
        net: as ``describe`` gives it.
        num_classes: what the last linear layer must give, if it is said.
        preprocessing: mean, std, size, interpolation of :class:`Preprocessed` around it; none if none is said.

    Raises:
        ValueError: no description, an unknown layer, arguments that a layer does not take, or other classes.
    """
    made = _make(net)
    last = [layer for layer in made.modules() if isinstance(layer, nn.Linear)]
    if num_classes is not None and last and last[-1].out_features != num_classes:
        raise ValueError(f"the described net gives {last[-1].out_features} classes, not {num_classes}")
    if not preprocessing:
        return made
    size = preprocessing.pop("size", None)
    return Preprocessed(made, size=None if size is None else (size[0], size[1]), **preprocessing)


def describe(net: nn.Module) -> dict[str, Any]:
    """A net as JSON values.

    Raises:
        ValueError: it holds a module that is not one of ``LAYERS``, ``Sequential`` or ``Residual``, or that has hooks,
            another forward, or settings that the description does not know.
    """
    if type(net) is nn.Sequential:
        return {"layer": "Sequential", "layers": [describe(part) for part in net]}
    if type(net) is Residual:
        return {"layer": "Residual", "main": describe(net.main), "shortcut": describe(net.shortcut)}
    kind = type(net).__name__
    if LAYERS.get(kind) is not type(net):
        known = ", ".join((*LAYERS, "Sequential", "Residual"))
        raise ValueError(f"a {kind} cannot be described as data; nets of these layers can: {known}")
    found: dict[str, Any] = {"layer": kind}
    for name, parameter in inspect.signature(type(net)).parameters.items():
        if name in _IGNORED or not hasattr(net, name):
            continue
        value = getattr(net, name)
        value = list(value) if isinstance(value, tuple) else value
        if value != parameter.default:
            found[name] = value
    if "bias" in inspect.signature(type(net)).parameters and getattr(net, "bias", None) is None:
        found["bias"] = False
    return found


def _make(description: Any) -> nn.Module:
    if not isinstance(description, Mapping) or not isinstance(description.get("layer"), str):
        raise ValueError(f"a layer is an object with a name under 'layer', got {description!r}")
    kind, arguments = description["layer"], {key: value for key, value in description.items() if key != "layer"}
    if kind == "Sequential":
        return nn.Sequential(*map(_make, arguments["layers"]))
    if kind == "Residual":
        return Residual(_make(arguments["main"]), _make(arguments["shortcut"]))
    if kind not in LAYERS:
        raise ValueError(f"unknown layer {kind!r}; known: {', '.join((*LAYERS, 'Sequential', 'Residual'))}")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        return LAYERS[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"wrong arguments for the layer {kind}: {error}") from error
