"""Recipes: complete descriptions of trainings as TOML files; a variant is a base and a few lines.

A recipe trains a base net, or makes a triplet: it says where g and h come from, whether alpha is constant or learned,
and how alpha's numbers are chosen. What depends on the machine (device, folders) is not in it.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from adaptive_smoothing_zoo.data import find_data_set
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.storage.schema import BY_KIND, parse
from adaptive_smoothing_zoo.threat import ThreatModel, parse_eps
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining
from adaptive_smoothing_zoo.training.choose_alpha import Choice
from adaptive_smoothing_zoo.training.mixing_training import MixingTraining
from adaptive_smoothing_zoo.training.smoothed import SmoothedTraining
from adaptive_smoothing_zoo.zoo.entry import (
    AdaptiveAlphaConfig,
    AlphaConfig,
    BaseNetConfig,
    LogitMapConfig,
    Paper,
    ScaleConfig,
)
from adaptive_smoothing_zoo.zoo.shipped_nets import BASE_NETS

logger = logging.getLogger(__name__)

RECIPES = Path(__file__).resolve().parents[1] / "recipes"  # those of the package
_FORMER = "eval/recipes/"  # their folder in earlier versions, which found recipes by path only


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Which training examples are learned from, and which are held out for the choice of alpha.

    Attributes:
        dataset: the data set whose training split is used. Test examples are never used.
        hold_out_every: hold out every k-th training example, from the first on, also from base nets; 0 for none. Digits
            have a validation split instead; their number is 0.
        learn_every: learn from every k-th of the other examples only, for short forms.

    Raises:
        ValueError: an unknown data set, or a number out of range.
    """

    dataset: str
    hold_out_every: int = 0
    learn_every: int = 1

    def __post_init__(self) -> None:
        find_data_set(self.dataset)
        if self.dataset == "digits" and self.hold_out_every:
            raise ValueError("digits have a validation split; hold_out_every must be 0")
        if self.hold_out_every < 0 or self.hold_out_every == 1:
            raise ValueError(f"hold_out_every must be 0 or at least 2, got {self.hold_out_every}")
        if self.learn_every < 1:
            raise ValueError(f"learn_every must be at least 1, got {self.learn_every}")

    @property
    def holds_out(self) -> bool:
        """Whether examples are held out."""
        return self.dataset == "digits" or self.hold_out_every > 0


@dataclass(frozen=True, kw_only=True)
class BaseNetRecipe:
    """A base net, trained from random weights that ``training.seed`` draws."""

    kind: Literal["base_net"] = "base_net"
    data: TrainingData
    net: BaseNetConfig
    training: BaseNetTraining


@dataclass(frozen=True, kw_only=True)
class SmoothedNetRecipe:
    """A base net that will be smoothed by Gaussian noise, trained from random weights that ``training.seed`` draws."""

    kind: Literal["smoothed_net"] = "smoothed_net"
    data: TrainingData
    net: BaseNetConfig
    training: SmoothedTraining


NetRecipe = BaseNetRecipe | SmoothedNetRecipe


@dataclass(frozen=True, kw_only=True)
class PretrainedNet:
    """A base net whose weights come with a dependency."""

    kind: Literal["pretrained"] = "pretrained"
    name: str  # a key of zoo.shipped_nets.BASE_NETS

    def __post_init__(self) -> None:
        if self.name not in BASE_NETS:
            raise ValueError(f"no base net {self.name!r}; known: {', '.join(sorted(BASE_NETS))}")


@dataclass(frozen=True, kw_only=True)
class TrainedNet:
    """A base net that another recipe trains, in a folder next to this one's; trained first if it is not there."""

    kind: Literal["recipe"] = "recipe"
    recipe: str  # see find_recipe


@dataclass(frozen=True, kw_only=True)
class TrainedSmoothedNet:
    """The smoothed version of a net that another recipe trains; otherwise like :class:`TrainedNet`."""

    kind: Literal["smoothed"] = "smoothed"
    recipe: str  # see find_recipe
    num_noises: int = 100  # size of the bank of noise
    votes: Literal["soft", "hard"] = "soft"
    logit_scale: float = 1.0  # of soft votes


@dataclass(frozen=True, kw_only=True)
class TripletNet:
    """A part of another triplet with the same data set."""

    kind: Literal["triplet"] = "triplet"
    name: str  # of the triplet
    part: Literal["std_model", "rob_model"]
    threat_model: Literal["Linf", "L2"] | None = None  # of that triplet; this recipe's if None


NetSource = Annotated[PretrainedNet | TrainedNet | TrainedSmoothedNet | TripletNet, BY_KIND]


