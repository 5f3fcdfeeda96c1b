"""Projection onto the part of a hyperplane that lies in the box [0, 1]."""

import torch
from torch import Tensor

from adaptive_smoothing_zoo.threat import ThreatModel

_NEGLIGIBLE = 1e-8  # in l_2, coordinates of the normal that are smaller are not moved along


def project_on_hyperplane(points: Tensor, normal: Tensor, offset: Tensor, threat: ThreatModel) -> Tensor:
    """The shortest move, in the l_inf or l_2 norm, to ``{z in [0, 1]^D : normal . z = offset}``.

    Every coordinate moves toward the hyperplane by an amount that grows with one number per row, lambda, until it
    meets the box: by lambda in l_inf, by lambda |normal_i| in l_2. How much closer that brings the point is
    ``f(lambda) = sum_i min(lambda a_i, m_i)``, concave and piecewise linear, so Newton's method from lambda = 0
    climbs to the root without passing it, and ends exactly there once no further coordinate meets the box. In every
    step the remaining distance or the slope falls to half or less; a few steps do, and no sorting is needed.

    Args:
        points: (N, D) in [0, 1].
        normal: (N, D).
        offset: (N,).
        threat: for the norm; its radius plays no part.

    Returns:
        (N, D) the move. Where the hyperplane misses the box, the move to the box's nearest corner.
    """
    distance = (normal * points).sum(dim=1) - offset
    toward = torch.where(distance >= 0, -1.0, 1.0).to(points.dtype)[:, None] * normal  # uphill for the move
    size = normal.abs()
    moved = size > (0.0 if threat.is_linf else _NEGLIGIBLE)
    room = torch.where(toward > 0, 1.0 - points, points) * moved
    rate = size if threat.is_linf else size * size
    step = _solve(rate * moved, size * room, distance.abs())
    length = step[:, None] if threat.is_linf else step[:, None] * size
    return torch.minimum(length, room) * toward.sign()


def _solve(rate: Tensor, most: Tensor, goal: Tensor) -> Tensor:
    """The least ``x >= 0`` with ``sum(min(x rate, most)) >= goal`` for each row, or one that reaches all of ``most``.

    Rows whose goal exceeds what can be reached get the point where their last coordinate meets its limit.
    """
    x = torch.zeros_like(goal)
    slope = torch.full_like(goal, -1.0)
    for _ in range(_MOST_STEPS):
        gains = x[:, None] * rate
        open_ = gains < most
        reached = torch.minimum(gains, most).sum(dim=1)
        last_slope, slope = slope, (rate * open_).sum(dim=1)
        # A device that would have to stop for the answer goes through all steps; more of them change nothing.
        if x.device.type == "cpu" and torch.equal(slope, last_slope):
            break
        x = x + torch.where(slope > 0, (goal - reached).clamp(min=0.0) / slope.clamp(min=1e-30), 0.0)
    return x


_MOST_STEPS = 24
