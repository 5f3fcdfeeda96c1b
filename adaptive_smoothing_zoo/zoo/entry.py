"""A triplet as data: everything that decides its outputs, and everything a leaderboard or a card says about it.

The files in ``zoo/entries/`` and the ``config.json`` of published weights have the same fields in the same format.
Their JSON schema is ``zoo/entry.schema.json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from adaptive_smoothing_zoo.errors import ConfigError, shown
from adaptive_smoothing_zoo.storage.schema import BY_KIND, checked, parse, read_json, to_json
from adaptive_smoothing_zoo.threat import ThreatModel, parse_eps

PARTS = ("std_model", "rob_model", "alpha")  # in the order of RobustBench's files

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
WeightsFile = Annotated[str, Field(pattern=r"^[\w.-]+\.safetensors$")]  # a bare name
NetName = Annotated[str, Field(pattern="^(std_model|rob_model)$")]
PartName = Annotated[str, Field(pattern="^(std_model|rob_model|alpha)$")]


# With such an ending, a name's files could not be told from records of another name.
RECORD_ENDINGS = ("run", "curve", "verify", "adaptive", "validation", "model", "radii", "certified")


def check_ending(name: str, endings: tuple[str, ...] = RECORD_ENDINGS) -> str:
    """The name of a model; ValueError if its files would be taken for records of another one."""
    if (ending := name.rpartition(".")[2]) in endings and ending != name:
        raise ValueError(f"{name!r} ends like a file of records, in .{ending}; choose another name")
    return name


def _check_eps(text: str) -> str:
    parse_eps(text)
    return text


def _check_percentage(text: str) -> str:
    if not 0.0 <= float(text) <= 100.0:
        raise ValueError(f"a percentage must be in [0, 100], got {shown(text)}")
    return text


Percentage = Annotated[str, AfterValidator(_check_percentage)]  # "95.23"


def _check_range(text: str) -> str:
    _, first, end = text.split(":")
    if int(first) >= int(end):
        raise ValueError(f"must end after its first image, got {text!r}")
    return text


ImageRange = Annotated[str, Field(pattern=r"^(train|validation|test):\d+:\d+$"), AfterValidator(_check_range)]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseNetConfig:
    """One base net."""

    architecture: str  # a key of backbones.ARCHITECTURES
    arguments: dict[str, Any] = field(default_factory=dict)  # of that architecture; num_classes is the entry's
    pretrained: str | None = None  # the key in shipped_nets.BASE_NETS of its weights; None: in the triplet's file

    def __post_init__(self) -> None:
        if "num_classes" in self.arguments:
            raise ConfigError("'num_classes' is a field of the entry, not one of 'arguments'")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConstantAlphaConfig:
    """The same alpha, the weight of h, for every input."""

    kind: Literal["constant"] = "constant"
    value: Share

    @property
    def alpha_min(self) -> float:
        return self.value

    @property
    def alpha_max(self) -> float:
        return self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptiveAlphaConfig:
    """alpha from a mixing network: alpha_min + (alpha_max - alpha_min) sigmoid(logit_scale * output + logit_bias)."""

    kind: Literal["adaptive"] = "adaptive"
    alpha_min: Share
    alpha_max: Share  # >= alpha_min
    logit_scale: float  # on the batch-normalized output of the network
    logit_bias: float
    planes: tuple[int, int, int]  # output channels of the network's three groups
    version: int = 4
    std_taps: tuple[int, int] = (0, 1)  # indices of the two feature maps taken from std_model
    rob_taps: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.alpha_min > self.alpha_max:
            raise ConfigError(f"alpha_min must not exceed alpha_max, got {self.alpha_min} > {self.alpha_max}")


AlphaConfig = Annotated[ConstantAlphaConfig | AdaptiveAlphaConfig, BY_KIND]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConfig:
    """Logits times a positive number (t_g, t_h)."""

    kind: Literal["scale"] = "scale"
    factor: Positive = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class HardMaxConfig:
    """All probability on the largest logit (MixedNUTS, for g)."""

    kind: Literal["hard_max"] = "hard_max"


@dataclass(frozen=True, kw_only=True, slots=True)
class NormClampPowerScaleConfig:
    """The non-linear map of MixedNUTS, for h: ``scale * |GELU(standardized + clamp_bias)| ** power``, with its sign."""

    kind: Literal["norm_clamp_power_scale"] = "norm_clamp_power_scale"
    scale: Positive
    power: Annotated[float, Field(ge=1)]
    clamp_bias: float
    top_k: Annotated[int, Field(ge=2)] = 250  # how many logits give mean and variance


LogitMapConfig = Annotated[ScaleConfig | HardMaxConfig | NormClampPowerScaleConfig, BY_KIND]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """What ``reset_classifier`` put in place of the mix, and what ``prune_intermediate_layers`` left of the nets."""

    features: Literal["both", "std_model", "rob_model"]  # whose pooled features the head gets
    num_classes: Annotated[int, Field(ge=0)]  # of the head; 0 if the features themselves are the output
    stages: dict[NetName, Count]  # by base net that the module still has: how many of its stages
    without_final: tuple[NetName, ...] = ()  # base nets without what followed their last stage

    def __post_init__(self) -> None:
        needed = {"std_model", "rob_model"} if self.features == "both" else {self.features}
        if not needed <= self.stages.keys():
            raise ConfigError(f"'stages' must name {' and '.join(sorted(needed))}, got {shown(self.stages)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SurrogateConfig:
    """The net that the authors attack in place of a model with useless gradients; verdicts are always the model's."""

    name: str  # a key of attacks.surrogates.SURROGATES
    alpha: Share  # weight of h in it


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file in somebody's Hugging Face Hub repository."""

    kind: Literal["hub"] = "hub"
    repo: str  # "org/name"
    filename: str
    revision: str | None = None  # full commit hash; the newest file if None
    sha256: Sha256 | None = None  # of the file, where known
    size: int | None = None  # in bytes, where known


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlFile:
    """A file at a plain URL."""

    kind: Literal["url"] = "url"
    url: str
    sha256: Sha256 | None = None  # of the file, where known
    size: int | None = None  # in bytes, where known


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustBenchFile:
    """A file that RobustBench downloads from Google Drive, whose id its ``model_dicts`` knows."""

    kind: Literal["robustbench"] = "robustbench"
    model: str  # RobustBench's name, for the entry's data set and threat model
    index: int | None = None  # which of the model's files, if it has several
    sha256: Sha256 | None = None  # of the file, where known
    size: int | None = None  # in bytes, where known

    @property
    def filename(self) -> str:
        """What RobustBench calls the file in its cache."""
        return f"{self.model}.pt" if self.index is None else f"{self.model}.pt_m{self.index}.pt"


