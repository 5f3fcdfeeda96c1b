"""Pretrained base nets that this package or one of its dependencies ships."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.key_tables import normalization, rename
from adaptive_smoothing_zoo.backbones.resnet import CIFAR_RESNET_KEYS
from adaptive_smoothing_zoo.errors import UnknownModelError, WeightsError
from adaptive_smoothing_zoo.storage.files import file_sha256
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.zoo.weights import EMBEDDED, load_strictly, read_safetensors


@dataclass(frozen=True, kw_only=True)
class ShippedNet:
    """A base net with weights."""

    architecture: str  # with arguments: for backbones.build
    arguments: dict[str, Any]
    state_dict: Callable[[], dict[str, Tensor]]  # reads the weights, with our keys


@own_surroundings()
def load_base_net(name: str) -> nn.Module:
    """A pretrained base net in eval mode, its weights frozen.

    Raises:
        UnknownModelError: no such base net.
        WeightsError: its file is missing or has another hash than the known one.
    """
    if name not in BASE_NETS:
        raise UnknownModelError(f"no base net {name!r}; known: {', '.join(sorted(BASE_NETS))}")
    shipped = BASE_NETS[name]
    net = build(shipped.architecture, **shipped.arguments)
    load_strictly(net, shipped.state_dict(), name)
    return net.eval().requires_grad_(False)


def _pyautoattack_resnet18() -> dict[str, Tensor]:
    """The standard (not robust) CIFAR-10 net that the pyautoattack 0.2.0 wheel ships as an example."""
    try:
        path = Path(str(resources.files("pyautoattack"))) / "examples" / "model_test.pt"
    except ModuleNotFoundError:
        raise WeightsError(
            "the weights of pyautoattack_resnet18 come with pyautoattack: "
            "pip install 'adaptive-smoothing-zoo[evaluation]'"
        ) from None
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; reinstall pyautoattack 0.2.0, whose wheel holds it")
    known = "399f52da9f914c323fa5a6096d60f460a3449a59b64a6405200c1e629f8425a7"
    if (found := file_sha256(path)) != known:
        raise WeightsError(f"{path} has SHA-256 {found}, not {known}; reinstall pyautoattack 0.2.0")
    foreign = torch.load(path, map_location="cpu", weights_only=True)
    # The file has no normalization: the net takes pixels in [0, 1] as they are.
    state = rename(foreign, CIFAR_RESNET_KEYS, "a ResNet-18 for CIFAR")
    return {**state, **normalization((0.0,) * 3, (1.0,) * 3)}


def _cifar10_resnet18_nfgsm() -> dict[str, Tensor]:
    """A robust CIFAR-10 net that the recipe cifar10_rob_nfgsm made on a GPU: width 64, 44 epochs, batches of 256."""
    known = "4ead8639cc53adc69425e17d08dee3072dda34448a911864043434be184b9242"
    return read_safetensors(EMBEDDED / "cifar10_resnet18_nfgsm.safetensors", known)


BASE_NETS = {
    "cifar10_resnet18_nfgsm": ShippedNet(
        architecture="resnet18",
        arguments={"num_classes": 10, "mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]},
        state_dict=_cifar10_resnet18_nfgsm,
    ),
    "pyautoattack_resnet18": ShippedNet(
        architecture="resnet18", arguments={"num_classes": 10}, state_dict=_pyautoattack_resnet18
    ),
}
