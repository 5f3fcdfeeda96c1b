"""Trees of PyTorch's own layers, described as data, so that a user's net can be saved in a triplet without code.

``describe`` turns such a net into JSON values, and ``layered`` builds it again. A layer is
``{"layer": "Conv2d", "in_channels": 3, ...}``; ``Sequential`` and ``Residual`` hold others.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed


class Subsample(nn.Module):
    """Every ``stride``-th row and column, with ``pad`` channels of zeros before and after: option A of [HZRS16].

    Raises:
        ValueError: a stride below 1, or a negative pad.
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
"""The layers that a description may name, besides ``Sequential`` and ``Residual``."""

_IGNORED = {"device", "dtype", "bias", "_random_samples"}


class Residual(nn.Module):
    """``main(x) + shortcut(x)``.

    Args:
        main: the branch.
        shortcut: the other branch; the identity if None.
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
        net: a description by ``describe``.
        num_classes: if given, the required output length of the last linear layer.
        preprocessing: mean, std, size, interpolation of a :class:`Preprocessed` around the net; without any, none.

    Raises:
        ValueError: an invalid description, an unknown layer, arguments that a layer does not take, or another number of
            classes.
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

    Hooks, a replaced ``forward``, and settings that are not arguments of a layer's constructor are left out without
    notice; ``building.check_described`` refuses to save such a net.

    Raises:
        ValueError: it holds a module that is not one of ``LAYERS``, ``Sequential`` or ``Residual``.
    """
    if type(net) is nn.Sequential:
        names = [name for name, _ in net.named_children()]
        numbered = names == [str(i) for i in range(len(net))]
        described = {"layer": "Sequential", "layers": [describe(part) for part in net]}
        return described if numbered else described | {"names": names}
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


def _named(names: Any, layers: list[nn.Module]) -> OrderedDict[str, nn.Module]:
    """The layers of a Sequential by name."""
    texts = isinstance(names, (list, tuple)) and all(isinstance(name, str) and "." not in name for name in names)
    if not texts or len(set(names)) != len(layers) or len(names) != len(layers):
        raise ValueError(f"the names of a Sequential must be one text per layer, all different, got {names!r}")
    return OrderedDict(zip(names, layers, strict=True))


def _make(description: Any) -> nn.Module:
    if not isinstance(description, Mapping) or not isinstance(description.get("layer"), str):
        raise ValueError(f"a layer must be an object with its name under 'layer', got {description!r}")
    kind, arguments = description["layer"], {key: value for key, value in description.items() if key != "layer"}
    if kind == "Sequential":
        layers, names = arguments.get("layers"), arguments.get("names")
        if not arguments.keys() <= {"layers", "names"} or not isinstance(layers, (list, tuple)):
            raise ValueError(
                f"the layer Sequential must have a list 'layers' and may have their 'names', got {description!r}"
            )
        made = [_make(layer) for layer in layers]
        return nn.Sequential(*made) if names is None else nn.Sequential(_named(names, made))
    if kind == "Residual":
        if arguments.keys() != {"main", "shortcut"}:
            raise ValueError(f"the layer Residual must have 'main' and 'shortcut' and no more, got {description!r}")
        return Residual(_make(arguments["main"]), _make(arguments["shortcut"]))
    if kind not in LAYERS:
        raise ValueError(f"unknown layer {kind!r}; known: {', '.join((*LAYERS, 'Sequential', 'Residual'))}")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        return LAYERS[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"wrong arguments for the layer {kind}: {error}") from error
