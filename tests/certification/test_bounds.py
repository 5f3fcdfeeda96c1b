"""The theorems, against exact arithmetic, against random nets attacked with the worst g, and for tightness."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import norm

from adaptive_smoothing_zoo.certification.bounds import vote_needed
from adaptive_smoothing_zoo.certification.bounds.cohen import cohen_radius
from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.certification.bounds.sharp import lipschitz_logit_radius, sharp_smoothing_radius
from adaptive_smoothing_zoo.certification.bounds.theorem4 import (
    gap_radius,
    gaussian_lipschitz,
    lipschitz_radius,
    softmax_lipschitz,
)
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, ConstantAlpha

ALPHAS = st.floats(0.5, 1.0)
SEEDS = st.integers(0, 2**32 - 1)
DUALS = {1: np.inf, 2: 2, np.inf: 1}
mpmath.mp.dps = 40


def worst_margin(h, alpha):
    """The least mixed probability of the label minus another, over all g: g is sure of the other class. (..., C)."""
    top = h[..., :1]
    return (alpha * (top - h[..., 1:]) - (1 - alpha)).min(axis=-1)


# ---- margin_needed


@given(ALPHAS)
def test_margin_needed_is_the_lemmas_rounded_up(alpha):
    exact = (1 - Fraction(alpha)) / Fraction(alpha)
    value = Fraction(float(margin_needed(alpha)))
    assert exact <= value <= exact * (1 + Fraction(1, 10**15))


@given(st.floats(0.51, 1.0), st.integers(2, 6), SEEDS)
def test_no_g_beats_the_needed_margin_and_one_beats_a_smaller_one(alpha, classes, seed):
    rng = np.random.default_rng(seed)
    margin = float(margin_needed(alpha))
    h = rng.dirichlet(np.ones(classes)) * (1 - margin)
    h[0] = h[1:].max() + margin  # exactly the margin; sums to at most 1 or so, which the lemma does not ask for
    gs = np.concatenate([np.eye(classes), rng.dirichlet(np.full(classes, 0.2), size=50)])
    mixed = (1 - alpha) * gs + alpha * h
    assert (mixed[:, 0] - mixed.max(axis=1) >= -1e-15).all()
    h[0] -= 1e-6
    mixed = (1 - alpha) * np.eye(classes) + alpha * h
    assert alpha == 1.0 or (mixed.argmax(axis=1) != 0).any()


def test_margin_needed_at_the_ends():
    np.testing.assert_array_equal(margin_needed([0.0, 1.0]), [np.inf, 0.0])
    assert margin_needed(0.5) == pytest.approx(1.0, abs=1e-15)
    assert margin_needed(0.8) == pytest.approx(0.25, abs=1e-15)


# ---- gap_radius


@given(st.floats(0.0, 1.0), ALPHAS, st.floats(1e-3, 1e3))
def test_the_gap_s_radius_is_theorem_4_s_rounded_down(gap, alpha, constant):
    exact = max((Fraction(gap) - 1 / Fraction(alpha) + 1) / (2 * Fraction(constant)), Fraction(0))
    value = Fraction(float(gap_radius(gap, alpha, constant)))
    assert exact - Fraction(1, 10**14) * (1 + 1 / Fraction(constant)) <= value <= exact


@given(st.floats(0.6, 1.0), st.floats(0.8, 1.0), st.floats(1e-3, 1e3))
def test_the_allowed_constant_gives_the_radius_back_and_a_larger_one_does_not(alpha, gap, radius):
    constant = float(gap_radius(gap, alpha, radius))
    assert gap_radius(gap, alpha, constant) == pytest.approx(radius, rel=1e-12)
    assert gap_radius(gap, alpha, 1.001 * constant) < radius


def test_without_a_slope_a_gap_lasts_for_ever_if_it_is_enough():
    assert gap_radius([0.5, 0.1], 0.8, 0.0).tolist() == [np.inf, 0.0]


# ---- Lipschitz


@given(
    st.integers(2, 5).flatmap(
        lambda c: st.tuples(
            st.lists(st.floats(0, 1), min_size=c, max_size=c), st.lists(st.floats(1e-3, 1e3), min_size=c, max_size=c)
        )
    ),
    ALPHAS,
)
def test_lipschitz_radius_is_the_theorems_rounded_down(values, alpha):
    h, constants = values
    radius = float(lipschitz_radius(h, alpha, constants))
    a, top = Fraction(alpha), int(np.argmax(h))
    exact = min(
        (a * (Fraction(h[top]) - Fraction(h[i])) + a - 1) / (a * (Fraction(constants[top]) + Fraction(constants[i])))
        for i in range(len(h))
        if i != top
    )
    assert Fraction(radius) <= max(exact, 0)
    assert radius >= float(exact) * (1 - 1e-14) - 2e-15 / min(constants)


@given(st.integers(2, 5), st.floats(0.55, 1.0), st.floats(0.1, 10.0), SEEDS)
@settings(max_examples=60)
def test_by_linear_programming_the_radius_is_the_largest(classes, alpha, constant, seed):
    """Over all h' within the constant of h(x) and all g: the mix's margin is >= 0 inside and can be < 0 outside."""
    rng = np.random.default_rng(seed)
    h = np.sort(rng.dirichlet(np.full(classes, 0.3)))[::-1]
    radius = float(lipschitz_radius(h, alpha, constant))

    def least(distance):
        """min over h', g in the simplex, |h'_i - h_i| <= constant * distance, of the mix's worst margin."""
        bounds = [(max(0.0, p - constant * distance), min(1.0, p + constant * distance)) for p in h]
        bounds += [(0.0, 1.0)] * classes
        sums = np.kron(np.eye(2), np.ones(classes))
        best = np.inf
        for i in range(1, classes):
            cost = np.zeros(2 * classes)
            cost[[0, i]] = alpha, -alpha
            cost[[classes, classes + i]] = 1 - alpha, alpha - 1
            best = min(best, linprog(cost, A_eq=sums, b_eq=[1.0, 1.0], bounds=bounds).fun)
        return best

    if radius > 0:
        assert least(radius * (1 - 1e-6)) >= -1e-9
        assert least(radius + 1e-3 / constant) < 0
    else:
        assert worst_margin(h, alpha) <= 1e-12


