"""From an entry to modules, from modules to an entry, and the proof that an entry describes a module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.asking import in_eval_mode
from adaptive_smoothing_zoo.errors import ConfigError, reason
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, ConstantAlpha
from adaptive_smoothing_zoo.method.backbone import TRUNKS
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale, Scale
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork
from adaptive_smoothing_zoo.storage.identity import has_foreign_code, probe_images, structure_of, unwrapped
from adaptive_smoothing_zoo.zoo.entry import (
    AdaptiveAlphaConfig,
    AlphaConfig,
    BaseNetConfig,
    ConstantAlphaConfig,
    Entry,
    HardMaxConfig,
    HeadConfig,
    LogitMapConfig,
    NormClampPowerScaleConfig,
    ScaleConfig,
)
from adaptive_smoothing_zoo.zoo.shipped_nets import BASE_NETS

_OF_ALPHA = ("alpha_min", "alpha_max", "logit_scale", "logit_bias", "std_taps", "rob_taps")
_OF_MAP = ("scale", "power", "clamp_bias", "top_k")


def build_base_net(config: BaseNetConfig, num_classes: int) -> nn.Module:
    """Raises ValueError for an architecture, arguments or a pretrained net that do not exist."""
    if config.pretrained is not None and config.pretrained not in BASE_NETS:
        raise ValueError(f"no base net {config.pretrained!r}; known: {', '.join(sorted(BASE_NETS))}")
    return build(config.architecture, num_classes=num_classes, **config.arguments)


def build_map(config: LogitMapConfig) -> nn.Module:
    if isinstance(config, ScaleConfig):
        return Scale(config.factor)
    if isinstance(config, HardMaxConfig):
        return HardMax()
    return NormClampPowerScale(**{name: getattr(config, name) for name in _OF_MAP})


def map_config(module: nn.Module) -> LogitMapConfig:
    """The inverse of ``build_map``. Raises ValueError for another module."""
    if isinstance(module, Scale):
        return ScaleConfig(factor=module.scale)
    if isinstance(module, HardMax):
        return HardMaxConfig()
    if isinstance(module, NormClampPowerScale):
        return NormClampPowerScaleConfig(**{name: getattr(module, name) for name in _OF_MAP})
    raise ValueError(f"entries know no logit map {type(module).__name__}")


def build_alpha(config: AlphaConfig, std_model: nn.Module, rob_model: nn.Module) -> ConstantAlpha | AdaptiveAlpha:
    """Raises ValueError for taps that a base net does not have."""
    if isinstance(config, ConstantAlphaConfig):
        return ConstantAlpha(config.value)
    std = _channels(std_model, config.std_taps, "std")
    rob = _channels(rob_model, config.rob_taps, "rob")
    network = MixingNetwork(std[0] + rob[0], std[1] + rob[1], config.planes, version=config.version)
    return AdaptiveAlpha(network, **{name: getattr(config, name) for name in _OF_ALPHA})


def _channels(net: nn.Module, taps: tuple[int, int], name: str) -> list[int]:
    info = cast(list[dict[str, int]], net.feature_info)
    if outside := [i for i in taps if not -len(info) <= i < len(info)]:
        raise ValueError(
            f"{name}_model has {len(info)} feature maps; there is none at index {outside[0]} ({name}_taps)"
        )
    return [info[i]["num_chs"] for i in taps]


def alpha_config(alpha: nn.Module) -> AlphaConfig:
    """The inverse of ``build_alpha``. Raises ValueError for another module."""
    if type(alpha) is ConstantAlpha:
        return ConstantAlphaConfig(value=alpha.alpha_min)
    if type(alpha) is not AdaptiveAlpha:
        raise ValueError(f"entries know a constant and an adaptive alpha, not a {type(alpha).__name__}")
    network = unwrapped(alpha.mixing_network)
    planes = [group[0].conv1.out_channels for group in network.groups]  # type: ignore[union-attr]
    return AdaptiveAlphaConfig(
        planes=(planes[0], planes[1], planes[2]),
        version=3 if isinstance(network.project, nn.Identity) else 4,
        **{name: getattr(alpha, name) for name in _OF_ALPHA},
    )


def give_up_mix(module: MixedClassifier, config: HeadConfig) -> None:
    """Put a head in place of the mix, and leave of the nets what the config says."""
    module.reset_classifier(config.num_classes, features=config.features)
    for name in TRUNKS["both"]:
        if name not in config.stages:
            setattr(module, name, None)
        elif name in module.trunks:
            last, norm = config.stages[name] - 1, name in config.without_final
            getattr(module, name).prune_intermediate_layers([last], prune_norm=norm, prune_head=False)


def head_config(module: MixedClassifier, head: nn.Module) -> HeadConfig:
    """The inverse of ``give_up_mix``. Raises ValueError for another head."""
    if not isinstance(head, (nn.Linear, nn.Identity)):
        raise ValueError(f"entries know a linear head and none, not a {type(head).__name__}")
    nets = {name: unwrapped(net) for name in TRUNKS["both"] if (net := getattr(module, name)) is not None}
    return HeadConfig(
        features=cast(Any, next(name for name, trunks in TRUNKS.items() if trunks == module.trunks)),
        num_classes=getattr(head, "out_features", 0),
        stages={name: len(cast(Any, net).stages) for name, net in nets.items()},
        without_final=tuple(name for name, net in nets.items() if isinstance(net.final, nn.Identity)),
    )


def entry_of(module: MixedClassifier, words: Entry) -> Entry:
    """The entry of a module: alpha, logit maps and head as they are in it; ``words`` lends the rest.

    Whether the rest (the base nets' architectures above all) is right is for ``check_described`` to find out.

    Raises:
        ConfigError: a part of a kind that entries do not know.
    """
    try:
        if module.head is not None:
            return replace(words, head=head_config(module, module.head))
        std_map, rob_map = map_config(unwrapped(module.std_map)), map_config(unwrapped(module.rob_map))
        return replace(words, alpha=alpha_config(unwrapped(module.alpha)), std_map=std_map, rob_map=rob_map, head=None)
    except (ValueError, IndexError, AttributeError) as error:
        raise ConfigError(f"{words.key} cannot be saved: {reason(error)}") from error


def weights_of(module: nn.Module, prefix: str = "") -> dict[str, Any]:
    """The state dict of a module without the names of compiled and parallel wrappers."""
    module = unwrapped(module)
    state: dict[str, Any] = {}
    module._save_to_state_dict(state, prefix, False)
    for name, part in module._modules.items():
        if part is not None:
            state |= weights_of(part, f"{prefix}{name}.")
    return state


def check_described(module: nn.Module, twin: nn.Module, entry: Entry) -> None:
    """Raise ConfigError unless a module is what its entry makes.

    Args:
        twin: what the entry makes, on the meta device; it gets the module's weights if these fit.
    """
    mine, its = _facts(module), _facts(twin)
    for what in [*mine, *its]:
        found, wanted = mine.get(what, "missing"), its.get(what, "missing")
        if found != wanted:
            raise ConfigError(
                f"{entry.key} cannot be saved: no entry describes it, {what} is {found}, not {wanted}; save a module "
                "without that"
            )
    if not has_foreign_code(module):
        return
    # Hooks, exchanged methods and classes that only have the same name: they must change nothing.
    weights = weights_of(module)
    twin.load_state_dict(weights, assign=True)
    device = next(iter(weights.values())).device
    with torch.no_grad(), in_eval_mode(module), in_eval_mode(twin):
        images = probe_images(entry.image_shape).to(device)
        if not torch.allclose(module(images), twin(images), rtol=1e-4, atol=1e-5):
            raise ConfigError(
                f"{entry.key} cannot be saved: hooks or code of other packages change its output, and an entry cannot "
                "describe them; remove them"
            )


def _facts(module: nn.Module) -> dict[str, str]:
    """What an entry must say of a module: its parts with their settings, and its weights."""
    facts = {}
    for name, part in structure_of(module).items():
        where = name or "the module"
        facts[where] = f"a {part['class']}"
        facts |= {f"{key} of {where}": repr(value) for key, value in part["settings"].items()}
    for name, value in weights_of(module).items():
        facts[name] = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"
    return facts
