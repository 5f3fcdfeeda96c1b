"""Threat models: what an attacker may do to an image."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from adaptive_smoothing_zoo.errors import ConfigError, shown
from adaptive_smoothing_zoo.units import warn_of_radius

Norm = Literal["Linf", "L2"]
LINF: Norm = "Linf"
L2: Norm = "L2"
NORMS = (LINF, L2)
TOLERANCE = 1e-6  # rounding of float32 pixels; distances are computed in float64


@dataclass(frozen=True)
class ThreatModel:
    """All images in [0, 1] within a radius of the original.

    Args:
        norm: "Linf" or "L2", the norm of perturbations.
        eps: radius, a finite number >= 0 in units of pixels in [0, 1], or a text such as "8/255".

    Raises:
        ValueError: another norm, or an invalid radius. An l_inf radius above 1 gives a warning.
    """

    norm: str
    eps: float

    def __post_init__(self) -> None:
        check_norm(self.norm)
        try:
            eps = parse_eps(self.eps) if isinstance(self.eps, str) else float(self.eps)
        except TypeError:
            raise TypeError(f"eps must be a number or a text such as '8/255', got {self.eps!r}") from None
        if not 0.0 <= eps < math.inf:
            raise ValueError(f"eps must be a finite number >= 0, got {self.eps}")
        object.__setattr__(self, "eps", eps)
        warn_of_radius(self.norm, eps)

    def __str__(self) -> str:
        return f"{self.norm} {self.eps:g}"

    @property
    def is_linf(self) -> bool:
        """Whether every pixel may change by the radius; otherwise the l_2 norm of all changes is limited."""
        return self.norm == "Linf"

    def size(self, perturbation: Tensor) -> Tensor:
        """(N, 1, 1, 1), the norm of each perturbation (N, channels, H, W), in its dtype."""
        if self.is_linf:
            return perturbation.abs().flatten(1).amax(dim=1).view(-1, 1, 1, 1)
        return l2_norm(perturbation)

    def dual_size(self, gradient: Tensor) -> Tensor:
        """(N,), the dual norm of each gradient (N, channels, H, W): the slope along ``steepest``."""
        if self.is_linf:
            return gradient.abs().flatten(1).sum(dim=1)
        return l2_norm(gradient).flatten()

    def unit(self, perturbation: Tensor) -> Tensor:
        """Perturbations (N, channels, H, W) scaled to norm 1; zero stays zero."""
        return perturbation / (self.size(perturbation) + 1e-12)

    def steepest(self, gradient: Tensor, *, safe: bool = False) -> Tensor:
        """The direction (N, channels, H, W) of norm 1 along which a loss with this gradient increases most.

        Args:
            safe: in l_2, avoid overflow and underflow of the gradient's squares; rounds differently.
        """
        if self.is_linf:
            return gradient.sign()
        if not safe:
            return self.unit(gradient)
        largest = gradient.abs().flatten(1).amax(dim=1).view(-1, 1, 1, 1)
        gradient = gradient / torch.where(largest > 0, largest, 1.0)
        return gradient / _vector_norm(gradient).clamp(min=max(1e-12, torch.finfo(gradient.dtype).tiny))

    def shorten(self, perturbation: Tensor, radius: float | Tensor | None = None, *, safe: bool = False) -> Tensor:
        """Shrink perturbations (N, channels, H, W) into the ball.

        Args:
            radius: replaces ``eps``; (N, 1, 1, 1) for one radius per image.
            safe: in l_2, leave perturbations inside the ball unchanged, bit for bit; the standard attacks do not.
        """
        radius = self.eps if radius is None else radius
        if self.is_linf:
            return perturbation.clamp(-radius, radius)  # type: ignore[arg-type]
        if safe:
            return perturbation * (radius / _vector_norm(perturbation).clamp(min=1e-12)).clamp(max=1.0)
        length = self.size(perturbation)
        return perturbation / (length + 1e-12) * length.clamp(max=radius)

    def project(
        self, originals: Tensor, points: Tensor, radius: float | Tensor | None = None, *, safe: bool = False
    ) -> Tensor:
        """Project points (N, channels, H, W) into the ball, then into [0, 1]; see ``shorten``."""
        if self.is_linf:
            radius = self.eps if radius is None else radius
            return points.clamp(originals - radius, originals + radius).clamp(0.0, 1.0)
        return (originals + self.shorten(points - originals, radius, safe=safe)).clamp(0.0, 1.0)

    def random_start(self, noise: Tensor, length: Tensor, radius: float | Tensor | None = None) -> Tensor:
        """A random perturbation (N, channels, H, W) in the ball: uniform in l_inf; in l_2 uniform in direction and
        length.

        Args:
            noise: uniform in [-1, 1] for l_inf, standard normal for l_2.
            length: (N, 1, 1, 1), uniform in [0, 1]; used in l_2 only.
            radius: replaces ``eps``.
        """
        radius = self.eps if radius is None else radius
        if self.is_linf:
            return radius * noise
        return radius * length * noise / _vector_norm(noise)

    def distance(self, originals: Tensor, points: Tensor) -> Tensor:
        """(N,) float64, the distance of each point (N, channels, H, W) from its original."""
        away = (points.double() - originals.double()).flatten(1)
        return away.abs().amax(dim=1) if self.is_linf else away.norm(dim=1)

    def contains(self, originals: Tensor, points: Tensor) -> Tensor:
        """(N,) bool, whether each point (N, channels, H, W) is in the ball, up to ``TOLERANCE``."""
        return self.distance(originals, points) <= self.eps + TOLERANCE

    def broken_rules(self, originals: Tensor, points: Tensor) -> list[tuple[Tensor, str]]:
        """The rules for points (N, channels, H, W), each with a mask (N,) of the points that break it.

        The radius has the tolerance ``TOLERANCE``.
        """
        flat, eps = points.double().flatten(1), f"{self.eps:g}"
        return [
            (~torch.isfinite(flat).all(dim=1), "has a pixel that is not finite"),
            ((flat < 0).any(dim=1) | (flat > 1).any(dim=1), "leaves [0, 1]"),
            (~self.contains(originals, points), f"leaves the {self.norm} ball of radius {eps}"),
        ]

    def without_rounding(self, originals: Tensor, points: Tensor) -> Tensor:
        """Move points that only float32 rounding put outside the l_2 ball into it; check the result with ``contains``.

        An l_2 norm of d float32 pixels is off by about eps times 1e-6 plus sqrt(d) roundings of a pixel. At 224 pixels
        and eps 20 this exceeds ``TOLERANCE``. All other points stay unchanged.

        Args:
            originals, points: (N, channels, H, W).
        """
        if self.is_linf or len(points) == 0:
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


def l2_norm(perturbation: Tensor) -> Tensor:
    """(N, 1, 1, 1), the norm of each perturbation (N, channels, H, W), rounded as in the standard attacks."""
    flat = perturbation.flatten(1)
    return (flat * flat).sum(dim=1).sqrt().view(-1, 1, 1, 1)


def _vector_norm(perturbation: Tensor) -> Tensor:
    """As ``l2_norm``, by torch's own function, which rounds differently."""
    norms: Tensor = torch.linalg.vector_norm(perturbation.flatten(1), dim=1)
    return norms.view(-1, 1, 1, 1)


