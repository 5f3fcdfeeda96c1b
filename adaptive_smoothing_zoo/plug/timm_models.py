"""Our entries as timm models, under the names that RobustBench's ``load_model`` asks timm for."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.zoo.entry import Entry, HubFile, Source, UrlFile
from adaptive_smoothing_zoo.zoo.loading import EMBEDDED, load_model
from adaptive_smoothing_zoo.zoo.registry import list_models
from adaptive_smoothing_zoo.zoo.triplet import Triplet, timm_cfg

_TAG = "asz"  # of the weights, in timm's names

default_cfgs: dict[str, Any] = {}  # timm reads the configuration of a model off this name in the model's module
__all__: list[str] = []  # and appends the model's name to this one


def timm_name(entry: Entry, alias: str | None = None) -> str:
    """``bai2023improving_edm_cifar100_linf`` for Bai2023Improving_edm on cifar100, Linf; or one of its other names."""
    return f"{alias or entry.name}_{entry.dataset}_{entry.threat_model}".lower().replace("-", "_")


def register_timm_models() -> None:
    """Register every entry that is not registered yet."""
    import timm
    from timm.models import register_model
    from timm.models._pretrained import DefaultCfg, PretrainedCfg

    named = [(entry, alias) for entry in list_models() for alias in (entry.name, *entry.aliases)]
    for entry, alias in named:
        name = timm_name(entry, alias)
        if timm.is_model(name):
            continue
        cfg = {key: value for key, value in timm_cfg(entry).items() if key != "architecture"} | _place(entry)
        default_cfgs[name] = DefaultCfg(tags=[_TAG], cfgs={_TAG: PretrainedCfg(**cfg)}, is_pretrained=True)
        entrypoint = _entrypoint(entry, alias)
        setattr(sys.modules[__name__], name, entrypoint)
        register_model(entrypoint)


def _entrypoint(entry: Entry, alias: str) -> Callable[..., nn.Module]:
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
        if pretrained_cfg not in (None, "", _TAG) or pretrained_cfg_overlay:
            raise ValueError(
                f"{entry.key} is what its entry says; leave pretrained_cfg and pretrained_cfg_overlay away (its only "
                f"tag is {_TAG!r}), or change the model that you get"
            )
        if in_chans not in (None, entry.image_shape[0]):
            raise ValueError(f"{entry.key} takes images of {entry.image_shape[0]} channels, not {in_chans}")
        if drop_rate:
            raise ValueError(f"{entry.key} has no dropout; leave drop_rate at 0")
        if out_indices is not None and not features_only:
            raise ValueError("out_indices choose feature maps; give features_only=True as well")
        triplet = _triplet(entry, alias, pretrained, cache_dir)
        if features_only:
            return _feature_net(triplet, out_indices)
        if global_pool not in (None, "avg") or num_classes not in (None, entry.num_classes):
            triplet.reset_classifier(entry.num_classes if num_classes is None else num_classes, global_pool)
        return triplet

    create.__name__ = create.__qualname__ = timm_name(entry, alias)
    create.__module__ = __name__
    create.__doc__ = f"""{entry.description}

    Args:
        pretrained: load the weights (as ``load_model`` does) or begin with random ones. In the folder that the
            environment variable ASZ_MODEL_DIR names, or ``models`` if it names none, weights are looked for first,
            if there is such a folder. Loaded weights are frozen; ``requires_grad_(True)`` lets them be trained.
        num_classes: another number than {entry.num_classes} replaces the mix by a fresh linear head on the pooled
            features of both nets, and 0 by nothing: ``MixedClassifier.reset_classifier``.
        global_pool, in_chans, drop_rate: what they are anyway: None or "avg", {entry.image_shape[0]}, 0.
        features_only: return timm's ``FeatureGetterNet``, which gives the list of feature maps and tells their
            channels and reductions; see ``MixedClassifier.feature_info``.
        out_indices: which of them; all if None, the last n if a number n.
        pretrained_cfg, pretrained_cfg_overlay: the tag "{_TAG}" or None, and None; the entry says what the model is.
        cache_dir: of the Hub's client, as in ``load_model``.

    Raises:
        ValueError: something that this model cannot be.
        WeightsError: the weights are not to be found or do not fit.
    """
    return create


def _place(entry: Entry) -> dict[str, str]:
    """Where the weights are, as timm writes it down; timm lists a model as pretrained if it has such a place."""
    weights = entry.weights
    if weights.embedded is not None:
        return {"file": str(EMBEDDED / weights.embedded)}
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


def _triplet(entry: Entry, alias: str, pretrained: bool, cache_dir: str | Path | None) -> Triplet:
    if not pretrained:
        return Triplet(entry.self_contained())
    # RobustBench's default for its files, which can be read, is "models".
    model_dir = os.environ.get("ASZ_MODEL_DIR") or ("models" if os.path.isdir("models") else None)
    return load_model(alias, model_dir, entry.dataset, entry.threat_model, cache_dir=cache_dir)


def _feature_net(triplet: Triplet, out_indices: int | Sequence[int] | None) -> nn.Module:
    from timm.models._features import FeatureGetterNet  # timm.models does not re-export it

    cfg = {key: value for key, value in triplet.pretrained_cfg.items() if key != "num_classes"}
    every = tuple(range(len(triplet.feature_info)))
    net = FeatureGetterNet(triplet, out_indices=every if out_indices is None else out_indices)
    net.pretrained_cfg = net.default_cfg = cfg
    return net  # type: ignore[no-any-return]
