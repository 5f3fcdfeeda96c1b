"""Certificates of the order of classes: in exact arithmetic, by brute force over g and h, and by shifts inside."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from adaptive_smoothing_zoo.certification import (
    lipschitz_pair_radii,
    ranking_radius,
    smoothing_pair_radii,
    top_k_radius,
)
from adaptive_smoothing_zoo.certification.bounds.theorem4 import lipschitz_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius

SEEDS = st.integers(0, 2**32 - 1)
ALPHAS = st.floats(0.51, 1.0)


def draw(seed, classes=5):
    generator = np.random.default_rng(seed)
    return generator, generator.dirichlet(np.full(classes, 0.4))


@given(SEEDS, ALPHAS)
@settings(max_examples=40, deadline=None)
def test_each_pair_has_theorem_1_s_radius_rounded_down(seed, alpha):
    generator, h = draw(seed)
    constants = generator.uniform(0.1, 2.0, size=5)
    radii = lipschitz_pair_radii(h, alpha, constants)
    a = Fraction(alpha)
    for i in range(5):
        for j in range(5):
            gap = Fraction(h[i]) - Fraction(h[j])
            exact = (a * gap + a - 1) / (a * (Fraction(constants[i]) + Fraction(constants[j])))
            expected = max(exact, Fraction(0)) if gap > 0 else 0
            assert Fraction(radii[i, j]) <= expected
            assert radii[i, j] == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@given(SEEDS, ALPHAS)
@settings(max_examples=40, deadline=None)
def test_the_first_class_against_all_others_is_theorems_4_and_5(seed, alpha):
    generator, h = draw(seed)
    constants = generator.uniform(0.1, 2.0, size=5)
    top = h.argmax()
    others = np.arange(5) != top
    pairs = lipschitz_pair_radii(h, alpha, constants)
    assert pairs[top, others].min() == lipschitz_radius(h, alpha, constants)
    assert top_k_radius(pairs, 1) == ranking_radius(pairs, 1) == pairs[top, others].min()
    smoothed = smoothing_pair_radii(h, h, alpha, 0.3)
    assert smoothed[top, others].min() == smoothing_radius(h[top], h[others].max(), alpha, 0.3)


def test_images_of_their_own_alphas_and_sigmas_are_certified_one_by_one():
    h = np.array([[0.8, 0.15, 0.05], [0.02, 0.08, 0.9], [0.1, 0.85, 0.05]])  # as many images as classes
    alphas, sigmas = np.array([0.9, 1.0, 0.8]), np.array([0.1, 0.5, 2.0])
    together = smoothing_pair_radii(h, h, alphas, sigmas)
    alone = [smoothing_pair_radii(*each) for each in zip(h, h, alphas, sigmas, strict=True)]
    assert together.max(axis=(1, 2)).min() > 0
    np.testing.assert_array_equal(together, alone)


def worst_orders(h, constants, alpha, r, seed):
    """Mixes that an adversary can reach within r: every class moved to its worst, and a g that is sure of one class."""
    generator = np.random.default_rng(seed)
    for _ in range(60):
        signs = generator.choice([-1.0, 1.0], size=len(h))
        moved = np.clip(h + signs * constants * r, 0.0, 1.0)
        for sure in range(len(h)):
            yield (1 - alpha) * np.eye(len(h))[sure] + alpha * moved


def top_set(values, k):
    return set(np.argsort(-values, kind="stable")[:k].tolist())


@given(SEEDS, st.floats(0.6, 1.0), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_no_g_and_no_move_inside_the_radius_breaks_the_order(seed, alpha, k):
    generator, h = draw(seed, classes=4)
    constants = generator.uniform(0.1, 1.0, size=4)
    pairs = lipschitz_pair_radii(h, alpha, constants)
    order = np.argsort(-h)
    radii = {"set": top_k_radius(pairs, k), "order": ranking_radius(pairs, k)}
    assert radii["order"] <= radii["set"]
    for name, radius in radii.items():
        for mixed in worst_orders(h, constants, alpha, 0.999 * float(radius), seed) if radius > 0 else ():
            if name == "set":
                assert top_set(mixed, k) == set(order[:k].tolist())
            else:
                assert np.argsort(-mixed)[:k].tolist() == order[:k].tolist()


def test_the_pair_radius_is_tight():
    h, constants, alpha = np.array([0.5, 0.42, 0.05, 0.03]), np.array([0.3, 0.2, 0.1, 0.1]), 0.95
    radius = lipschitz_pair_radii(h, alpha, constants)[0, 1]
    assert radius > 0
    moved = h + np.array([-1.0, 1.0, 0.0, 0.0]) * constants * radius * 1.001
    mixed = (1 - alpha) * np.eye(4)[1] + alpha * moved
    assert mixed[1] > mixed[0]


@pytest.mark.parametrize("alpha", [0.8, 1.0])
def test_shifts_of_a_smoothed_net_inside_the_radius_keep_the_order(alpha):
    """h's votes: the line is cut into intervals, one class each, so that its probabilities are known at every shift."""
    cuts, sigma = np.array([-np.inf, -0.9, 0.3, 1.4, np.inf]), 0.5

    def probabilities(x):
        return np.diff(norm.cdf((cuts - x) / sigma))

    h = probabilities(-0.2)
    pairs = smoothing_pair_radii(h, h, alpha, sigma)
    kept = [(i, j) for i in range(4) for j in range(4) if pairs[i, j] > 0]
    assert kept
    for i, j in kept:
        for shift in np.linspace(-1, 1, 41) * pairs[i, j] * 0.999:
            moved = probabilities(-0.2 + shift)
            assert alpha * moved[i] >= alpha * moved[j] + (1 - alpha) - 1e-12


def test_what_h_does_not_tell_apart_is_not_certified():
    tie = lipschitz_pair_radii([0.4, 0.4, 0.2], 1.0, 0.5)
    assert top_k_radius(tie, 1) == 0
    assert top_k_radius(tie, 2) == pytest.approx(0.2)
    assert ranking_radius(tie, 2) == 0
    assert not lipschitz_pair_radii([0.6, 0.3, 0.1], 0.5, 0.5).any()


def test_radii_broadcast_over_examples_and_alphas():
    h = np.random.default_rng(0).dirichlet(np.ones(3), size=7)
    alphas = np.linspace(0.6, 1.0, 7)
    pairs = lipschitz_pair_radii(h, alphas, 0.5)
    assert pairs.shape == (7, 3, 3)
    np.testing.assert_array_equal(pairs[4], lipschitz_pair_radii(h[4], alphas[4], 0.5))
    assert ranking_radius(pairs, 2).shape == top_k_radius(pairs, 2).shape == (7,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k_radius(np.zeros((3, 3)), 3), "k must be between 1 and 2, got 3"),
        (lambda: ranking_radius(np.zeros((3, 3)), 0), "k must be between 1 and 2, got 0"),
        (lambda: top_k_radius(np.zeros((3, 2)), 1), "pair radii must be"),
        (lambda: top_k_radius(np.full((3, 3), -1.0), 1), "pair radii must be"),
        (lambda: lipschitz_pair_radii([0.5], 1.0, 1.0), "at least 2 classes"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
