"""Which of two ways to the same result is faster here, measured while the work goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP, TRIAL, CYCLE = 25, 5, 500  # steps: before the first measurement, of each way, and until the next measurement


class FasterWay:
    """Chooses between a plain and a sparing way to make the steps of some work, at each width of its batches.

    Each way is measured for a few steps, and then the faster one is taken until the next measurement.

    Args:
        now: seconds, when all work so far is done (see ``clock_of``).
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._steps: Counter[int] = Counter()  # by width: since its last measurement began, after a warm-up
        self._faster: dict[int, bool] = {}  # whether the sparing way is
        self._width = 0
        self._mark, self._rate = (0.0, 0), 0.0

    def sparing(self, width: int, done: Tensor) -> bool:
        """Whether to make the next step in the sparing way.

        Args:
            width: of the batches that the work is made in.
            done: a number, how much all steps so far have done.
        """
        if width != self._width and self._steps[width] > WARM_UP:
            self._steps[width] = WARM_UP  # a measurement that others have interrupted begins again
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
    """Seconds, when the device has done all that it was told to do."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
