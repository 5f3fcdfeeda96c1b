"""When a long run writes and reports where it stands, also at its end, whatever ends it."""

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
    """What is due every so many seconds, but takes at most a twentieth of the time.

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
    """Has what is due written and reported while something long is at work, and written once more if that is ended.

    Args:
        write: keeps what was done up to the last beat; says whether it could.
        report: shows where things stand.
        kept: says what is kept, from the seconds of work that are not; "" if nothing is.
        seconds: between two writings.

    Attributes:
        safe_until: what was done before is kept, or will be on the way out; of ``time.perf_counter``.
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
        """A moment between two steps of the work."""
        self._beat_at = time.perf_counter()
        if self._writing.is_due():
            self.write()
        if self._reporting.is_due():
            self.report()

    def pulse(self) -> None:
        """A moment inside a step, of which nothing can be kept: report if that is due."""
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
        """Where this block is interrupted, write what can be, and note on the exception what is kept."""
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
