"""Random numbers that depend on names, not on when they are drawn.

The number at (seed, attack, target, dataset index, counter) is a hash of these. It does not depend on batch size,
order, splits or resuming, and can be computed without the numbers before it.
"""

from __future__ import annotations

import math
from operator import index

import torch
from torch import Tensor

from adaptive_smoothing_zoo.threat import ThreatModel

_GOLDEN = 0x9E3779B97F4A7C15  # step of the counter and the two factors: splitmix64 (Steele, Lea and Flood 2014)
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHARED = -1  # the "dataset index" of random numbers that all examples share


def run_keys(seed: int, attack: str, rank: int | Tensor, indices: Tensor) -> Tensor:
    """(N,) int64 keys of the runs of an attack, from the rank of their target and their dataset index."""
    key = torch.full_like(indices, _signed(index(seed) & _MASK))
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


def noise_of(threat: ThreatModel, keys: Tensor, images: Tensor) -> Tensor:
    """(N, channels, H, W) noise, one image per key: uniform in [-1, 1) for l_inf, standard normal for l_2."""
    draw = uniform_images if threat.is_linf else normal_images
    return draw(keys.to(images.device), images.shape[1:]).to(images.dtype)


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
