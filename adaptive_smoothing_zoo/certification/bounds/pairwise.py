"""Theorem 1 of [BAKS24 v1]: the order of any two classes of the mix; with it, that of its first k classes.

Where h is certified to give class i at least the margin (1 - alpha) / alpha more than class j, the mix gives i no less
than j, whatever g says: the lemma behind all bounds here, for a pair. Theorems 4 and 5 are the case of the first class
against every other.
"""

import numpy as np

from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.certification.bounds.theorem4 import used_up
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.rounding import (
    Alpha,
    Floats,
    Values,
    alpha_min_of,
    checked_classes,
    checked_sigma,
    checked_values,
    up,
)


def lipschitz_pair_radii(probabilities: Values, alpha: Alpha, lipschitz: Values) -> Floats:
    """How far the mix with a Lipschitz h keeps each pair of classes in h's order, for any norm [BAKS24 v1, Theorem 1].

        (h_i - h_j - (1 - alpha) / alpha) / (Lip(h_i) + Lip(h_j)) for h_i > h_j

    Args:
        probabilities, alpha, lipschitz: as in ``lipschitz_radius``.

    Returns:
        (..., C, C) radii >= 0, rounded down: within [..., i, j] the mix has class i no lower than class j. 0 on the
        diagonal, and where nothing is certified.

    Raises:
        ValueError: fewer than two classes, or a value outside its range.
    """
    h = checked_classes(probabilities, "probabilities", 0.0, 1.0)
    constants = np.broadcast_to(checked_values(lipschitz, "lipschitz constants", 0.0, np.inf), h.shape)
    gap = h[..., :, None] - h[..., None, :]
    slope = up(constants[..., :, None] + constants[..., None, :])
    radii = used_up(gap, margin_needed(alpha)[..., None, None], slope)
    return np.where(gap > 0.0, radii, 0.0)


def smoothing_pair_radii(lower: Values, upper: Values, alpha: Alpha, sigma: Values) -> Floats:
    """The same for a Gaussian-smoothed h, in l_2: Theorem 5 of [BAS24] for each pair.

        sigma / 2 (Phi^-1(alpha h_i) - Phi^-1(alpha h_j + 1 - alpha))

    The proof of the theorem compares two classes at a time, and nowhere needs that the first of them is h's label.

    Args:
        lower, upper: (..., C) bounds of h(x) in [0, 1], class by class; both h(x) itself if that is known.
        alpha, sigma: as in ``smoothing_radius``; they broadcast against the leading dimensions.

    Returns:
        (..., C, C) radii >= 0 in l_2, as in ``lipschitz_pair_radii``.

    Raises:
        ValueError: fewer than two classes, or a value outside its range.
    """
    low = checked_classes(lower, "lower bounds", 0.0, 1.0)
    high = checked_classes(upper, "upper bounds", 0.0, 1.0)
    weight, sigmas = (each[..., None, None] for each in (alpha_min_of(alpha), checked_sigma(sigma)))
    return smoothing_radius(low[..., :, None], high[..., None, :], weight, sigmas)


def top_k_radius(pair_radii: Values, k: int) -> Floats:
    """Within which the classes of the mix's top k stay there, all of them, from radii of pairs.

    Args:
        pair_radii: (..., C, C), as ``lipschitz_pair_radii`` gives them.
        k: in [1, C - 1].

    Returns:
        (...) radii: no class outside of h's top k passes one inside. 0 where h does not tell which these are.

    Raises:
        ValueError: another k, or radii of another shape.
    """
    radii, ranks = _ranked(pair_radii, k)
    inside = ranks < k
    kept = inside[..., :, None] & ~inside[..., None, :]
    return np.where(inside.sum(axis=-1) == k, np.where(kept, radii, np.inf).min(axis=(-2, -1)), 0.0)


def ranking_radius(pair_radii: Values, k: int) -> Floats:
    """Within which the mix's first k classes keep their order, and no other class passes them.

    Arguments, result and errors are those of ``top_k_radius``, whose radius is never smaller.
    """
    radii, ranks = _ranked(pair_radii, k)
    kept = (ranks[..., :, None] < k) & (ranks[..., :, None] < ranks[..., None, :])
    told = ((ranks[..., None] == np.arange(k)).sum(axis=-2) == 1).all(axis=-1)  # one class at each of the first places
    return np.where(told, np.where(kept, radii, np.inf).min(axis=(-2, -1)), 0.0)


def _ranked(pair_radii: Values, k: int) -> tuple[Floats, Floats]:
    """Checked radii, and how many classes are certified above each; two that are not told apart share a rank."""
    radii = np.asarray(pair_radii, dtype=np.float64)
    if radii.ndim < 2 or radii.shape[-1] != radii.shape[-2] or radii.shape[-1] < 2 or not (radii >= 0.0).all():
        raise ValueError(f"pair radii must be numbers >= 0 of shape (..., classes, classes), got {radii.shape}")
    if not 1 <= k <= radii.shape[-1] - 1:
        raise ValueError(f"k must be between 1 and {radii.shape[-1] - 1}, got {k}")
    return radii, (radii > 0.0).sum(axis=-2).astype(np.float64)