def random_softmax_net(rng, norm_, dimensions, classes):
    """h(x) = softmax(W x) and constants of its probabilities, from grad h_i = h_i sum_j h_j (w_i - w_j).

    So the dual norm of the gradient is at most h_i (1 - h_i) max_j |w_i - w_j| <= max_j |w_i - w_j| / 4.
    """
    weight = rng.normal(size=(classes, dimensions)) * rng.uniform(1, 10)
    steps = np.linalg.norm(weight[:, None] - weight[None], ord=DUALS[norm_], axis=2)

    def net(x):
        logits = x @ weight.T
        exps = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exps / exps.sum(axis=-1, keepdims=True)

    return net, steps.max(axis=1) / 4, weight


@given(st.sampled_from([1, 2, np.inf]), st.integers(1, 6), st.integers(2, 5), st.floats(0.5, 1.0), SEEDS)
@settings(max_examples=150)
def test_no_perturbation_inside_the_lipschitz_radius_breaks_a_random_net(norm_, dimensions, classes, alpha, seed):
    rng = np.random.default_rng(seed)
    net, constants, weight = random_softmax_net(rng, norm_, dimensions, classes)
    x = rng.normal(size=dimensions)
    order = np.argsort(net(x))[::-1]  # the label first
    radius = float(lipschitz_radius(net(x), alpha, constants))
    directions = [*rng.normal(size=(40, dimensions)), *(weight[i] - weight[order[0]] for i in order[1:])]
    for direction in directions:
        if norm_ == np.inf:
            direction = np.sign(direction)
        elif norm_ == 1:
            direction = np.where(np.abs(direction) == np.abs(direction).max(), direction, 0)
        size = np.linalg.norm(direction, ord=norm_)
        if size > 0:
            points = x + direction / size * radius * np.linspace(0, 1, 9)[:, None]
            inside = worst_margin(net(points)[:, order], alpha)
            assert radius == 0 or (inside >= -1e-12).all()


