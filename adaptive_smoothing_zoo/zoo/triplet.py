"""A triplet: one module (g, h and alpha) and the entry that describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.alpha import AdaptiveAlpha, ConstantAlpha
from adaptive_smoothing_zoo.backbones import BaseNet, build
from adaptive_smoothing_zoo.classifier import MixedClassifier
from adaptive_smoothing_zoo.errors import ConfigError, WeightsError
from adaptive_smoothing_zoo.files import write_text
from adaptive_smoothing_zoo.logit_maps import Scale
from adaptive_smoothing_zoo.mixing_network import MixingNetwork
from adaptive_smoothing_zoo.zoo.base_nets import BASE_NETS
from adaptive_smoothing_zoo.zoo.entry import (
    AdaptiveAlphaConfig,
    BaseNetConfig,
    ConstantAlphaConfig,
    Entry,
    ScaleConfig,
    entry_to_text,
    read_entry,
)
from adaptive_smoothing_zoo.zoo.weights import load_strictly, read_safetensors, write_safetensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class Triplet(MixedClassifier):
    """The mixed classifier that an entry describes, with random weights until some are loaded.

    Raises:
        ConfigError: the entry names an architecture or arguments that do not exist, or nets that do not fit together.
    """

    def __init__(self, entry: Entry) -> None:
        try:
            std_model = _build_base_net(entry.std_model, entry.num_classes)
            rob_model = _build_base_net(entry.rob_model, entry.num_classes)
            super().__init__(
                std_model,
                rob_model,
                _build_alpha(entry.alpha, std_model, rob_model),
                std_map=_build_map(entry.std_map),
                rob_map=_build_map(entry.rob_map),
            )
            for name, net in (("std_model", std_model), ("rob_model", rob_model)):
                channels = len(net.mean) if isinstance(net, BaseNet) else entry.image_shape[0]
                if channels != entry.image_shape[0]:
                    raise ValueError(f"{name} takes {channels} channels, image_shape says {entry.image_shape[0]}")
        except (ValueError, RuntimeError, IndexError) as error:
            raise ConfigError(f"the entry of {entry.key} cannot be built: {error}") from error
        self.entry = entry

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm's users read off a model; images come in [0, 1], so mean and std are those of no change."""
        channels = self.entry.image_shape[0]
        return {
            "architecture": self.entry.name,
            "num_classes": self.entry.num_classes,
            "input_size": self.entry.image_shape,
            "mean": (0.0,) * channels,
            "std": (1.0,) * channels,
            "license": self.entry.license,
        }

    default_cfg = pretrained_cfg

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``: all that ``from_pretrained`` needs, nothing else.

        Raises:
            ResultsError: the folder cannot be written.
        """
        folder = Path(folder)
        sha256 = write_safetensors(folder / WEIGHTS_FILE, self.state_dict())
        write_text(folder / CONFIG_FILE, entry_to_text(self.entry.self_contained(sha256)))

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        device: str | torch.device | None = None,
    ) -> Triplet:
        """Load what ``save_pretrained`` wrote, from a local folder or a Hugging Face Hub repository ("org/name").

        Args:
            folder_or_repo: an existing folder, or else a repository.
            revision: branch, tag or full commit hash in the repository.
            cache_dir, token, local_files_only: as in ``huggingface_hub.hf_hub_download``.
            device: where to put the module; the CPU if None.

        Returns:
            The triplet in eval mode, its weights frozen.

        Raises:
            ConfigError, WeightsError: the files do not say or hold what they must; nothing is loaded in part.
        """
        if Path(folder_or_repo).is_dir():
            config, weights = Path(folder_or_repo) / CONFIG_FILE, Path(folder_or_repo) / WEIGHTS_FILE
        else:
            config, weights = (
                _download(str(folder_or_repo), name, revision, cache_dir, token, local_files_only)
                for name in (CONFIG_FILE, WEIGHTS_FILE)
            )
        entry = read_entry(config)
        return load_triplet(entry, read_safetensors(weights, entry.weights.sha256), device)


def load_triplet(entry: Entry, state: dict[str, Tensor], device: str | torch.device | None = None) -> Triplet:
    """The triplet of ``entry`` with the weights ``state``, in eval mode and frozen.

    Base nets whose weights a dependency ships (``pretrained`` in the entry) take them from there.
    """
    with torch.device("meta"):
        triplet = Triplet(entry)
    for name, config in (("std_model", entry.std_model), ("rob_model", entry.rob_model)):
        if config.pretrained is not None:
            state = state | {f"{name}.{key}": value for key, value in BASE_NETS[config.pretrained].state_dict().items()}
    load_strictly(triplet, state, entry.key)
    return triplet.eval().requires_grad_(False).to(device or "cpu")


def _build_base_net(config: BaseNetConfig, num_classes: int) -> nn.Module:
    if config.pretrained is not None and config.pretrained not in BASE_NETS:
        raise ValueError(f"no base net {config.pretrained!r}; known: {', '.join(sorted(BASE_NETS))}")
    return build(config.architecture, num_classes=num_classes, **config.arguments)


def _build_map(config: ScaleConfig) -> nn.Module:
    return Scale(config.factor)


def _build_alpha(
    config: ConstantAlphaConfig | AdaptiveAlphaConfig, std_model: nn.Module, rob_model: nn.Module
) -> ConstantAlpha | AdaptiveAlpha:
    if isinstance(config, ConstantAlphaConfig):
        return ConstantAlpha(config.value)
    taps = ((std_model, config.std_taps), (rob_model, config.rob_taps))
    for name, (net, tap) in zip(("std", "rob"), taps, strict=True):
        count = len(net.feature_info)  # type: ignore[arg-type]
        if outside := [i for i in tap if not -count <= i < count]:
            raise ValueError(
                f"{name}_model has {count} feature maps; there is none at index {outside[0]} ({name}_taps)"
            )
    channels: list[list[int]] = [[net.feature_info[i]["num_chs"] for i in tap] for net, tap in taps]  # type: ignore[index, misc]
    first, second = (std + rob for std, rob in zip(*channels, strict=True))
    return AdaptiveAlpha(
        MixingNetwork(first, second, config.planes, version=config.version),
        alpha_min=config.alpha_min,
        alpha_max=config.alpha_max,
        logit_scale=config.logit_scale,
        logit_bias=config.logit_bias,
        std_taps=config.std_taps,
        rob_taps=config.rob_taps,
    )


def _download(
    repo: str,
    name: str,
    revision: str | None,
    cache_dir: str | Path | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(
            repo, name, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
    except HFValidationError as error:
        raise WeightsError(f"{repo!r} is neither an existing folder nor a repository name (org/name)") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"cannot get {name} from {repo!r}, which is no local folder either: {first_line}") from error
    return Path(path)
