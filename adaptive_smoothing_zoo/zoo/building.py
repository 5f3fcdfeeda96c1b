"""Builds modules from an entry, an entry from modules, and checks that an entry describes a module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

import adaptive_smoothing_zoo.zoo.robustbench  # noqa: F401  (puts RobustBench's nets on the list of architectures)
from adaptive_smoothing_zoo.backbones import build, made_as
from adaptive_smoothing_zoo.backbones.asking import in_eval_mode, number_of_classes
from adaptive_smoothing_zoo.backbones.base import float_tensor_of
from adaptive_smoothing_zoo.backbones.made_for import image_shape_of
from adaptive_smoothing_zoo.errors import ConfigError, reason
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, ConstantAlpha
from adaptive_smoothing_zoo.method.backbone import TRUNKS
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale, Scale
from adaptive_smoothing_zoo.method.taps import adaptive_alpha
from adaptive_smoothing_zoo.storage.identity import has_foreign_code, probe_images, structure_of, unwrapped
from adaptive_smoothing_zoo.threat import LINF
from adaptive_smoothing_zoo.zoo.base_net_config import described_net
from adaptive_smoothing_zoo.zoo.entry import (
    UNPUBLISHED,
    UNSAID,
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
    """The net of a config, with random weights. Raises ValueError for an unknown architecture, argument or net."""
    if config.pretrained is not None and config.pretrained not in BASE_NETS:
        raise ValueError(f"no base net {config.pretrained!r}; known: {', '.join(sorted(BASE_NETS))}")
    return build(config.architecture, num_classes=num_classes, **config.arguments)


def build_map(config: LogitMapConfig) -> nn.Module:
    """The logit map of a config."""
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
    raise ValueError(f"entries cannot describe the logit map {type(module).__name__}")


def build_alpha(config: AlphaConfig, std_model: nn.Module, rob_model: nn.Module) -> ConstantAlpha | AdaptiveAlpha:
    """The alpha of a config; a mixing network has random weights. Raises ValueError for taps that a base net lacks."""
    if isinstance(config, ConstantAlphaConfig):
        return ConstantAlpha(config.value)
    numbers = {name: getattr(config, name) for name in _OF_ALPHA}
    return adaptive_alpha(std_model, rob_model, config.planes, version=config.version, **numbers)


def alpha_config(alpha: nn.Module) -> AlphaConfig:
    """The inverse of ``build_alpha``. Raises ValueError for another module."""
    if type(alpha) is ConstantAlpha:
        return ConstantAlphaConfig(value=alpha.alpha_min)
    if type(alpha) is not AdaptiveAlpha:
        raise ValueError(f"entries support a constant or an adaptive alpha, not a {type(alpha).__name__}")
    network = unwrapped(alpha.mixing_network)
    planes = [group[0].conv1.out_channels for group in network.groups]  # type: ignore[union-attr]
    return AdaptiveAlphaConfig(
        planes=(planes[0], planes[1], planes[2]),
        version=3 if isinstance(network.project, nn.Identity) else 4,
        **{name: getattr(alpha, name) for name in _OF_ALPHA},
    )


def give_up_mix(module: MixedClassifier, config: HeadConfig) -> None:
    """Replace the mix by a head, and cut the nets to the stages in the config."""
    module.reset_classifier(config.num_classes, features=config.features)
    for name in TRUNKS["both"]:
        if name not in config.stages:
            setattr(module, name, None)
        elif name in module.trunks:
            net, norm = getattr(module, name), name in config.without_final
            if norm or config.stages[name] != _stages(net):
                net.prune_intermediate_layers([config.stages[name] - 1], prune_norm=norm, prune_head=False)


def _stages(net: Any) -> int:
    """The number of a net's stages: each has one feature map. 1 for a net without maps, which then is not used."""
    return len(net.feature_info) if hasattr(net, "feature_info") else 1


def head_config(module: MixedClassifier, head: nn.Module) -> HeadConfig:
    """The inverse of ``give_up_mix``. Raises ValueError for another head."""
    if not isinstance(head, (nn.Linear, nn.Identity)):
        raise ValueError(f"entries support a linear head or none, not a {type(head).__name__}")
    nets = {name: unwrapped(net) for name in TRUNKS["both"] if (net := getattr(module, name)) is not None}
    return HeadConfig(
        features=cast(Any, next(name for name, trunks in TRUNKS.items() if trunks == module.trunks)),
        num_classes=getattr(head, "out_features", 0),
        stages={name: _stages(net) for name, net in nets.items()},
        without_final=tuple(n for n, net in nets.items() if isinstance(getattr(net, "final", None), nn.Identity)),
    )


def entry_of(module: MixedClassifier, words: Entry) -> Entry:
    """The entry of a module: alpha, logit maps and head from the module, the rest from ``words``.

    ``check_described`` verifies the rest, above all the base nets' architectures.

    Raises:
        ConfigError: a part that entries do not support.
    """
    try:
        if module.head is not None:
            return replace(words, head=head_config(module, module.head))
        std_map, rob_map = map_config(unwrapped(module.std_map)), map_config(unwrapped(module.rob_map))
        return replace(words, alpha=alpha_config(unwrapped(module.alpha)), std_map=std_map, rob_map=rob_map, head=None)
    except (ValueError, IndexError, AttributeError) as error:
        raise ConfigError(f"{words.key} cannot be saved: {reason(error)}") from error


