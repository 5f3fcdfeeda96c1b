"""The Square attack (Andriushchenko et al. 2020, arXiv:1912.00049), many runs side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import Model, margin, normalized
from adaptive_smoothing_zoo.attacks.state import State

QUERIES = 5000
MOST_AHEAD = 8  # changes of one run that are tried at once
LOOK_AHEAD = 32  # for each of these, changes that are looked at for ones worth trying
P_INIT = 0.8  # share of the pixels that the first squares cover
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # changes after which the share is halved


@dataclass
class SquareState(State):
    """Beside the fields of every run:

    Attributes:
        keys: (N,) int64, what the random signs of a run depend on.
        query: (N,) the next one; 0 asks about the start, each other one about a change.
        best: (N, channels, H, W) the point with the lowest margin so far.
        best_margin: (N,) the margin there.
        best_query: (N,) the query that asked about it.
    """

    keys: Tensor
    query: Tensor
    best: Tensor
    best_margin: Tensor
    best_query: Tensor


@dataclass(frozen=True)
class Changes:
    """Random changes.

    Attributes:
        size: (M,) side of the square.
        top, left: (M,) its corner.
        signs: (M, channels) -1 or 1, direction of the change in each channel.
        top_2, left_2: (M,) corner of the square that gives up its perturbation (l_2).
        transposed: (M,) bool, whether the pattern lies on its side (l_2).
    """

    size: Tensor
    top: Tensor
    left: Tensor
    signs: Tensor
    top_2: Tensor
    left_2: Tensor
    transposed: Tensor


# State, rows (M,), numbers of changes (M,) from 0 -> the changes of the runs in these rows.
Draw = Callable[[SquareState, Tensor, Tensor], Changes]
# Points, labels, worth -> margins (N,), or infinity for margins that are certainly not below ``worth``.
Ask = Callable[[Tensor, Tensor, Tensor], Tensor]


class Square:
    """Random search: change a square of the perturbation, keep the change if it lowers the margin.

    Args:
        name: what it is called in a protocol.
        norm, eps: the ball, "Linf" or "L2".
        draw: where the changes come from.
        ask: a way to margins that is shorter than the model's logits, if there is one.
        batch_size: most points to ask about at once, if the runs are fewer.
        queries: changes tried per run; a run asks the model once more than that.
        twins: (queries,) for each change the number of the last one before it that is the same in all runs, -1 if
            there is none. If given, a model that answers the same twice is taken for granted, and not asked about a
            point that it has been asked about: one that a change leaves where it is, or whose change has been tried on
            the best point. Small images have few changes, and most of the queries are such. Looking for them makes
            the host wait for the device.

    Attributes:
        answered: queries of all runs so far, whether the model had to be asked or not.

    Points are those of pyautoattack 0.2.0 for the same random numbers.
    """

    def __init__(
        self,
        name: str,
        *,
        norm: str,
        eps: float,
        draw: Draw,
        queries: int = QUERIES,
        ask: Ask | None = None,
        batch_size: int = 1,
        twins: Tensor | None = None,
    ) -> None:
        self.name, self.norm, self.eps, self.draw, self.queries = name, norm, eps, draw, queries
        self.ask, self.batch_size, self.twins = ask, batch_size, twins
        self.answered = torch.zeros((), dtype=torch.int64)

    def start(self, images: Tensor, labels: Tensor, targets: Tensor, keys: Tensor, pattern: Tensor) -> SquareState:
        """Begin at the image plus a pattern that fills the ball: see ``stripes`` (l_inf) and ``tiles`` (l_2)."""
        no = torch.zeros_like(labels, dtype=torch.bool)
        scaled = pattern if self.norm == "Linf" else normalized(pattern, "L2")
        points = (images + self.eps * scaled).clamp(0.0, 1.0)
        return SquareState(
            images=images,
            labels=labels,
            targets=targets,
            found=no,
            adversarials=images.clone(),
            exhausted=no.clone(),
            lost=no.clone(),
            flat=no.clone(),
            keys=keys,
            query=torch.zeros_like(labels),
            best=points,
            best_margin=images.new_full((len(labels),), torch.inf),
            best_query=torch.zeros_like(labels),
        )

    @torch.no_grad()
    def step(self, state: SquareState, model: Model) -> int:
        """Ask the model about the next changes of every run, and keep the first that helps.

        Changes are few that help, so as many as fit into a batch are tried at once, each as if none before it did;
        those behind the first that does are made anew, from the better point, in the next step. What a run goes
        through does not depend on how many are tried at once.
        """
        ahead = min(max(self.batch_size // max(len(state), 1), 1), MOST_AHEAD)
        over = state.found | state.exhausted
        rows, queries, points, after = self._next(state, over, ahead)
        if len(rows):
            after = self._keep_first_that_helps(state, model, rows, queries, points, after)
        after = torch.where(over, state.query, after.clamp(max=self.queries + 1))
        self.answered = self.answered.to(after.device) + (after - state.query).sum()
        state.query = after
        state.exhausted = state.query > self.queries
        return len(rows)

    def spent(self, state: SquareState) -> Tensor:
        """Which share of its budget each run has spent, (N,)."""
        return (state.query / (self.queries + 1)).clamp(max=1.0)

    def _keep_first_that_helps(
        self, state: SquareState, model: Model, rows: Tensor, queries: Tensor, points: Tensor, after: Tensor
    ) -> Tensor:
        """Ask about the points, and return each run's next query: that behind the first that helps, or ``after``."""
        best_margin = state.best_margin[rows]
        counts = ~(state.found | state.exhausted)[rows] & (queries <= self.queries)
        worth = best_margin.clamp(min=1e-30)  # a margin counts if it is the lowest yet or not above zero
        margins = self._margins(model, points, state.labels[rows], torch.where(counts, worth, -torch.inf))
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

    def _next(self, state: SquareState, over: Tensor, ahead: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Up to ``ahead`` queries of every run: rows (M,), queries (M,), points; and the query after them, (N,)."""
        device = state.query.device
        if self.twins is None:
            rows = torch.arange(len(state), device=device).repeat_interleave(ahead)
            queries = (state.query[:, None] + torch.arange(ahead, device=device)).flatten()
            return rows, queries, self._points(state, rows, queries), state.query + ahead
        # Candidates, more than are wanted, without those whose change has been tried on the best point.
        window = state.query[:, None] + torch.arange(LOOK_AHEAD * ahead, device=device)
        twins = self.twins[(window - 1).clamp(0, self.queries - 1)] + 1
        open_ = ~over[:, None] & (window <= self.queries) & (twins <= state.best_query[:, None])
        wanted, after = _first(open_, window, 2 * ahead)
        rows, columns = wanted.nonzero(as_tuple=True)
        points = self._points(state, rows, window[rows, columns])
        # And without those that are the best point.
        wanted[rows, columns] = (points != state.best[rows]).flatten(1).any(dim=1) | (window[rows, columns] == 0)
        chosen, after = _first(wanted, window, ahead, after)
        kept = chosen[rows, columns]
        rows, columns = rows[kept], columns[kept]
        return rows, window[rows, columns], points[kept], after

    def _points(self, state: SquareState, rows: Tensor, queries: Tensor) -> Tensor:
        """What each query of the runs in these rows asks about: the start, or the best point with a change."""
        images, best = state.images[rows], state.best[rows]
        change = self.draw(state, rows, (queries - 1).clamp(0, self.queries - 1))
        changed = (
            self._linf_points(images, best, change) if self.norm == "Linf" else self._l2_points(images, best, change)
        )
        return torch.where((queries == 0).view(-1, 1, 1, 1), best, changed)

    def _margins(self, model: Model, points: Tensor, labels: Tensor, worth: Tensor) -> Tensor:
        return margin(model(points), labels) if self.ask is None else self.ask(points, labels, worth)

    def _linf_points(self, images: Tensor, best: Tensor, change: Changes) -> Tensor:
        """Add twice the radius inside the square and cut to the ball, so that it ends on one side or the other."""
        inside = _inside(change.top, change.left, change.size, best)
        added = 2.0 * self.eps * change.signs[:, :, None, None] * inside
        return (best + added).clamp(images - self.eps, images + self.eps).clamp(0.0, 1.0)

    def _l2_points(self, images: Tensor, best: Tensor, change: Changes) -> Tensor:
        """Give one square the perturbation of another, what is left of the radius, and a new pattern on top."""
        away = best - images
        channels = away.shape[1]
        inside = _inside(change.top, change.left, change.size, away)
        inside_2 = _inside(change.top_2, change.left_2, change.size, away)
        energy = (away * away).sum(dim=(1, 2, 3), keepdim=True)
        window_energy = (away * away * (inside | inside_2)).sum(dim=(2, 3), keepdim=True)
        unused = (self.eps * self.eps - energy).clamp(min=0.0)
        here = away * inside
        pattern = _placed_pattern(change, away) * change.signs[:, :, None, None]
        new = pattern + here / (1e-12 + _plane_norm(here))
        new = new / (1e-12 + _plane_norm(new)) * (unused / channels + window_energy).sqrt()
        away = torch.where(inside, new, away.masked_fill(inside_2, 0.0))
        return (images + self.eps * normalized(away, "L2")).clamp(0.0, 1.0)


def _first(wanted: Tensor, queries: Tensor, most: int, end: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The first wanted queries of every row, and the query behind them: ``end``, unless some are left for later.

    Args:
        wanted: (N, W) bool.
        queries: (N, W), rising by one.
        most: how many.
        end: (N,) the query behind all, if it is not that behind the last column.
    """
    rank = wanted.cumsum(dim=1)
    end = queries[:, -1] + 1 if end is None else end
    later = torch.where(wanted & (rank > most), queries, torch.iinfo(queries.dtype).max).amin(dim=1)
    return wanted & (rank <= most), torch.minimum(later, end)


def square_size(query: int, height: int, width: int, norm: str) -> int:
    """Side of the square of a change, counted from 0; odd and at least 3 in l_2."""
    share = P_INIT / 2 ** sum(query > after for after in _HALVED_AFTER)
    size = round(math.sqrt(share * height * width))
    if norm == "L2":
        size = max(size, 3) | 1
    return min(max(size, 1), height, width)


def stripes(signs: Tensor, height: int) -> Tensor:
    """The l_inf start: (N, channels, W) signs, one for each column -> (N, channels, height, W)."""
    return signs[:, :, None, :].expand(-1, -1, height, -1)


def tile_grid(height: int, width: int) -> tuple[int, int, int, int]:
    """Side of the tiles of the l_2 start, the row and column where they begin, and how many there are each way.

    An image narrower than a tile has none, and starts from itself. One lower than 5 pixels has tiles of one pixel,
    where the authors' code divides by zero.
    """
    side = max(height // 5, 1)
    begin = max((height - 5 * side) // 2, 0)
    return side, begin, height // side, width // side


def tiles(signs: Tensor, transposed: Tensor, height: int, width: int) -> Tensor:
    """The l_2 start: a pattern in every tile.

    Args:
        signs: (N, channels, rows, columns), one for each tile.
        transposed: (rows, columns) bool, whether the tile's pattern lies on its side.
        height, width: of the images. Tiles that do not fit are cut off.

    Returns:
        (N, channels, height, width).
    """
    side, begin, rows, columns = tile_grid(height, width)
    upright = pattern(side).to(signs)
    shapes = torch.where(transposed[:, :, None, None].to(signs.device), upright.T, upright)  # (rows, columns, s, s)
    filled = signs[..., None, None] * shapes  # (N, channels, rows, columns, s, s)
    plane = filled.transpose(3, 4).reshape(*signs.shape[:2], rows * side, columns * side)
    start = signs.new_zeros(*signs.shape[:2], height, width)
    kept = plane[:, :, : height - begin, : width - begin]
    start[:, :, begin : begin + kept.shape[2], begin : begin + kept.shape[3]] = kept
    return start


@cache
def pattern(side: int) -> Tensor:
    """The l_2 perturbation of a square: a hill on its upper part, a valley on its lower; norm 1."""
    plane = torch.cat([_hill(side // 2, side), -_hill(side - side // 2, side)])
    return plane / plane.square().sum().sqrt()


def _hill(height: int, width: int) -> Tensor:
    """Nested rectangles around the centre, the k-th from inside adding 1 / k^2; norm 1."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    ring = torch.maximum((rows - height // 2).abs(), (columns - width // 2).abs())
    heights = 1.0 / torch.arange(1, max(height // 2, width // 2) + 2, dtype=torch.float64) ** 2
    hill = heights.flip(0).cumsum(0).flip(0)[ring]
    return hill / hill.square().sum().sqrt() if height else hill


def _inside(top: Tensor, left: Tensor, size: Tensor, images: Tensor) -> Tensor:
    """(N, 1, H, W) bool, the pixels of each run's square."""
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < (top + size)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + size)[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)


def _placed_pattern(change: Changes, images: Tensor) -> Tensor:
    """(N, 1, H, W) each run's pattern in its square, whatever around it."""
    table = _pattern_table(min(images.shape[2:]), images.device, images.dtype)
    rows = (torch.arange(images.shape[2], device=images.device) - change.top[:, None]).clamp(0, table.shape[1] - 1)
    columns = (torch.arange(images.shape[3], device=images.device) - change.left[:, None]).clamp(0, table.shape[2] - 1)
    rows, columns = rows[:, :, None], columns[:, None, :]
    upright, size = ~change.transposed[:, None, None], change.size[:, None, None]
    placed = torch.where(upright, table[size, rows, columns], table[size, columns, rows])
    return (placed.unsqueeze(1) * _inside(change.top, change.left, change.size, images)).to(images.dtype)


@cache
def _pattern_table(largest: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(largest + 1, largest, largest): the pattern of each size in the upper left corner, zero around it."""
    table = torch.zeros(largest + 1, largest, largest, dtype=torch.float64)
    for side in range(1, largest + 1):
        table[side, :side, :side] = pattern(side)
    return table.to(device, dtype)


def _plane_norm(planes: Tensor) -> Tensor:
    """(N, channels, H, W) -> (N, channels, 1, 1) l_2 norms."""
    return (planes * planes).sum(dim=(2, 3), keepdim=True).sqrt()
