"""Our entries as timm models, under the names that RobustBench's ``load_model`` looks up in timm."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.zoo.entry import Entry, HubFile, Source, UrlFile, read_entry
from adaptive_smoothing_zoo.zoo.loading import load_model
from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE, place_at
from adaptive_smoothing_zoo.zoo.registry import list_models
from adaptive_smoothing_zoo.zoo.triplet import TIMM_ARCHITECTURE, Triplet, timm_cfg
from adaptive_smoothing_zoo.zoo.weights import EMBEDDED

_TAG = "asz"  # of the weights, in timm's names

default_cfgs: dict[str, Any] = {}  # timm reads the configuration of a model off this name in the model's module
__all__: list[str] = []  # and appends the model's name to this one


def timm_name(entry: Entry, alias: str | None = None) -> str:
    """``bai2023improving_edm_cifar100_linf`` for Bai2023Improving_edm on cifar100, Linf; or one of its other names."""
    return f"{alias or entry.name}_{entry.dataset}_{entry.threat_model}".lower().replace("-", "_")


def register_timm_models() -> None:
    """Register every entry that is not registered yet, and the class of all triplets in our format."""
    from timm.models._pretrained import PretrainedCfg

    for entry in list_models():
        cfg = {key: value for key, value in timm_cfg(entry).items() if key != "architecture"} | _place(entry)
        for alias in (entry.name, *entry.aliases):
            _register(timm_name(entry, alias), PretrainedCfg(**cfg), entry, alias)
    _register(TIMM_ARCHITECTURE, PretrainedCfg(), None, "")


def _register(name: str, cfg: Any, entry: Entry | None, alias: str) -> None:
    import timm
    from timm.models import register_model
    from timm.models._pretrained import DefaultCfg

    if timm.is_model(name):
        return
    default_cfgs[name] = DefaultCfg(tags=[_TAG], cfgs={_TAG: cfg}, is_pretrained=bool(cfg.has_weights))
    entrypoint = _entrypoint(name, entry, alias)
    setattr(sys.modules[__name__], name, entrypoint)
    register_model(entrypoint)


def _reference(pretrained_cfg: Any) -> str:
    """The repository or folder given to timm: "hf-hub:org/name", "local-dir:folder"."""
    found = pretrained_cfg if isinstance(pretrained_cfg, dict) else {}
    if found.get("file"):  # the folder, or the weights in it
        file = Path(found["file"])
        return f"local-dir:{file if file.is_dir() else file.parent}"
    if not found.get("hf_hub_id"):
        raise ValueError('name a triplet: timm.create_model("hf-hub:org/name"); load_model("folder") loads a folder')
    return f"hf-hub:{found['hf_hub_id']}"


def _entrypoint(name: str, listed: Entry | None, alias: str) -> Callable[..., nn.Module]:
    """The function that timm calls for an entry of the zoo under an alias, or for a given folder or repository."""

    def create(
        pretrained: bool = False,
        *,
        num_classes: int | None = None,
        global_pool: str | None = None,
        in_chans: int | None = None,
        drop_rate: float = 0.0,
        features_only: bool = False,
        out_indices: int | Sequence[int] | None = None,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: str | Path | None = None,
    ) -> nn.Module:
        if listed is None:
            reference = _reference(pretrained_cfg)
            entry = read_entry(place_at(reference).file(CONFIG_FILE))
        elif pretrained_cfg not in (None, "", _TAG):
            raise ValueError(
                f"{listed.key} is defined by its entry; omit pretrained_cfg (its only tag is {_TAG!r}), or change "
                "the model that you get"
            )
        else:
            entry = listed
        _check_fixed(entry, pretrained_cfg_overlay, in_chans, drop_rate)
        if out_indices is not None and not features_only:
            raise ValueError("out_indices choose feature maps; give features_only=True as well")
        if not pretrained:
            triplet = Triplet(entry.self_contained())
        elif listed is None:
            triplet = Triplet.from_pretrained(reference, cache_dir=cache_dir)
        else:
            triplet = load_model(alias, _model_dir(), entry.dataset, entry.threat_model, cache_dir=cache_dir)
        if features_only:
            return _feature_net(triplet, out_indices)
        if global_pool not in (None, "avg") or num_classes not in (None, triplet.num_classes):
            triplet.reset_classifier(triplet.num_classes if num_classes is None else num_classes, global_pool)
        return triplet

    create.__name__ = create.__qualname__ = name
    create.__module__ = __name__
    description = "A triplet in our format, from a folder or the Hub." if listed is None else listed.description
    create.__doc__ = f"""{description}

    Args:
        pretrained: load the weights (as ``load_model`` does, from ``models`` or the folder that ASZ_MODEL_DIR names
            first) or begin with random ones. Loaded weights are frozen; ``requires_grad_(True)`` lets them be trained.
        num_classes: another number than the model's replaces the mix: ``MixedClassifier.reset_classifier``.
        global_pool, in_chans, drop_rate: fixed: None or "avg", the images' channels, 0.
        features_only: return timm's ``FeatureGetterNet``, which gives the list of feature maps.
        out_indices: indices of the feature maps; all if None, the last n if a number n.
        pretrained_cfg, pretrained_cfg_overlay: set by timm; the entry defines the model.
        cache_dir: of the Hub's client, as in ``load_model``.

    Raises:
        ValueError: an option that this model does not support.
        WeightsError: the weights are missing or do not fit.
    """
    return create


def _model_dir() -> str | None:
    """The folder with weights; RobustBench's default for its files, which can be read, is "models"."""
    return os.environ.get("ASZ_MODEL_DIR") or ("models" if os.path.isdir("models") else None)


