"""The fronts of several forms in one figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adaptive_smoothing_zoo.storage.files import write_with
from adaptive_smoothing_zoo.tuning.forms import PARTS
from adaptive_smoothing_zoo.tuning.front import Candidate, Front
from adaptive_smoothing_zoo.tuning.tables import Tables

FRONT_FILE = "front.png"


def plot_fronts(path: Path, fronts: Mapping[str, Front], tables: Tables, chosen: Candidate | None = None) -> None:
    """Write a PNG: clean accuracy against robustness to the attack on h, with g, h and the choice.

    Raises:
        ImportError: matplotlib is not installed (it comes with the "evaluation" extra).
    """
    from matplotlib.figure import Figure  # a separate Figure needs no display and does not touch pyplot's state

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for form, front in fronts.items():
        if form in PARTS and PARTS[form].keys() <= fronts.keys():
            continue  # the higher of its parts
        clean, robust = ([100 * getattr(c, name) for c in front.candidates] for name in ("clean", "robust"))
        axes.step(clean, robust, where="post", label=form)
    axes.plot(100 * tables.std_accuracy, 0, "s", color="black", label="g")
    axes.plot(100 * tables.rob_accuracy, 100 * tables.rob_robust, "^", color="black", label="h")
    if chosen is not None:
        axes.plot(100 * chosen.clean, 100 * chosen.robust, "*", markersize=12, color="black", label="chosen")
    axes.set_xlabel("clean accuracy (%)")
    axes.set_ylabel("robust for any g (%)")
    axes.set_title(f"{len(tables)} held-out images; a lower bound for this attack", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
