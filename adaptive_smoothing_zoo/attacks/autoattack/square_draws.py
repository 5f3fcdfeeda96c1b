"""The random changes of the Square attack [ACFH20]: sizes, places, patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.random_streams import SHARED, bits, run_keys, signs, uniform
from adaptive_smoothing_zoo.threat import ThreatModel

QUERIES = 5000
P_INIT = 0.8  # share of the pixels that the first squares cover
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # changes after which the share is halved


@dataclass(frozen=True)
class Changes:
    """Random changes.

    Attributes:
        size: (M,) side of the square.
        top, left: (M,) its corner.
        signs: (M, channels) -1 or 1, direction of the change in each channel.
        top_2, left_2: (M,) corner of the square that gives up its perturbation (l_2).
        transposed: (M,) bool, whether the pattern is transposed (l_2).
    """

    size: Tensor
    top: Tensor
    left: Tensor
    signs: Tensor
    top_2: Tensor
    left_2: Tensor
    transposed: Tensor


class Keyed(Protocol):
    """A state whose runs have keys, (N,) int64."""

    keys: Tensor


class KeyedSquares:
    """The random numbers of the Square attack on images of a shape (channels, H, W).

    As in the reference, all examples share the squares' places, sizes and (in l_inf) signs; starts, and in l_2 signs,
    are drawn per example. For ``twins``, (queries,), see ``Square``.
    """

    def __init__(
        self,
        seed: int,
        attack: str,
        shape: tuple[int, int, int],
        threat: ThreatModel,
        device: torch.device,
        queries: int = QUERIES,
    ) -> None:
        self.threat, self.shape = threat, shape
        channels, height, width = shape
        shared = run_keys(seed, attack, 0, torch.tensor([SHARED]))
        self._shared_key = shared.to(device)
        draws = uniform(shared, torch.arange(queries * (5 + channels)).view(queries, 5 + channels))
        size = torch.tensor([square_size(query, height, width, threat) for query in range(queries)])
        places = {
            name: (draws[:, i] * (extent - size)).long().to(device)
            for i, (name, extent) in enumerate((("top", height), ("left", width), ("top_2", height), ("left_2", width)))
        }
        self._transposed = (draws[:, 4] > 0.5).to(device)
        self._signs = torch.where(draws[:, 5:] < 0.5, -1.0, 1.0).to(device)
        self._size, self._places = size.to(device), places
        self.twins = self._twins()

    def _twins(self) -> Tensor:
        """For each change, the index of the last earlier change that is equal in all runs, or -1."""
        twins = torch.full_like(self._size, -1)
        if self.threat.is_linf:  # in l_2 each run has signs of its own
            last: dict[tuple[float, ...], int] = {}
            parts = (self._size[:, None], *(self._places[name][:, None] for name in ("top", "left")), self._signs)
            for number, change in enumerate(torch.cat(parts, dim=1).tolist()):
                twins[number] = last.get(tuple(change), -1)
                last[tuple(change)] = number
        return twins

    def start(self, keys: Tensor) -> Tensor:
        """The pattern at which each run starts, (N, channels, H, W): ``stripes`` (l_inf) or ``tiles`` (l_2)."""
        channels, height, width = self.shape
        if self.threat.is_linf:
            counters = torch.arange(channels * width, device=keys.device)
            return stripes(signs(keys[:, None], counters).view(len(keys), channels, width), height)
        _, _, rows, columns = tile_grid(height, width)
        counters = torch.arange(channels * rows * columns, device=keys.device)
        chosen = signs(keys[:, None], counters).view(len(keys), channels, rows, columns)
        # Negative counters, which no query uses.
        transposed = bits(self._shared_key, -1 - torch.arange(rows * columns, device=keys.device)) < 0
        return tiles(chosen, transposed.view(rows, columns), height, width)

    def __call__(self, state: Keyed, rows: Tensor, numbers: Tensor) -> Changes:
        """The changes (M,) with these numbers (M,) of the runs in these rows (M,) of a state."""
        chosen = self._signs[numbers]
        if not self.threat.is_linf:
            channels = torch.arange(self.shape[0], device=numbers.device)
            # Beyond the counters of the start.
            counters = numbers[:, None] * self.shape[0] + channels + math.prod(self.shape)
            chosen = signs(state.keys[rows, None], counters)
        places = {name: place[numbers] for name, place in self._places.items()}
        return Changes(size=self._size[numbers], signs=chosen, transposed=self._transposed[numbers], **places)


def square_size(query: int, height: int, width: int, threat: ThreatModel) -> int:
    """Side of the square of a change, counted from 0; odd and at least 3 in l_2."""
    share = P_INIT / 2 ** sum(query > after for after in _HALVED_AFTER)
    size = round(math.sqrt(share * height * width))
    if not threat.is_linf:
        size = max(size, 3) | 1
    return min(max(size, 1), height, width)


def stripes(signs: Tensor, height: int) -> Tensor:
    """The l_inf start: (N, channels, W) signs, one for each column -> (N, channels, height, W)."""
    return signs[:, :, None, :].expand(-1, -1, height, -1)


def tile_grid(height: int, width: int) -> tuple[int, int, int, int]:
    """Side of the tiles of the l_2 start, their first row and column, and the number of rows and columns of tiles.

    An image narrower than a tile has none and starts unperturbed. Images under 5 pixels high have tiles of one pixel;
    the authors' code divides by zero there.
    """
    side = max(height // 5, 1)
    begin = max((height - 5 * side) // 2, 0)
    return side, begin, height // side, width // side


def tiles(signs: Tensor, transposed: Tensor, height: int, width: int) -> Tensor:
    """The l_2 start: a pattern in every tile.

    Args:
        signs: (N, channels, rows, columns), one for each tile.
        transposed: (rows, columns) bool, whether the tile's pattern is transposed.
        height, width: size of the images. Tiles that do not fit are cut off.

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


def inside(top: Tensor, left: Tensor, size: Tensor, images: Tensor) -> Tensor:
    """(N, 1, H, W) bool, the pixels of each run's square."""
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < (top + size)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + size)[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)


def placed_pattern(change: Changes, images: Tensor) -> Tensor:
    """(N, 1, H, W), each run's pattern in its square; values outside the square are arbitrary."""
    table = _pattern_table(min(images.shape[2:]), images.device, images.dtype)
    rows = (torch.arange(images.shape[2], device=images.device) - change.top[:, None]).clamp(0, table.shape[1] - 1)
    columns = (torch.arange(images.shape[3], device=images.device) - change.left[:, None]).clamp(0, table.shape[2] - 1)
    rows, columns = rows[:, :, None], columns[:, None, :]
    upright, size = ~change.transposed[:, None, None], change.size[:, None, None]
    placed = torch.where(upright, table[size, rows, columns], table[size, columns, rows])
    return (placed.unsqueeze(1) * inside(change.top, change.left, change.size, images)).to(images.dtype)


@cache
def _pattern_table(largest: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(largest + 1, largest, largest): the pattern of each size in the upper left corner, zero around it."""
    table = torch.zeros(largest + 1, largest, largest, dtype=torch.float64)
    for side in range(1, largest + 1):
        table[side, :side, :side] = pattern(side)
    return table.to(device, dtype)