def test_lipschitz_radius_broadcasts_examples_alphas_and_constants():
    h = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3]])
    radii = lipschitz_radius(h, [[1.0], [0.8]], [1.0, 2.0, 3.0])
    expected = [[0.9 / 4, 0.2 / 5], [(0.9 - 0.25) / 4, 0.0]]
    np.testing.assert_allclose(radii, expected, rtol=1e-12)
    local = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    np.testing.assert_allclose(lipschitz_radius(h, 1.0, local), [0.9 / 4, 0.2 / 11], rtol=1e-12)
    tensor = torch.tensor(h, dtype=torch.float64, requires_grad=True)
    np.testing.assert_array_equal(lipschitz_radius(tensor, torch.tensor(1.0), 1.0), lipschitz_radius(h, 1.0, 1.0))


def test_lipschitz_radius_of_a_constant_net_is_infinite_and_of_a_tie_zero():
    assert lipschitz_radius([0.9, 0.1], 0.8, 0.0) == np.inf
    assert lipschitz_radius([0.6, 0.4], 0.8, 0.0) == 0.0
    assert lipschitz_radius([0.5, 0.5], 1.0, 0.0) == 0.0
    assert lipschitz_radius([0.5, 0.5], 1.0, 1.0) == 0.0


@given(st.floats(0.01, 10.0))
def test_a_half_space_attains_the_gaussian_lipschitz_constant(sigma):
    constant = float(gaussian_lipschitz(sigma))
    assert norm.pdf(0) / sigma <= constant  # the slope of P[N(x, sigma^2) > 0] at 0
    assert (norm.cdf(1e-6) - 0.5) / (1e-6 * sigma) == pytest.approx(constant, rel=1e-6)
    assert 2 * constant == pytest.approx(np.sqrt(2 / (np.pi * sigma**2)), rel=1e-12)


@given(st.integers(2, 5), st.floats(0.1, 3.0), SEEDS)
def test_random_smoothed_nets_keep_to_the_gaussian_lipschitz_constant(classes, sigma, seed):
    edges, values = pieces(np.random.default_rng(seed), classes)
    x = np.linspace(-5, 5, 201)
    slopes = np.abs(np.diff(smoothed(edges, values, x, sigma), axis=0)) / (x[1] - x[0])
    assert slopes.max() <= gaussian_lipschitz(sigma) + 1e-9


# ---- smoothing


PROBABILITIES = st.one_of(st.floats(0.0, 1.0), st.floats(1e-12, 1e-3).map(lambda p: 1 - p), st.floats(1e-300, 1e-3))


def exact_quantile(p):
    """Phi^-1 of an mpmath number in (0, 1)."""
    if p > 0.5:
        return -exact_quantile(1 - p)
    x = mpmath.mpf(float(norm.ppf(float(p)))) if p > mpmath.mpf(10) ** -300 else mpmath.mpf(-37)
    for _ in range(8):  # Newton's method on the logarithm, which is nearly a parabola far out
        x -= (mpmath.log(mpmath.ncdf(x)) - mpmath.log(p)) * mpmath.ncdf(x) / mpmath.npdf(x)
    return x


def test_the_oracle_inverts_the_normal_distribution_also_far_out():
    for p in (0.5, 0.3, 1e-12, 1e-300, 2.225073858507e-311, 5e-324):
        assert float(mpmath.ncdf(exact_quantile(mpmath.mpf(p))) / mpmath.mpf(p)) == pytest.approx(1.0, rel=1e-12)


@given(PROBABILITIES, PROBABILITIES, ALPHAS, st.floats(0.01, 10.0))
@settings(max_examples=200)
def test_smoothing_radius_is_the_theorems_rounded_down(p_top, p_runner_up, alpha, sigma):
    radius = float(smoothing_radius(p_top, p_runner_up, alpha, sigma))
    a, p, q = mpmath.mpf(alpha), mpmath.mpf(p_top), mpmath.mpf(p_runner_up)
    low, high = a * p, a * q + (1 - a)
    if low <= high:
        assert radius == 0.0
    elif low < 1 and high > 0:
        exact = mpmath.mpf(sigma) / 2 * (exact_quantile(low) - exact_quantile(high))
        assert radius <= exact
        # One rounding of a probability near 1 moves its quantile by about eps / pdf.
        slack = 4e-16 / mpmath.npdf(exact_quantile(low)) + 4e-16 / mpmath.npdf(exact_quantile(high))
        assert radius >= exact - mpmath.mpf(sigma) * (slack + 1e-13)
    else:
        assert radius == np.inf


