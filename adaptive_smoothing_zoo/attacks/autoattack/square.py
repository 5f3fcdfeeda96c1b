"""The Square attack [ACFH20], many runs in parallel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.autoattack.square_draws import (
    QUERIES,
    Changes,
    KeyedSquares,
    inside,
    placed_pattern,
)
from adaptive_smoothing_zoo.attacks.contract import Attack, Setup, State, register
from adaptive_smoothing_zoo.attacks.losses import Model, decisive_margin
from adaptive_smoothing_zoo.attacks.margin_bounds import bounded_margins
from adaptive_smoothing_zoo.machine.faster_way import FasterWay, clock_of
from adaptive_smoothing_zoo.machine.folding import inner_model
from adaptive_smoothing_zoo.machine.graphs import Graphed
from adaptive_smoothing_zoo.threat import ThreatModel

MOST_AHEAD = 8  # changes of one run that are tried at once
LOOK_AHEAD = 32  # candidates examined for each of these


@dataclass
class SquareState(State):
    """Fields in addition to ``State``'s. ``iteration`` is the next query; query 0 is the start, others are changes.

    Attributes:
        keys: (N,) int64, keys of the random signs.
        best: (N, channels, H, W) the point with the lowest margin so far.
        best_margin: (N,) the margin there.
        best_query: (N,) the query of that point.
    """

    keys: Tensor
    best: Tensor
    best_margin: Tensor
    best_query: Tensor


class Draw(Protocol):
    """Source of starts and changes."""

    def start(self, keys: Tensor) -> Tensor:
        """(N, channels, H, W), a pattern of norm 1 for each key."""

    def __call__(self, state: SquareState, rows: Tensor, numbers: Tensor) -> Changes:
        """The changes (M,) with these numbers (M,), from 0, of the runs in these rows (M,)."""


# Points, labels, worth -> margins (N,), or infinity for margins that are certainly not below ``worth``.
Ask = Callable[[Tensor, Tensor, Tensor], Tensor]


class Square(Attack[SquareState]):
    """Random search: change a square of the perturbation, keep the change if it lowers the margin.

    Args:
        threat: the ball.
        draw: source of starts and changes.
        ask: computes margins faster than by the model's logits, if available.
        batch_size: maximal number of points per forward pass, if there are fewer runs.
        queries: changes tried per run; a run makes one more forward pass than that.
        twins: (queries,), for each change the index of the last earlier change that is equal in all runs, -1 if there
            is none. If given, the model is assumed deterministic, and known points are not evaluated again: those that
            a change leaves unchanged, or whose change was tried on the best point. For small images these are most
            queries. Finding them synchronizes with the device.
        faster_way: decides at each step whether to use ``ask`` and ``twins``; if None, every step does.

    Points equal those of pyautoattack 0.2.0 for the same random numbers.
    """

    name = "square"
    answered: Tensor

    def __init__(
        self,
        threat: ThreatModel,
        draw: Draw,
        *,
        queries: int = QUERIES,
        ask: Ask | None = None,
        batch_size: int = 1,
        twins: Tensor | None = None,
        faster_way: FasterWay | None = None,
    ) -> None:
        self.threat, self.draw, self.queries, self.length = threat, draw, queries, queries + 1
        self.ask, self.batch_size, self.twins, self.faster_way = ask, batch_size, twins, faster_way
        self.answered = torch.zeros((), dtype=torch.int64)

    def start(self, images: Tensor, labels: Tensor, targets: Tensor, keys: Tensor) -> SquareState:
        """Start from the image plus a pattern whose norm is the radius."""
        pattern = self.draw.start(keys)
        scaled = pattern if self.threat.is_linf else self.threat.unit(pattern)
        return SquareState.begin(
            images,
            labels,
            targets,
            keys=keys,
            best=(images + self.threat.eps * scaled).clamp(0.0, 1.0),
            best_margin=images.new_full((len(labels),), torch.inf),
            best_query=torch.zeros_like(labels),
        )

    @torch.no_grad()
    def step(self, state: SquareState, model: Model) -> int:
        """Evaluate the next changes of every run, and keep the first that lowers the margin.

        Few changes do, so a batch tries as many as fit, each from the current best point. Those after the first
        success are repeated from the better point in the next step. The iterates of a run do not depend on how many
        changes are tried at once.
        """
        ahead = min(max(self.batch_size // max(len(state), 1), 1), MOST_AHEAD)
        over = state.found | state.exhausted
        sparing = self.faster_way is None or self.faster_way.sparing(len(state), self.answered)
        rows, queries, points, after = self._next(state, over, ahead, self.twins if sparing else None)
        if len(rows):
            ask = self.ask if sparing and self.ask is not None else _margins_of(model)
            after = self._keep_first_that_helps(state, ask, rows, queries, points, after)
        after = torch.where(over, state.iteration, after.clamp(max=self.queries + 1))
        self.answered = self.answered.to(after.device) + (after - state.iteration).sum()
        state.iteration = after
        state.exhausted = state.iteration > self.queries
        return len(rows)

    def _keep_first_that_helps(
        self, state: SquareState, ask: Ask, rows: Tensor, queries: Tensor, points: Tensor, after: Tensor
    ) -> Tensor:
        """Evaluate the points; return each run's next query: the one after the first success, or ``after``."""
        best_margin = state.best_margin[rows]
        counts = ~(state.found | state.exhausted)[rows] & (queries <= self.queries)
        worth = best_margin.clamp(min=1e-30)  # a margin counts if it is the lowest so far or at most zero
        margins = ask(points, state.labels[rows], torch.where(counts, worth, -torch.inf))
        helps = counts & ((margins < best_margin) | (margins <= 0.0))
        places = torch.arange(len(rows), device=rows.device)
        none = torch.full_like(after, len(rows))
        first = none.scatter_reduce(0, rows, torch.where(helps, places, len(rows)), "amin")
        any_helps, first = first < len(rows), first.clamp(max=len(rows) - 1)
        state.best_margin = torch.where(any_helps, margins[first], state.best_margin)
        state.best = torch.where(any_helps.view(-1, 1, 1, 1), points[first], state.best)
        state.best_query = torch.where(any_helps, queries[first], state.best_query)
        state.meet(state.best, any_helps & (state.best_margin <= 0.0))
        return torch.where(any_helps, queries[first] + 1, after)

    def _next(
        self, state: SquareState, over: Tensor, ahead: int, twins: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Up to ``ahead`` queries of every run: rows (M,), queries (M,), points; and the query after them, (N,)."""
        device = state.iteration.device
        if twins is None:
            rows = torch.arange(len(state), device=device)[:, None].expand(-1, ahead).reshape(-1)
            queries = (state.iteration[:, None] + torch.arange(ahead, device=device)).flatten()
            return rows, queries, self._points(state, rows, queries), state.iteration + ahead
        # More candidates than needed, without changes already tried on the best point,
        window = state.iteration[:, None] + torch.arange(LOOK_AHEAD * ahead, device=device)
        twin = twins[(window - 1).clamp(0, self.queries - 1)] + 1
        open_ = ~over[:, None] & (window <= self.queries) & (twin <= state.best_query[:, None])
        wanted, after = _first(open_, window, 2 * ahead)
        rows, columns = wanted.nonzero(as_tuple=True)
        points = self._points(state, rows, window[rows, columns])
        # and without those equal to the best point.
        wanted[rows, columns] = (points != state.best[rows]).flatten(1).any(dim=1) | (window[rows, columns] == 0)
        chosen, after = _first(wanted, window, ahead, after)
        kept = chosen[rows, columns]
        rows, columns = rows[kept], columns[kept]
        return rows, window[rows, columns], points[kept], after

    def _points(self, state: SquareState, rows: Tensor, queries: Tensor) -> Tensor:
        """The point of each query of the runs in these rows: the start, or the best point with a change."""
        images, best = state.images[rows], state.best[rows]
        change = self.draw(state, rows, (queries - 1).clamp(0, self.queries - 1))
        changed = (
            self._linf_points(images, best, change) if self.threat.is_linf else self._l2_points(images, best, change)
        )
        return torch.where((queries == 0).view(-1, 1, 1, 1), best, changed)

    def _linf_points(self, images: Tensor, best: Tensor, change: Changes) -> Tensor:
        """Add twice the radius inside the square and clip to the ball: pixels there end at plus or minus the radius."""
        square = inside(change.top, change.left, change.size, best)
        added = 2.0 * self.threat.eps * change.signs[:, :, None, None] * square
        return self.threat.project(images, best + added)

    def _l2_points(self, images: Tensor, best: Tensor, change: Changes) -> Tensor:
        """Move the perturbation of one square, plus the unused radius and a new pattern, into another square."""
        away = best - images
        channels = away.shape[1]
        square = inside(change.top, change.left, change.size, away)
        square_2 = inside(change.top_2, change.left_2, change.size, away)
        energy = (away * away).sum(dim=(1, 2, 3), keepdim=True)
        window_energy = (away * away * (square | square_2)).sum(dim=(2, 3), keepdim=True)
        unused = (self.threat.eps * self.threat.eps - energy).clamp(min=0.0)
        here = away * square
        pattern = placed_pattern(change, away) * change.signs[:, :, None, None]
        new = pattern + here / (1e-12 + _plane_norm(here))
        new = new / (1e-12 + _plane_norm(new)) * (unused / channels + window_energy).sqrt()
        away = torch.where(square, new, away.masked_fill(square_2, 0.0))
        return (images + self.threat.eps * self.threat.unit(away)).clamp(0.0, 1.0)


def _margins_of(model: Model) -> Ask:
    """The margins of the model's logits, whatever they are worth."""
    return lambda points, labels, worth: decisive_margin(model(points), labels)


def _first(wanted: Tensor, queries: Tensor, most: int, end: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The first wanted queries of every row, and the query after them: ``end``, unless some are left over.

    Args:
        wanted: (N, W) bool.
        queries: (N, W), rising by one.
        most: how many.
        end: (N,) the query after all, if it is not the one after the last column.
    """
    rank = wanted.cumsum(dim=1)
    end = queries[:, -1] + 1 if end is None else end
    later = torch.where(wanted & (rank > most), queries, torch.iinfo(queries.dtype).max).amin(dim=1)
    return wanted & (rank <= most), torch.minimum(later, end)


def _plane_norm(planes: Tensor) -> Tensor:
    """(N, channels, H, W) -> (N, channels, 1, 1) l_2 norms."""
    return (planes * planes).sum(dim=(2, 3), keepdim=True).sqrt()


@register("square", cost=1, queries=QUERIES)
def _square(setup: Setup) -> Square:
    """Reuse known margins and bounds to save passes: always on CPUs; elsewhere, where it synchronizes, if faster."""
    draw = KeyedSquares(setup.seed, "square", setup.shape, setup.threat, setup.device, setup.queries)
    prepared = setup.prepared.model if isinstance(setup.prepared, Graphed) else setup.prepared
    return Square(
        setup.threat,
        draw,
        queries=setup.queries,
        ask=bounded_margins(inner_model(prepared)),
        batch_size=setup.batch_size,
        twins=draw.twins if setup.deterministic else None,
        faster_way=None if setup.device.type == "cpu" else FasterWay(clock_of(setup.device)),
    )
