"""A triplet: one module (g, h and alpha) and the entry that describes it."""

from __future__ import annotations

import json
import logging
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.surrogates import SURROGATES
from adaptive_smoothing_zoo.backbones import BaseNet
from adaptive_smoothing_zoo.backbones.made_for import MadeFor
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.data.imagenet import PREPROCESSINGS, USUAL
from adaptive_smoothing_zoo.errors import ConfigError, reason
from adaptive_smoothing_zoo.machine.devices import known_device
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.half_precision import to_dtype
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.surroundings import ordinary_tensors, own_surroundings
from adaptive_smoothing_zoo.zoo.building import (
    build_alpha,
    build_base_net,
    build_map,
    check_described,
    entry_of,
    first_entry,
    give_up_mix,
    weights_of,
)
from adaptive_smoothing_zoo.zoo.entry import UNSAID, Entry, read_entry
from adaptive_smoothing_zoo.zoo.hub_files import HubOptions
from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE, place_at
from adaptive_smoothing_zoo.zoo.shipped_nets import BASE_NETS
from adaptive_smoothing_zoo.zoo.weights import (
    WEIGHTS_FILE,
    drop_other_weights,
    load_strictly,
    read_safetensors,
    write_shards,
)

logger = logging.getLogger(__name__)

TIMM_ARCHITECTURE = "adaptive_smoothing_triplet"  # timm's name of the class of all triplets in our format