def pieces(rng, classes):
    """A base net that depends on one coordinate: breakpoints, and probabilities (or votes) on each piece."""
    edges = np.sort(rng.normal(scale=2.0, size=rng.integers(1, 7)))
    concentration = rng.choice([0.02, 0.3])
    values = rng.dirichlet(np.full(classes, concentration), size=len(edges) + 1)
    if rng.random() < 0.5:
        values = np.eye(classes)[values.argmax(axis=1)]
    return edges, values


def smoothed(edges, values, x, sigma):
    """The mean of the base net over N(x, sigma^2), exactly: (T,) points -> (T, C)."""
    below = norm.cdf((edges[None] - x[:, None]) / sigma)
    shares = np.diff(np.concatenate([np.zeros((len(x), 1)), below, np.ones((len(x), 1))], axis=1), axis=1)
    return shares @ values


@pytest.mark.parametrize("bound", [smoothing_radius, sharp_smoothing_radius])
@given(st.integers(2, 5), ALPHAS, st.floats(0.1, 3.0), SEEDS)
@settings(max_examples=200)
def test_no_shift_inside_the_radius_breaks_a_random_smoothed_net(bound, classes, alpha, sigma, seed):
    rng = np.random.default_rng(seed)
    edges, values = pieces(rng, classes)
    x = rng.normal()
    h = smoothed(edges, values, np.array([x]), sigma)[0]
    order = np.argsort(h)[::-1]
    # Bounds of the exact probabilities, which float64 does not hold: near 1 a rounding moves the quantile far.
    top, runner_up = np.clip(h[order[:2]] + [-1e-14, 1e-14], 0.0, 1.0)
    radius = float(bound(top, runner_up, alpha, sigma))
    if radius > 0:
        shifted = smoothed(edges, values, x + radius * np.linspace(-1, 1, 41), sigma)[:, order]
        assert (worst_margin(shifted, alpha) >= -1e-12).all()


@given(st.floats(0.501, 1.0), st.floats(0.55, 0.9999), st.floats(0.0, 1.0), st.floats(0.1, 3.0))
def test_half_spaces_and_a_g_attain_the_sharp_radius(alpha, p_top, share, sigma):
    """The label holds left of a, the runner-up right of b >= a, another class between; the attack moves right."""
    p_runner_up = (1 - p_top) * share if share > 1e-3 else 1 - p_top
    a, b = sigma * norm.ppf(p_top), -sigma * norm.ppf(p_runner_up)
    radius = float(sharp_smoothing_radius(p_top, p_runner_up, alpha, sigma))

    def margin(t):
        return alpha * (norm.cdf((a - t) / sigma) - norm.cdf((t - b) / sigma)) - (1 - alpha)

    if radius > 0:
        assert margin(radius * (1 - 1e-9)) >= -1e-12
    assert margin(radius + 1e-6 * sigma) < 0
    assert radius >= smoothing_radius(p_top, p_runner_up, alpha, sigma)


@given(st.floats(0.500001, 1.0), st.floats(0.5, 1 - 1e-12), st.floats(1e-9, 1.0), st.floats(0.1, 3.0))
def test_the_sharp_radius_holds_in_exact_arithmetic(alpha, p_top, share, sigma):
    """Rounding never reports more than the bound gives: at the radius the margin is still there."""
    p_runner_up = (1 - p_top) * share
    radius = float(sharp_smoothing_radius(p_top, p_runner_up, alpha, sigma))
    if radius > 0:
        t = mpmath.mpf(radius) / mpmath.mpf(sigma)
        a, b = exact_quantile(mpmath.mpf(p_top)), exact_quantile(mpmath.mpf(p_runner_up))
        margin = (1 - mpmath.mpf(alpha)) / mpmath.mpf(alpha)
        assert mpmath.ncdf(a - t) - mpmath.ncdf(b + t) >= margin


def test_half_spaces_attain_theorem_5_at_alpha_1_only():
    """[BAS24] does not say that Theorem 5 is tight, and below alpha = 1 it is not."""
    p_top, p_runner_up = np.array([0.6, 0.9, 0.999]), np.array([0.4, 0.05, 0.0005])
    np.testing.assert_allclose(
        sharp_smoothing_radius(p_top, p_runner_up, 1.0, 0.5), smoothing_radius(p_top, p_runner_up, 1.0, 0.5), rtol=1e-12
    )
    assert sharp_smoothing_radius(0.9, 0.1, 0.8, 1.0) > 1.6 * smoothing_radius(0.9, 0.1, 0.8, 1.0)


