"""Options that several commands have."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from adaptive_smoothing_zoo.units import UnitsWarning

RESULTS = Path("results")


def dataset_option(function: Callable[..., None]) -> Callable[..., None]:
    """The options that, with a name, choose a triplet."""
    function = click.option("--threat-model", default="Linf", show_default=True, help="Linf or L2")(function)
    return click.option("--dataset", default="cifar10", show_default=True, help="of the triplet")(function)


def examples_option(default: int | None, help: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``--n-examples N``, also spelled ``--n``: how many test images are taken, the first ones."""
    every = "all if not given" if default is None else "0 for all"
    text = help or f"number of test images, the first N; {every}"
    return click.option(
        "--n-examples", "--n", "n", type=int, default=default, show_default=True, metavar="N", help=text
    )


@contextmanager
def units_told() -> Iterator[None]:
    """Show each warning of units once, as a plain line, and other warnings as ever."""
    told: set[str] = set()
    with warnings.catch_warnings():
        as_ever = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, UnitsWarning):
                as_ever(message, category, *where, **more)
            elif str(message) not in told:
                told.add(str(message))
                click.echo(f"Warning: {message}", err=True)

        warnings.showwarning = show
        yield