@dataclass(frozen=True, kw_only=True)
class EntryText:
    """The descriptive fields of an entry."""

    name: str  # NameYearFirstword, with an optional _suffix
    description: str
    architecture: str  # as leaderboards show it
    paper: Paper
    additional_data: bool = False
    footnote: str = ""
    training: str = ""  # how g and h were trained; sentences on what this recipe did are added
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TripletRecipe:
    """g, h and alpha.

    Attributes:
        threat_model, eps: of the entry, of the choice, and by default of the training attack.
        std_map, rob_map: logit maps, as in an entry, including those of [BZPS24].
        alpha: as in an entry; a ``choice`` replaces its numbers (range, scale and bias, or constant).
        training: of the mixing network, if alpha has one.
        choice: how alpha's numbers are chosen on held-out examples; None keeps those of ``alpha``.
        half: round all weights to half precision before they are used, except those that a dependency ships.

    Raises:
        ValueError: a mixing network without a training, or a training without one; a choice without held-out examples,
            or of the bias of a constant alpha.
    """

    kind: Literal["triplet"] = "triplet"
    data: TrainingData
    threat_model: Literal["Linf", "L2"] = "Linf"
    eps: str
    std_model: NetSource
    rob_model: NetSource
    std_map: LogitMapConfig = field(default_factory=ScaleConfig)
    rob_map: LogitMapConfig = field(default_factory=ScaleConfig)
    alpha: AlphaConfig
    training: MixingTraining | None = None
    choice: Choice | None = None
    half: bool = False
    entry: EntryText

    def __post_init__(self) -> None:
        _ = self.threat
        if (self.training is None) == isinstance(self.alpha, AdaptiveAlphaConfig):
            raise ValueError("a recipe has a 'training' if and only if its alpha is adaptive")
        if self.choice is not None and not self.data.holds_out:
            raise ValueError("a choice of alpha needs held-out examples; set data.hold_out_every")
        if self.choice is not None and self.choice.vary == "logit_bias" and self.training is None:
            raise ValueError("a constant alpha has no bias that could vary; set choice.vary to 'alpha_min'")

    @cached_property
    def threat(self) -> ThreatModel:
        """The entry's threat model."""
        return ThreatModel(self.threat_model, parse_eps(self.eps))


Recipe = Annotated[BaseNetRecipe | SmoothedNetRecipe | TripletRecipe, BY_KIND]


def find_recipe(name: str | Path, beside: Path = Path()) -> Path:
    """The file of a recipe.

    Args:
        name: a path, or the name of a recipe of the package, with or without ".toml".
        beside: the folder to which a path is relative.

    Raises:
        ConfigError: there is none.
    """
    if os.path.isfile(beside / name):
        return beside / name
    packaged = Path(name).as_posix().rpartition(_FORMER)[2].removesuffix(".toml")
    path = RECIPES / f"{packaged}.toml"
    if not path.is_relative_to(RECIPES) or ".." in path.parts or not os.path.isfile(path):
        raise ConfigError(f"there is no recipe {beside / name}; asz recipes lists those of the package")
    if _FORMER in Path(name).as_posix():
        logger.warning("the path %s is deprecated: this recipe is part of the package, as %s", name, packaged)
    return path


def list_recipes() -> list[str]:
    """The names of the package's recipes."""
    names = (path.relative_to(RECIPES).as_posix().removesuffix(".toml") for path in RECIPES.rglob("*.toml"))
    return sorted(names, key=lambda name: ("/" in name, name))


def describe(recipe: Recipe) -> str:
    """What a recipe trains, in one line."""
    data = recipe.data.dataset
    if isinstance(recipe, BaseNetRecipe):
        return f"base net: {recipe.net.architecture} on {data}, {recipe.training.method}, {recipe.training.in_epochs()}"
    if isinstance(recipe, SmoothedNetRecipe):
        loss = f"{recipe.training.loss.kind}, sigma {recipe.training.sigma:g}"
        return f"net to be smoothed: {recipe.net.architecture} on {data}, {loss}, {recipe.training.in_epochs()}"
    what = "constant alpha"
    if recipe.training is not None:
        what = f"mixing network, attacked in setting {recipe.training.attack.setting}, {recipe.training.in_epochs()}"
    return f"triplet: {recipe.entry.name} on {data}, {recipe.threat_model} {recipe.eps}, {what}"


def read_recipe(name: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe file.

    With ``base = "other.toml"``, a file is that recipe, with its own values in place of the base's. In ``training``,
    numbers may be fractions in quotes, such as "8/255".

    Args:
        name: see :func:`find_recipe`.
        changes: ``key=value`` with dotted keys and TOML values (or bare words), such as ``training.seed=1``.

    Raises:
        ConfigError: no such file, not TOML, or not a recipe; the message names file and key.
    """
    path = find_recipe(name)
    data = _read(path, ())
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not all(key.split(".")):
            raise ConfigError(f"a change to a recipe is key=value, such as training.epochs=3, got {change!r}")
        _merge(data, _nested(key.split("."), _value(value)), change)
    for name in ("std_map", "rob_map"):
        if isinstance(data.get(name), dict):
            data[name].setdefault("kind", "scale")
    training = data.get("training")
    if isinstance(training, dict):
        data["training"] = training = _with_numbers(training)
        if data.get("kind") == "triplet" and isinstance(attack := training.setdefault("attack", {}), dict):
            eps = data.get("eps")
            attack.setdefault("eps", parse_eps(eps) if isinstance(eps, str) else eps)
            attack.setdefault("norm", data.get("threat_model", "Linf"))
    recipe: Recipe = parse(Recipe, data, str(path))  # type: ignore[arg-type]
    return recipe


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"{path}: 'base' must name a recipe, got {base!r}")
    here, other = (Path(os.path.realpath(each)) for each in (path, find_recipe(base, path.parent)))
    if other in (here, *above):
        raise ConfigError(f"{path}: its base {base} is based on it")
    merged = _read(other, (here, *above))
    _merge(merged, data, str(path))
    return merged


def _merge(onto: dict[str, Any], data: Mapping[str, Any], where: str) -> None:
    """Merge values into ``onto``, table by table; a table of another kind replaces the whole table."""
    for key, value in data.items():
        old = onto.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            _merge(old, value, where)
        elif isinstance(old, dict) and not isinstance(value, dict):
            raise ConfigError(f"{where}: {key!r} is a table, not {value!r}")
        else:
            onto[key] = value


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else _nested(keys[1:], value)}


def _value(text: str) -> Any:
    """The TOML value that the text stands for, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _with_numbers(value: Any) -> Any:
    """The value with fractions such as "8/255" as numbers."""
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    return _number(value)


def _number(value: Any) -> Any:
    if isinstance(value, str) and "/" in value:
        return parse_eps(value)
    return value
