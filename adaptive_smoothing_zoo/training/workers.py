"""The processes that train together: one, or those that ``torchrun`` or ``accelerate launch`` started.

Each process works on its share of every batch. accelerate (Hugging Face) wraps the learner in DistributedDataParallel,
which averages the gradients.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

_PATIENCE = timedelta(days=7)  # how long one process waits for another, which may be choosing alpha


class Workers:
    """A single process; ``device`` is where it computes."""

    rank, size = 0, 1  # this process's number, and how many there are

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def share(self, examples: Tensor) -> Tensor:
        """This process's part of a batch's rows."""
        return examples[self.rank :: self.size]

    def wrap(self, learner: nn.Module) -> nn.Module:
        """The module through which the learner is called, so that gradients are averaged."""
        return learner

    def unsynchronized(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """A context in which gradients are added up locally, not averaged."""
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes."""
        return values

    def from_first(self, value: T) -> T:
        """The first process's value, in every process."""
        return value

    def wait(self) -> None:
        """Wait until all processes are here."""

    @torch.no_grad()
    def average_statistics(self, learner: nn.Module) -> None:
        """Replace floating-point buffers, such as batch norm statistics, by their mean over the processes."""
        if self.size == 1:
            return
        for buffer in learner.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.mean(buffer))


class LaunchedWorkers(Workers):
    """Several processes, coordinated by accelerate.

    Raises:
        ModuleNotFoundError: accelerate is not installed.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "training in several processes needs accelerate: pip install 'adaptive-smoothing-zoo[training]'"
            ) from None
        self._accelerator = Accelerator(
            cpu=device.type == "cpu",
            kwargs_handlers=[
                # average_statistics averages buffers; broadcasting would copy the first process's to all.
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=_PATIENCE),
            ],
        )
        super().__init__(self._accelerator.device)
        self.rank, self.size = self._accelerator.process_index, self._accelerator.num_processes

    def wrap(self, learner: nn.Module) -> nn.Module:
        wrapped: nn.Module = self._accelerator.prepare_model(learner)
        return wrapped

    def unsynchronized(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        return self._accelerator.no_sync(wrapped)  # type: ignore[no-any-return]

    def mean(self, values: Tensor) -> Tensor:
        return self._accelerator.reduce(values, reduction="mean")  # type: ignore[no-any-return]

    def from_first(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        (received,) = broadcast_object_list([value])
        return received  # type: ignore[no-any-return]

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


def find_workers(device: torch.device) -> Workers:
    """All processes that a launcher started together, or this one alone."""
    return LaunchedWorkers(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Workers(device)
