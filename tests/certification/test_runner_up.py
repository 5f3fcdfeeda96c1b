"""Certificates with a bound of its own for the runner-up: exact coverage, closed forms, and never less than 1 - p."""

from itertools import product
from math import comb

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import beta, multinomial, norm
from test_certify import Pixels

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.certification import certify, certify_at_radius, certify_mix, mix_certificates, read_log
from adaptive_smoothing_zoo.certification.bounds.sharp import sharp_smoothing_radius
from adaptive_smoothing_zoo.certification.bounds.theorem4 import gaussian_lipschitz
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.certify import FixedNumber
from adaptive_smoothing_zoo.certification.confidence import (
    betting_lower,
    betting_upper,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from adaptive_smoothing_zoo.certification.logs import Certificates
from adaptive_smoothing_zoo.certification.sampling import Sampling
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.data import load_data

SIGMA = 0.3
IMAGES = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 2, 0, 1])


class ScriptedCopies:
    """Votes that were thought up, in the place of a net's."""

    def __init__(self, votes):
        self.given = torch.as_tensor(votes, dtype=torch.float64)

    def all_votes(self, count):
        return self.given

    def fetch(self, *tensors):
        return [tensor.double().numpy() for tensor in tensors]


def found(votes, tops, n, failure, kind="hard"):
    rule = FixedNumber(Sampling(sigma=SIGMA, n=n, failure_probability=failure, runner_up=True, votes=kind))
    return rule.certify(ScriptedCopies(votes), torch.as_tensor(tops))


@pytest.mark.parametrize("failure", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_the_upper_bound_inverts_the_exact_test(n, failure):
    counts = np.arange(n + 1)
    upper = clopper_pearson_upper(counts, n, failure)
    expected = np.where(counts == n, 1.0, beta.ppf(1 - failure, counts + 1, np.maximum(n - counts, 1)))
    np.testing.assert_allclose(upper, expected, rtol=1e-10)
    p = 0.37  # covered with at least 1 - failure
    missed = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in counts if upper[k] < p)
    assert missed <= failure


def test_the_bound_of_soft_votes_is_the_lower_one_of_what_they_lack():
    x = np.random.default_rng(0).beta(1, 5, size=(3, 200))
    upper = betting_upper(x, 0.01)
    np.testing.assert_allclose(upper, 1 - betting_lower(1 - x, 0.01), atol=1e-12)
    assert (upper > x.mean(axis=1)).all()
    assert (betting_upper(np.zeros(2000), 0.01) < 0.01).all()


@pytest.mark.parametrize("p", [(0.5, 0.3, 0.2), (0.4, 0.4, 0.2), (0.34, 0.33, 0.33), (0.9, 0.1, 0.0), (0.2, 0.5, 0.3)])
def test_both_bounds_hold_together_as_often_as_they_say_whatever_was_chosen(p):
    n, failure = 12, 0.1
    counts = np.array([votes for votes in product(range(n + 1), repeat=3) if sum(votes) == n])
    for top in range(3):
        result = found(counts, np.full(len(counts), top), n, failure)
        wrong = (result.p_top > p[top]) | (result.p_runner_up < max(np.delete(p, top)))
        assert multinomial(n, p).pmf(counts)[wrong].sum() <= failure
        true = smoothing_radius(p[top], max(np.delete(p, top)), 1.0, SIGMA)
        assert (result.radii[~wrong] <= true + 1e-12).all()


def test_bounds_are_clopper_pearsons_with_the_failure_probability_split():
    result = found([[70.0, 20.0, 10.0], [40.0, 30.0, 30.0]], [0, 0], 100, 0.01)
    lower = clopper_pearson_lower([70, 40], 100, 0.005)
    upper = clopper_pearson_upper([20, 30], 100, 0.0025)
    np.testing.assert_array_equal(result.p_top, lower)
    np.testing.assert_allclose(result.p_runner_up, np.minimum(upper, 1 - lower), rtol=1e-12)
    np.testing.assert_allclose(
        result.radii, np.maximum(SIGMA / 2 * (norm.ppf(lower) - norm.ppf(result.p_runner_up)), 0), rtol=1e-9
    )
    assert result.predictions.tolist() == [0, -1]


def test_what_has_no_majority_can_be_certified():
    result = found([[4500.0, *[550.0] * 10]], [0], 10_000, 0.001)
    assert result.predictions.tolist() == [0]
    assert result.radii[0] > 0.8 * SIGMA / 2 * (norm.ppf(0.45) - norm.ppf(0.055))


