"""A label among the k likeliest classes: linear programs, exact arithmetic, moves inside the radius, exact coverage."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from scipy.optimize import linprog
from scipy.special import softmax
from scipy.stats import beta, multinomial, norm
from test_certify import IMAGES, LABELS, Pixels, literal_votes
from test_certify import SIGMA as PIXELS_SIGMA

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.certification import certify, certify_lipschitz, certify_mix, mix_certificates, read_log
from adaptive_smoothing_zoo.certification.bounds import BOUNDS, LipschitzNetOutputs, top_k_of_lipschitz
from adaptive_smoothing_zoo.certification.bounds.bound import Bound
from adaptive_smoothing_zoo.certification.bounds.sharp import (
    lipschitz_logit_radius,
    sharp_smoothing_radius,
    top_k_smoothing_radius,
)
from adaptive_smoothing_zoo.certification.bounds.theorem4 import (
    gap_radius,
    gaussian_lipschitz,
    lipschitz_radius,
    softmax_lipschitz,
)
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.certify import FixedNumber
from adaptive_smoothing_zoo.certification.confidence import betting_lower, betting_upper
from adaptive_smoothing_zoo.certification.logs import Certificates
from adaptive_smoothing_zoo.certification.sampling import Sampling
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ResultsError

SEEDS = st.integers(0, 2**32 - 1)
ALPHAS = st.floats(0.3, 1.0)
SIGMA = 0.3


def draw(seed, classes):
    """Probabilities of h, and a class."""
    generator = np.random.default_rng(seed)
    return generator, generator.dirichlet(np.full(classes, 0.5)), int(generator.integers(classes))


def others_of(values, label):
    """The values of the other classes, the largest first."""
    return np.sort(np.delete(values, label))[::-1]


def lead(h, label, k):
    """The sum of (h_y - h_i)_+ over the k likeliest other classes."""
    return np.maximum(h[..., [label]] - np.sort(np.delete(h, label, axis=-1), axis=-1)[..., -k:], 0.0).sum(axis=-1)


# ---- the lemma


def best_of_g(h, label, alpha, k):
    """The largest lead over the label that some g gives to k other classes of the mix at once: linear programs."""
    count = len(h)
    leads = []
    for chosen in combinations([i for i in range(count) if i != label], k):
        rows = np.zeros((k, count + 1))
        rows[:, label], rows[:, -1] = 1 - alpha, 1.0
        rows[range(k), chosen] = alpha - 1
        least = [alpha * (h[i] - h[label]) for i in chosen]
        sums, cost = np.append(np.ones(count), 0.0)[None], np.append(np.zeros(count), -1.0)
        bounds = [*[(0.0, 1.0)] * count, (None, None)]
        leads.append(-linprog(cost, A_ub=rows, b_ub=least, A_eq=sums, b_eq=[1.0], bounds=bounds).fun)
    return max(leads)


@given(SEEDS, ALPHAS, st.integers(2, 5).flatmap(lambda c: st.tuples(st.just(c), st.integers(1, c - 1))))
@settings(max_examples=60, deadline=None)
def test_some_g_moves_the_label_out_of_the_top_k_exactly_where_the_lead_is_too_small(seed, alpha, sizes):
    classes, k = sizes
    _, h, label = draw(seed, classes)
    spare = lead(h, label, k) - (1 - alpha) / alpha
    assume(abs(spare) > 1e-6)
    assert (best_of_g(h, label, alpha, k) < 0) == (spare > 0)
    radius = lipschitz_logit_radius(np.log(h), alpha, 1.0, labels=label, k=k)
    assert (radius > 0) == (spare > 0)


# ---- Lipschitz h


@given(SEEDS, ALPHAS, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_theorem_4_is_the_kth_smallest_radius_of_a_pair_rounded_down(seed, alpha, k):
    generator, h, label = draw(seed, 5)
    constants = generator.uniform(0.1, 2.0, size=5)
    radius = float(lipschitz_radius(h, alpha, constants, labels=label, k=k))
    a, exact, slopes = Fraction(alpha), [Fraction(p) for p in h], [Fraction(c) for c in constants]
    others = [i for i in range(5) if i != label]
    pairs = sorted((exact[label] - exact[i] - (1 - a) / a) / (slopes[label] + slopes[i]) for i in others)
    expected = max(pairs[k - 1], Fraction(0))
    assert Fraction(radius) <= expected
    assert radius == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@given(SEEDS, st.floats(0.75, 1.0), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_no_move_of_the_probabilities_inside_theorem_4_lets_any_g_pass(seed, alpha, k):
    generator, h, label = draw(seed, 4)
    h[label] += 2.0  # so that most are certified, for k > 1 also behind another class
    h[label - 1] += 2.0 if k > 1 else 0.0
    h /= h.sum()
    constants = generator.uniform(0.1, 1.0, size=4)
    radius = float(lipschitz_radius(h, alpha, constants, labels=label, k=k))
    assume(radius > 0)
    signs = np.array(list(product([-1.0, 1.0], repeat=4)))
    moved = np.clip(h + signs * constants * radius * 0.999, 0.0, 1.0)
    assert (lead(moved, label, k) >= (1 - alpha) / alpha).all()


@given(SEEDS, st.floats(0.4, 1.0), st.integers(1, 5), st.floats(0.1, 10.0))
@settings(max_examples=60, deadline=None)
def test_no_move_of_the_logits_inside_the_sharp_radius_lets_any_g_pass(seed, alpha, k, constant):
    """The worst moves are searched for from everywhere, along the gradient of the lead."""
    generator = np.random.default_rng(seed)
    z, label = 3 * generator.normal(size=6), int(generator.integers(6))
    z[label] += 4 + 4 * generator.random()
    radius = float(lipschitz_logit_radius(z, alpha, constant, labels=label, k=k))
    assume(radius > 0)
    length = constant * radius
    moves = generator.normal(size=(60, 6))
    moves[:, label] -= 2.0 * generator.random(60)
    for _ in range(30):
        moves *= length / np.linalg.norm(moves, axis=1, keepdims=True)
        p = softmax(z + moves, axis=1)
        assert (lead(p, label, k) >= (1 - alpha) / alpha - 1e-9).all()
        ranks = np.where(np.arange(6) == label, -np.inf, p).argsort(axis=1).argsort(axis=1)
        below = (ranks >= 6 - k) & (p < p[:, [label]])  # of the k likeliest others
        gradient = -p * below + p[:, [label]] * below.sum(axis=1, keepdims=True) * (np.arange(6) == label)
        gradient -= p * gradient.sum(axis=1, keepdims=True)
        moves = moves - 0.5 * gradient / np.linalg.norm(gradient, axis=1, keepdims=True).clip(1e-300) * length


@given(st.floats(-3.0, 8.0), st.floats(0.002, 1.0), st.integers(1, 6), st.floats(0.1, 10.0))
def test_against_k_equal_classes_the_sharp_radius_has_a_closed_form(gap, alpha, k, constant):
    """h_y = 1 / (1 + k exp(-m)) must stay at 1 / ((k + 1) alpha), also for alphas up to one half."""
    z, alpha = np.append(np.full(k, -gap), 0.0), (1 + k * alpha) / (k + 1)
    share = 1 / ((k + 1) * alpha)
    expected = max(0.0, gap + np.log((1 / share - 1) / k)) / (np.sqrt(2) * constant)
    found = float(lipschitz_logit_radius(z, alpha, constant, labels=k, k=k))
    assert found <= expected * (1 + 1e-12) + 1e-13
    assert found == pytest.approx(expected, abs=1e-8 / constant)


@given(SEEDS, st.integers(1, 5), st.floats(0.1, 10.0))
def test_at_alpha_1_the_sharp_radius_is_the_distance_to_the_kth_other_logit(seed, k, constant):
    generator = np.random.default_rng(seed)
    z, label = 1.5 * generator.normal(size=6), int(generator.integers(6))
    expected = max(0.0, z[label] - others_of(z, label)[k - 1]) / (np.sqrt(2) * constant)
    found = float(lipschitz_logit_radius(z, 1.0, constant, labels=label, k=k))
    assert found <= expected
    assert found == pytest.approx(expected, abs=1e-7 / constant)


@given(SEEDS, ALPHAS, st.floats(0.1, 10.0))
def test_radii_grow_with_k_and_sharp_is_never_below_theorem_4(seed, alpha, constant):
    generator = np.random.default_rng(seed)
    z, label = 2 * generator.normal(size=6), int(generator.integers(6))
    sharp = [float(lipschitz_logit_radius(z, alpha, constant, labels=label, k=k)) for k in range(1, 6)]
    theorem = [
        float(lipschitz_radius(softmax(z), alpha, softmax_lipschitz(constant), labels=label, k=k)) for k in range(1, 6)
    ]
    assert (np.diff(sharp) >= -1e-7).all()
    assert (np.diff(theorem) >= 0).all()
    assert (np.array(sharp) >= np.array(theorem) * (1 - 1e-9) - 1e-12).all()


@given(SEEDS, ALPHAS)
def test_the_likeliest_class_among_the_first_one_has_the_usual_radius(seed, alpha):
    z = 4 * np.random.default_rng(seed).normal(size=(3, 6))
    h, top = softmax(z, axis=1), z.argmax(axis=1)
    np.testing.assert_array_equal(lipschitz_radius(h, alpha, 0.7, labels=top, k=1), lipschitz_radius(h, alpha, 0.7))
    np.testing.assert_array_equal(
        lipschitz_logit_radius(z, alpha, 0.7, labels=top, k=1), lipschitz_logit_radius(z, alpha, 0.7)
    )
    assert not lipschitz_logit_radius(z, alpha, 0.7, labels=z.argmin(axis=1), k=1).any()


def test_radii_broadcast_over_examples_and_alphas():
    z = np.random.default_rng(0).normal(size=(7, 4)) * 3
    labels, alphas = z.argsort(axis=1)[:, -2], np.linspace(0.6, 1.0, 3)[:, None]
    for radius in (lambda z, *more, **of: lipschitz_radius(softmax(z, axis=-1), *more, **of), lipschitz_logit_radius):
        together = radius(z, alphas, 0.5, labels=labels, k=2)
        assert together.shape == (3, 7)
        assert (together > 0).any()
        np.testing.assert_allclose(together[1, 4], radius(z[4], alphas[1, 0], 0.5, labels=labels[4], k=2), rtol=1e-12)


def test_a_bound_without_a_form_for_the_top_k_certifies_labels_that_are_h_s_class(monkeypatch):
    first = Bound(name="first", paper="BAS24", sentence="arXiv:", lipschitz=BOUNDS["theorem4"].lipschitz)
    monkeypatch.setitem(BOUNDS, "first", first)
    outputs = LipschitzNetOutputs(logits=np.array([[3.0, 0.0, 0.0], [3.0, 2.9, 0.0]]), of_logits=1.0)
    found = top_k_of_lipschitz("first")(outputs, np.array(0.9), np.array([0, 1]), 2)
    np.testing.assert_array_equal(found, [first.lipschitz(outputs, np.array(0.9))[0], 0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lipschitz_radius([0.5, 0.3, 0.2], 1.0, 1.0, k=3), "at most 2, one less than the 3 classes, got 3"),
        (lambda: lipschitz_logit_radius([1.0, 0.0], 1.0, 1.0, k=0), "a whole number >= 1, got 0"),
        (lambda: lipschitz_logit_radius([1.0, 0.0], 1.0, 1.0, k=1.0), "a whole number >= 1, got 1.0"),
        (lambda: lipschitz_radius([0.5, 0.5], 1.0, 1.0, k=True), "a whole number >= 1, got True"),
        (lambda: lipschitz_radius([0.5, 0.5], 1.0, 1.0, labels=2), r"labels must be in \[0, 1\]"),
        (lambda: lipschitz_logit_radius([0.5, 0.5], 1.0, 1.0, labels=0.5), "labels must be whole numbers"),
        (lambda: top_k_smoothing_radius(0.5, 0.1, 1.0, 1.0, 0), "a whole number >= 1, got 0"),
        (lambda: top_k_smoothing_radius(1.5, 0.1, 1.0, 1.0, 1), "p_label_lower must be"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- smoothed h


def exact_quantile(p):
    return mp.sqrt(2) * mp.erfinv(2 * p - 1)


@given(st.floats(0.01, 0.999), st.floats(0.0, 1.0), ALPHAS, st.floats(0.01, 5.0), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_the_smoothed_radius_is_the_larger_of_two_rounded_down(p, share, alpha, sigma, k):
    q = share * (1 - p) / k
    found = float(top_k_smoothing_radius(p, q, alpha, sigma, k))
    with mp.workdps(40):
        needed = 1 / ((k + 1) * mpf(alpha))
        shared = max(mpf(0), mpf(sigma) * (exact_quantile(mpf(p)) - exact_quantile(needed))) if needed < p else mpf(0)
        pair = float(sharp_smoothing_radius(p, q, alpha, sigma))
        assert mpf(found) <= max(shared, pair)
        assert found == pytest.approx(float(max(shared, pair)), rel=1e-9, abs=1e-11 * sigma)


@given(st.floats(0.01, 1.0), st.floats(0.01, 0.99), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_half_spaces_attain_the_radius_where_the_label_s_probability_alone_is_known(alpha, p, k):
    """The label left of the plane; right of it k classes in equal parts, for which g votes as well."""
    alpha = (1 + k * alpha) / (k + 1)  # above 1 / (k + 1)
    needed = 1 / ((k + 1) * alpha)
    p = needed + p * (1 - needed)
    radius = float(top_k_smoothing_radius(p, (1 - p) / k, alpha, SIGMA, k))
    assert radius > 0
    shifts = radius * np.array([0.5, 1 - 1e-6, 1 + 1e-3])
    label = alpha * norm.cdf(norm.ppf(p) - shifts / SIGMA)
    others = (1 - label) / k
    np.testing.assert_array_equal(label > others, [True, True, False])


CUTS = np.array([-np.inf, -0.9, 0.3, 1.4, np.inf])


def on_the_line(x, sigma=0.5):
    """A net on the line that is sure of one class in each of four intervals: its probabilities under noise."""
    return np.diff(norm.cdf((CUTS - np.asarray(x)[..., None]) / sigma))


def of_h(p, q, k, sigma=SIGMA):
    """Certificates of h alone for label 0, from bounds."""
    p, q = np.atleast_1d(p), np.atleast_1d(q)
    radius = top_k_smoothing_radius(p, q, 1.0, sigma, k)
    return Certificates(
        index=np.arange(len(p)), label=np.zeros(len(p), int), prediction=np.where(radius > 0, 0, -1), radius=radius,
        correct=radius > 0, seconds=np.zeros(len(p)), p_top=p, p_runner_up=q, top_k=np.full(len(p), k),
    )  # fmt: skip


@pytest.mark.parametrize("alpha", [0.45, 0.8, 1.0])
@pytest.mark.parametrize("bound", ["theorem4", "theorem5", "sharp"])
def test_no_shift_of_a_smoothed_net_inside_the_radius_lets_any_g_pass(alpha, bound):
    certified = 0
    for label, k, x in product(range(4), (1, 2, 3), (-0.2, 0.6)):
        h = on_the_line(x)
        certificates = of_h(h[label], others_of(h, label)[k - 1], k, sigma=0.5)
        radius = float(mix_certificates(certificates, alpha, 0.5, bound=bound).radius[0])
        moved = on_the_line(x + 0.999 * radius * np.linspace(-1, 1, 41))
        assert radius == 0 or (lead(moved, label, k) >= (1 - alpha) / alpha - 1e-12).all()
        certified += radius > 0
    assert certified >= 2 if alpha > 0.5 or bound == "sharp" else certified == 0


@given(st.floats(0.01, 0.999), st.floats(0.0, 1.0), ALPHAS, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_mix_has_the_theorems_radii_for_the_kth_other_class(p, share, alpha, k):
    q = share * (1 - p) / k
    own = of_h(p, q, k)
    expected = {
        "theorem4": gap_radius(max(p - q, 0.0), alpha, gaussian_lipschitz(SIGMA)),
        "theorem5": smoothing_radius(p, q, alpha, SIGMA),
        "sharp": top_k_smoothing_radius(p, q, alpha, SIGMA, k),
    }
    found = {bound: mix_certificates(own, alpha, SIGMA, bound=bound) for bound in expected}
    for bound, radius in expected.items():
        assert found[bound].radius[0] == radius
        assert (found[bound].prediction[0] == 0) == (radius > 0)
        assert radius <= expected["sharp"] + 1e-12


@pytest.mark.parametrize("bound", ["theorem4", "theorem5", "sharp"])
@given(p=st.floats(0.501, 0.999), share=st.floats(0.0, 1.0), alpha=st.floats(0.501, 1.0))
@settings(max_examples=60, deadline=None)
def test_among_the_first_one_a_mix_has_its_usual_radius(bound, p, share, alpha):
    """With a bound of its own for the runner-up, and with 1 - p."""
    own, rest = of_h(p, share * (1 - p), 1), of_h(p, 1 - p, 1)
    unknown = np.array([np.nan])
    for first, usual in ((own, own), (rest, replace(rest, p_top=unknown, p_runner_up=unknown))):
        found = mix_certificates(first, alpha, SIGMA, bound=bound)
        expected = mix_certificates(usual, alpha, SIGMA, bound=bound)
        np.testing.assert_allclose(found.radius, expected.radius, rtol=1e-9, atol=1e-9)


# ---- votes


class ScriptedCopies:
    """Votes that were thought up, in the place of a net's: counts (G, C) if hard, (G, n, C) if soft."""

    def __init__(self, votes):
        self.given = torch.as_tensor(votes, dtype=torch.float64)

    def all_votes(self, count):
        return self.given

    def votes(self, tops, count):
        if self.given.ndim == 3:
            return self.given[torch.arange(len(tops)), :, tops]
        return (torch.arange(count) < self.given.gather(1, tops[:, None])).double()

    def fetch(self, *tensors):
        return [tensor.double().numpy() for tensor in tensors]


