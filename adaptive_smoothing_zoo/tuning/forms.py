"""The searched forms of a mix: the logit maps that g and h may have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale, Scale
from adaptive_smoothing_zoo.tuning.front import Maps

SCALES = tuple(10.0 ** (i / 10) for i in range(-10, 16))  # t_h, from 0.1 to 31.6
STD_SCALES = (0.5, 1.0, 2.0, 4.0, 8.0, 32.0)  # t_g

S = tuple(10.0 ** (i / 4) for i in range(-8, 5))  # 0.01 to 10
P = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
C = tuple(i / 4 for i in range(-8, 7))  # -2 to 1.5


def constant() -> Iterator[Maps]:
    """No maps: only alpha is searched."""
    yield Scale(), Scale()


def scaled() -> Iterator[Maps]:
    """Both nets' logits times positive numbers."""
    for std, rob in product(STD_SCALES, SCALES):
        yield Scale(std), Scale(rob)


def mixednuts(s: Sequence[float] = S, p: Sequence[float] = P, c: Sequence[float] = C) -> Iterator[Maps]:
    """The maps of [BZPS24]: all of g's probability on its largest logit, and ``s * GELU(z + c) ** p`` for h.

    Combinations whose logits could exceed the limit of ``NormClampPowerScale`` are left out.
    """
    for scale, power, clamp_bias in product(s, p, c):
        if math.log(scale) + power * math.log(math.sqrt(250) + max(clamp_bias, 0.0)) <= math.log(1e20):
            yield HardMax(), NormClampPowerScale(scale=scale, power=power, clamp_bias=clamp_bias)


def is_mixednuts(maps: Maps) -> bool:
    """Whether these are of the form ``mixednuts``."""
    return isinstance(maps[0], HardMax) and isinstance(maps[1], NormClampPowerScale)


def best() -> Iterator[Maps]:
    """All of ``scaled`` and of ``mixednuts``: the former is often better near g's clean accuracy, the latter below."""
    yield from scaled()
    yield from mixednuts()


FORMS: dict[str, Callable[[], Iterator[Maps]]] = {
    "constant": constant,
    "scaled": scaled,
    "mixednuts": mixednuts,
    "best": best,
}
"""By name."""

PARTS: dict[str, dict[str, Callable[[Maps], bool]]] = {
    "best": {"scaled": lambda maps: not is_mixednuts(maps), "mixednuts": is_mixednuts},
}
"""The forms that a form consists of, as the maps that belong to each."""
