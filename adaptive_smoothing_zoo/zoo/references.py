"""One grammar for references to models, resolved in one place.

| reference | model |
| --- | --- |
| ``Bai2023Improving_edm`` | a triplet of the zoo |
| ``folder``, ``local-dir:folder``, ``hf-hub:org/name`` | a triplet that ``save_pretrained`` wrote |
| ``robustbench:Carmon2019Unlabeled`` | RobustBench's model for the data set and the threat model |
| ``timm:resnet50.a1_in1k``, ``timm:hf-hub:org/net``, ``torchvision:resnet50`` | their nets, preprocessing inside |
| ``base:pyautoattack_resnet18`` | an embedded base net |
| ``module:function``, ``file.py:function`` | the user's code, which returns a module |
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.backbones import build, remember
from adaptive_smoothing_zoo.backbones.libraries import unknown
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.errors import ConfigError, UnknownModelError, WeightsError, reason, shown
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import LINF
from adaptive_smoothing_zoo.zoo.base_net_config import config_of
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, read_checkpoint
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig
from adaptive_smoothing_zoo.zoo.loading import load_model
from adaptive_smoothing_zoo.zoo.place import place_of
from adaptive_smoothing_zoo.zoo.robustbench import autoattack_stood_in
from adaptive_smoothing_zoo.zoo.shipped_nets import BASE_NETS, load_base_net


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The model that a reference names.

    Attributes:
        reference: as the user wrote it.
        net: in eval mode, frozen; images (N, channels, H, W) in [0, 1] to logits, or to an output that holds them.
        config: the net's description in an entry, from which it can be rebuilt without code; None if there is none.
    """

    reference: str
    net: nn.Module
    config: BaseNetConfig | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The options with which a reference is resolved.

    Attributes:
        dataset, threat_model: of the zoo's and RobustBench's models.
        num_classes: of nets that are built with random weights, before a checkpoint is loaded.
        checkpoint: a file whose weights are loaded instead of the pretrained ones.
        model_dir: the folder with the weights of the zoo's and RobustBench's models.
    """

    dataset: str = "cifar10"
    threat_model: str = LINF
    num_classes: int = 10
    checkpoint: Path | None = None
    model_dir: Path | None = None


@own_surroundings()
def resolve(reference: str, wanted: Wanted | None = None) -> Resolved:
    """The model that a reference names.

    Raises:
        UnknownModelError: there is no such model (the message lists near matches), or the user's code fails.
        WeightsError: its weights are not available or do not fit.
        ModuleNotFoundError: a library is missing; the message names the pip command that installs it.
    """
    wanted = wanted or Wanted()
    if is_triplet(reference):
        model_dir = None if wanted.model_dir is None else str(wanted.model_dir)
        net: nn.Module = load_model(reference, model_dir, wanted.dataset, wanted.threat_model)
        return Resolved(reference=reference, net=_loaded(net, None, wanted.checkpoint, reference))
    scheme, _, rest = reference.partition(":")
    if scheme not in _SCHEMES:
        scheme, _, rest = reference.rpartition(":")  # a folder's name may have a colon
    if not rest:
        raise UnknownModelError(f"{reference!r} names nothing after the colon")
    net, config = _SCHEMES.get(scheme, _of_code(scheme))(rest, wanted)
    net = _loaded(net, config, wanted.checkpoint, reference)
    if any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):
        raise WeightsError(f"{reference} is on the device meta, where weights have no values; load some")
    return Resolved(reference=reference, net=net.eval().requires_grad_(False), config=config)


def is_triplet(reference: str) -> bool:
    """Whether a reference names a triplet: one of the zoo, a folder, or a repository of the Hub."""
    scheme, colon, _ = reference.partition(":")
    return not colon or scheme in ("hf-hub", "hf_hub", "local-dir") or place_of(reference) is not None


def check_triplet(reference: str, what: str) -> None:
    """Raise ConfigError if a reference names a net; ``what`` is the caller, which takes only triplets."""
    if not is_triplet(reference):
        raise ConfigError(
            f"{what} takes a triplet, and {reference} is a net; asz tune or MixedClassifier makes a triplet of two nets"
        )


Made = tuple[nn.Module, BaseNetConfig | None]


def _of_timm(name: str, wanted: Wanted) -> Made:
    import timm
    from timm.data import resolve_model_data_config

    if wanted.checkpoint is not None:
        return _built("timm", name, wanted.num_classes)
    try:
        net = timm.create_model(name, pretrained=True)
    except Exception as error:  # the Hub's client raises errors of many kinds
        known = timm.list_pretrained()
        if name not in {*known, *(each.partition(".")[0] for each in known)}:
            raise UnknownModelError(unknown("timm", name, known)) from error
        raise WeightsError(_no_weights("timm", name, error)) from error
    data = resolve_model_data_config(net)
    looks = {"mean": list(data["mean"]), "std": list(data["std"]), "size": list(data["input_size"][1:])}
    interpolation = data["interpolation"] if data["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    arguments = {"model": name, **looks, "interpolation": interpolation}
    if name.startswith("hf-hub:"):  # only the net's own configuration names its architecture
        arguments["model"] = net.pretrained_cfg["architecture"]
    made = Preprocessed(net, data["mean"], data["std"], tuple(data["input_size"][1:]), interpolation)
    return _known(made, BaseNetConfig(architecture="timm", arguments=arguments))


def _of_torchvision(name: str, wanted: Wanted) -> Made:
    from torchvision import models

    if wanted.checkpoint is not None:
        return _built("torchvision", name, wanted.num_classes)
    if name not in models.list_models(module=models):
        raise UnknownModelError(unknown("torchvision", name, models.list_models(module=models)))
    weights = models.get_model_weights(name).DEFAULT
    try:
        net = models.get_model(name, weights=weights)
    except Exception as error:  # urllib raises errors of many kinds
        raise WeightsError(
            f"torchvision cannot get the weights of {name}: {reason(error)}; give --checkpoint"
        ) from error
    looks = weights.transforms()
    size, interpolation = (
        looks.crop_size * 2 if len(looks.crop_size) == 1 else looks.crop_size,
        looks.interpolation.value,
    )
    arguments = {"mean": list(looks.mean), "std": list(looks.std), "size": list(size), "interpolation": interpolation}
    made = Preprocessed(net, looks.mean, looks.std, tuple(size), interpolation)
    return _known(made, BaseNetConfig(architecture="torchvision", arguments={"model": name, **arguments}))


def _of_robustbench(name: str, wanted: Wanted) -> Made:
    arguments = {"model": name, "dataset": wanted.dataset, "threat_model": wanted.threat_model}
    config = BaseNetConfig(architecture="robustbench", arguments=arguments)
    if wanted.checkpoint is not None:
        return _built("robustbench", name, None, **arguments)
    try:
        net = build("robustbench", **arguments)  # names what RobustBench does not know, before anything is downloaded
        options = {} if wanted.model_dir is None else {"model_dir": str(wanted.model_dir)}
        with autoattack_stood_in():
            from robustbench.utils import load_model as load_robustbench_model
        net = load_robustbench_model(name, dataset=wanted.dataset, threat_model=wanted.threat_model, **options)
    except ValueError as error:
        raise UnknownModelError(str(error)) from error
    except Exception as error:  # gdown raises errors of many kinds
        raise WeightsError(_no_weights("RobustBench", name, error)) from error
    return _known(net, config)


def _of_the_package(name: str, wanted: Wanted) -> Made:
    net, known = load_base_net(name), BASE_NETS[name]
    arguments = {key: value for key, value in known.arguments.items() if key != "num_classes"}
    return net, BaseNetConfig(architecture=known.architecture, arguments=arguments)


def _of_code(place: str) -> Callable[[str, Wanted], Made]:
    def made(name: str, wanted: Wanted) -> Made:
        with _neighbours(place), _failures_told(place):
            function = getattr(_module_of(place), name, None)
        if not callable(function):
            raise UnknownModelError(f"{place} has no function {name!r} that makes a model")
        with _neighbours(place), _failures_told(f"{place}:{name}"):
            net = function if isinstance(function, nn.Module) else function()
        if not isinstance(net, nn.Module):
            raise UnknownModelError(f"{place}:{name} returns a {type(net).__name__}, not a torch.nn.Module")
        return net, config_of(net)

    return made


_SCHEMES: dict[str, Callable[[str, Wanted], Made]] = {
    "base": _of_the_package,
    "robustbench": _of_robustbench,
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}


def _known(net: nn.Module, config: BaseNetConfig) -> Made:
    """The net, which remembers its description, and the description."""
    return remember(net, config.architecture, config.arguments), config


def _built(architecture: str, name: str, num_classes: int | None, **arguments: Any) -> Made:
    arguments = {"model": name, **arguments}
    classes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        return build(architecture, **classes, **arguments), BaseNetConfig(
            architecture=architecture, arguments=arguments
        )
    except ValueError as error:
        raise UnknownModelError(str(error)) from error


def _no_weights(who: str, name: str, error: Exception) -> str:
    return f"{who} cannot get the weights of {name}: {reason(error)}; name a file of them as the checkpoint"


def _loaded(net: nn.Module, config: BaseNetConfig | None, checkpoint: Path | None, reference: str) -> nn.Module:
    """The net with the weights of a file, if one is named."""
    if checkpoint is None:
        return net
    inner = net.net if isinstance(net, Preprocessed) else net  # the file has the keys of the inner net
    known = config or BaseNetConfig(architecture=reference)
    state = convert_base_net(read_checkpoint(checkpoint), known, inner, str(checkpoint))
    inner.load_state_dict(state)
    return net


@contextmanager
def _failures_told(what: str) -> Iterator[None]:
    """Turn any error of the user's code into an UnknownModelError of one sentence."""
    try:
        yield
    except UnknownModelError:
        raise
    except Exception as error:
        raise UnknownModelError(f"{what} fails: {type(error).__name__}: {reason(error)}") from error


@contextmanager
def _neighbours(place: str) -> Iterator[None]:
    """Let imports also find what is next to the user's file, or for a module in the current folder."""
    folder = str(Path(place).resolve().parent if place.endswith(".py") else Path.cwd())
    before = list(sys.path)
    if folder not in before:
        sys.path.append(folder)  # last, so that nothing there hides an installed module
    importlib.invalidate_caches()  # the file may be new
    try:
        yield
    finally:
        if folder not in before and folder in sys.path:
            sys.path.remove(folder)


def _module_of(place: str) -> ModuleType:
    """The user's module, by its name or its file."""
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise UnknownModelError(f"there is no file {place}")
        name = f"_named_by_the_user_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # or its classes could not be pickled
        spec.loader.exec_module(module)
        return module
    known = ", ".join((*_SCHEMES, "hf-hub", "local-dir"))
    absent = UnknownModelError(f"{shown(place)} is neither one of {known} nor a module or a .py file")
    if not all(part.isidentifier() for part in place.split(".")):
        raise absent
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{place}.".startswith(f"{error.name}."):  # the user's module lacks another
            raise
        raise absent from None