def test_cohens_radius():
    p = np.array([0.0, 0.3, 0.5, 0.7, 0.99993, 1.0])
    expected = np.array([0.0, 0.0, 0.0, *(0.25 * norm.ppf(p[3:]))])
    np.testing.assert_allclose(cohen_radius(p, 0.25), expected, rtol=1e-12)
    np.testing.assert_array_equal(cohen_radius(p, 0.25), smoothing_radius(p, 1 - p, 1.0, 0.25))
    # The published cap for n = 100,000 and failure probability 0.001.
    assert cohen_radius(0.001 ** (1 / 100_000), 1.0) == pytest.approx(3.811, abs=5e-4)


# ---- both kinds


def radii_of(h, alpha):
    runner_up = np.sort(h, axis=-1)[..., -2]
    return {
        "lipschitz": lipschitz_radius(h, alpha, 2.0),
        "theorem": smoothing_radius(h.max(-1), runner_up, alpha, 0.5),
        "sharp": sharp_smoothing_radius(h.max(-1), runner_up, alpha, 0.5),
    }


@given(st.integers(2, 5), SEEDS)
@example(2, 8289)  # h is certain in float64, and its sharp radius infinite
def test_radii_grow_with_alpha_and_vanish_where_nothing_is_certified(classes, seed):
    h = np.random.default_rng(seed).dirichlet(np.full(classes, 0.2))
    alphas = np.linspace(0.0, 1.0, 41)
    gap = np.sort(h)[-1] - np.sort(h)[-2]
    for radii in radii_of(h, alphas).values():
        assert (radii >= 0).all()
        assert (radii[1:] >= radii[:-1] - 1e-12).all()
        assert (radii[alphas <= 0.5] == 0).all()
        assert (radii[alphas <= (1 - 1e-9) / (1 + gap)] == 0).all()
        assert (radii[alphas >= (1 + 1e-9) / (1 + gap) + 1e-6] > 0).all()


class _Network(torch.nn.Module):
    def forward(self, std_maps, rob_maps):
        return torch.zeros(len(std_maps[0]), 1)


def test_an_alpha_module_counts_with_its_smallest_alpha():
    h = np.array([[0.9, 0.1], [0.7, 0.3]])
    adaptive = AdaptiveAlpha(_Network(), alpha_min=0.8, alpha_max=0.95)
    for module, alpha in ((ConstantAlpha(0.9), 0.9), (adaptive, 0.8)):
        np.testing.assert_array_equal(margin_needed(module), margin_needed(alpha))
        np.testing.assert_array_equal(lipschitz_radius(h, module, 1.0), lipschitz_radius(h, alpha, 1.0))
        for bound in (smoothing_radius, sharp_smoothing_radius):
            np.testing.assert_array_equal(bound([0.9], [0.1], module, 1.0), bound([0.9], [0.1], alpha, 1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: margin_needed(1.1), "alpha must be in"),
        (lambda: margin_needed(float("nan")), "alpha must be in"),
        (lambda: lipschitz_radius([0.5, 1.5], 0.9, 1.0), "probabilities must be in"),
        (lambda: lipschitz_radius([-2.0, -0.1], 0.9, 1.0), "probabilities must be in"),
        (lambda: lipschitz_radius([1.0], 0.9, 1.0), "at least 2 classes"),
        (lambda: lipschitz_radius(1.0, 0.9, 1.0), "at least 2 classes"),
        (lambda: lipschitz_radius([0.5, 0.5], 0.9, -1.0), "lipschitz constants must be"),
        (lambda: lipschitz_radius([0.5, 0.5], 0.9, float("inf")), "lipschitz constants must be"),
        (lambda: smoothing_radius(1.2, 0.1, 0.9, 1.0), "p_top_lower must be"),
        (lambda: smoothing_radius(0.9, -0.1, 0.9, 1.0), "p_runner_up_upper must be"),
        (lambda: sharp_smoothing_radius(0.9, 0.1, 0.9, -1.0), "sigma must be"),
        (lambda: cohen_radius(0.9, 0.0), "sigma must be positive"),
        (lambda: gaussian_lipschitz(0.0), "sigma must be positive"),
    ],
)
def test_values_outside_their_ranges_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- Lipschitz logits


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@st.composite
def logits(draw, classes=None, size=8.0):
    count = classes or draw(st.integers(2, 12))
    return np.array(draw(st.lists(st.floats(-size, size), min_size=count, max_size=count)))


