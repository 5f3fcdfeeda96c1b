"""What happens when somebody or something ends a long command."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

AGAIN = 1.0  # seconds


class Terminated(BaseException):
    """SIGTERM, as batch systems send it before they kill; like KeyboardInterrupt, nothing but the end handles it."""


@contextmanager
def told_how_to_go_on(kept: Callable[[], str] | None = None) -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what is finished is written, and say what is kept.

    Whoever keeps something notes on the exception what that is (``BaseException.add_note``), unless ``kept`` says it.

    An exception that a signal raises is lost where it hits a destructor, or foreign code that drops errors. So an alarm
    raises it again until it arrives.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        if sys.platform != "win32":  # has no alarm
            signal.signal(signal.SIGALRM, terminate)
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        try:
            yield
        finally:
            if sys.platform != "win32" and signal.getsignal(signal.SIGALRM) is terminate:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
    except (KeyboardInterrupt, Terminated) as error:
        for note in [kept()] if kept is not None else _notes(error) or ["what is finished is kept"]:
            click.echo(f"{note}; repeat the command to resume", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _notes(error: BaseException | None) -> list[str]:
    """What was noted on an exception, and on those during whose handling it came: a second signal."""
    if error is None:
        return []
    return [*_notes(error.__context__), *getattr(error, "__notes__", [])]
