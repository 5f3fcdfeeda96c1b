"""The loop of all trainings: rounds of optimizer steps, saved to disk, in one or several processes.

A round attacks a batch of images, then takes one or more optimizer steps on the result, each accumulating the gradients
of one or more passes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.errors import TrainingError, check_keywords
from adaptive_smoothing_zoo.machine.allocator import freed_memory_kept
from adaptive_smoothing_zoo.training.draws import derived_seed
from adaptive_smoothing_zoo.training.frozen import to_train_mode
from adaptive_smoothing_zoo.training.keeping import CHECKPOINT_SECONDS, Keeper, Kept, fingerprint, tensors_in
from adaptive_smoothing_zoo.training.task import Part, Settings, Task
from adaptive_smoothing_zoo.training.workers import Workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a training."""

    round: int  # the finished round, counted from 1
    rounds: int  # of the whole training
    measured: Mapping[str, float]  # this round's row of the log


OnProgress = Callable[[Progress], object]


class TrainingOptions(TypedDict, total=False):
    """Options of all trainings; they do not affect results."""

    workers: Workers | None  # processes and device; default: those of a launcher, else this one, on the images' device
    folder: Path | None  # for checkpoints and a log; an interrupted training resumes from it
    checkpoint_seconds: float  # at least this long between two checkpoints
    on_progress: OnProgress | None  # called after each round


@freed_memory_kept()
def fit(
    task: Task[Settings, Part], models: Callable[[], Mapping[str, Any]], **options: Unpack[TrainingOptions]
) -> None:
    """Train ``task.learner`` in place, with ``task.workers``.

    With a folder, an interrupted training resumes from its newest checkpoint. It ends with the same weights bit for bit
    on the same machine with the same numbers of threads and processes; on a GPU, up to rounding where an operation has
    no deterministic form. If an exception ends it, the last finished round is saved.

    Args:
        models: returns the further parts of the folder's binding: hashes of initial weights and frozen nets.

    Raises:
        TypeError: with a folder, a net whose extra state is no tensor.
        ResultsError: the folder belongs to another training, or another process works there.
        TrainingError: a loss or a weight is not finite.
    """
    check_keywords(options, TrainingOptions)
    folder, keeper, workers = options.get("folder"), None, task.workers
    if folder is not None and workers.is_first:  # the first process writes for all
        _check_kept(task.learner)
        data = fingerprint(task.images, task.labels)
        binding = {"settings": task.settings, "data": data, **models()}
        keeper = Keeper(folder, binding, options.get("checkpoint_seconds", CHECKPOINT_SECONDS), workers.size)
    with nullcontext() if keeper is None else keeper.at_work():
        _Loop(task).run(keeper, options.get("on_progress") or (lambda progress: None))
    workers.wait()


def _check_kept(learner: nn.Module) -> None:
    """Raise TypeError if a checkpoint cannot hold all that the learner saves."""
    if others := sorted(learner.state_dict().keys() - tensors_in(learner).keys()):
        raise TypeError(
            f"checkpoints hold tensors, and {others[0]} of the net is none; return tensors from get_extra_state, or "
            "train without a folder"
        )