def first_entry(mix: MixedClassifier, **words: Any) -> Entry:
    """An entry for a mix that has none.

    Args:
        words: fields that replace derived or default ones. The default data set is "custom". The default threat model
            is l_inf with 8/255, as on most leaderboards; the entry then has the limit ``UNSAID``.

    Raises:
        ConfigError: a part that entries do not support, or images of unknown shape.
    """
    nets = {name: net for name in TRUNKS["both"] if (net := getattr(mix, name)) is not None}
    configs = {name: described_net(net, name) for name, net in nets.items()}
    configs = {name: configs.get(name, next(iter(configs.values()))) for name in TRUNKS["both"]}
    shape = words.get("image_shape") or next(
        (s for s in (image_shape_of(unwrapped(net)) for net in nets.values()) if s is not None), None
    )
    if shape is None:
        raise ConfigError(
            "neither net declares its images' shape; give image_shape=(channels, height, width), as in "
            "save_pretrained(folder, image_shape=(3, 32, 32))"
        )
    made_of = " + ".join(_called(config) for config in configs.values())
    known: dict[str, Any] = {
        "name": "Mix",
        "dataset": "custom",
        "threat_model": LINF,
        "eps": "8/255",
        "description": f"A mix of two nets, {made_of}.",
        "num_classes": _classes_of(mix, shape),
        "image_shape": shape,
        **configs,
        "alpha": ConstantAlphaConfig(value=1.0),  # which entry_of replaces
        "paper": UNPUBLISHED,
        "architecture": made_of,
        "additional_data": None,
        "number_forward_passes": sum(int(config.arguments.get("num_noises", 1)) for config in configs.values()),
        "license": "other",
    }
    unsaid = () if "eps" in words else (UNSAID,)
    words = words | {"limits": (*words.get("limits", ()), *unsaid)}
    return entry_of(mix, Entry(**(known | words)))


def _called(config: BaseNetConfig) -> str:
    """The name of a net's architecture on a leaderboard."""
    inner = config.arguments.get("net") if config.architecture == "preprocessed" else None
    if isinstance(inner, dict):
        return _called(BaseNetConfig(**inner))
    return str(config.arguments.get("model", config.architecture))


def _classes_of(mix: MixedClassifier, shape: Sequence[int]) -> int:
    """Classes of the mix; after ``reset_classifier`` those that a net declares, 2 if none does (nothing uses them)."""
    if mix.head is not None:
        nets = [unwrapped(net) for net in (mix.std_model, mix.rob_model) if net is not None]
        had = [(made_as(net) or ("", {}))[1].get("num_classes") for net in nets]
        had += [count for net in nets for count in (number_of_classes(net), getattr(net, "num_classes", None))]
        return next((count for count in had if isinstance(count, int) and count >= 2), 2)
    like = float_tensor_of(mix)
    with torch.no_grad(), in_eval_mode(mix):
        images = torch.zeros(1, *shape, device=None if like is None else like.device)
        try:
            return int(mix(images).shape[1])
        except (ValueError, RuntimeError, TypeError, IndexError, AssertionError) as error:
            raise ConfigError(f"the mix fails on an image of shape {tuple(shape)}: {reason(error)}") from error


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
    """Raise ConfigError unless a module equals the one that its entry builds.

    Args:
        twin: the module built from the entry, on the meta device; it gets the module's weights if these fit.
    """
    mine, its = _facts(module), _facts(twin)
    for what in [*mine, *its]:
        found, wanted = mine.get(what, "missing"), its.get(what, "missing")
        if found != wanted:
            raise ConfigError(
                f"{entry.key} cannot be saved: an entry cannot describe that {what} is {found}, not {wanted}; save a "
                "module without that"
            )
    if not has_foreign_code(module):
        return
    # Hooks, replaced methods and other classes of the same name must not change the output.
    weights = weights_of(module)
    device = next(iter(weights.values())).device
    twin.load_state_dict(weights, assign=True)
    twin.to(device)  # buffers that are not among the weights
    with torch.no_grad(), in_eval_mode(module), in_eval_mode(twin):
        images = probe_images(entry.image_shape).to(device)
        if not torch.allclose(module(images), twin(images), rtol=1e-4, atol=1e-5):
            raise ConfigError(
                f"{entry.key} cannot be saved: hooks or code of other packages change its output, and an entry cannot "
                "describe them; remove them"
            )


def _facts(module: nn.Module) -> dict[str, str]:
    """The facts that an entry must reproduce: a module's parts with their settings, and its weights."""
    facts = {}
    for name, part in structure_of(module).items():
        where = name or "the module"
        facts[where] = f"a {part['class']}"
        facts |= {f"{key} of {where}": repr(value) for key, value in part["settings"].items()}
    for name, value in weights_of(module).items():
        facts[name] = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"
    return facts
