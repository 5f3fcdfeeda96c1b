"""The plan of a recipe before it runs: which nets it trains, which exist already, and how long training takes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from adaptive_smoothing_zoo.errors import TrainingError
from adaptive_smoothing_zoo.training.keeping import rounds_kept
from adaptive_smoothing_zoo.training.loop import Progress
from adaptive_smoothing_zoo.training.recipe import Recipe
from adaptive_smoothing_zoo.training.runs import BaseNet, Machine, NetJob, TripletJob, job_of

TIMED_ROUNDS = 3  # rounds timed of each training; the first is a warm-up
PATIENCE = 5.0  # seconds after which no further round is timed


@dataclass(frozen=True)
class Stage:
    """A part of a plan.

    Attributes:
        name: "g", "h", "mixing network" or "alpha"; "net" or "triplet" if the plan has one stage.
        what: a description.
        job: its training; None if it trains nothing.
    """

    name: str
    what: str
    job: NetJob | TripletJob | None = None

    @property
    def is_finished(self) -> bool:
        """Whether no training is left, according to the folder."""
        return self.job is None or self.job.is_finished

    @property
    def rounds(self) -> int:
        """Number of rounds of its training."""
        return 0 if self.job is None else self.job.rounds

    @property
    def kept(self) -> int:
        """Number of rounds that are saved in the folder."""
        return self.rounds if self.job is None or self.is_finished else min(rounds_kept(self.job.out), self.rounds)

    def __str__(self) -> str:
        state = ""
        if self.job is not None and self.is_finished:
            state = f"; trained, in {self.job.out}"
        elif self.job is not None:
            resumed = f", resumed after round {self.kept:,}" if self.kept else ""
            state = f"; {self.rounds:,} rounds in {self.job.out}{resumed}"
        return f"{self.name}: {self.what}{state}"


def make_plan(recipe: Recipe, out: Path, machine: Machine, *, beside: Path = Path()) -> list[Stage]:
    """The stages of ``run_recipe`` with the same arguments, in order. Nothing is trained or written.

    Raises:
        ConfigError, ResultsError, ValueError: as ``run_recipe``.
    """
    job = job_of(recipe, out, machine, beside)
    job.check_folder()
    if isinstance(job, NetJob):
        return [_trained("net", job)]
    if job.is_finished:
        return [Stage("triplet", job.recipe.entry.name, job)]
    stages = [_part("g", job.base_net(job.recipe.std_model)), _part("h", job.base_net(job.recipe.rob_model))]
    if job.recipe.training is not None:
        what = f"{job.recipe.training.in_epochs()}, attacked in setting {job.recipe.training.attack.setting}"
        stages.append(Stage("mixing network", what, job))
    if job.recipe.choice is not None:
        stages.append(Stage("alpha", "chosen on held-out examples; its time is not estimated"))
    return stages


def pace(stage: Stage) -> float:
    """Seconds per round of a stage's training, measured on a few rounds; NaN if they fail."""
    job, seconds = stage.job, list[float]()
    if job is None:
        return float("nan")
    workers = job.machine.workers

    def on_progress(progress: Progress) -> None:
        seconds.append(progress.measured["seconds"])
        if workers.from_first(len(seconds) == TIMED_ROUNDS or sum(seconds) > PATIENCE):
            raise _EnoughError

    with suppress(_EnoughError, TrainingError):
        job.train_anew(on_progress)
    return mean(seconds[1:] or seconds or [float("nan")])


def kept(stages: list[Stage]) -> str:
    """Which parts of a plan are saved already, in a sentence."""
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
        return Stage(name, net.what)
    net.job.check_folder()
    return _trained(name, net.job)


def _trained(name: str, job: NetJob) -> Stage:
    return Stage(name, f"{job.recipe.net.architecture}, {job.recipe.training.in_epochs()}", job)