class _Loop(Generic[Settings, Part]):
    """A running training: its learner, optimizer and averaged weights."""

    def __init__(self, task: Task[Settings, Part]) -> None:
        self.task, self.learner, self.workers = task, task.learner, task.workers
        self.optimization = task.settings.optimization
        self.optimizer = self.optimization.make(self.learner)
        self.average = _Average(self.learner, self.optimization.ema_decay) if self.optimization.ema_decay else None

    def run(self, keeper: Keeper | None, on_progress: OnProgress) -> None:
        """Run all rounds that are not saved yet."""
        kept = self.workers.from_first(None if keeper is None else keeper.read())
        done, rounds = 0 if kept is None else self._restore(kept), self.task.rounds
        if keeper is not None:
            keeper.begin_log(done)
        self.wrapped = self.workers.wrap(self.learner)
        for number in range(done, rounds):
            started = time.monotonic()
            row = {"round": number + 1, **self._round(number), "seconds": time.monotonic() - started}
            if keeper is not None:
                keeper.log(row)
                keeper.finished(number + 1, self._tensors(), last=number + 1 == rounds)
            on_progress(Progress(round=number + 1, rounds=rounds, measured=row))
        if self.average is not None:
            self.learner.load_state_dict({**self.learner.state_dict(), **self.average.tensors})

    def _round(self, number: int) -> dict[str, float]:
        """Run a round; return its measurements."""
        task, meter = self.task, _Meter()
        seed = derived_seed(task.settings.seed, f"worker {self.workers.rank}", number)
        with _reproducible(seed, self.workers.device):
            steps, of_the_round = task.round(number)
            meter.add(of_the_round)
            for step, parts in enumerate(steps, start=number * task.steps):
                rate = self.optimization.rate(step, task.rounds * task.steps)
                self._step(parts, rate, meter)
                if self.average is not None:
                    self.average.update(step)
        measured = meter.means(self.workers)
        self._check_finite(measured["loss"], number + 1)
        return {"learning_rate": rate, **measured}

    def _check_finite(self, loss: float, round_: int) -> None:
        """Raise TrainingError for a loss or a weight that is not finite, before the round is saved."""
        finite = torch.stack([weight.isfinite().all() for weight in self._parameters()]).all()
        if math.isfinite(loss) and bool(finite):
            return
        what = "a weight is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        raise TrainingError(
            f"{what} in round {round_}; lower the learning rate, or clip the gradients (the newest checkpoint is from "
            "before)"
        )

    def _step(self, parts: list[Part], rate: float, meter: _Meter) -> None:
        """Take one optimizer step on the mean loss of all parts."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        to_train_mode(self.learner)
        for i, part in enumerate(parts, start=1):
            with nullcontext() if i == len(parts) else self.workers.unsynchronized(self.wrapped):
                losses, measured = self.task.losses(self.wrapped, part)
                loss = losses.mean() / len(parts)
                loss.backward()
            meter.add({"loss": losses.detach().mean(), **measured})
        if self.optimization.gradient_clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self._parameters(), self.optimization.gradient_clip)
            meter.add({"gradient_norm": norm.detach()})
        self.optimizer.step()
        self.workers.average_statistics(self.learner)

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors that change during training."""
        tensors = {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.tensors.items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items() if value is not None}
        return tensors

    def _restore(self, kept: Kept) -> int:
        """Restore a saved state; return the number of finished rounds."""
        if kept.workers != self.workers.size:
            logger.warning(
                "%d processes resume a training that %d began: the weights will not be bit-identical",
                self.workers.size,
                kept.workers,
            )
        self.learner.load_state_dict(kept.part("learner"))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in kept.part("optimizer").items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.average is not None:
            for name, value in kept.part("average").items():
                self.average.tensors[name].copy_(value)
        logger.info("resuming after round %d", kept.rounds)
        return kept.rounds


class _Meter:
    """Means of measurements, kept on the device until read."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach().float())

    def means(self, workers: Workers) -> dict[str, float]:
        means = torch.stack([torch.stack(values).mean() for values in self._values.values()])
        return dict(zip(self._values, workers.mean(means).tolist(), strict=True))


class _Average:
    """An exponential moving average of a module's parameters and buffers, from the initial weights on.

    ``torch.optim.swa_utils`` would start after the first step. Integer buffers are copied, not averaged.
    """

    def __init__(self, learner: nn.Module, decay: float) -> None:
        self.learner, self.decay = learner, decay
        self.tensors = {name: value.detach().clone() for name, value in tensors_in(learner).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        for name, value in tensors_in(self.learner).items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, weight)
            else:
                self.tensors[name].copy_(value)


@contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block, use cuDNN's deterministic kernels and seed torch's own random numbers."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
