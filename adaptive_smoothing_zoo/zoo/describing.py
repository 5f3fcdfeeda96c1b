"""From a module to the entry that describes it, and the proof that it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import in_eval_mode
from adaptive_smoothing_zoo.errors import ConfigError, reason
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, ConstantAlpha
from adaptive_smoothing_zoo.method.backbone import TRUNKS
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale, Scale
from adaptive_smoothing_zoo.storage.identity import has_foreign_code, probe_images, structure_of, unwrapped
from adaptive_smoothing_zoo.zoo.entry import (
    AdaptiveAlphaConfig,
    ConstantAlphaConfig,
    Entry,
    HardMaxConfig,
    HeadConfig,
    LogitMapConfig,
    NormClampPowerScaleConfig,
    ScaleConfig,
)


def entry_of(module: MixedClassifier, words: Entry) -> Entry:
    """The entry of a module: alpha, logit maps and head as they are in it; ``words`` lends the rest.

    Whether the rest (the base nets' architectures above all) is right is for ``check_described`` to find out.

    Raises:
        ConfigError: a part of a kind that entries do not know.
    """
    try:
        if module.head is not None:
            return replace(words, head=_head(module, module.head))
        return replace(
            words,
            alpha=_alpha(unwrapped(module.alpha)),
            std_map=_map(unwrapped(module.std_map)),
            rob_map=_map(unwrapped(module.rob_map)),
            head=None,
        )
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


def check_described(module: nn.Module, twin: nn.Module, key: str, image_shape: tuple[int, int, int]) -> None:
    """Raise ConfigError unless a module is what its entry makes.

    Args:
        twin: what the entry makes, on the meta device; it gets the module's weights if these fit.
        key: of the entry, for messages.
    """
    if found := next(_differences(module, twin), None):
        raise ConfigError(f"{key} cannot be saved: no entry describes it, {found}; save a module without that")
    if not has_foreign_code(module):
        return
    # Hooks, exchanged methods and classes that only have the same name: they must change nothing.
    weights = weights_of(module)
    twin.load_state_dict(weights, assign=True)
    device = next(iter(weights.values())).device
    with torch.no_grad(), in_eval_mode(module), in_eval_mode(twin):
        images = probe_images(image_shape).to(device)
        if not torch.allclose(module(images), twin(images), rtol=1e-4, atol=1e-5):
            raise ConfigError(
                f"{key} cannot be saved: hooks or code of other packages change its output, and an entry cannot "
                "describe them; remove them"
            )


def _differences(module: nn.Module, twin: nn.Module) -> Iterator[str]:
    """What is not the same in both, in words."""
    mine, its = structure_of(module), structure_of(twin)
    for name in sorted(mine.keys() | its.keys()):
        where, found, expected = name or "the module", mine.get(name), its.get(name)
        if found is None or expected is None:
            yield f"{where} is {'missing' if found is None else 'a ' + found['class']}"
        elif found["class"] != expected["class"]:
            yield f"{where} is a {found['class']}, not a {expected['class']}"
        else:
            for key in sorted(found["settings"].keys() | expected["settings"].keys()):
                values = [each["settings"].get(key) for each in (found, expected)]
                if values[0] != values[1]:
                    yield f"{key} of {where} is {values[0]!r}, not {values[1]!r}"
    yield from _differences_of_weights(weights_of(module), weights_of(twin))


def _differences_of_weights(mine: dict[str, Any], its: dict[str, Any]) -> Iterator[str]:
    for key in sorted(mine.keys() | its.keys()):
        found, expected = mine.get(key), its.get(key)
        if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
            yield f"{key} is {'missing' if found is None else 'more than an entry has'}"
        elif found.shape != expected.shape:
            yield f"{key} has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        elif found.dtype != expected.dtype:
            yield f"{key} is {found.dtype}, but published weights are {expected.dtype}"


def _alpha(alpha: nn.Module) -> ConstantAlphaConfig | AdaptiveAlphaConfig:
    if type(alpha) is ConstantAlpha:
        return ConstantAlphaConfig(value=alpha.alpha_min)
    if type(alpha) is AdaptiveAlpha:
        return _adaptive_alpha(alpha)
    raise ValueError(f"entries know a constant and an adaptive alpha, not a {type(alpha).__name__}")


def _adaptive_alpha(alpha: AdaptiveAlpha) -> AdaptiveAlphaConfig:
    network = unwrapped(alpha.mixing_network)
    planes = [group[0].conv1.out_channels for group in network.groups]  # type: ignore[union-attr]
    return AdaptiveAlphaConfig(
        alpha_min=alpha.alpha_min,
        alpha_max=alpha.alpha_max,
        logit_scale=alpha.logit_scale,
        logit_bias=alpha.logit_bias,
        planes=(planes[0], planes[1], planes[2]),
        version=3 if isinstance(network.project, nn.Identity) else 4,
        std_taps=(alpha.std_taps[0], alpha.std_taps[1]),
        rob_taps=(alpha.rob_taps[0], alpha.rob_taps[1]),
    )


def _map(module: nn.Module) -> LogitMapConfig:
    if isinstance(module, Scale):
        return ScaleConfig(factor=module.scale)
    if isinstance(module, HardMax):
        return HardMaxConfig()
    if isinstance(module, NormClampPowerScale):
        return NormClampPowerScaleConfig(
            scale=module.scale, power=module.power, clamp_bias=module.clamp_bias, top_k=module.top_k
        )
    raise ValueError(f"entries know no logit map {type(module).__name__}")


def _head(module: MixedClassifier, head: nn.Module) -> HeadConfig:
    if not isinstance(head, (nn.Linear, nn.Identity)):
        raise ValueError(f"entries know a linear head and none, not a {type(head).__name__}")
    nets = {name: unwrapped(net) for name in TRUNKS["both"] if (net := getattr(module, name)) is not None}
    return HeadConfig(
        features=cast(Any, next(name for name, trunks in TRUNKS.items() if trunks == module.trunks)),
        num_classes=getattr(head, "out_features", 0),
        stages={name: len(cast(Any, net).stages) for name, net in nets.items()},
        without_final=tuple(name for name, net in nets.items() if isinstance(net.final, nn.Identity)),
    )
