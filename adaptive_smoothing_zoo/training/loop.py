"""The loop that all trainings share: rounds of optimizer steps, kept on disk, by one process or several.

In a round a batch of images is attacked; then come one or more optimizer steps on what that gave, each from one or more
passes whose gradients are added up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.errors import TrainingError
from adaptive_smoothing_zoo.machine.allocator import freed_memory_kept
from adaptive_smoothing_zoo.training.draws import derived_seed
from adaptive_smoothing_zoo.training.frozen import to_train_mode
from adaptive_smoothing_zoo.training.keeping import Keeper, Kept
from adaptive_smoothing_zoo.training.schedule import SCHEDULES
from adaptive_smoothing_zoo.training.workers import Workers

logger = logging.getLogger(__name__)

Part = TypeVar("Part")
Optimizer = Literal["adamw", "sgd"]
Momentum = Literal["nesterov", "plain"]


class Task(Protocol, Generic[Part]):
    """What is trained, and on what.

    Attributes:
        learner: the module whose parameters change; in train mode during steps.
        rounds: how many there are.
        steps: optimizer steps in a round.
        seed: of whatever the learner itself draws, as dropout does.
    """

    rounds: int
    steps: int
    seed: int

    @property
    def learner(self) -> nn.Module: ...

    def round(self, number: int) -> tuple[list[list[Part]], dict[str, Tensor]]:
        """The parts of each step of a round, all of one size, and what is to be logged of the round."""

    def losses(self, learner: nn.Module, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each example of a part (N,), and what is to be logged of it.

        Args:
            learner: through which the learner must be called.
        """


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How weights change.

    Attributes:
        optimizer: "adamw", or "sgd" with momentum 0.9.
        momentum: of "sgd": "nesterov", or "plain".
        learning_rate: the schedule's peak.
        schedule: a key of ``SCHEDULES``.
        weight_decay: of that optimizer's kind.
        gradient_clip: largest l_2 norm of all gradients together; None for any.
        ema_decay: of an exponential moving average of the weights, which then takes their place at the end; 0 for none.
            In the first steps it averages over fewer: the decay is at most (1 + step) / (10 + step).
    """

    optimizer: Optimizer
    momentum: Momentum = "nesterov"
    learning_rate: float
    schedule: str
    weight_decay: float
    gradient_clip: float | None = None
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"the optimizer must be 'adamw' or 'sgd', got {self.optimizer!r}")
        if self.momentum not in ("nesterov", "plain"):
            raise ValueError(f"the momentum must be 'nesterov' or 'plain', got {self.momentum!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}; known: {', '.join(SCHEDULES)}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    def make(self, learner: nn.Module) -> torch.optim.Optimizer:
        parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError("all parameters are frozen; call requires_grad_(True) on what is to be trained")
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        nesterov = self.momentum == "nesterov"
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=0.9, nesterov=nesterov, weight_decay=self.weight_decay
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands.

    Attributes:
        round, rounds: how many are done, and of how many.
        measured: what the log says of this round.
    """

    round: int
    rounds: int
    measured: Mapping[str, float]


OnProgress = Callable[[Progress], object]


