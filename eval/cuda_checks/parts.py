"""What a part of the check gets and gives: a place to work, rows of a table, and bars."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.zoo.shipped_nets import load_base_net

ALPHA = 0.9  # of the pair of ResNet-18


@dataclass(frozen=True)
class Place:
    """Where and on what to work.

    Attributes:
        device: where.
        tiny: as little of everything as runs through every line.
        data: CIFAR-10, a folder or an .npz; random images stand in for it if None.
        folder: for files.
    """

    device: torch.device
    tiny: bool
    data: Path | None
    folder: Path

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def sized(self, tiny: int, full: int) -> int:
        """One of two sizes."""
        return tiny if self.tiny else full


@dataclass(frozen=True)
class Bar:
    """A number and what it should be.

    Attributes:
        judged: "everywhere"; or with all at full size: on "cuda"; there on "cifar" images, not on random ones; or on
            "both" kinds of devices, on CUDA on CIFAR-10 images.
    """

    what: str
    value: float
    limit: float
    at: Literal["least", "most"]
    judged: Literal["everywhere", "both", "cuda", "cifar"] = "everywhere"

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at == "least" else self.value <= self.limit

    def said(self, place: Place) -> dict[str, Any]:
        """As it is recorded; ``met`` is None where it is not judged."""
        full = {"cuda": self.judged == "cuda" or place.data is not None, "cpu": self.judged == "both"}
        judged = self.judged == "everywhere" or (not place.tiny and full[place.device.type])
        return {
            "what": self.what,
            "value": self.value,
            "limit": f"at {self.at} {self.limit:g}",
            "met": self.met if judged else None,
        }


@dataclass
class Found:
    """What a part found: rows of (what, value), and bars."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)

    def add(self, what: str, value: object) -> None:
        self.rows.append((what, f"{value:.4g}" if isinstance(value, float) else str(value)))


Part = Callable[[Place], Found]
PARTS: dict[str, Part] = {}


def part(function: Part) -> Part:
    """Enter a part by its function's name; they run in this order."""
    PARTS[function.__name__] = function
    return function


class Clock:
    """Seconds since it was made, all work on the device done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __call__(self) -> float:
        return self._now() - self._start


@dataclass(frozen=True)
class Subject:
    """What is attacked, on the device, and how much of the protocol's iterations.

    Attributes:
        source: of the images.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    source: str
    scale: float = 1.0

    def settings(self, **more: Any) -> AttackSettings:
        """The standard protocol, shortened."""
        numbers = {"iterations": max(2, round(100 * self.scale)), "queries": max(10, round(5000 * self.scale))}
        return AttackSettings(**more).limited(**numbers)


def digits(place: Place, n: int, name: str = "Demo2026Constant") -> Subject:
    """An embedded triplet on the first digits."""
    model, examples = load_model(name, dataset="digits"), load_data("digits").first(n)
    threat = ThreatModel("Linf", model.entry.eps_value)
    images, labels = examples.images.to(place.device), examples.labels.to(place.device)
    return Subject(f"{name} (digits)", model.to(place.device), images, labels, threat, "digits")


def resnet_pair(place: Place, n: int, scale: float) -> Subject:
    """A mix of two ResNet-18, one of them robust; on a CPU of two untrained ResNet-20, at a radius that breaks none.

    If all is tiny, of two small CNNs.
    """
    if place.tiny or not place.on_cuda:
        torch.manual_seed(0)
        nets = [_small_cnn() if place.tiny else build("resnet20") for _ in range(2)]
        name = "pair of small CNNs" if place.tiny else "ResNet-20 pair"
        return _cifar(replace(place, data=None), name, MixedClassifier(*nets, ALPHA), n, scale, eps=1e-6)
    nets = load_base_net("pyautoattack_resnet18"), load_base_net("cifar10_resnet18_nfgsm")
    return _cifar(place, "ResNet-18 pair", MixedClassifier(*nets, ALPHA), n, scale)


def _small_cnn() -> nn.Module:
    return build("small_cnn", widths=(2, 4), mean=(0.5,) * 3, std=(0.25,) * 3)


def cifar_triplet(place: Place, n: int, scale: float, name: str = "Demo2026Constant") -> Subject:
    """An embedded triplet on CIFAR-10."""
    return _cifar(place, f"{name} (cifar10)", load_model(name, dataset="cifar10"), n, scale)


def _cifar(place: Place, name: str, model: nn.Module, n: int, scale: float, eps: float = 8 / 255) -> Subject:
    model = model.eval().requires_grad_(False).to(place.device)
    if place.data is not None:
        examples = load_data("cifar10", data_dir=place.data).first(n)
        images, labels, source = examples.images.to(place.device), examples.labels.to(place.device), "CIFAR-10"
    else:
        images = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(place.device)
        with torch.no_grad():
            labels = torch.cat([model(part).argmax(1) for part in images.split(32)])
        source = "random images, labelled by the model"
    return Subject(name, model, images, labels, ThreatModel("Linf", eps), source, scale)