def found(votes, label, k, n, failure, *, runner_up, kind="hard"):
    sampling = Sampling(sigma=SIGMA, n=n, failure_probability=failure, runner_up=runner_up, votes=kind)
    return FixedNumber(sampling, k).certify(ScriptedCopies(votes), torch.full((len(votes),), label))


@pytest.mark.parametrize("runner_up", [False, True])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("p", [(0.5, 0.3, 0.2), (0.4, 0.4, 0.2), (0.34, 0.33, 0.33), (0.9, 0.1, 0.0), (0.2, 0.5, 0.3)])
def test_the_bounds_hold_together_as_often_as_they_say(p, k, runner_up):
    n, failure = 12, 0.1
    counts = np.array([votes for votes in product(range(n + 1), repeat=3) if sum(votes) == n])
    for label in range(3):
        result = found(counts, label, k, n, failure, runner_up=runner_up)
        other = others_of(np.array(p), label)[k - 1]
        wrong = (result.p_top > p[label]) | (result.p_runner_up < other)
        assert multinomial(n, p).pmf(counts)[wrong].sum() <= failure
        true = top_k_smoothing_radius(p[label], other, 1.0, SIGMA, k)
        assert (result.radii[~wrong] <= true + 1e-12).all()
        assert set(result.predictions) <= {label, -1}


