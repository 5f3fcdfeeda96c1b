"""Handles interruptions of long commands."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

AGAIN = 1.0  # seconds


class Terminated(BaseException):
    """SIGTERM, which batch systems send before SIGKILL; like KeyboardInterrupt, handled only at the top."""


@contextmanager
def told_how_to_go_on(kept: Callable[[], str] | None = None) -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that finished work is written, and print what was saved.

    Code that saves something adds a note to the exception (``BaseException.add_note``), unless ``kept`` gives the text.
    An exception raised by a signal is lost inside a destructor or foreign code that drops errors, so an alarm raises it
    again until it arrives.
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
        for note in [kept()] if kept is not None else _notes(error) or ["finished work is saved"]:
            click.echo(f"{note}; repeat the command to resume", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _notes(error: BaseException | None) -> list[str]:
    """The notes of an exception and of its context, in case a second signal arrived."""
    if error is None:
        return []
    return [*_notes(error.__context__), *getattr(error, "__notes__", [])]
