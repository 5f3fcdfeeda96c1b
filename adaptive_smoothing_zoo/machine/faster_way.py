"""Chooses the faster of two ways to the same result, by timing both during the work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP, TRIAL, CYCLE = 25, 5, 500  # steps before the first trial, of each way in a trial, and between trials


class FasterWay:
    """Chooses between a plain and a sparing way of taking steps, separately for each batch width.

    A trial times a few steps of each way; the faster one is used until the next trial.

    Args:
        now: waits for all work so far and returns seconds, see ``clock_of``.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._steps: Counter[int] = Counter()  # by width: steps of the warm-up, then since the last trial began
        self._faster: dict[int, bool] = {}  # by width: whether the sparing way is faster
        self._width = 0
        self._mark, self._rate = (0.0, 0), 0.0

    def sparing(self, width: int, done: Tensor) -> bool:
        """Whether to take the next step in the sparing way.

        Args:
            width: number of rows of a batch.
            done: a scalar, the amount of work done by all steps so far.
        """
        if width != self._width and self._steps[width] > WARM_UP:
            self._steps[width] = WARM_UP  # a trial that another width interrupted begins again
        self._width = width
        step = self._steps[width] - WARM_UP
        self._steps[width] = WARM_UP if step == CYCLE else self._steps[width] + 1
        if step in (TRIAL, 2 * TRIAL):
            rate = self._rate_since_mark(done)
            if step == TRIAL:
                self._rate = rate
            else:
                self._faster[width] = rate > self._rate
        if step in (0, TRIAL):
            self._mark = self.now(), int(done)
        if TRIAL <= step < 2 * TRIAL:
            return True
        return step >= 2 * TRIAL and self._faster[width]

    def _rate_since_mark(self, done: Tensor) -> float:
        began, before = self._mark
        return (int(done) - before) / max(self.now() - began, 1e-9)


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock, in seconds, that first waits until the device has finished its work."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
