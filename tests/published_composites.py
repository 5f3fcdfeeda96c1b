"""RobustBench's composites with random weights, at full size or reduced, and their files as RobustBench caches them."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from robustbench_nets import architecture, randomized

from adaptive_smoothing_zoo.zoo.entry import Entry


class Published(NamedTuple):
    name: str
    dataset: str
    activation: str
    alpha_min: float
    alpha_max: float
    logit_bias: float
    std_scale: float
    rob_scale: float


PUBLISHED = [
    Published("edm", "cifar100", "silu", 0.84, 0.99, 1.3, 2.0, 1.0),
    Published("trades", "cifar100", "swish", 0.815, 0.915, 1.0, 2.0, 1.0),
    Published("edm", "cifar10", "silu", 0.96, 1.0, 1.05, 1.2, 0.3),
]
FULL_SIZE = {"depth": 152, "width": 2}, {"depth": 70, "width": 16}
SMALL = {"depth": (1, 1, 1, 1), "width": 1}, {"depth": 10, "width": 4}


def robustbench_composite(published: Published, monkeypatch: pytest.MonkeyPatch, *, small: bool) -> Any:
    """What ``get_composite_model`` makes, on the CPU, with small base nets if ``small``."""
    comp_model = architecture("comp_model")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    if small:
        std, rob = SMALL
        std_net = functools.partial(comp_model.bit_rn.ResNetV2, std["depth"], std["width"])
        monkeypatch.setitem(comp_model.bit_rn.KNOWN_MODELS, "BiT-M-R152x2", std_net)
        rob_net, mixing_network = comp_model.dm_rn.WideResNet, comp_model.MixingNetV4
        monkeypatch.setattr(comp_model.dm_rn, "WideResNet", lambda **given: rob_net(**{**given, **rob}))
        monkeypatch.setattr(comp_model, "MixingNetV4", lambda _: mixing_network({"in_planes": (256, 64)}))
    model = comp_model.get_composite_model(published.name, published.dataset).eval()._comp_model
    for part in (*model.models, model.policy_net, model.bn):
        randomized(part)
    for head in (model.models[0].head.conv, model.models[1].logits):
        head.weight.data.mul_(10)  # confident nets, as trained ones are
    return model


def reduced(entry: Entry) -> Entry:
    """The entry of a published triplet with base nets of the size ``SMALL``."""
    std, rob = SMALL
    return replace(
        entry,
        std_model=replace(entry.std_model, arguments={**entry.std_model.arguments, **std}),
        rob_model=replace(entry.rob_model, arguments={**entry.rob_model.arguments, **rob}),
        alpha=replace(entry.alpha, planes=(384, 640, 1024)),
    )


def write_robustbench_cache(folder: Path, name: str, dataset: str, composite: Any) -> list[Path]:
    """The three files that RobustBench downloads, in the nesting that its loader expects."""
    folder = folder / dataset / "Linf"
    folder.mkdir(parents=True, exist_ok=True)
    std_model, rob_model = composite.models
    mixing = {"model": composite.policy_net.state_dict(), "bn": composite.bn.state_dict()}
    contents = (std_model.state_dict(), {"state_dict": rob_model.state_dict()}, mixing)
    paths = [folder / f"{name}.pt_m{i}.pt" for i in range(3)]
    for path, content in zip(paths, contents, strict=True):
        torch.save(content, path)
    return paths
