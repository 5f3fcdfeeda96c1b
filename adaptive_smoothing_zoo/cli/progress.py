"""Progress of long commands: a bar on a terminal, and in a log a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

from adaptive_smoothing_zoo.evaluation import Progress
from adaptive_smoothing_zoo.validation import CheckProgress

SECONDS_PER_LINE = 30  # of a log


class _Lines:
    """Writes each state of a bar as a line, where no terminal overwrites the one before."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        if text := text.strip():
            self.file.write(f"{text}\n")

    def flush(self) -> None:
        self.file.flush()


def open_bar(**options: Any) -> tqdm[Any]:
    """tqdm's bar on a terminal. Where errors go to a file or a pipe, it writes at most a line every half minute."""
    rare = {"file": _Lines(sys.stderr), "mininterval": SECONDS_PER_LINE, "maxinterval": SECONDS_PER_LINE}
    return tqdm(**options if sys.stderr.isatty() else rare | options)


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """A bar that counts forward-equivalents, so that its estimate of the time left spans all attacks.

    The total shrinks as points are misclassified, because later attacks skip them. The estimate ignores work done
    before this process. Warnings are printed at once.
    """
    told: set[str] = set()
    layout = "{l_bar}{bar}| {elapsed} < {remaining}{postfix}"
    with open_bar(total=1, bar_format=layout, miniters=0, smoothing=0) as bar:

        def show(progress: Progress) -> None:
            bar.total = max(1, progress.passes_done + progress.passes_left)
            bar.n, bar.initial = progress.passes_done, progress.passes_before
            protocol = "" if progress.is_standard else "not standard: "
            bar.set_description(f"{protocol}{progress.attack} {progress.done}/{progress.total}", refresh=False)
            bar.set_postfix_str(f"{progress.robust} points still robust", refresh=False)
            bar.update(0)
            for warning in sorted(set(progress.warnings) - told):
                bar.write(f"Warning: {warning}", file=sys.stderr)
            told.update(progress.warnings)

        yield show


@contextmanager
def check_bar() -> Iterator[Callable[[CheckProgress], None]]:
    """A bar that counts the checks of a validation and shows which one runs."""
    with open_bar(total=1, bar_format="{l_bar}{bar}| {n}/{total} {elapsed}{postfix}", miniters=0) as bar:

        def show(progress: CheckProgress) -> None:
            bar.total, bar.n = progress.total, progress.done
            bar.set_description(progress.check, refresh=False)
            bar.set_postfix_str(f"{progress.passes} passes", refresh=False)
            bar.update(0)

        yield show
