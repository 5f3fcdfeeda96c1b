"""Choose, by index or name, the feature maps of two nets that a mixing network reads, and check that they exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, Alpha
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork


def adaptive_alpha(
    std_model: nn.Module,
    rob_model: nn.Module,
    planes: Sequence[int],
    *,
    std_taps: Sequence[int | str] = (0, 1),
    rob_taps: Sequence[int | str] = (0, 1),
    version: int = 4,
    **numbers: float,
) -> AdaptiveAlpha:
    """An alpha with a new mixing network that reads two feature maps from each of two nets with timm's interface.

    Args:
        planes: channels of the network's three groups; (512, 768, 1024) in [BAKS24].
        std_taps, rob_taps: the two maps of each net, in the net's order: indices of its ``feature_info``, or names of
            modules there, as "layer1", "stages.0" or "blocks.3". Maps of different sizes are resized.
        version, numbers: as of :class:`MixingNetwork` and :class:`AdaptiveAlpha`.

    Raises:
        ValueError: a net without feature maps, or an unknown map; the message lists the maps of the net.
    """
    std, rob = tap_indices(std_model, std_taps, "std"), tap_indices(rob_model, rob_taps, "rob")
    of_std, of_rob = (_channels(net, taps) for net, taps in ((std_model, std), (rob_model, rob)))
    network = MixingNetwork(of_std[0] + of_rob[0], of_std[1] + of_rob[1], planes, version=version)
    return AdaptiveAlpha(network, std_taps=std, rob_taps=rob, **numbers)


def tap_indices(net: Any, taps: Sequence[int | str], name: str) -> tuple[int, ...]:
    """Feature maps by index.

    Args:
        name: "std" or "rob", for messages.

    Raises:
        ValueError: as ``adaptive_alpha``.
    """
    if missing := [
        each for each in ("forward_intermediates", "forward_head", "feature_info") if not hasattr(net, each)
    ]:
        raise ValueError(
            f"{name}_model ({type(net).__name__}) has no {missing[0]}, so the mixing network cannot read its feature "
            "maps; use a net with timm's interface, or a constant alpha"
        )
    info = net.feature_info
    modules = [info[i]["module"] for i in range(len(info))]
    for tap in taps:
        if tap not in modules if isinstance(tap, str) else not -len(info) <= tap < len(info):
            what = f"called {tap!r}" if isinstance(tap, str) else f"at index {tap}"
            known = ", ".join(
                f"{i}: {module} ({info[i]['num_chs']} channels, 1/{info[i]['reduction']} of the size)"
                for i, module in enumerate(modules)
            )
            raise ValueError(
                f"{name}_model has no feature map {what} ({name}_taps); it has {len(info)} feature maps: {known}"
            )
    return tuple(modules.index(tap) if isinstance(tap, str) else tap for tap in taps)


def check_taps(nets: Sequence[nn.Module], alpha: Alpha) -> None:
    """Raise ValueError unless g and h have the feature maps that alpha reads, with the expected channels.

    A net without ``feature_info`` is not checked.
    """
    channels: list[list[int]] = []
    for net, taps, name in zip(nets, (alpha.std_taps, alpha.rob_taps), ("std", "rob"), strict=True):
        silent = hasattr(net, "forward_intermediates") and not hasattr(net, "feature_info")
        if taps is not None and not silent:
            channels.append(_channels(net, tap_indices(net, taps, name)))
    network = getattr(alpha, "mixing_network", None)
    if type(network) is not MixingNetwork or len(channels) < 2:
        return
    found = [sum(pair) for pair in zip(*channels, strict=True)]
    if found != network.input_channels:
        raise ValueError(
            f"the mixing network takes feature maps of {network.input_channels} channels, and those at std_taps "
            f"{alpha.std_taps} and rob_taps {alpha.rob_taps} have {found} in total; create it by "
            "method.taps.adaptive_alpha(std_model, rob_model, planes, ...)"
        )


def _channels(net: Any, taps: Sequence[int]) -> list[int]:
    return [int(net.feature_info[i]["num_chs"]) for i in taps]
