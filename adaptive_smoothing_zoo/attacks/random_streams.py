"""Random numbers that depend on names, not on when they are drawn.

The number at (seed, attack, target, dataset index, counter) is a hash of these, so no batch size, order, split or
resumption of a run changes it, and any number can be had without those before it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.autoattack.square import (
    QUERIES,
    Changes,
    SquareState,
    square_size,
    stripes,
    tile_grid,
    tiles,
)

_GOLDEN = 0x9E3779B97F4A7C15  # step of the counter and the two factors: splitmix64 (Steele, Lea and Flood 2014)
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHARED = -1  # the "dataset index" of what all examples share


def run_keys(seed: int, attack: str, rank: int | Tensor, indices: Tensor) -> Tensor:
    """(N,) int64 keys of the runs of an attack, from the rank of their target and their dataset index."""
    key = torch.full_like(indices, _signed(seed & _MASK))
    for part in (*attack.encode(), rank, indices):
        key = _scramble(key + _signed(_GOLDEN)) ^ part
    return _scramble(key + _signed(_GOLDEN))


def bits(keys: Tensor, counters: Tensor) -> Tensor:
    """64 random bits as int64, one for each key and counter; shapes broadcast."""
    return _scramble(keys + (counters + 1) * _signed(_GOLDEN))


def uniform(keys: Tensor, counters: Tensor) -> Tensor:
    """float64 in [0, 1), a multiple of 2^-53."""
    return _unsigned_shift(bits(keys, counters), 11).double() * 2.0**-53


def signs(keys: Tensor, counters: Tensor) -> Tensor:
    """-1 or 1, float32."""
    return torch.where(bits(keys, counters) < 0, -1.0, 1.0)


def uniform_images(keys: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """(N, *shape) float32, uniform in [-1, 1)."""
    counters = torch.arange(math.prod(shape), device=keys.device)
    return (2.0 * uniform(keys[:, None], counters) - 1.0).float().view(len(keys), *shape)


def normal_images(keys: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """(N, *shape) float32, standard normal (Box and Muller 1958)."""
    count = math.prod(shape)
    draws = uniform(keys[:, None], torch.arange(2 * count, device=keys.device))
    radius = (-2.0 * torch.log1p(-draws[:, :count])).sqrt()
    return (radius * torch.cos(2.0 * math.pi * draws[:, count:])).float().view(len(keys), *shape)


class KeyedSquares:
    """The random numbers of the Square attack.

    As in the reference, all examples share the squares' places, sizes and (in l_inf) signs; their starts are their
    own, and so are their signs in l_2.

    Args:
        seed, attack: what everything depends on.
        shape: channels, height and width of the images.
        norm: "Linf" or "L2".
        device: where to draw.
        queries: how many changes there are.

    Attributes:
        twins: (queries,) see ``Square``.
    """

    def __init__(
        self,
        seed: int,
        attack: str,
        shape: tuple[int, int, int],
        norm: str,
        device: torch.device,
        queries: int = QUERIES,
    ) -> None:
        self.norm, self.shape = norm, shape
        channels, height, width = shape
        shared = run_keys(seed, attack, 0, torch.tensor([_SHARED]))
        self._shared_key = shared.to(device)
        draws = uniform(shared, torch.arange(queries * (5 + channels)).view(queries, 5 + channels))
        size = torch.tensor([square_size(query, height, width, norm) for query in range(queries)])
        places = {
            name: (draws[:, i] * (extent - size)).long().to(device)
            for i, (name, extent) in enumerate((("top", height), ("left", width), ("top_2", height), ("left_2", width)))
        }
        self._transposed = (draws[:, 4] > 0.5).to(device)
        self._signs = torch.where(draws[:, 5:] < 0.5, -1.0, 1.0).to(device)
        self._size, self._places = size.to(device), places
        self.twins = self._twins()

    def _twins(self) -> Tensor:
        """(queries,) for each change the number of the last one before it that is the same in all runs, or -1."""
        twins = torch.full_like(self._size, -1)
        if self.norm == "Linf":  # in l_2 each run has signs of its own
            last: dict[tuple[float, ...], int] = {}
            parts = (self._size[:, None], *(self._places[name][:, None] for name in ("top", "left")), self._signs)
            for number, change in enumerate(torch.cat(parts, dim=1).tolist()):
                twins[number] = last.get(tuple(change), -1)
                last[tuple(change)] = number
        return twins

    def start(self, keys: Tensor) -> Tensor:
        """The pattern at which each run starts, (N, channels, H, W)."""
        channels, height, width = self.shape
        if self.norm == "Linf":
            counters = torch.arange(channels * width, device=keys.device)
            return stripes(signs(keys[:, None], counters).view(len(keys), channels, width), height)
        _, _, rows, columns = tile_grid(height, width)
        counters = torch.arange(channels * rows * columns, device=keys.device)
        chosen = signs(keys[:, None], counters).view(len(keys), channels, rows, columns)
        # Counters from below, where no query comes.
        transposed = bits(self._shared_key, -1 - torch.arange(rows * columns, device=keys.device)) < 0
        return tiles(chosen, transposed.view(rows, columns), height, width)

    def __call__(self, state: SquareState, rows: Tensor, numbers: Tensor) -> Changes:
        """The changes with these numbers of the runs in these rows."""
        chosen = self._signs[numbers]
        if self.norm == "L2":
            channels = torch.arange(self.shape[0], device=numbers.device)
            # Beyond the counters of the start.
            counters = numbers[:, None] * self.shape[0] + channels + math.prod(self.shape)
            chosen = signs(state.keys[rows, None], counters)
        places = {name: place[numbers] for name, place in self._places.items()}
        return Changes(size=self._size[numbers], signs=chosen, transposed=self._transposed[numbers], **places)


_MASK = 2**64 - 1


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return value - 2**64 if value >= 2**63 else value


def _unsigned_shift(value: Tensor, by: int) -> Tensor:
    shifted: Tensor = (value >> by) & (2 ** (64 - by) - 1)
    return shifted


def _scramble(value: Tensor) -> Tensor:
    """splitmix64's output function, a bijection of 64 bits."""
    value = (value ^ _unsigned_shift(value, 30)) * _signed(_FACTORS[0])
    value = (value ^ _unsigned_shift(value, 27)) * _signed(_FACTORS[1])
    return value ^ _unsigned_shift(value, 31)