def threat_of(threat: ThreatModel | None, norm: str | None, eps: float | str | None) -> ThreatModel:
    """The threat model of a call's arguments: ``threat``, or ``norm`` and ``eps``.

    Raises:
        TypeError: ``threat`` is no ThreatModel.
        ValueError: neither or both are given, they are invalid, or ``norm`` contradicts ``threat``.
    """
    if (threat is None) == (eps is None):
        raise ValueError("give either threat=ThreatModel(norm, eps) or norm and eps")
    if threat is None:
        return ThreatModel(LINF if norm is None else norm, eps)  # type: ignore[arg-type]
    if not isinstance(threat, ThreatModel):
        raise TypeError(f"threat must be a ThreatModel, as ThreatModel('Linf', '8/255'), got {threat!r}")
    if norm not in (None, threat.norm):
        raise ValueError(f"norm {norm!r} contradicts the threat model {threat}; give the threat model alone")
    return threat


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
        if re.search(r"e[+-]?[\d_]{4}", text, re.IGNORECASE):  # Fraction would build an integer with that many digits
            raise ValueError("the exponent is too large")
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ConfigError(f"eps must be a number or a fraction like 8/255, got {shown(text)}") from None
    if value < 0:
        raise ConfigError(f"eps must not be negative, got {shown(text)}")
    return value
