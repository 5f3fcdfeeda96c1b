"""The lemma behind every bound [BAS24, Lemma 2]: the margin of h at which g cannot change the label."""

import numpy as np

from adaptive_smoothing_zoo.certification.rounding import Alpha, Floats, alpha_min_of, up


def margin_needed(alpha: Alpha) -> Floats:
    """The margin (1 - alpha) / alpha between h's probabilities at which g cannot change the label [BAS24, Lemma 2]. If
    h_y - h_i reaches it for all i != y, the mix (1 - alpha) g + alpha h has the label y for any g. Tight: with a
    smaller margin to some i, a g with probability 1 on i wins. Rounded up; infinite at alpha = 0.

    A class y stays among the k likeliest of the mix for any g if (h_y - h_i)_+ summed over the k likeliest other
    classes reaches the same margin. For if k classes i pass y, then (1 - alpha) g_i > alpha (h_y - h_i) for each, so
    1 - alpha >= (1 - alpha) sum g_i > alpha sum (h_y - h_i)_+ wherever this sum is positive. Tight as well: with a
    smaller sum, g can share its probability so that all k pass y. The term of the k-th likeliest other class alone is
    the margin of a pair [BAKS24 v1, Theorem 1].

    Raises:
        ValueError: alpha outside [0, 1].
    """
    weight = alpha_min_of(alpha)
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(weight == 1.0, 0.0, up((1.0 - weight) / weight))
