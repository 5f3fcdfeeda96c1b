"""Adds a triplet to the package: its entry and those of its weights that are not shipped yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, Entry, Weights, entry_to_text
from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE
from adaptive_smoothing_zoo.zoo.shipped_nets import BASE_NETS
from adaptive_smoothing_zoo.zoo.triplet import Triplet
from adaptive_smoothing_zoo.zoo.weights import write_safetensors

PACKAGE = Path(__file__).resolve().parents[1]


def embed(folder: Path, limits: tuple[str, ...] = (), package: Path = PACKAGE) -> Entry:
    """Write entry and weights of a triplet into the package.

    Weights that half precision represents exactly are stored in it. A base net of ``load_base_net`` is referenced, not
    stored again.

    Args:
        folder: written by ``save_pretrained``, ``asz train`` or ``asz tune``.
        limits: additional limits for the entry.
        package: folder that has ``pretrained`` and ``zoo/entries``.

    Returns:
        The entry that was written.

    Raises:
        ResultsError: the folder holds no triplet.
        ConfigError, WeightsError: as ``Triplet.from_pretrained``.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ResultsError(f"{folder} holds no finished triplet: there is no {CONFIG_FILE}")
    triplet = Triplet.from_pretrained(folder)
    nets = {name: getattr(triplet, name) for name in ("std_model", "rob_model")}
    shipped = {name: config for name, net in nets.items() if net is not None and (config := shipped_config(net))}
    entry = replace(triplet.entry, **shipped, limits=(*triplet.entry.limits, *limits))  # type: ignore[arg-type]
    state = {key: value for key, value in triplet.state_dict().items() if key.partition(".")[0] not in shipped}
    entry = replace(entry, weights=_stored(package, entry, state))
    write_text(
        package / "zoo" / "entries" / entry.dataset / entry.threat_model / f"{entry.name}.json", entry_to_text(entry)
    )
    return entry


def shipped_config(net: nn.Module) -> BaseNetConfig | None:
    """The description of a net for an entry, if it is one of ``load_base_net``; None for other nets."""
    state = net.state_dict()
    for name, shipped in BASE_NETS.items():
        if type(build(shipped.architecture, **shipped.arguments)) is type(net) and _same(state, shipped.state_dict()):
            arguments = {key: value for key, value in shipped.arguments.items() if key != "num_classes"}
            return BaseNetConfig(architecture=shipped.architecture, arguments=arguments, pretrained=name)
    return None


def rounded_to_half(value: Tensor) -> Tensor:
    """The values rounded to half precision, in their own dtype."""
    return value.half().to(value.dtype) if value.is_floating_point() else value


def _same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in state.items())


def _stored(package: Path, entry: Entry, state: dict[str, Tensor]) -> Weights:
    """Write the weights, if there are any, and return their location."""
    if not state:
        return Weights()
    if all(torch.equal(value, rounded_to_half(value)) for value in state.values()):
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    file = f"{entry.key}.safetensors"
    return Weights(embedded=file, sha256=write_safetensors(package / "pretrained" / file, state))