def test_the_bounds_of_soft_votes_hold_together_as_often_as_they_say():
    p, n, failure = np.array([0.45, 0.3, 0.15, 0.1]), 60, 0.1
    votes = np.random.default_rng(0).dirichlet(p, size=(400, n))
    for k, runner_up in product((1, 2, 3), (False, True)):
        result = found(votes, 0, k, n, failure, runner_up=runner_up, kind="soft")
        wrong = (result.p_top > p[0]) | (result.p_runner_up < p[k])
        assert wrong.mean() <= failure
        assert (result.radii > 0).any()


def test_the_failure_probability_is_split_between_the_label_and_each_other_class():
    votes = np.array([[700.0, 200.0, 70.0, 30.0], [50.0, 900.0, 40.0, 10.0]])
    alone, split = (found(votes, 0, 2, 1000, 0.01, runner_up=one) for one in (False, True))
    np.testing.assert_allclose(alone.p_top, beta.ppf(0.01, votes[:, 0], 1001 - votes[:, 0]))
    np.testing.assert_allclose(alone.p_runner_up, (1 - alone.p_top) / 2)
    np.testing.assert_allclose(split.p_top, beta.ppf(0.005, votes[:, 0], 1001 - votes[:, 0]))
    np.testing.assert_allclose(split.p_runner_up, beta.ppf(1 - 0.005 / 3, [71, 41], [930, 960]))
    assert split.radii[1] == alone.radii[1] == 0
    assert split.radii[0] > 0


