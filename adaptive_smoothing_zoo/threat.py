"""Threat models: what an attacker may do to an image."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from adaptive_smoothing_zoo.errors import ConfigError, shown
from adaptive_smoothing_zoo.units import warn_of_radius

NORMS = ("Linf", "L2")
TOLERANCE = 1e-6  # rounding of float32 pixels; distances are computed in float64


@dataclass(frozen=True)
class ThreatModel:
    """Every image of [0, 1] within a radius of the original.

    Args:
        norm: "Linf" or "L2", in which perturbations are measured.
        eps: radius, a finite number >= 0 in units of pixels in [0, 1], or a text such as "8/255".

    Raises:
        ValueError: another norm, or no such radius. An l_inf radius above 1 is warned of.
    """

    norm: str
    eps: float

    def __post_init__(self) -> None:
        check_norm(self.norm)
        eps = parse_eps(self.eps) if isinstance(self.eps, str) else float(self.eps)
        if not 0.0 <= eps < math.inf:
            raise ValueError(f"eps must be a finite number >= 0, got {self.eps}")
        object.__setattr__(self, "eps", eps)
        warn_of_radius(self.norm, eps)

    def __str__(self) -> str:
        return f"{self.norm} {self.eps:g}"

    def distance(self, originals: Tensor, points: Tensor) -> Tensor:
        """(N,) float64, how far each point (N, channels, H, W) is from its original."""
        away = (points.double() - originals.double()).flatten(1)
        return away.abs().amax(dim=1) if self.norm == "Linf" else away.norm(dim=1)

    def broken_rules(self, originals: Tensor, points: Tensor) -> list[tuple[Tensor, str]]:
        """What points (N, channels, H, W) may not do, each with the points (N,) that do it.

        The radius is kept up to ``TOLERANCE``.
        """
        flat, eps = points.double().flatten(1), f"{self.eps:g}"
        return [
            (~torch.isfinite(flat).all(dim=1), "has a pixel that is not finite"),
            ((flat < 0).any(dim=1) | (flat > 1).any(dim=1), "leaves [0, 1]"),
            (self.distance(originals, points) > self.eps + TOLERANCE, f"leaves the {self.norm} ball of radius {eps}"),
        ]

    def without_rounding(self, originals: Tensor, points: Tensor) -> Tensor:
        """Points, those moved into the l_2 ball that float32 alone has put outside; to be judged afterwards.

        An l_2 norm of d float32 pixels is off by about eps times 1e-6 and by sqrt(d) roundings of a pixel, which at 224
        pixels and eps 20 is more than ``TOLERANCE``. The tolerance stays; the points move. Others stay as they are.

        Args:
            originals, points: (N, channels, H, W).
        """
        if self.norm != "L2" or len(points) == 0:
            return points
        distance = self.distance(originals, points)
        rounding = 6e-8 * points[0].numel() ** 0.5
        outside = (distance > self.eps + TOLERANCE) & (distance <= self.eps + 1e-5 * self.eps + 2.0 * rounding)
        if not bool(outside.any()):
            return points
        scale = (max(0.0, self.eps - rounding) / distance[outside]).view(-1, 1, 1, 1)
        inside = originals[outside].double()
        moved = points.clone()
        moved[outside] = (inside + scale * (points[outside].double() - inside)).to(points.dtype)
        return moved


def threat_of(threat: ThreatModel | None, norm: str, eps: float | str | None) -> ThreatModel:
    """The threat model that a call names: whole, or by its norm and radius.

    Raises:
        ValueError: neither or both are given, or they make no threat model.
    """
    if (threat is None) == (eps is None):
        raise ValueError("give the threat model as threat=ThreatModel(norm, eps), or norm and eps, one of both")
    return ThreatModel(norm, eps) if threat is None else threat  # type: ignore[arg-type]


def check_norm(norm: str) -> None:
    """Raise ValueError for a norm that is neither "Linf" nor "L2"."""
    if norm not in NORMS:
        raise ValueError(f"the norm must be 'Linf' or 'L2', got {norm!r}")


def parse_eps(text: str) -> float:
    """ "8/255" or "0.5" as a number.

    Raises:
        ConfigError: not a finite number >= 0.
    """
    try:
        if re.search(r"e[+-]?[\d_]{4}", text, re.IGNORECASE):  # a fraction would be made of numbers of that length
            raise ValueError("the exponent is too large")
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ConfigError(f"eps must be a number or a fraction like 8/255, got {shown(text)}") from None
    if value < 0:
        raise ConfigError(f"eps must not be negative, got {shown(text)}")
    return value
