"""Base nets by name. A net puts itself on the list where it is defined."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from adaptive_smoothing_zoo.surroundings import ordinary_tensors

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {}
"""What makes each net, by the name that entries and recipes use. Arguments are keywords, ``num_classes`` among them."""

Maker = TypeVar("Maker", bound=Callable[..., nn.Module])


def architecture(name: str) -> Callable[[Maker], Maker]:
    """A decorator that puts a class or a function on the list. Raises ValueError: another one has the name."""

    def register(make: Maker) -> Maker:
        known = ARCHITECTURES.setdefault(name, make)
        if (known.__module__, known.__qualname__) != (make.__module__, make.__qualname__):
            raise ValueError(f"there is another architecture {name!r}, {known.__qualname__}; choose another name")
        ARCHITECTURES[name] = make
        return make

    return register


def remember(net: nn.Module, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Note in a net how it was made; ``made_as`` reads it. No output, identity or state dict depends on the note."""
    vars(net)["made_as"] = (architecture, dict(arguments))
    return net


def made_as(net: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """The name and the arguments by which ``build`` makes such a net, ``num_classes`` among them; None if not known."""
    found: tuple[str, dict[str, Any]] | None = vars(net).get("made_as")
    return found


@ordinary_tensors()
def build(architecture: str, **arguments: Any) -> nn.Module:
    """A base net with random weights.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        arguments: of that architecture's class or function.

    Raises:
        ValueError: an unknown architecture, or arguments it does not take; the message names what exists.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(sorted(ARCHITECTURES))}")
    try:
        return remember(ARCHITECTURES[architecture](**arguments), architecture, arguments)
    except TypeError as error:
        raise ValueError(f"wrong arguments for architecture {architecture!r}: {error}") from error


def build_described(net: Mapping[str, Any], num_classes: int, name: str) -> nn.Module:
    """The net inside of another, called ``name`` there: data with its "architecture" and, optionally, "arguments".

    Raises:
        ValueError: no such data, or as ``build``.
    """
    if not isinstance(net, Mapping) or "architecture" not in net or set(net) - {"architecture", "arguments"}:
        raise ValueError(f"{name!r} must hold 'architecture' and, optionally, 'arguments', got {net!r}")
    return build(net["architecture"], num_classes=num_classes, **net.get("arguments", {}))