@given(logits(), st.floats(0.55, 1.0), st.floats(0.1, 10.0), SEEDS)
def test_no_move_of_the_logits_inside_the_radius_loses_the_margin(z, alpha, constant, seed):
    """The worst moves are searched for by random directions and by following the gradient of the worst margin."""
    radius = float(lipschitz_logit_radius(z, alpha, constant))
    top, rng = int(z.argmax()), np.random.default_rng(seed)
    if radius == 0:
        return
    moves = rng.normal(size=(50, len(z)))
    moves[:, top] -= 2.0 * rng.random(50)
    for i in range(len(z)):
        if i != top:
            moves = np.vstack([moves, np.eye(len(z))[i] - np.eye(len(z))[top]])
    for _ in range(30):  # along the gradient of p_top - p_runner_up, from everywhere
        moves *= constant * radius / np.linalg.norm(moves, axis=1, keepdims=True)
        p = softmax(z + moves)
        worst_margin_of_each = p[:, [top]] - np.where(np.arange(len(z)) == top, -np.inf, p)
        other = np.nanargmin(np.where(np.arange(len(z)) == top, np.nan, worst_margin_of_each), axis=1)
        rows = np.arange(len(moves))
        margins = p[:, top] - p[rows, other]
        assert (margins >= (1 - alpha) / alpha - 1e-9).all()
        gradient = -(p * margins[:, None])
        gradient[rows, top] += p[:, top]
        gradient[rows, other] -= p[rows, other]
        moves = (
            moves - 0.5 * gradient / np.linalg.norm(gradient, axis=1, keepdims=True).clip(1e-300) * constant * radius
        )


@given(logits(classes=2), st.floats(0.51, 1.0), st.floats(0.1, 10.0))
def test_with_two_classes_the_logit_radius_is_the_largest(z, alpha, constant):
    """h_y = 1 / (1 + exp(-m)) falls to 1 / (2 alpha) where m has fallen to the log of the odds of that."""
    gap = abs(z[0] - z[1])
    needed = -np.log(2 * alpha - 1)
    expected = max(0.0, gap - needed) / (np.sqrt(2) * constant)
    found = float(lipschitz_logit_radius(z, alpha, constant))
    assert found <= expected * (1 + 1e-12)
    assert found == pytest.approx(expected, abs=1e-9 / (2 * alpha - 1) / constant)


@given(logits(), st.floats(0.1, 10.0))
def test_at_alpha_1_the_logit_radius_is_the_margin_over_root_2(z, constant):
    second, first = np.sort(z)[-2:]
    expected = (first - second) / (np.sqrt(2) * constant)
    found = float(lipschitz_logit_radius(z, 1.0, constant))
    assert found <= expected
    assert found == pytest.approx(expected, abs=1e-9 / constant)


@given(logits(size=30.0), ALPHAS, st.floats(0.1, 10.0))
def test_the_logit_radius_is_at_least_theorem_4s(z, alpha, constant):
    theorem = lipschitz_radius(softmax(z), alpha, softmax_lipschitz(constant))
    assert lipschitz_logit_radius(z, alpha, constant) >= theorem * (1 - 1e-9) - 1e-12


def test_softmax_probabilities_have_the_constant_and_attain_it():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 6)) * rng.exponential(3.0, size=(20_000, 1))
    p = softmax(z)
    gradients = p[:, :, None] * (np.eye(6) - p[:, None, :])  # of p_i with respect to z
    longest = np.linalg.norm(gradients, axis=2).max()
    assert longest <= softmax_lipschitz(1.0)
    halves = np.array([0.0, 0.0, -60.0, -60.0, -60.0, -60.0])
    attained = softmax(halves)[0] * np.linalg.norm(np.eye(6)[0] - softmax(halves))
    assert attained == pytest.approx(float(softmax_lipschitz(1.0)), rel=1e-12)
    assert softmax_lipschitz(3.0) == pytest.approx(3 * np.sqrt(2) / 4)


