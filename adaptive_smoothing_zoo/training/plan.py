"""What carrying out a recipe means, before it begins: which nets are trained, which exist, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import TrainingError
from adaptive_smoothing_zoo.training.keeping import rounds_kept
from adaptive_smoothing_zoo.training.loop import OnProgress, Progress
from adaptive_smoothing_zoo.training.mixing_training import train_mixing_network
from adaptive_smoothing_zoo.training.recipe import (
    NetRecipe,
    NetSource,
    PretrainedNet,
    Recipe,
    TripletNet,
    TripletRecipe,
    in_epochs,
)
from adaptive_smoothing_zoo.training.runs import (
    RECORD_FILE,
    Machine,
    check_folder,
    folder_of,
    net_config,
    new_triplet,
    recipe_of,
    train_net_of,
    training_examples,
)

TIMED_ROUNDS = 3  # of each training, of which the first warms up
PATIENCE = 5.0  # seconds after which no further one is timed


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a plan.

    Attributes:
        name: "g", "h", "mixing network", "alpha", or "net" or "triplet" where that is all.
        what: it, in words.
        folder: of its training; None if nothing is to be trained.
        rounds: of its training.
        train: trains it from its first weights, keeping nothing, to measure how long a round takes.
    """

    name: str
    what: str
    folder: Path | None = None
    rounds: int = 0
    train: Callable[[OnProgress], object] = lambda on_progress: None

    @property
    def is_finished(self) -> bool:
        """Whether nothing of it is to be trained any more, as the disk says."""
        return self.folder is None or (self.folder / RECORD_FILE).is_file()

    @property
    def kept(self) -> int:
        """How many of its rounds are on the disk."""
        return self.rounds if self.folder is None or self.is_finished else min(rounds_kept(self.folder), self.rounds)

    def __str__(self) -> str:
        if self.folder is None:
            return f"{self.name}: {self.what}"
        state = f"{self.rounds:,} rounds in {self.folder}"
        if self.is_finished:
            state = f"trained, in {self.folder}"
        elif self.kept:
            state = f"{state}, resumed after round {self.kept:,}"
        return f"{self.name}: {self.what}; {state}"


def make_plan(recipe: Recipe, out: Path, machine: Machine, *, beside: Path = Path()) -> list[Stage]:
    """What ``run_recipe`` does with the same arguments, in its order.

    Raises:
        ConfigError, ResultsError, ValueError: as ``run_recipe``.
    """
    check_folder(out, recipe)
    if isinstance(recipe, NetRecipe):
        return [_net("net", recipe, out, machine)]
    if (out / RECORD_FILE).is_file():
        return [Stage(name="triplet", what=recipe.entry.name, folder=out)]
    stages = [
        _part(name, source, recipe, out, machine, beside)
        for name, source in (("g", recipe.std_model), ("h", recipe.rob_model))
    ]
    if recipe.training is not None:
        stages.append(_mixing_network(recipe, out, machine, beside))
    if recipe.choice is not None:
        stages.append(Stage(name="alpha", what="chosen on held-out examples; its time is not estimated"))
    return stages


def pace(stage: Stage, machine: Machine) -> float:
    """Seconds that a round of a stage takes, measured on a few; NaN if they fail."""
    seconds: list[float] = []

    def on_progress(progress: Progress) -> None:
        seconds.append(progress.measured["seconds"])
        if machine.workers.from_first(len(seconds) == TIMED_ROUNDS or sum(seconds) > PATIENCE):
            raise _EnoughError

    with suppress(_EnoughError, TrainingError):
        stage.train(on_progress)
    return mean(seconds[1:] or seconds or [float("nan")])


def kept(stages: list[Stage]) -> str:
    """What of a plan is on the disk, in a sentence."""
    found = [
        f"{stage.name} (trained)" if stage.is_finished else f"round {stage.kept:,} of {stage.rounds:,} of {stage.name}"
        for stage in stages
        if stage.folder is not None and (stage.is_finished or stage.kept)
    ]
    return f"kept: {', '.join(found) or 'nothing yet'}"


class _EnoughError(Exception):
    """Ends a training that is only timed."""


def _part(name: str, source: NetSource, recipe: TripletRecipe, out: Path, machine: Machine, beside: Path) -> Stage:
    if isinstance(source, PretrainedNet):
        return Stage(name=name, what=f"{net_config(source, recipe, beside).architecture}, shipped ({source.name})")
    if isinstance(source, TripletNet):
        return Stage(name=name, what=f"{source.part} of {source.name}")
    path, other = recipe_of(source, recipe, beside)
    check_folder(folder_of(path, out), other)
    return _net(name, other, folder_of(path, out), machine)


def _net(name: str, recipe: NetRecipe, folder: Path, machine: Machine) -> Stage:
    examples, _ = training_examples(recipe.data, machine.data_dir)
    return Stage(
        name=name,
        what=f"{recipe.net.architecture}, {in_epochs(recipe.training)}",
        folder=folder,
        rounds=_rounds(recipe, examples),
        train=lambda on_progress: train_net_of(recipe, examples, workers=machine.workers, on_progress=on_progress),
    )


def _mixing_network(recipe: TripletRecipe, out: Path, machine: Machine, beside: Path) -> Stage:
    examples, _ = training_examples(recipe.data, machine.data_dir)
    settings = recipe.training
    assert settings is not None

    def train(on_progress: OnProgress) -> None:
        triplet = new_triplet(recipe, beside).to(machine.workers.device).eval()
        data = examples.images, examples.labels
        train_mixing_network(triplet, *data, settings, workers=machine.workers, on_progress=on_progress)

    return Stage(
        name="mixing network",
        what=f"{in_epochs(settings)}, attacked in setting {settings.attack.setting}",
        folder=out,
        rounds=_rounds(recipe, examples),
        train=train,
    )


def _rounds(recipe: Recipe, examples: Examples) -> int:
    training = recipe.training
    return 0 if training is None else training.epochs * (len(examples) // training.batch_size)
