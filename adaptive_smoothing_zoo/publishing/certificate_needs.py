"""What a certificate of a mix would take, from its smallest alpha alone: the card of a triplet without certificates."""

from __future__ import annotations

from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.certification.bounds.theorem4 import gap_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.zoo.entry import AdaptiveAlphaConfig, Entry

GAPS = (0.25, 0.5, 0.75, 1.0)
CONSTANTS = (1.0, 4.0, 16.0)
SIGMA = 0.25  # of the smoothed h that the ceiling is about
NORMS = {"Linf": "l_inf", "L2": "l_2"}


def needs_section(entry: Entry) -> str:
    """The Markdown text: gap, probability, radii and constants that [BAS24] asks of h; nothing of it needs weights."""
    alpha = alpha_min_of_entry(entry)
    if alpha <= 0.5:
        return (
            f"None: alpha_min = {alpha:g} is not above 1/2, and then g alone can decide, whatever h says "
            "([BAS24, Lemma 2], arXiv:2311.15165)."
        )
    margin = float(margin_needed(alpha))
    parts = [
        "None: h carries no certificate, so neither does the mix. What a certificate of h must say for the mix to have "
        f"one follows from alpha_min = {alpha:g} alone, for every g and every attack ([BAS24], arXiv:2311.15165; h in "
        "probabilities, behind rob_map):",
        f"- The gap that h needs [Lemma 2]: (1 - alpha_min) / alpha_min = {margin:.4g}. Where h's probability of its "
        "label is larger than every other one by that much, no g changes the label; with a smaller gap some g does.\n"
        "- The probability that suffices for the label, whatever the others are [Lemma 2]: 1 / (2 alpha_min) = "
        f"{0.5 / alpha:.4f}.\n"
        f"- The radius in any norm [Theorem 4]: (gap - {margin:.4g}) / (2 L), where the gap is h's at the image and L "
        "is a Lipschitz constant of each of h's probabilities in that norm, on a ball of that radius at least. In "
        "units of pixels in [0, 1]:",
        _radii(entry, alpha),
        f"The last column is the largest L in {NORMS[entry.threat_model]} with which the mix is certified at its eps, "
        f"{entry.eps} ({entry.eps_value:.3g}). L is not known for this h.",
        *_ceiling(alpha),
    ]
    return "\n\n".join(parts)


def alpha_min_of_entry(entry: Entry) -> float:
    """The smallest alpha that a triplet gives."""
    return entry.alpha.alpha_min if isinstance(entry.alpha, AdaptiveAlphaConfig) else entry.alpha.value


def _radii(entry: Entry, alpha: float) -> str:
    head = ["gap of h", *(f"radius, L = {constant:g}" for constant in CONSTANTS), f"largest L for eps {entry.eps}"]
    rows = [
        [
            f"{gap:g}",
            *(f"{float(gap_radius(gap, alpha, constant)):.3g}" for constant in CONSTANTS),
            f"{float(gap_radius(gap, alpha, entry.eps_value)):.3g}",
        ]
        for gap in GAPS
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _ceiling(alpha: float) -> list[str]:
    if alpha == 1.0:
        return []
    ceiling = float(smoothing_radius(1.0, 0.0, alpha, SIGMA))
    return [
        f"With an h smoothed by Gaussian noise of sigma = {SIGMA:g} in this h's place, Theorem 5 certifies l_2 radii "
        f"below sigma Phi^-1(alpha_min) = {ceiling:.3f}: that is what it gives where h's probability of its label is "
        "1. Lemma 2 itself sets no such ceiling (`asz certify --bound sharp`)."
    ]
