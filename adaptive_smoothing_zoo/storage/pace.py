"""Schedules the checkpoints and progress reports of a long run, including at its end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SHARE = 20  # writing takes at most the 20th part of the time
REPORT_SECONDS = 0.5  # between two reports


class Pace:
    """A periodic task that takes at most 1/20 of the time.

    Args:
        seconds: between two times.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._last, self._cost = seconds, time.perf_counter(), 0.0

    def is_due(self) -> bool:
        """Whether it is time."""
        return time.perf_counter() - self._last >= max(self.seconds, SHARE * self._cost)

    @contextmanager
    def done(self) -> Iterator[None]:
        """It is done in this block."""
        begin = time.perf_counter()
        yield
        self._last = time.perf_counter()
        self._cost = self._last - begin


class Keeper:
    """Writes checkpoints and reports during long work, and writes once more when it is interrupted.

    Args:
        write: saves the work up to the last beat; returns whether it succeeded.
        report: shows progress.
        kept: text about what is saved, from the seconds of lost work; "" if nothing is.
        seconds: between two checkpoints.

    Attributes:
        safe_until: ``time.perf_counter`` before which all work is saved, or will be on exit.
    """

    def __init__(
        self,
        *,
        write: Callable[[], bool],
        report: Callable[[], object],
        kept: Callable[[float], str],
        seconds: float,
    ) -> None:
        self._write, self._report, self._kept = write, report, kept
        self._writing, self._reporting = Pace(seconds), Pace(REPORT_SECONDS)
        self.safe_until = self._beat_at = time.perf_counter()

    def beat(self) -> None:
        """Call between two steps of the work."""
        self._beat_at = time.perf_counter()
        if self._writing.is_due():
            self.write()
        if self._reporting.is_due():
            self.report()

    def pulse(self) -> None:
        """Call inside a step, which cannot be saved: report if due."""
        if self._reporting.is_due():
            self.report()

    def write(self) -> None:
        """Write now."""
        with self._writing.done():
            if self._write():
                self.safe_until = self._beat_at

    def report(self) -> None:
        """Report now."""
        with self._reporting.done():
            self._report()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """If this block is interrupted, save what is possible and add a note about it to the exception."""
        self.safe_until = self._beat_at = time.perf_counter()
        try:
            yield
        except BaseException as error:
            with signals_held():
                self.write()
                if kept := self._kept(time.perf_counter() - self.safe_until):
                    error.add_note(kept)
            raise


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of a block, such as the last checkpoint of an interrupted run.

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
