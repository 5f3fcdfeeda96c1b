"""How often something is done during a long run, and how its last deed is not interrupted."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SHARE = 20  # of the time, the smallest part that is left for the work itself is 1 - 1 / SHARE


class Pace:
    """What is due every so many seconds, but takes at most a twentieth of the time.

    Args:
        seconds: between two times.

    Attributes:
        last: when it was done, or this object was made; of ``time.perf_counter``.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last, self._cost = seconds, time.perf_counter(), 0.0

    def is_due(self) -> bool:
        """Whether it is time."""
        return time.perf_counter() - self.last >= max(self.seconds, SHARE * self._cost)

    @contextmanager
    def done(self) -> Iterator[None]:
        """It is done in this block."""
        begin = time.perf_counter()
        yield
        self.last = time.perf_counter()
        self._cost = self.last - begin


@contextmanager
def signals_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of a block, such as the last writing of a run that they end.

    Outside the main thread, where signals do not arrive, nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)]
    # A handler of None was not made by Python, which could not put it back.
    before = {number: handler for number in numbers if (handler := signal.getsignal(number)) is not None}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in dict.fromkeys(came):
        signal.raise_signal(number)