@freed_memory_kept()
def fit(
    task: Task[Part],
    optimization: Optimization,
    *,
    workers: Workers,
    keeper: Keeper | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Train ``task.learner`` in place.

    With a keeper, a training that was interrupted in any way resumes from its newest checkpoint and ends with the same
    weights, bit for bit on the same machine with as many threads and processes. (On a GPU some operations, like the
    gradient of an image's resizing, have no deterministic form; then the weights agree up to rounding.) Whatever
    exception ends it, the last finished round is kept.

    Raises:
        ResultsError: the keeper's folder belongs to another training.
        TrainingError: the loss is not finite.
    """
    learner, optimizer = task.learner, optimization.make(task.learner)
    average = _Average(learner, optimization.ema_decay) if optimization.ema_decay else None
    kept = workers.from_first(keeper.read() if keeper is not None and workers.is_first else None)
    done = 0 if kept is None else _restore(kept, workers, learner, optimizer, average)
    if workers.is_first and keeper is not None:
        keeper.begin_log(done)
    else:
        keeper = None  # the first process writes for all
    wrapped = workers.wrap(learner)
    finished = keeper.last_finished(workers.size) if keeper is not None else nullcontext()
    with finished:
        for number in range(done, task.rounds):
            started = time.monotonic()
            measured = _round(task, wrapped, optimizer, optimization, average, workers, number)
            row = {"round": number + 1, **measured, "seconds": time.monotonic() - started}
            if keeper is not None:
                keeper.log(row)
                keeper.finished(number + 1, _tensors(learner, optimizer, average), last=number + 1 == task.rounds)
            if on_progress is not None:
                on_progress(Progress(round=number + 1, rounds=task.rounds, measured=row))
    if average is not None:
        average.take_place()
    workers.wait()


def _round(
    task: Task[Part],
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    optimization: Optimization,
    average: _Average | None,
    workers: Workers,
    number: int,
) -> dict[str, float]:
    """Do a round; returns what was measured of it.

    Raises:
        TrainingError: the loss is not finite.
    """
    meter = _Meter()
    with _reproducible(derived_seed(task.seed, f"worker {workers.rank}", number), workers.device):
        steps, of_the_round = task.round(number)
        meter.add(of_the_round)
        for i, parts in enumerate(steps):
            step = number * task.steps + i
            factor = SCHEDULES[optimization.schedule](step, task.rounds * task.steps)
            rate = optimization.learning_rate * factor
            _step(task, wrapped, parts, optimizer, rate, optimization.gradient_clip, workers, meter)
            if average is not None:
                average.update(step)
    measured = meter.means(workers)
    _check_finite(measured["loss"], number)
    return {"learning_rate": rate, **measured}


def _step(
    task: Task[Part],
    wrapped: nn.Module,
    parts: list[Part],
    optimizer: torch.optim.Optimizer,
    rate: float,
    gradient_clip: float | None,
    workers: Workers,
    meter: _Meter,
) -> None:
    """One optimizer step on the mean loss of all parts."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    to_train_mode(task.learner)
    for i, part in enumerate(parts):
        last = i + 1 == len(parts)
        with nullcontext() if last else workers.unsynchronized(wrapped):
            losses, measured = task.losses(wrapped, part)
            loss = losses.mean() / len(parts)
            loss.backward()
        meter.add({"loss": losses.detach().mean(), **measured})
    if gradient_clip is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        meter.add({"gradient_norm": torch.nn.utils.clip_grad_norm_(parameters, gradient_clip).detach()})
    optimizer.step()
    workers.average_statistics(task.learner)


class _Meter:
    """Means of what was measured, on the device until they are asked for."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach().float())

    def means(self, workers: Workers) -> dict[str, float]:
        means = torch.stack([torch.stack(values).mean() for values in self._values.values()])
        return dict(zip(self._values, workers.mean(means).tolist(), strict=True))


class _Average:
    """An exponential moving average of a module's parameters and statistics."""

    def __init__(self, learner: nn.Module, decay: float) -> None:
        self.learner, self.decay = learner, decay
        self.tensors = {name: value.detach().clone() for name, value in learner.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        for name, value in self.learner.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, weight)
            else:
                self.tensors[name].copy_(value)

    def take_place(self) -> None:
        self.learner.load_state_dict(self.tensors)


def _tensors(learner: nn.Module, optimizer: torch.optim.Optimizer, average: _Average | None) -> dict[str, Tensor]:
    """Everything that changes from step to step."""
    tensors = {f"learner.{name}": value for name, value in learner.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.tensors.items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items() if value is not None}
    return tensors


def _restore(
    kept: Kept, workers: Workers, learner: nn.Module, optimizer: torch.optim.Optimizer, average: _Average | None
) -> int:
    """Put everything back as it was; returns how many rounds are done."""
    if kept.workers != workers.size:
        logger.warning(
            "%d processes resume what %d had begun: the weights will not be the same bit for bit",
            workers.size,
            kept.workers,
        )
    parts: dict[str, dict[str, Tensor]] = {"learner": {}, "average": {}, "optimizer": {}}
    for key, value in kept.tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    learner.load_state_dict(parts["learner"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in parts["optimizer"].items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    if average is not None:
        for name, value in parts["average"].items():
            average.tensors[name].copy_(value)
    logger.info("resuming after round %d", kept.rounds)
    return kept.rounds


def _check_finite(loss: float, number: int) -> None:
    if not -float("inf") < loss < float("inf"):
        raise TrainingError(
            f"the loss is {loss} in round {number + 1}; lower the learning rate, or clip the gradients "
            "(the newest checkpoint is from before)"
        )


@contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """cuDNN's deterministic kernels, and torch's own random numbers from ``seed``, within the block."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
