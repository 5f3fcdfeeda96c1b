"""The search of [BZPS24, Algorithm 1]: maps of h that are confident where it is right and attacked, and unsure where it
is wrong."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from adaptive_smoothing_zoo.tuning.forms import mixednuts
from adaptive_smoothing_zoo.tuning.front import Candidate, Maps, scored
from adaptive_smoothing_zoo.tuning.tables import Tables, gaps


@torch.no_grad()
def published_search(tables: Tables, beta: float, maps: Iterable[Maps] | None = None) -> Candidate:
    """The maps whose margin, at the quantile that keeps a share ``beta`` of h's robust points, is exceeded least often
    where h is wrong on clean images; with the alpha that makes the margin decide, 1 / (1 + margin).

    Args:
        beta: share of h's robust points to keep, in (0, 1).
        maps: pairs of maps of g and h; ``mixednuts()`` if None.

    Raises:
        ValueError: beta out of range, h is robust nowhere, or no map gives a positive margin.
    """
    if not 0.0 < beta < 1.0:
        raise ValueError(f"beta must be in (0, 1), got {beta}")
    standing, wrong = tables.standing, tables.rob.argmax(dim=1) != tables.labels
    if not bool(standing.any()):
        raise ValueError("the robust net is robust on none of these images; there is no mix to tune")
    found: list[tuple[float, float, Maps]] = []
    for pair in mixednuts() if maps is None else maps:
        everywhere = pair[1](tables.everywhere[:, standing].double()).softmax(dim=-1)
        margin = float(gaps(everywhere, tables.labels[standing]).amin(dim=0).quantile(1.0 - beta))
        top = pair[1](tables.rob[wrong].double()).softmax(dim=-1).topk(2, dim=-1).values
        if margin > 0:
            exceeding = (top[:, 0] - top[:, 1] >= margin).double().mean() if len(top) else torch.zeros(())
            found.append((float(exceeding), margin, pair))
    if not found:
        raise ValueError("no map leaves the robust net a margin under attack; take a smaller beta")
    _, margin, pair = min(found, key=lambda each: each[0])
    return scored(tables, pair, 1.0 / (1.0 + margin))
