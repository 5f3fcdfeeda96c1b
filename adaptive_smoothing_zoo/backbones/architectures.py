"""Base nets by name. A net registers itself where it is defined."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from adaptive_smoothing_zoo.surroundings import ordinary_tensors

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {}
"""Makers of base nets, by the name that entries and recipes use. Arguments are keywords, including ``num_classes``."""

Maker = TypeVar("Maker", bound=Callable[..., nn.Module])


def architecture(name: str) -> Callable[[Maker], Maker]:
    """Decorator that registers a class or function. Raises ValueError: another one has the name."""

    def register(make: Maker) -> Maker:
        known = ARCHITECTURES.setdefault(name, make)
        if (known.__module__, known.__qualname__) != (make.__module__, make.__qualname__):
            raise ValueError(f"there is another architecture {name!r}, {known.__qualname__}; choose another name")
        ARCHITECTURES[name] = make
        return make

    return register


def remember(net: nn.Module, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Note in a net how it was made, for ``made_as``. Outputs, identity and state dict do not depend on the note."""
    vars(net)["made_as"] = (architecture, dict(arguments))
    return net


def made_as(net: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """The architecture and arguments with which ``build`` makes such a net, including ``num_classes``; or None."""
    found: tuple[str, dict[str, Any]] | None = vars(net).get("made_as")
    return found


@ordinary_tensors()
def build(architecture: str, **arguments: Any) -> nn.Module:
    """A base net with random weights.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        arguments: keywords of that architecture's class or function.

    Raises:
        ValueError: an unknown architecture, or arguments that it does not take.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(sorted(ARCHITECTURES))}")
    try:
        return remember(ARCHITECTURES[architecture](**arguments), architecture, arguments)
    except TypeError as error:
        raise ValueError(f"wrong arguments for architecture {architecture!r}: {error}") from error


def build_described(net: Mapping[str, Any], num_classes: int, name: str) -> nn.Module:
    """A net from its description: a mapping with "architecture" and, optionally, "arguments".

    Args:
        name: the argument that holds the description, for the message.

    Raises:
        ValueError: no such data, or as ``build``.
    """
    if not isinstance(net, Mapping) or "architecture" not in net or set(net) - {"architecture", "arguments"}:
        raise ValueError(f"{name!r} must hold 'architecture' and, optionally, 'arguments', got {net!r}")
    return build(net["architecture"], num_classes=num_classes, **net.get("arguments", {}))