class Triplet(MixedClassifier):
    """The mixed classifier that an entry describes, with random weights until others are loaded.

    Raises:
        ConfigError: the entry names an architecture or arguments that do not exist, or nets that do not fit together.
    """

    identity_name = "MixedClassifier"
    # These attributes do not change the outputs.
    identity_ignores = (*MixedClassifier.identity_ignores, "entry", "pretrained_cfg", "default_cfg")

    @ordinary_tensors()
    def __init__(self, entry: Entry) -> None:
        try:
            std_model = build_base_net(entry.std_model, entry.num_classes)
            rob_model = build_base_net(entry.rob_model, entry.num_classes)
            alpha = build_alpha(entry.alpha, std_model, rob_model)
            std_map, rob_map = build_map(entry.std_map), build_map(entry.rob_map)
            super().__init__(std_model, rob_model, alpha, std_map=std_map, rob_map=rob_map)
            if entry.head is not None:
                give_up_mix(self, entry.head)
            for name, net in (("std_model", std_model), ("rob_model", rob_model)):
                channels = len(net.mean) if isinstance(net, (BaseNet, Preprocessed)) else entry.image_shape[0]
                if channels != entry.image_shape[0]:
                    raise ValueError(f"{name} takes {channels} channels, image_shape says {entry.image_shape[0]}")
        except (ValueError, RuntimeError, IndexError, TypeError, OverflowError) as error:
            raise ConfigError(f"the entry of {entry.key} cannot be built: {reason(error)}") from error
        self.set_entry(entry)

    def set_entry(self, entry: Entry) -> None:
        """Describe the module by another entry; its parts stay as they are."""
        self.entry = entry
        fixed = (each for each in self.made_for if each.only)
        self.made_for = (*fixed, MadeFor(entry.key, entry.image_shape))
        self.pretrained_cfg = self.default_cfg = timm_cfg(entry)  # what timm's users read off a model

    def surrogate(self) -> nn.Module:
        """The net that this triplet's authors attack instead (see :mod:`adaptive_smoothing_zoo.attacks.surrogates`).

        Raises:
            ValueError: the entry names none, or one that does not exist.
        """
        config = self.entry.surrogate
        if config is None:
            raise ValueError(f"the entry of {self.entry.key} names no surrogate; attack the model itself")
        if config.name not in SURROGATES:
            raise ValueError(f"no surrogate {config.name!r}; known: {', '.join(SURROGATES)}")
        return SURROGATES[config.name](self, config.alpha)

    def save_pretrained(self, folder: str | Path, max_shard_size: str | int | None = None, **words: Any) -> None:
        """As ``MixedClassifier.save_pretrained``; ``words`` replace fields of the entry."""
        folder, described = Path(folder), with_entry(self, **words).described()
        shards = write_shards(folder, _without_sharing(weights_of(self)), max_shard_size)
        alone = {"sha256": shards[WEIGHTS_FILE]} if len(shards) == 1 else {"shards": shards}
        write_text(folder / CONFIG_FILE, config_to_text(described.self_contained(**alone)))
        drop_other_weights(folder, shards)

    def described(self) -> Entry:
        """The entry of this module as it is now, with the words of the stored entry.

        If that was written for another module, as before a fine-tuning, it says so; paper, published and verified
        numbers are then omitted (see ``Entry.changed``).

        Raises:
            ConfigError: no entry describes it.
        """
        entry = entry_of(self, self.entry)
        try:
            twin = meta_triplet(entry)
        except ConfigError as error:
            raise ConfigError(f"{entry.key} cannot be saved: {reason(error.__cause__ or error)}") from error
        check_described(self, twin, entry)
        return _for_this(entry, self)

    @classmethod
    @own_surroundings()
    def from_pretrained(  # type: ignore[override]
        cls,
        folder_or_repo: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Triplet:
        """Load what ``save_pretrained`` wrote, from a local folder or a Hugging Face Hub repository ("org/name").

        Args:
            folder_or_repo: an existing folder, or else a repository; also as "local-dir:folder", "hf-hub:org/name" or
                "hf-hub:org/name@revision".
            revision: branch, tag or full commit hash in the repository.
            cache_dir, token, local_files_only: as in ``huggingface_hub.hf_hub_download``.
            device: where to put the module, straight from the file; the CPU if None.
            dtype: as in :func:`adaptive_smoothing_zoo.load_model`.

        Returns:
            The triplet in eval mode, its weights frozen.

        Raises:
            ConfigError, WeightsError: a file is missing, damaged, or does not fit; nothing is loaded in part.
        """
        device = None if device is None else known_device(device)
        place = place_at(folder_or_repo, revision)
        options = HubOptions(cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        entry = read_entry(place.file(CONFIG_FILE, options))
        files: dict[str, str | None] = {**entry.weights.shards} or {WEIGHTS_FILE: entry.weights.sha256}
        state: dict[str, Tensor] = {}
        for name, sha256 in files.items():
            state |= read_safetensors(place.file(name, options), sha256, device)
        return load_triplet(entry, state, device, dtype)


def with_entry(mix: MixedClassifier, **words: Any) -> Triplet:
    """The modules of a mix, not copied, as a triplet; for a triplet, the same with other words.

    Args:
        words: fields that replace those of the triplet's entry, or of :func:`building.first_entry` for a plain mix.

    Raises:
        ConfigError: the mix is of a user's own class, or as ``first_entry``.
        TypeError: entries have no such field.
    """
    if not isinstance(mix, Triplet) and type(mix) is not MixedClassifier:
        raise ConfigError(
            f"a {type(mix).__name__} cannot be saved: an entry cannot describe its code; save a MixedClassifier of its "
            "parts"
        )
    if unknown := sorted(words.keys() - {field.name for field in fields(Entry)}):
        raise TypeError(f"an entry has no field {unknown[0]!r}; remove it")
    if isinstance(mix, Triplet):
        known = _for_this(mix.entry, mix)
        entry = replace(known, **_said(known, words))
    else:
        entry = first_entry(mix, **words)
    triplet = Triplet.__new__(Triplet)
    vars(triplet).update({key: copy(value) if isinstance(value, dict) else value for key, value in vars(mix).items()})
    triplet.set_entry(entry)
    return triplet


def _said(entry: Entry, words: dict[str, Any]) -> dict[str, Any]:
    """The words; if they name a radius, the entry loses the limit that nobody did."""
    limits = tuple(limit for limit in entry.limits if limit != UNSAID)
    return {"limits": limits, **words} if "eps" in words else words


MixedClassifier.with_entry = staticmethod(with_entry)
MixedClassifier.reader = Triplet.from_pretrained


def load_triplet(
    entry: Entry,
    state: dict[str, Tensor],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    checked: bool = False,
) -> Triplet:
    """The triplet of ``entry`` with the weights ``state``, in eval mode and frozen.

    Base nets with ``pretrained`` in the entry get their shipped weights instead. If the entry has published or verified
    numbers and was written for another model, it says so instead (see ``Entry.changed``), with a warning.

    Args:
        checked: whether ``state`` has the hashes of the entry. If the entry names no model for its numbers, they then
            are about this one.

    Raises:
        ConfigError: as ``Triplet``.
        WeightsError: the weights do not fit.
    """
    triplet = meta_triplet(entry)
    for name, config in (("std_model", entry.std_model), ("rob_model", entry.rob_model)):
        if config.pretrained is not None:
            state = state | {f"{name}.{key}": value for key, value in BASE_NETS[config.pretrained].state_dict().items()}
    load_strictly(triplet, state, entry.key)
    triplet = triplet.eval().requires_grad_(False).to(device or "cpu")
    named = entry.weights.model_sha256 is not None
    # Without numbers the identity is needed only for the next save, to tell whether the model was changed.
    if (checked or named) if entry.has_numbers else not named:
        triplet.entry = _for_this(entry, triplet, checked=checked)
    if dtype is not None:
        to_dtype(triplet, dtype)
    return triplet


def _for_this(entry: Entry, model: Triplet, *, checked: bool = False) -> Entry:
    """What an entry says that holds for this model.

    Args:
        checked: whether the entry's numbers are about this model if the entry was written for no certain one.
    """
    mine, about = identity_of(model).sha256, entry.weights.model_sha256
    if about not in (None, mine):
        logger.warning("%s was changed: paper, published and verified values are omitted", entry.key)
        entry = entry.changed()
    elif about is None and entry.has_numbers and not checked:
        logger.warning("%s: published and verified values are omitted: they may be about another model", entry.key)
        entry = entry.without_numbers()
    return entry.about(mine)


def meta_triplet(entry: Entry) -> Triplet:
    """The triplet of ``entry`` without weights: on the meta device, except for some nets of other libraries."""
    with torch.device("meta"):
        return Triplet(entry)


def config_to_text(entry: Entry) -> str:
    """The text of ``config.json``: the entry, and the keys that timm reads for "hf-hub:" and "local-dir:"."""
    cfg = timm_cfg(entry)
    classes = cfg.pop("num_classes")
    del cfg["architecture"]
    document = {"architecture": TIMM_ARCHITECTURE, "num_classes": classes, "pretrained_cfg": cfg}
    return json.dumps({**document, "entry": to_json(entry)}, indent=2) + "\n"


def _without_sharing(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where two share memory, as in nets with tied weights."""
    seen: set[int] = set()
    for key, value in state.items():
        place = value.untyped_storage().data_ptr()
        state[key] = value.clone() if place in seen else value
        seen.add(place)
    return state


def timm_cfg(entry: Entry) -> dict[str, Any]:
    """The configuration from which timm makes an evaluation transform: images in [0, 1], made as by ``load_data``."""
    channels = entry.image_shape[0]
    made = PREPROCESSINGS.get(entry.preprocessing or USUAL) if entry.dataset == "imagenet" else None
    return {
        "architecture": entry.name,
        "num_classes": entry.num_classes if entry.head is None else entry.head.num_classes,
        "input_size": entry.image_shape,
        "crop_pct": 1.0 if made is None else made.crop_share,
        "crop_mode": "center",
        "interpolation": "bicubic" if made is None else made.interpolation,
        "mean": (0.0,) * channels,
        "std": (1.0,) * channels,
        "license": entry.license,
    }
