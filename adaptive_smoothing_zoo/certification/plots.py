"""Figures of certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from adaptive_smoothing_zoo.certification.logs import Certificates, mix_certificates


def plot_certified_curves(
    certificates: Certificates,
    alphas: Sequence[float],
    sigma: float,
    *,
    clean_accuracy: Mapping[float, float] | None = None,
    bound: Literal["theorem", "sharp"] = "theorem",
    axes: Any = None,
) -> Any:
    """Draw certified accuracy against l_2 radius for mixes with one smoothed h (001 and 003, certified curves).

    A curve shows, at each radius, the share of examples certified correct with at least that radius. A mix classifies
    examples correctly that it cannot certify, so its curve jumps at radius 0: the open circle is the limit at radii
    above 0, the dot at 0 is the clean accuracy, where it is given. h alone (alpha = 1) has no jump.

    Args:
        certificates: of h alone, as from ``read_log`` or ``certify``.
        alphas: one curve each, in [0, 1].
        sigma: of the noise behind them, in units of the images.
        clean_accuracy: of mixes with some of the alphas, fractions; measured on the same examples.
        bound: as in ``mix_certificates``.
        axes: matplotlib axes to draw into; new ones if None.

    Returns:
        The axes; their figure is ``axes.figure``.

    Raises:
        ValueError: no alphas, or values out of range.
        ImportError: matplotlib is not installed (it comes with the "evaluation" extra).
    """
    if not alphas:
        raise ValueError("certified curves need at least one alpha")
    if axes is None:
        from matplotlib.figure import Figure  # a figure of its own needs no display and leaves pyplot's state alone

        axes = Figure(layout="constrained").subplots()
    for alpha in alphas:
        mixed = mix_certificates(certificates, alpha, sigma, bound=bound)
        radii, shares = certified_curve(mixed)
        (line,) = axes.plot(radii, shares, drawstyle="steps-pre", label=rf"$\alpha$ = {alpha:g}")
        if alpha < 1.0:
            marker = {"marker": "o", "linestyle": "none", "color": line.get_color(), "clip_on": False, "zorder": 3}
            axes.plot([0.0], [shares[0]], markerfacecolor="white", **marker)
            if clean_accuracy is not None and alpha in clean_accuracy:
                axes.plot([0.0], [clean_accuracy[alpha]], **marker)
    axes.set_xlabel(r"$\ell_2$ radius")
    axes.set_ylabel("certified accuracy")
    axes.set_xlim(left=0.0)
    axes.set_ylim(0.0, 1.0)
    axes.legend()
    return axes


def certified_curve(certificates: Certificates) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the curve: rising radii from 0, and the certified accuracy up to and including each.

    Raises:
        ValueError: there are no certificates, or a correct one has an infinite radius.
    """
    corners = np.unique(np.concatenate([[0.0], certificates.radius[certificates.correct]]))
    if np.isinf(corners[-1]):
        raise ValueError("an infinite radius cannot be drawn")
    past = np.nextafter(corners[-1], np.inf)  # the curve ends at zero
    radii = np.append(corners, past)
    return radii, certificates.certified_accuracy(radii)
