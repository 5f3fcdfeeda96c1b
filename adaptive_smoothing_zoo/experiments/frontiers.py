"""Certified against clean accuracy: do mixes certify more than every h alone of at least their clean accuracy?

A table has the cases ``noise``, ``alpha`` and ``bound``; h alone has alpha 1. Radii are named by their index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from adaptive_smoothing_zoo.certification import Certificates
from adaptive_smoothing_zoo.experiments.experiment import Row, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALONE = "1"
ALPHAS = ("0.55", "0.6", "0.65", "0.7", "0.76", "0.8", "0.85", "0.9", "0.95", "0.99", "0.999", ALONE)
THEOREM5 = "theorem5"
AT_MOST = "clean_at_most"  # where a table only bounds the clean accuracy of mixes, ``clean`` is the smallest
GAINS = (
    "A mix gains at a radius if it certifies more images there than every h alone, of any noise, of at least its clean "
    "accuracy. If no h alone is so accurate, it must certify more than the most accurate one. A cell names h's noise "
    "and a mix's alpha, then certified and clean accuracy in %; gains are in points."
)


class Frontier(Protocol):
    """A table of clean and certified accuracies of mixes."""

    @property
    def bounds(self) -> tuple[str, ...]:
        """The bounds that are about its h."""

    @property
    def radii(self) -> tuple[float, ...]:
        """The l_2 radii of the certified accuracies."""

    def where(self, **wanted: str) -> Iterator[Row]: ...


def column(i: int) -> str:
    """The name of the certified accuracy at the i-th radius."""
    return f"certified_{i}"


def certified_values(certificates: Certificates, radii: Sequence[float]) -> dict[str, float]:
    """Certified accuracy at each radius, by column."""
    return {column(i): float(value) for i, value in enumerate(certificates.certified_accuracy(radii))}


def best_alone(table: Frontier, bound: str, radius: int, clean: float) -> Row:
    """The h alone, of any noise, that certifies most at a radius with at least that clean accuracy.

    If no h alone is so accurate, the most accurate one.
    """
    alone = list(table.where(bound=bound, alpha=ALONE))
    least = min(clean, max(h["clean"] for h in alone))
    return max((h for h in alone if h["clean"] >= least), key=lambda h: h[column(radius)])


def gain(table: Frontier, mix: Row, radius: int, clean: str = "clean") -> float:
    """What a mix certifies at a radius, minus what ``best_alone`` of its clean accuracy certifies.

    It does not fall when the mix's clean accuracy rises: bounds of the clean accuracy give bounds of the gain.

    Args:
        clean: name of the mix's clean accuracy, or of a bound of it.
    """
    return mix[column(radius)] - best_alone(table, mix.case["bound"], radius, mix[clean])[column(radius)]


def mixes(table: Frontier, bound: str, radius: int) -> list[Row]:
    """The mixes that certify an image at a radius; h alone is none."""
    return [row for row in table.where(bound=bound) if row.case["alpha"] != ALONE and row[column(radius)] > 0]


def gaining(table: Frontier, bound: str, radius: int, clean: str = "clean") -> list[Row]:
    """The mixes that certify more at a radius than every h alone of at least their clean accuracy, see ``gain``."""
    return [mix for mix in mixes(table, bound, radius) if gain(table, mix, radius, clean) > 0]


def certifies(table: Frontier) -> bool:
    """Whether some mix certifies an image at some radius; else no claim is decided."""
    return any(mixes(table, bound, i) for bound in table.bounds for i in range(len(table.radii)))


def frontier_claims(table: Frontier, lipschitz: str, clean: str = "clean") -> dict[str, bool]:
    """What the papers say of the two theorems' frontiers, in the words of ``GAINS``, and whether it was seen.

    Args:
        lipschitz: the bound by Theorem 4.
        clean: name of the clean accuracy of mixes, or of a bound of it.
    """
    indices = range(len(table.radii))
    reached = [i for i in indices if any(row[column(i)] > 0 for row in table.where(bound=lipschitz))]
    claims = {
        f"by {lipschitz} some mix gains at some radius": any(gaining(table, lipschitz, i, clean) for i in indices),
        f"by {lipschitz} some mix gains at the largest radius with certified images": any(
            gaining(table, lipschitz, i, clean) for i in reached[-1:]
        ),
    }
    if THEOREM5 in table.bounds:
        claims[f"by {THEOREM5} no mix gains at any radius"] = not any(
            gaining(table, THEOREM5, i, clean) for i in indices
        )
    return claims


def most_accurate_alone(table: Frontier, mix: Row, radius: int) -> Row | None:
    """The most accurate h alone that certifies no less than a mix at a radius, if there is one."""
    alone = table.where(bound=mix.case["bound"], alpha=ALONE)
    return max((h for h in alone if h[column(radius)] >= mix[column(radius)]), key=lambda h: h["clean"], default=None)


def lead_words(table: Frontier, bound: str) -> str:
    """A sentence: how far mixes that gain are ahead in clean accuracy; empty if none gains."""
    leads = []
    for i in range(len(table.radii)):
        for mix in gaining(table, bound, i):
            h = most_accurate_alone(table, mix, i)
            leads.append(mix["clean"] - (0.0 if h is None else h["clean"]))
    if not leads:
        return ""
    return (
        f" By {bound}, mixes that gain are at most {100 * max(leads):.2f} points more accurate on clean images than "
        "the most accurate h alone that certifies no less."
    )


def draw_frontiers(table: Frontier, figure: Figure, noise: str) -> None:
    """Draw a panel for each radius: all mixes by each bound, and each h alone as a cross.

    A line leads to the largest clean accuracy of a mix if the table bounds it.
    """
    panels = figure.subplots(1, len(table.radii), sharey=True, squeeze=False)[0]
    for i, (axes, radius) in enumerate(zip(panels, table.radii, strict=True)):
        for bound in table.bounds:
            rows = list(table.where(bound=bound))
            clean, most, certified = ([100 * row[name] for row in rows] for name in ("clean", AT_MOST, column(i)))
            (points,) = axes.plot(clean, certified, ".", label=bound, markersize=4)
            axes.hlines(certified, clean, most, color=points.get_color(), linewidth=0.3)
            alone = [k for k, row in enumerate(rows) if row.case["alpha"] == ALONE]
            crosses = ([clean[k] for k in alone], [certified[k] for k in alone])
            axes.plot(*crosses, "x", color=points.get_color(), markersize=8)
        axes.set_title(f"radius {radius:g}", fontsize="small")
        axes.set_xlabel("clean accuracy, %")
    panels[0].set_ylabel("certified accuracy, %")
    panels[-1].legend(fontsize="x-small", title=f"mixes; x: h alone, one per {noise}", title_fontsize="x-small")


def gain_table(table: Frontier, bound: str, clean: str = "clean") -> str:
    """A table: at each radius the mix with the largest gain, and what it is compared with; accuracies in %."""
    most = max(h["clean"] for h in table.where(bound=bound, alpha=ALONE))
    rows = []
    for i, radius in enumerate(table.radii):
        some = mixes(table, bound, i)
        ahead = max((m for m in some if m[clean] > most), key=lambda m: m[column(i)], default=None)
        compared = ["none", "none", "none", "none"]
        if some:
            largest, mix = max(((gain(table, m, i, clean), m) for m in some), key=lambda pair: pair[0])
            h, other = best_alone(table, bound, i, mix[clean]), most_accurate_alone(table, mix, i)
            compared = [f"{100 * largest:+.2f}", _words(mix, i, clean), _words(h, i), _words(other, i)]
        rows.append([f"{radius:g}", *compared, _words(ahead, i, clean)])
    heads = (
        "l_2 radius",
        "largest gain",
        "of the mix",
        "best h alone as accurate",
        "most accurate h alone that certifies no less",
        "best mix more accurate than every h alone",
    )
    return markdown_table(heads, rows)


def _words(row: Row | None, radius: int, clean: str = "clean") -> str:
    """Noise and alpha of a row, its clean accuracy and what it certifies."""
    if row is None:
        return "none"
    alpha = "" if row.case["alpha"] == ALONE else f", alpha {row.case['alpha']}"
    return f"{row.case['noise']}{alpha}: {100 * row[column(radius)]:.2f} (clean {100 * row[clean]:.2f})"
