"""Describes a base net from any source as the data of an entry, so that it can be rebuilt without the user's code.

The description comes from the note that ``build`` and ``references.resolve`` leave in the net, from its parts, or from
its library's metadata. ``building.check_described`` verifies it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from adaptive_smoothing_zoo.backbones import made_as
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.layers import describe
from adaptive_smoothing_zoo.backbones.made_for import channels_of, image_shape_of, timm_cfg_of
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.storage.identity import structure_of, unwrapped
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig


def described_net(net: nn.Module, name: str) -> BaseNetConfig:
    """The description of a net for an entry.

    Args:
        name: of the net, for the message.

    Raises:
        ConfigError: an entry cannot describe it.
    """
    if (config := config_of(net)) is None:
        place, part = _culprit(name, unwrapped(net))
        raise ConfigError(
            f"{name} cannot be saved: an entry cannot describe the code of {place}, a {type(part).__name__}; make it "
            "by backbones.build, load_base_net or zoo.references.resolve, by timm or torchvision, or from PyTorch's "
            "layers and those of backbones.layers (for a net that normalizes first: Preprocessed(net, mean, std)); or "
            "save only its weights by torch.save(model.state_dict(), file)"
        )
    return config


def _culprit(name: str, net: nn.Module) -> tuple[str, nn.Module]:
    """The first part of a Sequential that cannot be described, at any depth, and its name; any other net itself."""
    for child, part in net.named_children() if type(net) is nn.Sequential else ():
        if _of_layers(part) is None:
            return _culprit(f"{name}.{child}", part)
    return name, net


def config_of(net: nn.Module) -> BaseNetConfig | None:
    """The description of a net for an entry; None if it cannot be rebuilt."""
    net = unwrapped(net)
    if (noted := made_as(net)) is not None:
        return _config(*noted)
    if isinstance(net, Preprocessed):
        return _of_preprocessed(net)
    if isinstance(net, GaussianSmoothed):
        return _of_smoothed(net)
    place = type(net).__module__.partition(".")[0]
    return _FROM.get(place, _of_layers)(net)


def _config(architecture: str, arguments: dict[str, Any]) -> BaseNetConfig:
    return BaseNetConfig(
        architecture=architecture, arguments={key: value for key, value in arguments.items() if key != "num_classes"}
    )


def _of_layers(net: nn.Module, **preprocessing: Any) -> BaseNetConfig | None:
    try:
        return BaseNetConfig(architecture="layers", arguments={"net": describe(net), **preprocessing})
    except ValueError:
        return None


def _of_preprocessed(net: Preprocessed) -> BaseNetConfig | None:
    looks: dict[str, Any] = {"mean": net.mean.flatten().tolist(), "std": net.std.flatten().tolist()}
    looks |= {"size": None if net.size is None else list(net.size), "interpolation": net.interpolation}
    inner = config_of(net.net)
    if inner is None or inner.architecture == "layers":
        return None if inner is None else _of_layers(net.net, **looks)
    return BaseNetConfig(architecture="preprocessed", arguments={"net": _as_data(inner), **looks})


def _of_smoothed(net: GaussianSmoothed) -> BaseNetConfig | None:
    if (base := config_of(net.base)) is None:
        return None
    shape = list(net.noise.shape)
    bank = {"sigma": net.sigma, "image_shape": shape[1:], "num_noises": shape[0]}
    more = {"votes": net.votes, "logit_scale": net.logit_scale.scale}
    return BaseNetConfig(architecture="gaussian_smoothed", arguments={"base": _as_data(base), **bank, **more})


def _as_data(config: BaseNetConfig) -> dict[str, Any]:
    return {"architecture": config.architecture, "arguments": config.arguments}


def _of_timm(net: nn.Module) -> BaseNetConfig | None:
    """From timm's metadata in the net; channels and image size are options if they are not the default."""
    cfg, options = timm_cfg_of(net), dict[str, Any]()
    if not isinstance(cfg.get("architecture"), str):
        return None
    channels, *size = cfg.get("input_size", (3,))
    if (found := channels_of(net)) not in (None, channels):
        options["in_chans"] = found
    if size and (shape := image_shape_of(net)) is not None and list(shape[1:]) != size:
        options["img_size"] = list(shape[1:])
    arguments: dict[str, Any] = {"model": cfg["architecture"], "mean": None, "std": None}
    return BaseNetConfig(architecture="timm", arguments=arguments | ({"options": options} if options else {}))


def _of_torchvision(net: nn.Module) -> BaseNetConfig | None:
    """The torchvision model with the net's parts, settings and shapes; candidates are built without weights."""
    from torchvision import models

    wanted, classes = _sketch(net), _last_length(net)
    for name in models.list_models(module=models):
        if models.get_model_builder(name).__module__ != type(net).__module__:
            continue
        with suppress(RuntimeError), torch.device("meta"):  # some cannot be built without weights
            if _sketch(models.get_model(name, weights=None, num_classes=classes)) == wanted:
                arguments = {"model": name, "mean": None, "std": None}
                return BaseNetConfig(architecture="torchvision", arguments=arguments)
    return None


def _sketch(net: nn.Module) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    return structure_of(net), {name: tuple(value.shape) for name, value in net.state_dict().items()}


def _last_length(net: nn.Module) -> int:
    lengths = [getattr(layer, "out_features", getattr(layer, "out_channels", None)) for layer in net.modules()]
    return next((length for length in reversed(lengths) if isinstance(length, int)), 0)


def _of_robustbench(net: nn.Module) -> BaseNetConfig | None:
    """The RobustBench model whose class only this net has."""
    known = getattr(sys.modules.get("robustbench.model_zoo.models"), "model_dicts", {})
    for dataset, threats in known.items():
        for threat, models in threats.items():
            for name, about in models.items():
                if about.get("model") is type(net):
                    arguments = {"model": name, "dataset": dataset.value, "threat_model": threat.value}
                    return BaseNetConfig(architecture="robustbench", arguments=arguments)
    return None


_FROM: dict[str, Callable[[nn.Module], BaseNetConfig | None]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "robustbench": _of_robustbench,
}
