"""The lemma behind every bound [BAS24, Lemma 2]: how sure h must be for g to be powerless."""

import numpy as np

from adaptive_smoothing_zoo.certification.rounding import Alpha, Floats, alpha_min_of, up


def margin_needed(alpha: Alpha) -> Floats:
    """The margin (1 - alpha) / alpha between h's probabilities that makes g powerless [BAS24, Lemma 2].

    Where h_y - h_i >= margin_needed(alpha) for all i != y, the mix (1 - alpha) g + alpha h has the label y, whatever
    probabilities g gives. Tight: with a smaller margin to some i, a g that is sure of i wins.

    Returns:
        alpha's shape; rounded up. 0 at alpha = 1, 1 at 1/2, infinite at 0. Above 1 no h can reach it.

    Raises:
        ValueError: alpha outside [0, 1].
    """
    weight = alpha_min_of(alpha)
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(weight == 1.0, 0.0, up((1.0 - weight) / weight))


def probability_needed(alpha: Alpha) -> Floats:
    """The probability 1 / (2 alpha) of h's label that is enough to make g powerless [BAS24, Lemma 2].

    No other class then has more than 1 - 1 / (2 alpha). With two classes it is also necessary.

    Returns:
        alpha's shape; rounded up. 1/2 at alpha = 1, 1 at 1/2, infinite at 0. Above 1 no h can reach it.

    Raises:
        ValueError: alpha outside [0, 1].
    """
    margin = margin_needed(alpha)
    return np.where(margin == 0.0, 0.5, up((1.0 + margin) / 2.0))
