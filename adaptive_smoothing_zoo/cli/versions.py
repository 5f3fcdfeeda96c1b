"""``asz --version``: the versions of the package, of what it computes with, and of its extras."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib import metadata

import click

PACKAGE = "adaptive-smoothing-zoo"
EXTRAS = ("evaluation", "robustbench", "training")


def tell_versions(context: click.Context, option: click.Parameter, asked: bool) -> None:
    """Print the versions and exit, if requested."""
    if not asked or context.resilient_parsing:
        return
    from adaptive_smoothing_zoo import __version__

    click.echo(f"asz, version {__version__}")
    click.echo(f"python {platform.python_version()}")
    for name in ("torch", "torchvision", "timm"):
        click.echo(f"{name} {_version(name) or 'is not installed'}")
    for extra in EXTRAS:
        found = {name: _version(name) for name in _packages(extra)}
        told = ", ".join(f"{name} {version or 'is not installed'}" for name, version in found.items())
        missing = not all(found.values())
        click.echo(f"[{extra}] {told}" + (f"; pip install '{PACKAGE}[{extra}]'" if missing else ""))
    context.exit()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages(extra: str) -> Iterator[str]:
    """The packages of an extra, from the package's metadata."""
    for requirement in metadata.requires(PACKAGE) or ():
        if re.search(rf"extra == ['\"]{extra}['\"]", requirement):
            yield re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
