"""Figures of a validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Series = Mapping[str, tuple[tuple[float, ...], ...]]


def write_figure(series: Series, title: str, path: Path) -> None:
    """Draw loss curves, accuracy against the radius, and alpha clean and attacked where alpha adapts.

    Args:
        series: as ``Findings`` has them.
        path: of a PNG file; for ``files.write_with``.

    Raises:
        ImportError: matplotlib is not installed (it comes with the "evaluation" extra).
    """
    from matplotlib.figure import Figure  # a figure of its own needs no display and leaves pyplot's state alone

    panels = [_losses, _radii] + ([_alpha] if "alpha" in series else [])
    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        panel(axes, series)
    figure.suptitle(title)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _losses(axes: Any, series: Series) -> None:
    """Each loss from 0 at the start to 1 at the end; their units differ."""
    for name, (curve,) in ((key, value) for key, value in series.items() if key.startswith("loss_")):
        rise = curve[-1] - curve[0]
        if rise > 0:
            axes.plot([(value - curve[0]) / rise for value in curve], label=name.removeprefix("loss_"))
    axes.set_xlabel("step of APGD")
    axes.set_ylabel("share of the loss's rise, surviving points")
    if axes.lines:
        axes.legend(fontsize="small")


def _radii(axes: Any, series: Series) -> None:
    if "accuracy_against_eps" in series:
        radii, accuracies = series["accuracy_against_eps"]
        axes.plot(radii, accuracies, marker="o")
    axes.set_ylim(0.0, 1.0)
    axes.set_xlabel("radius")
    axes.set_ylabel("accuracy under APGD on the margin")


def _alpha(axes: Any, series: Series) -> None:
    clean, attacked = series["alpha"]
    axes.hist([clean, attacked], bins=20, density=False, label=["clean", "attacked"])
    axes.set_xlabel(r"$\alpha$")
    axes.set_ylabel("examples")
    axes.legend(fontsize="small")
