"""A progress bar over a whole evaluation."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from adaptive_smoothing_zoo.evaluation import Progress
from adaptive_smoothing_zoo.validation import CheckProgress


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """A bar that counts forward-equivalents, so that its estimate of the time left spans all attacks.

    The total shrinks as points are misclassified, because later attacks skip them. The estimate ignores work done
    before this process. Warnings are printed at once.
    """
    told: set[str] = set()
    with tqdm(
        total=1, unit="pass", unit_scale=True, bar_format="{l_bar}{bar}| {elapsed} < {remaining}{postfix}"
    ) as bar:

        def show(progress: Progress) -> None:
            bar.total = max(1, progress.passes_done + progress.passes_left)
            bar.n, bar.initial = progress.passes_done, progress.passes_before
            protocol = "" if progress.is_standard else "not standard: "
            bar.set_description(f"{protocol}{progress.attack} {progress.done}/{progress.total}", refresh=False)
            bar.set_postfix_str(f"{progress.robust} points still robust")
            for warning in sorted(set(progress.warnings) - told):
                bar.write(f"AutoAttack warns: {warning}", file=sys.stderr)
            told.update(progress.warnings)

        yield show


@contextmanager
def check_bar() -> Iterator[Callable[[CheckProgress], None]]:
    """A bar that counts the checks of a validation and shows which one runs."""
    with tqdm(total=1, unit="check", bar_format="{l_bar}{bar}| {n}/{total} {elapsed}{postfix}", miniters=0) as bar:

        def show(progress: CheckProgress) -> None:
            bar.total, bar.n = progress.total, progress.done
            bar.set_description(progress.check, refresh=False)
            bar.set_postfix_str(f"{progress.passes} passes", refresh=False)
            bar.update(0)

        yield show
