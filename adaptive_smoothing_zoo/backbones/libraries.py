"""Nets of timm, torchvision and RobustBench as base nets: by name, with their preprocessing inside, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@architecture("timm")
def timm_net(
    *,
    model: str,
    num_classes: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    size: Sequence[int] | None = None,
    interpolation: str = "bicubic",
    options: dict[str, Any] | None = None,
) -> Preprocessed:
    """timm's net of that name.

    Args:
        model: as ``timm.create_model`` knows it.
        mean, std, size, interpolation: as for :class:`Preprocessed`.
        options: further arguments of ``timm.create_model``.

    Raises:
        ValueError: timm does not know it, or not these options.
    """
    import timm

    name = model.partition(".")[0]  # the part behind the dot names weights
    if not timm.is_model(name):
        raise ValueError(unknown("timm", model, timm.list_models()))
    net = timm.create_model(name, pretrained=False, num_classes=num_classes, **options or {})
    return Preprocessed(net, mean, std, _pair(size), interpolation)


@architecture("torchvision")
def torchvision_net(
    *,
    model: str,
    num_classes: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    size: Sequence[int] | None = None,
    interpolation: str = "bilinear",
    options: dict[str, Any] | None = None,
) -> Preprocessed:
    """torchvision's classifier of that name; arguments as for ``timm_net``.

    Raises:
        ValueError: torchvision does not know it, or not these options.
    """
    from torchvision import models

    if model not in models.list_models(module=models):
        raise ValueError(unknown("torchvision", model, models.list_models(module=models)))
    net = models.get_model(model, weights=None, num_classes=num_classes, **options or {})
    return Preprocessed(net, mean, std, _pair(size), interpolation)


@architecture("robustbench")
def robustbench_net(*, model: str, dataset: str, threat_model: str, num_classes: int | None = None) -> nn.Module:
    """RobustBench's net of that name, which normalizes inside itself.

    Args:
        model: as ``robustbench.load_model`` knows it.
        dataset, threat_model: "cifar10", "cifar100" or "imagenet"; "Linf", "L2" or "corruptions".
        num_classes: what it must give, if it is said.

    Raises:
        ValueError: RobustBench does not know it, or its class cannot be made on this machine.
        ModuleNotFoundError: RobustBench is not installed.
    """
    known = robustbench_models(dataset, threat_model)
    if model not in known:
        raise ValueError(unknown(f"RobustBench, for {dataset} and {threat_model},", model, list(known)))
    make = known[model]["model"]
    if not callable(make):
        raise ValueError(f"{model} is an ensemble of RobustBench, which cannot be a base net; take one of its members")
    try:
        net = make()
    except Exception as error:  # anything may happen in foreign constructors; some ask for CUDA
        raise ValueError(f"RobustBench's {model} cannot be made here: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"RobustBench's {model} is no module")
    return net


def robustbench_models(dataset: str, threat_model: str) -> dict[str, Any]:
    """What RobustBench knows for a data set and a threat model, by name.

    Raises:
        ValueError: no such data set or threat model.
        ModuleNotFoundError: RobustBench is not installed.
    """
    try:
        from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
        from robustbench.model_zoo.models import model_dicts
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"RobustBench's models need it ({error}): pip install 'adaptive-smoothing-zoo[robustbench]'"
        ) from None
    try:
        return dict(model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat_model)])
    except (ValueError, KeyError):
        raise ValueError(f"RobustBench has no models for the data set {dataset!r} and {threat_model!r}") from None


def unknown(who: str, name: str, known: Sequence[str]) -> str:
    """The sentence for a name that a library does not know, with near matches."""
    near = get_close_matches(name, known, n=5, cutoff=0.5)
    return f"{who} knows no model {name!r}" + (f"; near: {', '.join(near)}" if near else f"; it knows {len(known)}")


def _pair(size: Sequence[int] | None) -> tuple[int, int] | None:
    return None if size is None else (int(size[0]), int(size[1]))
