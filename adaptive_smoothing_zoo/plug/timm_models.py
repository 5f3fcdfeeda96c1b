"""Our entries as timm models, under the names that RobustBench's ``load_model`` asks timm for."""

import sys
from collections.abc import Callable
from typing import Any

from adaptive_smoothing_zoo.zoo.entry import Entry
from adaptive_smoothing_zoo.zoo.loading import load_model
from adaptive_smoothing_zoo.zoo.registry import list_models
from adaptive_smoothing_zoo.zoo.triplet import Triplet

default_cfgs: dict[str, Any] = {}  # timm reads the configuration of a model off this name in the model's module
__all__: list[str] = []  # and appends the model's name to this one


def timm_name(entry: Entry) -> str:
    """``bai2023improving_edm_cifar100_linf`` for Bai2023Improving_edm on cifar100, Linf."""
    return f"{entry.name}_{entry.dataset}_{entry.threat_model}".lower().replace("-", "_")


def register_timm_models() -> None:
    """Register every entry that is not registered yet."""
    import timm
    from timm.models import register_model
    from timm.models._pretrained import DefaultCfg, PretrainedCfg

    for entry in list_models():
        name = timm_name(entry)
        if timm.is_model(name):
            continue
        cfg = PretrainedCfg(
            num_classes=entry.num_classes,
            input_size=entry.image_shape,
            mean=(0.0,) * entry.image_shape[0],
            std=(1.0,) * entry.image_shape[0],
            license=entry.license,
        )
        default_cfgs[name] = DefaultCfg(tags=["asz"], cfgs={"asz": cfg}, is_pretrained=True)
        entrypoint = _entrypoint(entry)
        setattr(sys.modules[__name__], name, entrypoint)
        register_model(entrypoint)


def _entrypoint(entry: Entry) -> Callable[..., Triplet]:
    def create(
        pretrained: bool = False,
        *,
        num_classes: int | None = None,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
    ) -> Triplet:
        if num_classes is not None and num_classes != entry.num_classes:
            raise ValueError(f"{entry.key} has {entry.num_classes} classes, not {num_classes}")
        if pretrained:
            return load_model(entry.name, dataset=entry.dataset, threat_model=entry.threat_model)
        return Triplet(entry.self_contained())

    create.__name__ = create.__qualname__ = timm_name(entry)
    create.__module__ = __name__
    create.__doc__ = entry.description
    return create
