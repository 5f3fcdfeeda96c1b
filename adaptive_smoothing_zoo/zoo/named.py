"""A model that a command is about: the module and its entry, wherever both come from."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from adaptive_smoothing_zoo.backbones.asking import asked
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.errors import ConfigError, reason
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import L2, LINF
from adaptive_smoothing_zoo.zoo.entry import RECORD_ENDINGS, ModelEntry, NetEntry, check_ending
from adaptive_smoothing_zoo.zoo.references import Wanted, resolve
from adaptive_smoothing_zoo.zoo.robustbench import preprocessing_of
from adaptive_smoothing_zoo.zoo.triplet import Triplet

UNKNOWN = "unknown"
USUAL_EPS: dict[tuple[str, str], str] = {
    ("cifar10", LINF): "8/255",
    ("cifar100", LINF): "8/255",
    ("imagenet", LINF): "4/255",
    ("mnist", LINF): "0.3",
    ("cifar10", L2): "0.5",
    ("cifar100", L2): "0.5",
}
"""The radius that leaderboards and papers use, by data set and norm."""

_ENDINGS = (*RECORD_ENDINGS, "custom")  # the latter of runs with other attacks, which have a name of their own
_LIBRARIES = ("timm", "torchvision", "base")  # their models are called after architectures


@dataclass(frozen=True, kw_only=True)
class Named:
    """A model with its entry.

    Attributes:
        entry: a triplet's own, or a ``NetEntry``.
        net: in eval mode, its weights frozen.
    """

    entry: ModelEntry
    net: nn.Module

    @property
    def surrogate(self) -> nn.Module | None:
        """The net that the authors of a triplet attack in its place; None if they name none."""
        is_named = isinstance(self.net, Triplet) and self.net.entry.surrogate is not None
        return self.net.surrogate() if is_named else None  # type: ignore[operator]


def reference_with(reference: str, checkpoint: Path | None) -> str:
    """How records refer to a net: by its reference without the folders of files, and the checkpoint's file name."""
    place, colon, name = reference.rpartition(":")
    short = f"{Path(place).name}{colon}{name}" if place.endswith(".py") else reference
    return short if checkpoint is None else f"{short} with {checkpoint.name}"


def record_name(reference: str) -> str:
    """A name for the records of a net, of letters, digits and ``_.+-`` only: "timm:resnet10t" -> "timm-resnet10t"."""
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", reference)
    stem, dot, ending = (re.sub(r"^[^A-Za-z]+", "", name) or "net").rpartition(".")
    return f"{stem}-{ending}" if ending in _ENDINGS and dot else f"{stem}{dot}{ending}"


def checked_name(name: str) -> str:
    """The name that a user gives a model; ConfigError if files of records could not be named after it."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+-]*", name):
        raise ConfigError(f"a name begins with a letter and has letters, digits and _.+- only, got {name!r}")
    try:
        return check_ending(name, _ENDINGS)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def architecture_of(reference: str) -> str:
    """The architecture, if a reference names it; else ``UNKNOWN``."""
    scheme, _, name = reference.partition(":")
    return name if scheme in _LIBRARIES else UNKNOWN


def preprocessing_for(reference: str, dataset: str, threat_model: str) -> str | None:
    """How the data set's files become images for a net; None for the usual way."""
    scheme, _, name = reference.partition(":")
    return preprocessing_of(name, dataset, threat_model) if scheme == "robustbench" else None


@own_surroundings()
def named_net(reference: str, wanted: Wanted, entry: NetEntry, device: str | torch.device | None = None) -> Named:
    """The net of a reference with its entry, on a device.

    Raises:
        ConfigError: it fails on images of the entry's shape, or gives another number of logits than the entry says.
        UnknownModelError, WeightsError, ModuleNotFoundError: as ``resolve``.
    """
    net = resolve(reference, wanted).net
    black = torch.zeros(1, *entry.image_shape, device=device)
    try:
        net = net.to(device or "cpu")
        with torch.no_grad():
            logits = asked(net)(black)
    except Exception as error:  # a user's code can raise anything
        shape = " x ".join(map(str, entry.image_shape))
        raise ConfigError(
            f"{reference} fails on images of {shape}, those of {entry.dataset}: {reason(error)}"
        ) from error
    if logits.ndim != 2 or logits.shape[1] != entry.num_classes:
        raise ConfigError(
            f"{reference} gives logits of shape {tuple(logits.shape)} for one image, and {entry.dataset} needs "
            f"{entry.num_classes} classes; give --num-classes if the net is meant to have others"
        )
    if entry.architecture == UNKNOWN:
        inner = net.net if isinstance(net, Preprocessed) else net
        entry = replace(entry, architecture=type(inner).__name__)
    if isinstance(net, MixedClassifier):
        entry = replace(entry, number_forward_passes=2)
    return Named(entry=entry, net=net)
