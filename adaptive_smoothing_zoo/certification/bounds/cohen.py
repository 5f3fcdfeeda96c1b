"""Theorem 1 of [CRK19]: a Gaussian-smoothed classifier alone, in l_2."""

from adaptive_smoothing_zoo.certification.bounds.bound import Bound
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.rounding import Floats, Values, checked_values


def cohen_radius(p_top_lower: Values, sigma: Values) -> Floats:
    """l_2 radius sigma Phi^-1(p_top) of a smoothed classifier [CRK19, Theorem 1]; 0 for p_top <= 1/2."""
    p_top = checked_values(p_top_lower, "p_top_lower", 0.0, 1.0)
    return smoothing_radius(p_top, 1.0 - p_top, 1.0, sigma)


BOUND = Bound(
    name="cohen",
    paper="CRK19",
    sentence="Cohen, Rosenfeld and Kolter 2019 (arXiv:1902.02918), Theorem 1, with 1 - p for the runner-up",
    with_runner_up="Cohen, Rosenfeld and Kolter 2019 (arXiv:1902.02918), Theorem 1, with a bound of its own for the "
    "runner-up",
)