def test_logit_radii_broadcast_over_alphas_and_certify_nothing_for_alpha_up_to_one_half():
    z = np.array([[3.0, 0.0, 0.0], [0.0, 5.0, 4.9]])
    radii = lipschitz_logit_radius(z, np.array([[0.5], [0.8], [1.0]]), 1.0)
    assert radii.shape == (3, 2)
    assert (radii[0] == 0).all()
    assert radii[1, 0] > 0 == radii[1, 1] < radii[2, 1]
    np.testing.assert_allclose(radii[2], [3 / np.sqrt(2), 0.1 / np.sqrt(2)], atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 0.8, 1.0), "at least 2 classes"),
        (([1.0, np.nan], 0.8, 1.0), "logits must be finite, got nan"),
        (([1.0, 0.0], 0.8, 0.0), "must be positive"),
        (([1.0, 0.0], 1.8, 1.0), "alpha must be"),
    ],
)
def test_logits_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        lipschitz_logit_radius(*arguments)


# ---- what a vote must reach


@pytest.mark.parametrize("bound", ["theorem4", "theorem5", "sharp"])
@given(st.floats(0.51, 1.0), st.floats(0.05, 2.0), st.floats(0.001, 3.0))
def test_the_vote_needed_gives_the_radius_and_less_does_not(bound, alpha, sigma, times):
    radius = times * sigma
    p = float(vote_needed(radius, alpha, sigma, bound=bound))

    def radius_at(p):
        if bound == "theorem4":
            return float(lipschitz_radius([p, 1 - p], alpha, gaussian_lipschitz(sigma)))
        return float({"theorem5": smoothing_radius, "sharp": sharp_smoothing_radius}[bound](p, 1 - p, alpha, sigma))

    if np.isinf(p):
        assert radius_at(1 - 1e-9) < radius * (1 + 1e-6)
    else:
        assert 0.5 <= p < 1
        slope = sigma / norm.pdf(norm.ppf(min(p, 1 - 1e-12)))  # of the quantile, for what rounding of p does
        assert radius_at(p) == pytest.approx(radius, abs=1e-12 * slope + 1e-12)
        assert radius_at(p - 1e-6) < radius


def test_the_vote_needed_is_rounded_up():
    with mpmath.workdps(40):
        for alpha in (0.6, 0.8, 0.95, 1.0):
            for times in (0.1, 0.5, 1.0):
                a, t = mpmath.mpf(alpha), mpmath.mpf(times)
                exact = {
                    "theorem4": 1 / (2 * a) + t / mpmath.sqrt(2 * mpmath.pi),
                    "theorem5": mpmath.ncdf(t) / a,
                    "sharp": mpmath.ncdf(t + mpmath.sqrt(2) * mpmath.erfinv(1 / a - 1)),
                }
                for bound, value in exact.items():
                    found = float(vote_needed(times, alpha, 1.0, bound=bound))
                    assert value <= found <= value * (1 + mpmath.mpf("1e-13")) or (value >= 1 and np.isinf(found))


def test_the_vote_needed_refuses_what_is_unknown_and_no_vote_is_enough_for_a_small_alpha():
    assert np.isinf(vote_needed(0.1, [0.0, 0.3, 0.5], 0.25)).all()
    with pytest.raises(ValueError, match="the bound must be one of theorem4, theorem5, sharp"):
        vote_needed(0.1, 0.8, 0.25, bound="theorem6")


# ---- which bound is larger


@given(st.floats(0.501, 1.0), st.floats(0.501, 0.999999))
def test_no_bound_for_a_smoothed_h_exceeds_the_sharp_one(alpha, p):
    sharp = float(sharp_smoothing_radius(p, 1 - p, alpha, 1.0))
    assert float(smoothing_radius(p, 1 - p, alpha, 1.0)) <= sharp
    assert float(lipschitz_radius([p, 1 - p], alpha, gaussian_lipschitz(1.0))) <= sharp + 1e-12


def test_theorem_5_is_larger_than_theorem_4_with_the_papers_constant_but_not_with_the_best_one():
    p, alpha = 0.999, 0.6
    theorem5 = float(smoothing_radius(p, 1 - p, alpha, 1.0))
    assert float(lipschitz_radius([p, 1 - p], alpha, 2 * gaussian_lipschitz(1.0))) < theorem5
    assert float(lipschitz_radius([p, 1 - p], alpha, gaussian_lipschitz(1.0))) > theorem5
