"""The search of [BZPS24, Algorithm 1]: maps of h that are confident where it is right and attacked, and unsure where it
is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from adaptive_smoothing_zoo.tuning.forms import mixednuts
from adaptive_smoothing_zoo.tuning.front import Candidate, Front, Maps, front_of, scored
from adaptive_smoothing_zoo.tuning.tables import Tables, gaps

BETAS = tuple(i / 200 for i in range(40, 200))
"""Shares of h's robust points to keep, from 0.2 to 0.995."""


def published_search(tables: Tables, beta: float, maps: Iterable[Maps] | None = None) -> Candidate:
    """The maps whose margin, at the quantile that keeps a share ``beta`` of h's robust points, is exceeded least often
    where h is wrong on clean images; with the alpha that makes the margin decide, 1 / (1 + margin).

    Args:
        beta: share of h's robust points to keep, in (0, 1).
        maps: pairs of maps of g and h; ``mixednuts()`` if None.

    Raises:
        ValueError: beta out of range, h is robust nowhere, or no map gives a positive margin.
    """
    if (found := _searched(tables, [beta], mixednuts() if maps is None else maps)[0]) is None:
        raise ValueError("no map leaves the robust net a margin under attack; take a smaller beta")
    return found


def published_front(
    tables: Tables,
    maps: Iterable[Maps] | None = None,
    betas: Sequence[float] = BETAS,
    on_map: Callable[[], object] = lambda: None,
) -> Front:
    """What the search finds for each ``beta``, without what others of these beat; arguments as above.

    Args:
        on_map: called after each pair.
    """
    every = list(mixednuts() if maps is None else maps)
    found = [candidate for candidate in _searched(tables, betas, every, on_map) if candidate is not None]
    if not found:
        raise ValueError("no map leaves the robust net a margin under attack; take smaller shares")
    return front_of(found, looked_at=len(every) * len(betas))


@torch.no_grad()
def _searched(
    tables: Tables, betas: Sequence[float], maps: Iterable[Maps], on_map: Callable[[], object] = lambda: None
) -> list[Candidate | None]:
    """The best for each beta; None where no map leaves a margin."""
    if bad := [beta for beta in betas if not 0.0 < beta < 1.0]:
        raise ValueError(f"beta must be in (0, 1), got {bad[0]}")
    standing, wrong = tables.standing, tables.rob.argmax(dim=1) != tables.labels
    if not bool(standing.any()):
        raise ValueError("the robust net is robust on none of these images; there is no mix to tune")
    shares = 1.0 - torch.tensor(betas, dtype=torch.float64)
    best: list[tuple[float, float, Maps] | None] = [None] * len(betas)
    for pair in maps:
        margins, exceeding = _margins(tables, pair[1], standing, wrong, shares)
        for i, (margin, share) in enumerate(zip(margins.tolist(), exceeding.tolist(), strict=True)):
            if margin > 0 and ((known := best[i]) is None or share < known[0]):
                best[i] = (share, margin, pair)
        on_map()
    return [None if each is None else scored(tables, each[2], 1.0 / (1.0 + each[1])) for each in best]


def _margins(
    tables: Tables, rob_map: torch.nn.Module, standing: Tensor, wrong: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """For each share: the margin that so many robust points miss, and how many of h's clean errors exceed it."""
    everywhere = rob_map(tables.everywhere[:, standing].double()).softmax(dim=-1)
    margins = gaps(everywhere, tables.labels[standing]).amin(dim=0).quantile(shares)
    top = rob_map(tables.rob[wrong].double()).softmax(dim=-1).topk(2, dim=-1).values
    exceeding = (top[:, 0] - top[:, 1])[:, None] >= margins
    return margins, exceeding.double().mean(dim=0) if len(top) else torch.zeros(len(shares))
