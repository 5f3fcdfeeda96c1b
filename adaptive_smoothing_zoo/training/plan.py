"""What carrying out a recipe means, before it begins: which nets are trained, which exist, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from adaptive_smoothing_zoo.errors import TrainingError
from adaptive_smoothing_zoo.training.keeping import rounds_kept
from adaptive_smoothing_zoo.training.loop import OnProgress, Progress
from adaptive_smoothing_zoo.training.recipe import Recipe
from adaptive_smoothing_zoo.training.runs import BaseNet, Machine, NetJob, TripletJob, job_of

TIMED_ROUNDS = 3  # of each training, of which the first warms up
PATIENCE = 5.0  # seconds after which no further one is timed


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a plan.

    Attributes:
        name: "g", "h", "mixing network", "alpha", or "net" or "triplet" where that is all.
        what: it, in words.
        job: its training; None if nothing is to be trained.
        rounds: of its training.
        train: trains it from its first weights, keeping nothing, to measure how long a round takes.
    """

    name: str
    what: str
    job: NetJob | TripletJob | None = None
    rounds: int = 0
    train: Callable[[OnProgress], object] = lambda on_progress: None

    @property
    def folder(self) -> Path | None:
        """Of its training."""
        return None if self.job is None else self.job.out

    @property
    def is_finished(self) -> bool:
        """Whether nothing of it is to be trained any more, as the disk says."""
        return self.job is None or self.job.is_finished

    @property
    def kept(self) -> int:
        """How many of its rounds are on the disk."""
        return self.rounds if self.job is None or self.is_finished else min(rounds_kept(self.job.out), self.rounds)

    def __str__(self) -> str:
        if self.job is None:
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
    job = job_of(recipe, out, machine, beside)
    job.check_folder()
    if isinstance(job, NetJob):
        return [_net("net", job)]
    if job.is_finished:
        return [Stage(name="triplet", what=job.recipe.entry.name, job=job)]
    stages = [_part("g", job.base_net(job.recipe.std_model)), _part("h", job.base_net(job.recipe.rob_model))]
    if job.recipe.training is not None:
        what = f"{job.recipe.training.in_epochs()}, attacked in setting {job.recipe.training.attack.setting}"
        stages.append(_training("mixing network", what, job))
    if job.recipe.choice is not None:
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
        if stage.job is not None and (stage.is_finished or stage.kept)
    ]
    return f"kept: {', '.join(found) or 'nothing yet'}"


class _EnoughError(Exception):
    """Ends a training that is only timed."""


def _part(name: str, net: BaseNet) -> Stage:
    if net.job is None:
        return Stage(name=name, what=net.what)
    net.job.check_folder()
    return _net(name, net.job)


def _net(name: str, job: NetJob) -> Stage:
    return _training(name, f"{job.recipe.net.architecture}, {job.recipe.training.in_epochs()}", job)


def _training(name: str, what: str, job: NetJob | TripletJob) -> Stage:
    (examples, _), training = job.examples(), job.recipe.training
    assert training is not None

    def train(on_progress: OnProgress) -> None:
        job.train(examples, workers=job.machine.workers, on_progress=on_progress)

    rounds = training.epochs * (len(examples) // training.batch_size)
    return Stage(name=name, what=what, job=job, rounds=rounds, train=train)