def _check_fixed(entry: Entry, pretrained_cfg_overlay: Any, in_chans: int | None, drop_rate: float) -> None:
    """Raise ValueError for options that contradict the entry."""
    if pretrained_cfg_overlay:
        raise ValueError(f"{entry.key} is defined by its entry; omit pretrained_cfg_overlay")
    if in_chans not in (None, entry.image_shape[0]):
        raise ValueError(f"{entry.key} takes images of {entry.image_shape[0]} channels, not {in_chans}")
    if drop_rate:
        raise ValueError(f"{entry.key} has no dropout; leave drop_rate at 0")


def _place(entry: Entry) -> dict[str, str]:
    """The location of the weights in timm's terms; timm lists a model as pretrained if it has one."""
    weights = entry.weights
    if weights.embedded is not None:
        return {"file": str(EMBEDDED / weights.embedded)}
    if entry.comes_along:
        return {"file": str(EMBEDDED)}
    if weights.hub_repo is not None:
        return {"hf_hub_id": weights.hub_repo}
    sources = [component.sources[0] for component in weights.components.values()]
    return {"url": "; ".join(dict.fromkeys(map(_address, sources)))} if sources else {}


def _address(source: Source) -> str:
    if isinstance(source, UrlFile):
        return source.url
    if isinstance(source, HubFile):
        return f"https://huggingface.co/{source.repo}"
    return "https://github.com/RobustBench/robustbench"


def _feature_net(triplet: Triplet, out_indices: int | Sequence[int] | None) -> nn.Module:
    from timm.models._features import FeatureGetterNet  # timm.models does not re-export it

    cfg = {key: value for key, value in triplet.pretrained_cfg.items() if key != "num_classes"}
    if not hasattr(triplet, "feature_info"):
        raise ValueError(f"{triplet.entry.key} has no feature maps: a net lacks timm's interface; omit features_only")
    every = tuple(range(len(triplet.feature_info)))
    net = FeatureGetterNet(triplet, out_indices=every if out_indices is None else out_indices)
    net.pretrained_cfg = net.default_cfg = cfg
    return net  # type: ignore[no-any-return]
