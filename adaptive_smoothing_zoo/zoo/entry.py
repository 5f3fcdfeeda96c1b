"""What a triplet is, as data: everything that decides its outputs, and everything a leaderboard or a card says of it.

The same fields, in the same format, stand in ``zoo/entries/`` and in the ``config.json`` beside published weights.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from adaptive_smoothing_zoo.errors import ConfigError, shown
from adaptive_smoothing_zoo.method.alpha import check_alpha
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json
from adaptive_smoothing_zoo.threat import parse_eps


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseNetConfig:
    """One base net."""

    architecture: str  # a key of backbones.ARCHITECTURES
    arguments: dict[str, Any] = field(default_factory=dict)  # of that architecture; num_classes is the entry's
    pretrained: str | None = None  # a key of zoo.base_nets.BASE_NETS whose weights it has, if not the triplet's file

    def __post_init__(self) -> None:
        if "num_classes" in self.arguments:
            raise ConfigError("'num_classes' is a field of the entry, not one of 'arguments'")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConstantAlphaConfig:
    """The same alpha for every input."""

    kind: Literal["constant"] = "constant"
    value: float  # in [0, 1]

    def __post_init__(self) -> None:
        check_alpha(self.value)

    @property
    def alpha_min(self) -> float:
        return self.value

    @property
    def alpha_max(self) -> float:
        return self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptiveAlphaConfig:
    """alpha from a mixing network."""

    kind: Literal["adaptive"] = "adaptive"
    alpha_min: float  # in [0, 1]
    alpha_max: float  # in [alpha_min, 1]
    logit_scale: float  # on the batch-normalized output of the network
    logit_bias: float
    planes: tuple[int, int, int]  # output channels of the network's three groups
    version: int = 4
    std_taps: tuple[int, int] = (0, 1)  # indices of the two feature maps taken from std_model
    rob_taps: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        check_alpha(self.alpha_min, "alpha_min")
        check_alpha(self.alpha_max, "alpha_max")
        if self.alpha_min > self.alpha_max:
            raise ConfigError(f"alpha_min must not exceed alpha_max, got {self.alpha_min} > {self.alpha_max}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConfig:
    """Logits times a positive number (t_g, t_h)."""

    kind: Literal["scale"] = "scale"
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.factor < math.inf:
            raise ConfigError(f"a logit scale must be a finite positive number, got {self.factor}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HardMaxConfig:
    """All probability on the largest logit (MixedNUTS, for g)."""

    kind: Literal["hard_max"] = "hard_max"


@dataclass(frozen=True, kw_only=True, slots=True)
class NormClampPowerScaleConfig:
    """The non-linear map of MixedNUTS, for h: ``scale * |GELU(standardized + clamp_bias)| ** power``, with its sign."""

    kind: Literal["norm_clamp_power_scale"] = "norm_clamp_power_scale"
    scale: float  # > 0
    power: float  # >= 1
    clamp_bias: float
    top_k: int = 250  # how many logits give mean and variance


LogitMapConfig = ScaleConfig | HardMaxConfig | NormClampPowerScaleConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """What ``reset_classifier`` put in place of the mix, and what ``prune_intermediate_layers`` left of the nets."""

    features: Literal["both", "std_model", "rob_model"]  # whose pooled features the head gets
    num_classes: int  # of the head; 0 if the features themselves are the output
    stages: dict[str, int]  # by base net that the module still has: how many of its stages
    without_final: tuple[str, ...] = ()  # base nets without what followed their last stage

    def __post_init__(self) -> None:
        nets = {"std_model", "rob_model"}
        needed = nets if self.features == "both" else {self.features}
        if not needed <= self.stages.keys() <= nets or min(self.stages.values()) < 1:
            raise ConfigError(
                f"'stages' must name {' and '.join(sorted(needed))} with at least 1 stage, got {shown(self.stages)}"
            )
        if not nets.issuperset(self.without_final):
            raise ConfigError(f"'without_final' names base nets, got {shown(self.without_final)}")
        if self.num_classes < 0:
            raise ConfigError(f"'num_classes' must not be negative, got {self.num_classes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SurrogateConfig:
    """What the authors attack in place of the model, whose gradient says little; the verdict is always the model's."""

    name: str  # a key of attacks.surrogates.SURROGATES
    alpha: float  # weight of h in it

    def __post_init__(self) -> None:
        check_alpha(self.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file in somebody's Hugging Face Hub repository."""

    kind: Literal["hub"] = "hub"
    repo: str  # "org/name"
    filename: str
    revision: str | None = None  # full commit hash; the newest file if None
    sha256: str | None = None  # of the file, where known
    size: int | None = None  # in bytes, where known

    def __post_init__(self) -> None:
        _check_sha256(self.sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlFile:
    """A file at a plain URL."""

    kind: Literal["url"] = "url"
    url: str
    sha256: str | None = None  # of the file, where known
    size: int | None = None  # in bytes, where known

    def __post_init__(self) -> None:
        _check_sha256(self.sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustBenchFile:
    """A file that RobustBench downloads from Google Drive, whose id its ``model_dicts`` knows."""

    kind: Literal["robustbench"] = "robustbench"
    model: str  # RobustBench's name, for the entry's data set and threat model
    index: int | None = None  # which of the model's files, if it has several
    sha256: str | None = None  # of the file, where known
    size: int | None = None  # in bytes, where known

    def __post_init__(self) -> None:
        _check_sha256(self.sha256)

    @property
    def filename(self) -> str:
        """What RobustBench calls the file in its cache."""
        return f"{self.model}.pt" if self.index is None else f"{self.model}.pt_m{self.index}.pt"


Source = HubFile | UrlFile | RobustBenchFile
PARTS = ("std_model", "rob_model", "alpha")  # in the order of RobustBench's files


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """The original checkpoint of one part of a triplet, in its authors' format."""

    sources: tuple[Source, ...]  # of the very same weights; tried in this order


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Where the weights are and how to know them."""

    embedded: str | None = None  # file name in the package's folder "pretrained"
    sha256: str | None = None  # of the weights file
    shards: dict[str, str] = field(default_factory=dict)  # file name to SHA-256, if the weights are in several files
    hub_repo: str | None = None  # "org/name", only if that repository exists
    revision: str | None = None  # full commit hash in that repository
    components: dict[str, Component] = field(default_factory=dict)  # by part: the original checkpoints
    verified: bool = False  # whether somebody loaded exactly these and found the clean accuracy that was published
    model_sha256: str | None = None  # identity of the model that "verified" and "published" are about

    def __post_init__(self) -> None:
        if self.embedded is not None and re.fullmatch(r"[\w.-]+\.safetensors", self.embedded) is None:
            raise ConfigError(f"'embedded' must be the bare name of a .safetensors file, got {shown(self.embedded)}")
        _check_sha256(self.sha256)
        _check_sha256(self.model_sha256)
        for name, sha256 in self.shards.items():
            if re.fullmatch(r"[\w.-]+\.safetensors", name) is None:
                raise ConfigError(f"a shard must be the bare name of a .safetensors file, got {shown(name)}")
            _check_sha256(sha256)
        if unknown := sorted(set(self.components) - set(PARTS)):
            raise ConfigError(f"unknown component {shown(unknown[0])}; the parts of a triplet are {', '.join(PARTS)}")


def _check_sha256(value: str | None) -> None:
    if value is not None and re.fullmatch(r"[0-9a-f]{64}", value) is None:
        raise ConfigError(f"'sha256' must be 64 lower-case hexadecimal digits, got {shown(value)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """The publication behind a triplet."""

    title: str
    authors: str  # comma separated
    venue: str
    link: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Accuracies as their authors or a leaderboard published them, in percent with two decimals."""

    clean: str
    autoattack: str
    source: str
    adaptive: str | None = None  # accuracy under an attack adapted to the model, where one was published


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One triplet."""

    name: str  # NameYearFirstword, with an optional _suffix
    dataset: str
    threat_model: Literal["Linf", "L2"]
    eps: str  # "8/255" or "0.5", in units of pixels in [0, 1]
    description: str
    aliases: tuple[str, ...] = ()  # other names of the same triplet
    num_classes: int
    image_shape: tuple[int, int, int]  # channels, height, width
    std_model: BaseNetConfig
    rob_model: BaseNetConfig
    alpha: ConstantAlphaConfig | AdaptiveAlphaConfig
    std_map: LogitMapConfig = field(default_factory=ScaleConfig)
    rob_map: LogitMapConfig = field(default_factory=ScaleConfig)
    surrogate: SurrogateConfig | None = None
    head: HeadConfig | None = None  # of a classifier for another task, made of the nets of the mix
    weights: Weights = field(default_factory=Weights)
    paper: Paper
    architecture: str  # as a leaderboard shows it
    additional_data: bool  # whether training used more than the data set's own training images
    number_forward_passes: int = 2
    footnote: str = ""
    license: str = "mit"
    published: Published | None = None
    training: str = ""  # how the weights came to be
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+-]*", self.name) is None:
            raise ConfigError(f"a model name has letters, digits and '_.+-' only, got {shown(self.name)}")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.dataset) is None:  # it names a folder of results
            raise ConfigError(f"a data set's name has letters, digits, '_' and '-' only, got {shown(self.dataset)}")
        if self.num_classes < 2:
            raise ConfigError(f"'num_classes' must be at least 2, got {self.num_classes}")
        if min(self.image_shape) < 1:
            raise ConfigError(f"'image_shape' must have positive numbers, got {self.image_shape}")
        parse_eps(self.eps)

    @property
    def eps_value(self) -> float:
        """eps as a number."""
        return parse_eps(self.eps)

    @property
    def key(self) -> str:
        """name-dataset-threat, unique in the zoo."""
        return f"{self.name}-{self.dataset}-{self.threat_model}"

    def self_contained(self, sha256: str | None = None, shards: dict[str, str] | None = None) -> Entry:
        """The same triplet with all its weights in one file of hash ``sha256``, or in several, ``shards``."""
        return replace(
            self,
            std_model=replace(self.std_model, pretrained=None),
            rob_model=replace(self.rob_model, pretrained=None),
            weights=Weights(
                sha256=sha256,
                shards=shards or {},
                verified=self.weights.verified,
                model_sha256=self.weights.model_sha256,
            ),
        )

    @property
    def has_numbers(self) -> bool:
        """Whether it says what was published, or that the weights are verified."""
        return self.published is not None or self.weights.verified

    def about(self, model_sha256: str) -> Entry:
        """The same with word of the model that "verified" and "published" are about."""
        return replace(self, weights=replace(self.weights, model_sha256=model_sha256))

    def without_numbers(self) -> Entry:
        """The same without what was published or verified, which is about weights: for others."""
        weights = replace(self.weights, verified=False, model_sha256=None)
        return replace(self, published=None, weights=weights)

    def differences(self, other: Entry) -> list[str]:
        """Names of the fields that decide outputs and are not the same in both."""
        return [
            name
            for name in (*_IDENTITY, "std_map", "rob_map", "alpha", "head", "num_classes", "image_shape")
            if getattr(self, name) != getattr(other, name)
        ] + [
            name
            for name in ("std_model", "rob_model")
            for mine, its in [(getattr(self, name), getattr(other, name))]
            if (mine.architecture, to_json(mine.arguments)) != (its.architecture, to_json(its.arguments))
        ]


_IDENTITY = ("name", "dataset", "threat_model", "eps")


def read_entry(path: Path) -> Entry:
    """Read an entry file, or the entry in a ``config.json``, whose other keys are for other tools.

    Raises:
        ConfigError: not JSON, or not an entry; the message names the file and the key.
    """
    try:
        data = read_json(path)
        return parse(Entry, data["entry"] if isinstance(data, dict) and "entry" in data else data, str(path))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None


def entry_to_text(entry: Entry) -> str:
    """The text of an entry file."""
    return json.dumps(to_json(entry), indent=2) + "\n"