@pytest.mark.parametrize("votes", ["hard", "soft"])
def test_certificates_are_those_of_a_literal_count(votes):
    arguments = {"sigma": SIGMA, "n0": 20, "n": 300, "votes": votes}
    both = certify(Pixels(), IMAGES, LABELS, runner_up=True, **arguments)
    alone = certify(Pixels(), IMAGES, LABELS, **arguments)
    assert np.isnan(alone.p_top).all()
    assert ((both.p_top + both.p_runner_up) <= 1 + 1e-12).all()
    # Same noise: the lower bound has half of the failure probability, and is smaller for that.
    sure = alone.radius > 0
    assert (both.p_top[sure] < norm.cdf(alone.radius[sure] / SIGMA)).all()
    assert (both.prediction[sure] == alone.prediction[sure]).all()


def test_a_log_keeps_both_bounds_and_a_run_goes_on(tmp_path):
    arguments = {"sigma": SIGMA, "n0": 20, "n": 100, "runner_up": True, "log": tmp_path / "x.tsv", "times": False}
    whole = certify(Pixels(), IMAGES, LABELS, **arguments)
    text = (tmp_path / "x.tsv").read_text()
    (tmp_path / "x.tsv").write_text("".join(text.splitlines(keepends=True)[:3]))
    again = certify(Pixels(), IMAGES, LABELS, **arguments)
    read = read_log(tmp_path / "x.tsv")
    for name in ("radius", "p_top", "p_runner_up"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(read, name), getattr(whole, name))
    with pytest.raises(Exception, match="runner_up"):
        certify(Pixels(), IMAGES, LABELS, **{**arguments, "runner_up": False})


def of_h(p, q):
    radius = smoothing_radius(p, q, 1.0, SIGMA)
    return Certificates(
        index=[0], label=[0], prediction=np.where(radius > 0, [0], [-1]), radius=radius, correct=radius > 0,
        seconds=[0.0], p_top=p, p_runner_up=q,
    )  # fmt: skip


@given(st.floats(0.01, 0.999), st.floats(0.0, 1.0), st.floats(0.501, 1.0))
@example(0.5, 1e-91, 1.0)
@settings(max_examples=60, deadline=None)
def test_with_exact_probabilities_a_mix_has_the_theorems_radius_and_never_less_than_with_the_rest(p, share, alpha):
    top, runner_up = np.array([p]), np.array([share * (1 - p)])
    forms = {
        "theorem5": SIGMA / 2 * (norm.ppf(alpha * top) - norm.ppf(1 - alpha + alpha * runner_up)),
        "theorem4": (top - runner_up - (1 - alpha) / alpha) / (2 * gaussian_lipschitz(SIGMA)),
        "sharp": sharp_smoothing_radius(top, runner_up, alpha, SIGMA),
    }
    rest = of_h(top, np.nextafter(1 - top, 1))
    for bound, form in forms.items():
        radius = mix_certificates(of_h(top, runner_up), alpha, SIGMA, bound=bound).radius
        expected = np.where(top > runner_up, np.maximum(form, 0.0), 0.0)
        np.testing.assert_allclose(radius, expected, rtol=1e-7, atol=1e-9)
        assert (radius <= expected * (1 + 1e-12)).all()
        assert (radius >= mix_certificates(rest, alpha, SIGMA, bound=bound).radius - 1e-12).all()


def test_a_mix_and_the_command_use_both_bounds_and_say_so(tmp_path):
    model, digits = load_model("Demo2026Smoothed", dataset="digits", threat_model="L2"), load_data("digits").first(4)
    mixed = certify_mix(model, digits.images, digits.labels, n=200, runner_up=True)
    assert np.isfinite(mixed.p_runner_up).all()
    command = "certify Demo2026Smoothed --dataset digits --runner-up --n 200 --n-examples 4 --device cpu --no-times"
    result = CliRunner().invoke(asz, [*command.split(), "--out", str(tmp_path)], catch_exceptions=False)
    assert "with a bound of its own for the runner-up" in result.output
    (record,) = tmp_path.rglob("*.certified-runner-up.json")
    assert '"runner_up": true' in record.read_text()
    (log,) = tmp_path.rglob("*.certified-theorem5-runner-up.tsv")
    np.testing.assert_array_equal(read_log(log).radius, mixed.radius)


def test_a_single_radius_takes_the_rest():
    with pytest.raises(ValueError, match="runner_up is True or False, got 'yes'"):
        certify(Pixels(), IMAGES, LABELS, sigma=SIGMA, runner_up="yes")
    with pytest.raises(ValueError, match="leave the radius or runner_up away"):
        certify_at_radius(Pixels(), IMAGES, LABELS, radius=0.1, sigma=SIGMA, runner_up=True)
