"""How alpha is chosen for a mix with certificates: on held-out examples, by one rule."""

from collections.abc import Callable

import click

ALPHAS = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
KEPT = 0.85  # the share of h's certified accuracy that the mix must keep
RULE = f"highest clean accuracy among {', '.join(map(str, ALPHAS))} that keep {KEPT:.0%} of h's certified accuracy"


def choose_alpha(measure: Callable[[float], tuple[float, float]]) -> float:
    """The alpha of highest clean accuracy among those that keep h's certified accuracy; of equals the largest.

    Args:
        measure: clean accuracy of the mix with this alpha, and its certified accuracy at the radius of the triplet,
            both on held-out examples.

    Raises:
        ClickException: no alpha keeps it.
    """
    _, of_h = measure(1.0)
    scored = []
    for alpha in ALPHAS:
        clean, certified = measure(alpha)
        if certified >= KEPT * of_h:
            scored.append((clean, alpha))
    if not scored:
        raise click.ClickException(f"no alpha keeps a certified accuracy of {KEPT * of_h:.4f}")
    return max(scored)[1]