Source = Annotated[HubFile | UrlFile | RobustBenchFile, BY_KIND]


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """The original checkpoint of one part of a triplet, in its authors' format."""

    sources: tuple[Source, ...]  # of the very same weights; tried in this order


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Where the weights are, and their hashes."""

    embedded: WeightsFile | None = None  # in the package's folder "pretrained"
    sha256: Sha256 | None = None  # of the weights file
    shards: dict[WeightsFile, Sha256] = field(default_factory=dict)  # if the weights are in several files
    hub_repo: str | None = None  # "org/name", only if that repository exists
    revision: str | None = None  # full commit hash in that repository
    components: dict[PartName, Component] = field(default_factory=dict)  # the original checkpoints
    verified: bool = False  # whether somebody loaded exactly these and measured the published clean accuracy
    model_sha256: Sha256 | None = None  # identity of the model that the entry was written for


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """The publication behind a model."""

    title: str
    authors: str  # comma separated
    venue: str
    link: str

    @property
    def missing(self) -> tuple[str, ...]:
        """Which of "title" and "link", which a leaderboard needs, are not known."""
        said = {"title": self.title not in ("", UNPUBLISHED.title), "link": self.link != ""}
        return tuple(name for name, known in said.items() if not known)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Accuracies as their authors or a leaderboard published them, in percent with two decimals."""

    clean: Percentage
    autoattack: Percentage
    source: str
    adaptive: Percentage | None = None  # accuracy under an attack adapted to the model, where one was published


UNSAID = (
    "Nobody has said against what this model is to be robust. Norm and radius are only what commands attack with if "
    "they are not told otherwise."
)
"""The limit of a mix that was saved without a threat model. Saved entries are recognized by this text: keep it."""

UNPUBLISHED = Paper(title="not published", authors="unknown", venue="", link="")


@checked
@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """The facts about a model that is evaluated, whoever made it."""

    name: Annotated[
        str, Field(pattern="^[A-Za-z][A-Za-z0-9_.+-]*$"), AfterValidator(check_ending)
    ]  # NameYearFirstword, with an optional _suffix
    dataset: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$")]  # it names a folder of results
    threat_model: Literal["Linf", "L2"]
    eps: Annotated[str, AfterValidator(_check_eps)]  # "8/255" or "0.5", in units of pixels in [0, 1]
    description: str = ""
    num_classes: Annotated[int, Field(ge=2)]
    image_shape: tuple[Count, Count, Count]  # channels, height, width
    preprocessing: str | None = None  # how the data set's files become images, where load_data offers several ways
    paper: Paper = UNPUBLISHED
    architecture: str  # as a leaderboard shows it
    additional_data: bool | None = None  # whether training used more than the data set's own images; None: unknown
    number_forward_passes: int = 1
    footnote: str = ""
    license: str = "other"
    published: Published | None = None
    chosen_on: ImageRange | None = None  # images that chose or trained it: "test:5000:6000", without 6,000

    def chosen_among(self, n: int) -> int:
        """How many of the data set's first ``n`` test images chose the mix."""
        split, first, end = (self.chosen_on or "test:0:0").split(":")
        return max(0, min(int(end), n) - int(first)) if split == "test" else 0

    @property
    def threat(self) -> ThreatModel:
        """The threat model."""
        return ThreatModel(self.threat_model, self.eps_value)

    @property
    def eps_value(self) -> float:
        """eps as a number."""
        return parse_eps(self.eps)

    @property
    def key(self) -> str:
        """name-dataset-threat, unique in the zoo."""
        return f"{self.name}-{self.dataset}-{self.threat_model}"


