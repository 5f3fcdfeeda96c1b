"""Figures of certificates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptive_smoothing_zoo.certification.logs import Certificates


@dataclass(frozen=True, kw_only=True, eq=False)
class CertifiedCurve:
    """One curve of a figure.

    Attributes:
        jumps: whether the classifier is correct at examples that it cannot certify, as a mix is.
        clean_accuracy: if it jumps, on the same examples, a fraction; None if unknown.
        baseline: whether to draw a dashed line.
    """

    label: str
    certificates: Certificates
    jumps: bool = False
    clean_accuracy: float | None = None
    baseline: bool = False


def plot_certified_curves(curves: Sequence[CertifiedCurve], *, axes: Any = None) -> Any:
    """Draw certified accuracy against l_2 radius ([BAS24] and [BAKS24, supp.], certified curves).

    A mix classifies examples correctly that it cannot certify, so its curve jumps at radius 0: the open circle is the
    limit at radii above 0, the dot is the clean accuracy, where it is known.

    Args:
        axes: matplotlib axes to draw into; if None, new ones, with the legend below them.

    Returns:
        The axes; their figure is ``axes.figure``.

    Raises:
        ValueError: no curves, one without examples, or a correct example of infinite radius.
        ImportError: matplotlib is not installed (it comes with the "evaluation" extra).
    """
    if not curves:
        raise ValueError("there are no certified curves to draw")
    own = axes is None
    if own:
        from matplotlib.figure import Figure  # a figure of its own needs no display and leaves pyplot's state alone

        axes = Figure(figsize=(6.4, 4.4 + 0.22 * len(curves)), layout="constrained").subplots()
    numbers = {len(curve.certificates) for curve in curves}
    for curve in curves:
        radii, shares = certified_curve(curve.certificates)
        style = {"drawstyle": "steps-pre", "linestyle": "--" if curve.baseline else "-"}
        label = curve.label if len(numbers) == 1 else f"{curve.label}, n = {len(curve.certificates)}"
        (line,) = axes.plot(radii, shares, label=label, **style)
        if curve.jumps:
            marker = {"marker": "o", "linestyle": "none", "color": line.get_color(), "clip_on": False, "zorder": 3}
            axes.plot([0.0], [shares[0]], markerfacecolor="white", **marker)
            if curve.clean_accuracy is not None:
                axes.plot([0.0], [curve.clean_accuracy], **marker)
    axes.set_xlabel(r"$\ell_2$ radius")
    axes.set_ylabel("certified accuracy" + (f" (n = {numbers.pop()})" if len(numbers) == 1 else ""))
    axes.set_xlim(left=0.0)
    axes.set_ylim(0.0, 1.0)
    if own:
        axes.figure.legend(loc="outside lower center")
    else:
        axes.legend()
    return axes


def certified_curve(certificates: Certificates) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the curve: rising radii from 0, and the certified accuracy up to and including each."""
    corners = np.unique(np.concatenate([[0.0], certificates.radius[certificates.correct]]))
    if np.isinf(corners[-1]):
        raise ValueError("an infinite radius cannot be drawn")
    past = np.nextafter(corners[-1], np.inf)  # the curve ends at zero
    radii = np.append(corners, past)
    return radii, certificates.certified_accuracy(radii)
