"""What we use of RobustBench: its nets, the addresses of its files, and the module ``autoattack`` that it imports."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.libraries import unknown
from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.surroundings import real_device

INSTALL = "pip install 'adaptive-smoothing-zoo[robustbench]'"


def drive_ids(model: str, dataset: str, threat_model: str) -> list[str]:
    """The Google Drive ids of a model's files, in RobustBench's order.

    Raises:
        WeightsError: RobustBench is not installed, or has no such model on Google Drive.
    """
    try:
        known = robustbench_models(dataset, threat_model)
    except ModuleNotFoundError as error:
        raise WeightsError(f"cannot find the files of {model}: {error}") from error
    except ValueError:
        known = {}
    ids = known.get(model, {}).get("gdrive_id")
    if not ids:
        raise WeightsError(f"RobustBench has no model {model!r} for {dataset} {threat_model} on Google Drive")
    return list(ids) if isinstance(ids, list) else [ids]


@architecture("robustbench")
def robustbench_net(*, model: str, dataset: str, threat_model: str, num_classes: int | None = None) -> nn.Module:
    """RobustBench's net of that name, with random weights; it normalizes images itself.

    Args:
        model: the name in ``robustbench.load_model``.
        dataset, threat_model: "cifar10", "cifar100" or "imagenet"; "Linf", "L2" or "corruptions".
        num_classes: not used; the net has the classes of its data set.

    Raises:
        ValueError: RobustBench does not know it, or it cannot be built on this machine.
        ModuleNotFoundError: RobustBench is not installed.
    """
    known = robustbench_models(dataset, threat_model)
    if model not in known:
        raise ValueError(unknown(f"RobustBench, for {dataset} and {threat_model},", model, list(known)))
    make = known[model]["model"]
    if not callable(make):
        raise ValueError(f"{model} is an ensemble of RobustBench, which cannot be a base net; take one of its members")
    try:
        with real_device():
            net = make()
    except Exception as error:  # foreign constructors can raise anything; some ask for CUDA
        raise ValueError(f"RobustBench's {model} cannot be made here: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"RobustBench's {model} is not a module")
    return net


def robustbench_models(dataset: str, threat_model: str) -> dict[str, Any]:
    """RobustBench's dictionaries of models for a data set and a threat model, by name.

    Raises:
        ValueError: no such data set or threat model.
        ModuleNotFoundError: RobustBench is not installed.
    """
    try:
        with autoattack_stood_in():
            from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
            from robustbench.model_zoo.models import model_dicts
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}, which RobustBench's models need: {INSTALL}") from None
    try:
        return dict(model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat_model)])
    except (ValueError, KeyError):
        raise ValueError(f"RobustBench has no models for the data set {dataset!r} and {threat_model!r}") from None


def preprocessing_of(model: str, dataset: str, threat_model: str) -> str | None:
    """How RobustBench prepares the images for one of its models, as ``load_data`` names it.

    None if there is only one way for the data set, or RobustBench does not know the model.

    Raises:
        ValueError, ModuleNotFoundError: as ``robustbench_models``.
    """
    about = robustbench_models(dataset, threat_model).get(model)
    if dataset != "imagenet" or about is None:
        return None
    # For models without one, RobustBench reads it off timm's configuration of the model.
    found: str = about.get("preprocessing", "BicubicRes224Crop224")
    return found


def autoattack_shim() -> dict[str, ModuleType]:
    """The modules that stand in for ``autoattack``, by name; none if it is installed, or pyautoattack is not."""
    if "autoattack" in sys.modules or _is_installed("autoattack") or not _is_installed("pyautoattack"):
        return {}
    from adaptive_smoothing_zoo.zoo import stand_in

    return {"autoattack": stand_in, "autoattack.state": stand_in.state}


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@contextmanager
def autoattack_stood_in() -> Iterator[None]:
    """Provide the module ``autoattack`` while RobustBench is imported, and remove it afterwards."""
    shim = autoattack_shim()
    sys.modules |= shim
    try:
        yield
    finally:
        for name in shim:
            sys.modules.pop(name, None)
