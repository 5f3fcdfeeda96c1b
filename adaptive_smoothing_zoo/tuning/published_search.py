"""The search of [BZPS24, Algorithm 1]: maps that make h confident where it is right under attack, and unsure where it
is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adaptive_smoothing_zoo.tuning.front import Candidate, Front, Steps, front_of, scored
from adaptive_smoothing_zoo.tuning.tables import Tables

BETAS = tuple(i / 200 for i in range(40, 200))
"""Shares of h's robust points to keep, from 0.2 to 0.995."""


def published_search(tables: Tables, steps: Steps, beta: float) -> Candidate:
    """The maps whose margin, at the quantile that keeps a share ``beta`` of h's robust points, is exceeded least often
    where h is wrong on clean images; with the alpha that makes the margin decide, 1 / (1 + margin).

    Args:
        steps: of the tables, for the maps to choose from.
        beta: share of h's robust points to keep, in (0, 1).

    Raises:
        ValueError: beta out of range, h is robust nowhere, or no map gives a positive margin.
    """
    return published_front(tables, steps, [beta]).candidates[0]


def published_front(tables: Tables, steps: Steps, betas: Sequence[float] = BETAS) -> Front:
    """The undominated results of the search over all ``betas``; arguments as above."""
    if bad := [beta for beta in betas if not 0.0 < beta < 1.0]:
        raise ValueError(f"beta must be in (0, 1), got {bad[0]}")
    standing, wrong = tables.standing, tables.rob.argmax(dim=1) != tables.labels
    if not bool(standing.any()):
        raise ValueError("the robust net is not robust on any of these images; there is no mix to tune")
    gap, lead = steps.bounds[:, 2, standing], steps.bounds[:, 3, wrong]
    margins = gap.quantile(1.0 - torch.tensor(betas, dtype=torch.float64), dim=1)  # (betas, maps)
    exceeding = torch.stack([(lead >= margin[:, None]).double().sum(dim=1) for margin in margins])
    best = exceeding.masked_fill(margins <= 0, torch.inf).argmin(dim=1)
    found = [
        scored(tables, steps.maps[i], 1.0 / (1.0 + float(margin[i])))
        for margin, i in zip(margins, best.tolist(), strict=True)
        if margin[i] > 0
    ]
    if not found:
        raise ValueError("no map leaves the robust net a margin under attack; take a smaller beta")
    return front_of(found, looked_at=margins.numel())
