"""Projection onto the part of a hyperplane that lies in the box [0, 1]."""

import torch
from torch import Tensor

from adaptive_smoothing_zoo.threat import ThreatModel

_NEGLIGIBLE = 1e-8  # in l_2, smaller coordinates of the normal are ignored


def project_on_hyperplane(points: Tensor, normal: Tensor, offset: Tensor, threat: ThreatModel) -> Tensor:
    """The shortest move, in the l_inf or l_2 norm, to ``{z in [0, 1]^D : normal . z = offset}``.

    Every coordinate moves toward the hyperplane until it meets the box: by lambda in l_inf, by lambda |normal_i| in
    l_2, with one lambda per row. The distance covered is ``f(lambda) = sum_i min(lambda a_i, m_i)``, concave and
    piecewise linear. Newton's method from lambda = 0 therefore approaches the root from below and ends exactly there
    once no further coordinate meets the box. In every step the remaining distance or the slope at least halves, so a
    few steps suffice, without sorting.

    Args:
        points: (N, D) in [0, 1].
        normal: (N, D).
        offset: (N,).
        threat: gives the norm; its radius is ignored.

    Returns:
        (N, D) the move; if the hyperplane misses the box, the move to the nearest corner of the box.
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

    Rows with an unreachable goal get the point where their last coordinate meets its limit.
    """
    x = torch.zeros_like(goal)
    slope = torch.full_like(goal, -1.0)
    for _ in range(_MOST_STEPS):
        gains = x[:, None] * rate
        open_ = gains < most
        reached = torch.minimum(gains, most).sum(dim=1)
        last_slope, slope = slope, (rate * open_).sum(dim=1)
        # On an accelerator run all steps instead of synchronizing; extra steps change nothing.
        if x.device.type == "cpu" and torch.equal(slope, last_slope):
            break
        x = x + torch.where(slope > 0, (goal - reached).clamp(min=0.0) / slope.clamp(min=1e-30), 0.0)
    return x


_MOST_STEPS = 24
