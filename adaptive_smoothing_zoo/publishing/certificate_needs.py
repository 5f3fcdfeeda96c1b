"""What a certificate of a mix would need of h, by its smallest alpha alone: for cards of triplets without one."""

from __future__ import annotations

from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.certification.bounds.theorem4 import gap_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.publishing.pages import page
from adaptive_smoothing_zoo.zoo.entry import AdaptiveAlphaConfig, Entry

GAPS = (0.25, 0.5, 0.75, 1.0)
CONSTANTS = (1.0, 4.0, 16.0)
SIGMA = 0.25  # of the smoothed h that the ceiling is about
NORMS = {"Linf": "l_inf", "L2": "l_2"}


def needs_section(entry: Entry) -> str:
    """The Markdown text: the gap, probability, radii and constants that [BAS24] asks of h. It needs no weights."""
    alpha = alpha_min_of_entry(entry)
    head = ["gap of h", *(f"radius, L = {constant:g}" for constant in CONSTANTS), f"largest L for eps {entry.eps}"]
    numbers = (
        {
            "margin": float(margin_needed(alpha)),
            "probability": 0.5 / alpha,
            "ceiling": float(smoothing_radius(1.0, 0.0, alpha, SIGMA)) if alpha < 1.0 else None,
            "rows": {gap: [float(gap_radius(gap, alpha, c)) for c in (*CONSTANTS, entry.eps_value)] for gap in GAPS},
        }
        if alpha > 0.5
        else {}
    )
    norm = NORMS[entry.threat_model]
    return page("certificate_needs.md", entry=entry, alpha=alpha, sigma=SIGMA, norm=norm, head=head, **numbers).rstrip()


def alpha_min_of_entry(entry: Entry) -> float:
    """The smallest alpha that a triplet gives."""
    return entry.alpha.alpha_min if isinstance(entry.alpha, AdaptiveAlphaConfig) else entry.alpha.value
