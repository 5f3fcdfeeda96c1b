"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

RESULTS = Path("results")


def dataset_option(function: Callable[..., None]) -> Callable[..., None]:
    """The options that, with a name, choose a triplet."""
    function = click.option("--threat-model", default="Linf", show_default=True, help="Linf or L2")(function)
    return click.option("--dataset", default="cifar10", show_default=True, help="of the triplet")(function)