@pytest.mark.parametrize("runner_up", [False, True])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_among_the_first_one_votes_certify_as_usual(runner_up, kind):
    n, generator = 50, np.random.default_rng(1)
    p = generator.dirichlet([1.5, 0.5, 0.5], size=40)
    votes = np.array([generator.multinomial(n, each) for each in p], dtype=float)
    if kind == "soft":
        votes = np.array([generator.dirichlet(8 * each + 0.01, size=n) for each in p])
    usual, first = (found(votes, 0, k, n, 0.05, runner_up=runner_up, kind=kind) for k in (None, 1))
    np.testing.assert_allclose(first.radii, usual.radii, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(first.predictions, usual.predictions)
    assert 0 < (first.radii > 0).sum() < 40


@pytest.mark.parametrize(("kind", "runner_up"), [("hard", False), ("hard", True), ("soft", False), ("soft", True)])
def test_certificates_are_those_of_a_literal_count_without_samples_for_a_choice(kind, runner_up):
    n, failure, k = 150, 0.01, 2
    result = certify(
        Pixels(8.0), IMAGES, LABELS, sigma=PIXELS_SIGMA, n=n, failure_probability=failure, votes=kind,
        runner_up=runner_up, top_k=k,
    )  # fmt: skip
    assert (result.samples == n).all()
    for i, (image, label) in enumerate(zip(IMAGES, LABELS.tolist(), strict=True)):
        classes, soft = literal_votes(Pixels(8.0), image, i, 0, n)
        counts = np.bincount(classes, minlength=3)
        half = failure / 2 if runner_up else failure
        if kind == "hard":
            p = beta.ppf(half, counts[label], n - counts[label] + 1)
            upper = np.where(counts == n, 1.0, beta.ppf(1 - failure / 4, counts + 1, np.maximum(n - counts, 1)))
        else:
            p, upper = betting_lower(soft[:, label], half), betting_upper(soft.T, failure / 4)
        p, q = np.nan_to_num(p), (1 - np.nan_to_num(p)) / k
        if runner_up:
            q = min(q, others_of(upper, label)[k - 1])
        np.testing.assert_allclose([result.p_top[i], result.p_runner_up[i]], [p, q], rtol=1e-6)
        pair, shared = (norm.ppf(p) - norm.ppf(q)) / 2, norm.ppf(p) - norm.ppf(1 / 3)
        expected = PIXELS_SIGMA * max(0.0, pair, shared)
        assert result.radius[i] == pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert result.prediction[i] == (label if expected > 0 else -1)
    assert result.correct.any()


def test_a_log_keeps_the_bounds_and_a_run_goes_on_with_the_same_k(tmp_path):
    arguments = {"sigma": PIXELS_SIGMA, "n": 100, "top_k": 2, "log": tmp_path / "x.tsv", "times": False}
    whole = certify(Pixels(), IMAGES, LABELS, **arguments)
    text = (tmp_path / "x.tsv").read_text()
    (tmp_path / "x.tsv").write_text("".join(text.splitlines(keepends=True)[:3]))
    again = certify(Pixels(), IMAGES, LABELS, **arguments)
    read = read_log(tmp_path / "x.tsv")
    for name in ("radius", "prediction", "p_top", "p_runner_up", "top_k"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(read, name), getattr(whole, name))
    with pytest.raises(ResultsError, match="top_k 2, this run has top_k 1"):
        certify(Pixels(), IMAGES, LABELS, **{**arguments, "top_k": 1})


@pytest.mark.parametrize("settings", [{"top_k": 2}, {"top_k": 2, "runner_up": True}, {"runner_up": True}, {}])
def test_a_mix_has_the_same_radii_from_certificates_that_were_written_and_read(tmp_path, settings):
    own = certify(Pixels(), IMAGES, LABELS, sigma=PIXELS_SIGMA, n=500, **settings)
    own.write(tmp_path / "x.tsv")
    read = read_log(tmp_path / "x.tsv")
    for bound in ("theorem4", "theorem5", "sharp"):
        found, expected = (mix_certificates(each, 0.8, PIXELS_SIGMA, bound=bound) for each in (read, own))
        np.testing.assert_array_equal(found.radius, expected.radius)
        np.testing.assert_array_equal(found.top_k, settings.get("top_k", 1))
    assert (own.radius > 0).any()


def test_radii_of_the_top_k_alone_tell_nothing_of_a_mix():
    own = of_h(0.9, 0.02, 2)
    unknown = np.array([np.nan])
    with pytest.raises(ValueError, match="a radius of the top 2 alone does not tell that of a mix; give certificates"):
        mix_certificates(replace(own, p_top=unknown, p_runner_up=unknown), 0.9, SIGMA)
    two = {name: np.tile(getattr(own, name), 2) for name in ("label", "prediction", "radius", "correct", "seconds")}
    with pytest.raises(ValueError, match="certificates of the top 1 and 2 are no certificates of one mix"):
        mix_certificates(Certificates(**two, index=np.arange(2), top_k=np.array([1, 2])), 0.9, SIGMA)
    with pytest.raises(ValueError, match="a top_k below 1"):
        replace(own, top_k=np.array([0]))


@pytest.mark.parametrize("k", [0, 3, 1.5])
def test_a_k_that_does_not_fit_the_classes_is_refused_before_a_log_is_made(k, tmp_path):
    with pytest.raises(ValueError, match="top_k must be"):
        certify(Pixels(), IMAGES, LABELS, sigma=0.1, n=10, top_k=k, log=tmp_path / "x.tsv")
    assert not list(tmp_path.iterdir())


# ---- mixes


def test_a_mix_with_a_smoothed_h_is_certified_from_h_s_own_votes():
    h = GaussianSmoothed(Pixels(8.0), sigma=0.1, image_shape=(1, 4, 4), num_noises=2)
    mix = MixedClassifier(Pixels(), h, 0.8)
    for bound, runner_up in product(("theorem4", "theorem5", "sharp"), (False, True)):
        settings = {"n": 500, "runner_up": runner_up, "seed": 2}
        found = certify_mix(mix, IMAGES, LABELS, bound=bound, top_k=2, **settings)
        own = certify(h.voter, IMAGES, LABELS, sigma=0.1, votes="soft", top_k=2, **settings)
        expected = mix_certificates(own, 0.8, 0.1, bound=bound)
        np.testing.assert_array_equal(found.radius, expected.radius)
        assert (found.radius > 0).any()
    with pytest.raises(ValueError, match="omit the radius or top_k"):
        certify_mix(mix, IMAGES, LABELS, radius=0.1, top_k=2)


@pytest.fixture(scope="module")
def lipschitz():
    return load_model("Demo2026Lipschitz", dataset="digits", threat_model="L2")


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.mark.parametrize("bound", ["theorem4", "sharp"])
def test_among_the_first_one_a_lipschitz_net_s_mix_has_its_usual_certificates(lipschitz, digits, bound):
    usual = certify_lipschitz(lipschitz, digits.images, digits.labels, bound=bound)
    first = certify_lipschitz(lipschitz, digits.images, digits.labels, bound=bound, top_k=1)
    np.testing.assert_array_equal(first.radius, np.where(usual.correct, usual.radius, 0.0))
    np.testing.assert_array_equal(first.correct, usual.correct)
    np.testing.assert_array_equal(first.prediction, np.where(usual.correct, usual.prediction, -1))
    more = certify_lipschitz(lipschitz, digits.images, digits.labels, bound=bound, top_k=3)
    assert (more.radius >= first.radius).all()
    assert (more.radius > 0).sum() > (first.radius > 0).sum()
    with pytest.raises(ValueError, match="at most 9, one less than the 10 classes, got 10"):
        certify_lipschitz(lipschitz, digits.images, digits.labels, bound=bound, top_k=10)


def pushed_out(model, images, labels, k, radii, steps=40):
    """How many labels gradient steps on the sphere of each radius move out of the top k; images may leave [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    size = torch.as_tensor(radii, dtype=torch.float32).view(-1, 1, 1, 1)
    own = torch.nn.functional.one_hot(labels, 10).bool()
    away, out = torch.randn(images.shape, generator=generator), torch.zeros(len(images), dtype=torch.bool)
    for _ in range(steps):
        away = (away / away.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)).requires_grad_()
        logits = model(images + size * away)
        label = logits[own]
        others = logits.masked_fill(own, -torch.inf).topk(k, dim=1).values
        out |= (others > label[:, None]).all(dim=1)
        (gradient,) = torch.autograd.grad((others.sum(dim=1) - k * label).sum(), away)
        away = away.detach() + 0.5 * gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
    return int(out.sum())


@pytest.mark.parametrize("k", [1, 2])
def test_gradient_steps_move_no_certified_label_out_of_the_top_k_and_do_further_away(lipschitz, digits, k):
    found = certify_lipschitz(lipschitz, digits.images, digits.labels, bound="sharp", top_k=k)
    sure = np.flatnonzero(found.correct)
    images, labels, radii = digits.images[sure], digits.labels[sure], found.radius[sure]
    assert pushed_out(lipschitz, images, labels, k, 0.9999 * radii) == 0
    assert pushed_out(lipschitz, images, labels, k, 3.0 * radii) > 10