@checked
@dataclass(frozen=True, kw_only=True, slots=True)
class NetEntry(ModelEntry):
    """A net that is not in our format, as described when it was first evaluated or by ``asz describe``."""

    reference: str  # by which the user named it, with the checkpoint's file if there is one


@checked
@dataclass(frozen=True, kw_only=True, slots=True)
class Entry(ModelEntry):
    """One triplet."""

    description: str
    aliases: tuple[str, ...] = ()  # other names of the same triplet
    std_model: BaseNetConfig
    rob_model: BaseNetConfig
    alpha: AlphaConfig
    std_map: LogitMapConfig = field(default_factory=ScaleConfig)
    rob_map: LogitMapConfig = field(default_factory=ScaleConfig)
    surrogate: SurrogateConfig | None = None
    head: HeadConfig | None = None  # of a classifier for another task on the nets' features, in place of the mix
    weights: Weights = field(default_factory=Weights)
    paper: Paper
    additional_data: bool | None
    number_forward_passes: int = 2
    license: str = "mit"
    training: str = ""  # how the weights came to be
    limits: tuple[str, ...] = ()

    def self_contained(self, sha256: str | None = None, shards: dict[str, str] | None = None) -> Entry:
        """The same triplet with all its weights in one file of hash ``sha256``, or in several, ``shards``."""
        verified, model_sha256 = self.weights.verified, self.weights.model_sha256
        return replace(
            self,
            std_model=replace(self.std_model, pretrained=None),
            rob_model=replace(self.rob_model, pretrained=None),
            weights=Weights(sha256=sha256, shards=shards or {}, verified=verified, model_sha256=model_sha256),
        )

    @property
    def comes_along(self) -> bool:
        """Whether the package and its dependencies ship all of its weights: in a file, or as base nets alone."""
        shipped = self.std_model.pretrained is not None and self.rob_model.pretrained is not None
        return self.weights.embedded is not None or (shipped and isinstance(self.alpha, ConstantAlphaConfig))

    @property
    def says_threat(self) -> bool:
        """Whether its makers named its threat model."""
        return UNSAID not in self.limits

    @property
    def has_numbers(self) -> bool:
        """Whether it has published accuracies or calls its weights verified."""
        return self.published is not None or self.weights.verified

    def about(self, model_sha256: str) -> Entry:
        """The entry with the identity of the model that it was written for."""
        return replace(self, weights=replace(self.weights, model_sha256=model_sha256))

    def without_numbers(self) -> Entry:
        """The entry for other weights: without the published accuracies and "verified", which are about weights."""
        return replace(self, published=None, weights=replace(self.weights, verified=False, model_sha256=None))

    def changed(self) -> Entry:
        """The entry for what somebody made of the model: without what nobody said of that, and it says so.

        Name, license, limits and the images that chose the model stay.
        """
        said = f"Changed from {self.key}: weights, alpha, logit maps or head differ from the original's."
        paper = "" if self.paper.missing else f", [{self.paper.title}]({self.paper.link})"
        before = self.training or "not described here."
        return replace(
            self.without_numbers(),
            description=self.description if said in self.description else f"{said} The original: {self.description}",
            training=self.training if said in self.training else f"{said} The original{paper}: {before}",
            paper=UNPUBLISHED,
            additional_data=self.additional_data or None,
            aliases=(),
        )

    def differences(self, other: Entry) -> list[str]:
        """Names of the differing fields, of those that decide the outputs or say which triplet it is."""
        mine, its = self.self_contained(), other.self_contained()
        return [name for name in _DECIDING if to_json(getattr(mine, name)) != to_json(getattr(its, name))]


_DECIDING = (
    *("name", "dataset", "threat_model", "eps", "std_map", "rob_map", "alpha", "head", "num_classes", "image_shape"),
    *("std_model", "rob_model"),
)


def read_entry(path: Path) -> Entry:
    """Read an entry file, or the entry in a ``config.json``, whose other keys are for other tools.

    Raises:
        ConfigError: the file is missing, not JSON, or no entry; the message names the file and the key.
    """
    try:
        data = read_json(path)
        return parse(Entry, data["entry"] if isinstance(data, dict) and "entry" in data else data, str(path))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None


def entry_to_text(entry: ModelEntry) -> str:
    """The text of an entry file."""
    return json.dumps(to_json(entry), indent=2) + "\n"
