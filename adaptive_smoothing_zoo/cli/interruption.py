"""What happens when somebody or something ends a long command."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click


class Terminated(BaseException):
    """SIGTERM, as batch systems send it before they kill; like KeyboardInterrupt, nothing but the end handles it."""


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what is finished is written, and say how to go on."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        click.echo("what is finished is kept; the same command goes on from there", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
