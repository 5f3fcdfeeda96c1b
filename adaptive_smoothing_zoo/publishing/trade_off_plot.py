"""The trade-off plot, clean accuracy against robust accuracy: SVG text for pages, or a file by matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from adaptive_smoothing_zoo.publishing.pages import page
from adaptive_smoothing_zoo.storage.files import write_with

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 44  # margins around the axes
FONT, LETTER = 12, 7.4  # height of a label, mean width of a letter
STEPS = 30  # places on each piece of a line that labels avoid
CLEAN, ROBUST = "clean accuracy, %", "robust accuracy, %"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model. Accuracies are percentages.

    Attributes:
        kind: "ours", "other" or "alpha" (the mix of a constant alpha).
        key: of the model; points with the same key belong together.
        note: shown in the tooltip after label and numbers.
        open: drawn as an outline: on a leaderboard something speaks against the robust accuracy; on a card it is the
            one after all attacks.
    """

    label: str
    clean: float
    robust: float
    kind: str = "ours"
    key: str = ""
    note: str = ""
    open: bool = False


class Box(NamedTuple):
    """A rectangle in the picture."""

    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: Box) -> bool:
        apart_x = self.x >= other.x + other.width or other.x >= self.x + self.width
        apart_y = self.y >= other.y + other.height or other.y >= self.y + self.height
        return not (apart_x or apart_y)

    def overlaps_any(self, others: Iterable[Box]) -> bool:
        return any(self.overlaps(other) for other in others)

    def is_inside(self) -> bool:
        across = self.x >= LEFT and self.x + self.width <= WIDTH - RIGHT
        return across and self.y >= TOP and self.y + self.height <= HEIGHT - BOTTOM


@dataclass(frozen=True)
class Scale:
    """Percentages along one axis, from ``low`` at ``start`` to ``high`` at ``end`` in the picture."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> Scale:
        """An axis that shows all values, with some room around them."""
        room = max(0.08 * (max(values) - min(values)), 1.5)
        return cls(max(-2.0, min(values) - room), min(102.0, max(values) + room), start, end)

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[int]:
        """Whole percentages, at most nine of them."""
        step = next(step for step in (1, 2, 5, 10, 20) if (self.high - self.low) / step <= 9)
        return [tick for tick in range(0, 101, step) if self.low <= tick <= self.high]


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """The content of a plot.

    Attributes:
        points: models.
        curve: mixes of one g and h with constant alphas, in rising order of alpha; drawn as a line.
        robust: label of the axis of robust accuracies.
    """

    points: tuple[Point, ...]
    curve: tuple[Point, ...] = ()
    robust: str = ROBUST

    @property
    def front(self) -> frozenset[str]:
        """Keys of the models that are Pareto optimal: none is at least as good in both accuracies and better in one."""
        return frozenset(
            p.key for p in self.points if not any(_beats((q.clean, q.robust), (p.clean, p.robust)) for q in self.points)
        )

    def svg(self, name: str = "trade-off") -> str:
        """The plot as SVG text; ``name`` is its id in a page."""
        x, y = self._scales()
        size = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP}
        axes = {"x": x, "y": y, "bottom": HEIGHT - BOTTOM, "clean": CLEAN, "robust": self.robust}
        labels = list(self._labels(x, y))
        return page("trade_off.svg", plot=self, labels=labels, name=name, font=FONT, **size, **axes)

    def _scales(self) -> tuple[Scale, Scale]:
        clean, robust = _columns((*self.curve, *self.points))
        return Scale.of(clean, LEFT, WIDTH - RIGHT), Scale.of(robust, HEIGHT - BOTTOM, TOP)

    def _drawn(self) -> Iterator[tuple[float, float]]:
        """Where there is a circle or the line."""
        yield from ((point.clean, point.robust) for point in (*self.points, *self.curve))
        for a, b in pairwise(self.curve):
            for i in range(1, STEPS):
                share = i / STEPS
                yield a.clean + share * (b.clean - a.clean), a.robust + share * (b.robust - a.robust)

    def _labels(self, x: Scale, y: Scale) -> Iterator[tuple[Point, float, float]]:
        """The labels with their left ends and base lines: ours, the ends of the curve, the models of the front.

        No label covers another, and only ours may cover a point. A label without such a place is left out.
        """
        front = self.front
        wanted = [p for p in self.points if p.kind == "ours"]
        wanted += [*self.curve[:1], *self.curve[-1:]]
        wanted += [p for p in self.points if p.kind != "ours" and p.key in front]
        points = [_around(x(clean), y(robust)) for clean, robust in self._drawn()]
        taken: list[Box] = []
        for point in dict.fromkeys(wanted):
            places = list(_places(x(point.clean), y(point.robust), LETTER * len(point.label)))
            free = [box for box in places if box.is_inside() and not box.overlaps_any(taken)]
            clear = [box for box in free if not box.overlaps_any(points)]
            for box in (clear or (free if point.kind == "ours" else []))[:1]:
                taken.append(box)
                yield point, round(box.x, 1), round(box.y + 0.8 * box.height, 1)

    def draw(self, path: Path, title: str | None = None) -> None:
        """Write the plot with matplotlib; the ending of ``path`` is the format (.png, .pdf, .svg).

        Raises:
            ImportError: matplotlib is not installed (it comes with the "evaluation" extra).
        """
        from matplotlib.figure import Figure  # a figure of its own needs no display and leaves pyplot's state alone

        figure = Figure(figsize=(7, 4.6), layout="constrained")
        axes = figure.subplots()
        for kind, color in (("other", "0.7"), ("ours", "tab:blue")):
            for is_open, face in ((True, "none"), (False, color)):
                chosen = [p for p in self.points if (p.kind, p.open) == (kind, is_open)]
                axes.scatter(*_columns(chosen), facecolors=face, edgecolors=color)
        if self.curve:
            axes.plot(*_columns(self.curve), ".-", color="tab:orange", zorder=0)
        x, y = self._scales()
        for point, left, base in self._labels(x, y):
            offset = (0.6 * (left - x(point.clean)), 0.6 * (y(point.robust) - base))
            where: dict[str, Any] = {"xytext": offset, "textcoords": "offset points", "fontsize": 7.5}
            axes.annotate(point.label, (point.clean, point.robust), **where)
        axes.set(xlabel=CLEAN, ylabel=self.robust, title=title, xlim=(x.low, x.high), ylim=(y.low, y.high))
        axes.grid(alpha=0.3)
        write_with(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=150))


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Clean and robust accuracies."""
    return [point.clean for point in points], [point.robust for point in points]


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] >= b[0] and a[1] >= b[1]


def _around(x: float, y: float) -> Box:
    return Box(x - 4, y - 4, 8, 8)


def _places(x: float, y: float, width: float) -> Iterator[Box]:
    """Where the label of a point may stand: next to it, above, below, and further away."""
    for away in (8, 18, 30, 44):
        yield Box(x + away, y - FONT / 2, width, FONT)
        yield Box(x - away - width, y - FONT / 2, width, FONT)
        for left in (x - width / 2, x + 2, x - 2 - width):
            yield Box(left, y - away - FONT, width, FONT)
            yield Box(left, y + away, width, FONT)
