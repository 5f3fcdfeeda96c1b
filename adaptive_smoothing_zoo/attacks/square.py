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
P_INIT = 0.8  # share of the pixels that the first squares cover
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # changes after which the share is halved


@dataclass
class SquareState(State):
    """Beside the fields of every run:

    Attributes:
        keys: (N,) int64, what the random signs of a run depend on.
        query: (N,) changes made to reach ``points``; 0 at the start.
        points: (N, channels, H, W) where the model is asked next.
        best: the point with the lowest margin so far.
        best_margin: (N,) the margin there.
    """

    keys: Tensor
    query: Tensor
    points: Tensor
    best: Tensor
    best_margin: Tensor


@dataclass(frozen=True)
class Changes:
    """A random change for each run.

    Attributes:
        size: (N,) side of the square.
        top, left: (N,) its corner.
        signs: (N, channels) -1 or 1, direction of the change in each channel.
        top_2, left_2: (N,) corner of the square that gives up its perturbation (l_2).
        transposed: (N,) bool, whether the pattern lies on its side (l_2).
    """

    size: Tensor
    top: Tensor
    left: Tensor
    signs: Tensor
    top_2: Tensor
    left_2: Tensor
    transposed: Tensor


Draw = Callable[[SquareState], Changes]  # the changes of the runs' next queries


class Square:
    """Random search: change a square of the perturbation, keep the change if it lowers the margin.

    Args:
        name: what it is called in a protocol.
        norm, eps: the ball, "Linf" or "L2".
        draw: where the changes come from.
        queries: changes tried per run; a run asks the model once more than that.

    Points are those of pyautoattack 0.2.0 for the same random numbers.
    """

    def __init__(self, name: str, *, norm: str, eps: float, draw: Draw, queries: int = QUERIES) -> None:
        self.name, self.norm, self.eps, self.draw, self.queries = name, norm, eps, draw, queries

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
            points=points,
            best=points.clone(),
            best_margin=images.new_full((len(labels),), torch.inf),
        )

    @torch.no_grad()
    def step(self, state: SquareState, model: Model) -> None:
        """Ask the model about the last changes, keep those that help, make the next ones."""
        margins = margin(model(state.points), state.labels)
        state.meet(state.points, margins <= 0.0)
        better = (margins < state.best_margin) | (margins <= 0.0)
        state.best_margin = torch.where(better, margins, state.best_margin)
        state.best = torch.where(better.view(-1, 1, 1, 1), state.points, state.best)
        state.exhausted = state.query >= self.queries
        state.query = (state.query + 1).clamp(max=self.queries)
        change = self.draw(state)
        state.points = self._linf_points(state, change) if self.norm == "Linf" else self._l2_points(state, change)

    def _linf_points(self, state: SquareState, change: Changes) -> Tensor:
        """Add twice the radius inside the square and cut to the ball, so that it ends on one side or the other."""
        inside = _inside(change.top, change.left, change.size, state.best)
        added = 2.0 * self.eps * change.signs[:, :, None, None] * inside
        low, high = state.images - self.eps, state.images + self.eps
        return (state.best + added).clamp(low, high).clamp(0.0, 1.0)

    def _l2_points(self, state: SquareState, change: Changes) -> Tensor:
        """Give one square the perturbation of another, what is left of the radius, and a new pattern on top."""
        away = state.best - state.images
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
        return (state.images + self.eps * normalized(away, "L2")).clamp(0.0, 1.0)


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
    """Side of the tiles of the l_2 start, the row and column where they begin, and how many there are each way."""
    side = height // 5
    begin = (height - 5 * side) // 2
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
    table = _pattern_table(min(images.shape[2:])).to(images)
    rows = (torch.arange(images.shape[2], device=images.device) - change.top[:, None]).clamp(0, table.shape[1] - 1)
    columns = (torch.arange(images.shape[3], device=images.device) - change.left[:, None]).clamp(0, table.shape[2] - 1)
    rows, columns = rows[:, :, None], columns[:, None, :]
    upright, size = ~change.transposed[:, None, None], change.size[:, None, None]
    placed = torch.where(upright, table[size, rows, columns], table[size, columns, rows])
    return (placed.unsqueeze(1) * _inside(change.top, change.left, change.size, images)).to(images.dtype)


@cache
def _pattern_table(largest: int) -> Tensor:
    """(largest + 1, largest, largest): the pattern of each size in the upper left corner, zero around it."""
    table = torch.zeros(largest + 1, largest, largest, dtype=torch.float64)
    for side in range(1, largest + 1):
        table[side, :side, :side] = pattern(side)
    return table


def _plane_norm(planes: Tensor) -> Tensor:
    """(N, channels, H, W) -> (N, channels, 1, 1) l_2 norms."""
    return (planes * planes).sum(dim=(2, 3), keepdim=True).sqrt()
