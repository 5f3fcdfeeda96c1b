"""Adaptive sampling: its error probability in exact arithmetic, by simulation, and through the whole pipeline."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import binom, norm
from torch import nn

from adaptive_smoothing_zoo.certification.at_radius import AtRadius, Question, certify_at_radius
from adaptive_smoothing_zoo.certification.bounds import vote_needed
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.confidence import STAKES, BettingTest, clopper_pearson_lower
from adaptive_smoothing_zoo.certification.logs import read_log
from adaptive_smoothing_zoo.certification.sampling import Sampling
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.method.alpha import ConstantAlpha

SIGMA = 0.3


class HalfSpace(nn.Module):
    """Two classes on the two sides of one pixel's value 1/2: the smoothed net's exact radius is the distance."""

    def forward(self, images):
        pixel = images.flatten(1)[:, 0]
        return torch.stack([pixel, 1.0 - pixel], dim=1)


class Ramp(nn.Module):
    """Probabilities that rise with the pixel: soft votes of every size."""

    def forward(self, images):
        pixel = images.flatten(1)[:, 0]
        return torch.stack([6 * pixel, 6 * (1.0 - pixel)], dim=1)


def at(distances):
    """Images at these distances from the half-space's boundary, and their label."""
    pixels = 0.5 + torch.tensor(distances, dtype=torch.float32)
    return pixels[:, None, None, None], torch.zeros(len(pixels), dtype=torch.int64)


def rule(needed=0.8, n=300, failure=0.05, miss=0.05, votes="hard"):
    return AtRadius(Sampling(sigma=1.0, n=n, failure_probability=failure, votes=votes), 1.0, needed, miss)


# ---- the test by betting


def log_capital(mean, t):
    """The capital after t votes, for every number of votes for the class, (t + 1,)."""
    k = np.arange(t + 1)[:, None]
    gains = k * np.log1p(STAKES * (1 - mean) / mean) + (t - k) * np.log1p(-STAKES)
    return logsumexp(gains, axis=1) - np.log(len(STAKES))


@pytest.mark.parametrize("mean", [0.1, 0.5, 0.84, 0.999])
@pytest.mark.parametrize("t", [1, 7, 200])
def test_the_expected_capital_is_1_at_the_mean_and_less_below(mean, t):
    def expected(p):
        return np.exp(logsumexp(log_capital(mean, t) + binom.logpmf(np.arange(t + 1), t, p)))

    assert expected(mean) == pytest.approx(1.0, rel=1e-9)
    assert expected(0.9 * mean) < 1.0
    assert expected(mean + 0.5 * (1 - mean)) > 1.0


def crossing_probability(mean, failure, n, p):
    """Probability that the capital reaches 1 / failure within n votes of probability p, by adding up all paths."""
    alive, crossed = np.ones(1), 0.0
    for t in range(1, n + 1):
        step = np.zeros(t + 1)
        step[1:] += alive * p
        step[:-1] += alive * (1 - p)
        over = log_capital(mean, t) >= -np.log(failure) + 1e-8
        crossed += step[over].sum()
        alive = np.where(over, 0.0, step)
    return crossed, alive


@pytest.mark.parametrize("mean", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("failure", [0.2, 0.01])
def test_ever_crossing_has_at_most_the_failure_probability_exactly(mean, failure):
    at_the_mean, _ = crossing_probability(mean, failure, 400, mean)
    assert 0.05 * failure < at_the_mean <= failure
    assert crossing_probability(mean, failure, 400, mean - 0.05)[0] < at_the_mean
    assert crossing_probability(mean, failure, 400, mean + 0.08)[0] > 2 * failure


@pytest.mark.parametrize("mean", [0.3, 0.9])
def test_the_tests_answer_is_that_of_the_capital(mean):
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(40):
        votes = (rng.random(200) < mean + 0.07).astype(float)
        test = BettingTest(mean, 0.02)
        for part in np.split(votes, [1, 1, 50, 133]):  # as it comes: also nothing
            test.observe(part)
        counts = votes.cumsum().astype(int)
        capital = max(log_capital(mean, t)[counts[t - 1]] for t in range(1, 201))
        assert test.exceeded == (capital >= -np.log(0.02))
        answers.append(test.exceeded)
    assert 5 < sum(answers) < 40


@pytest.mark.parametrize("draw", ["uniform", "two far points", "nearly sure"])
def test_votes_of_any_distribution_cross_rarely(draw):
    rng, failure, runs = np.random.default_rng(1), 0.1, 1500
    values, chances = {
        "uniform": (np.linspace(0, 1, 101), np.full(101, 1 / 101)),
        "two far points": (np.array([0.0, 1.0]), np.array([0.05, 0.95])),
        "nearly sure": (np.array([0.5, 0.9, 0.91]), np.array([0.01, 0.49, 0.5])),
    }[draw]
    mean = float(values @ chances)
    crossed = sum(BettingTest(mean, failure).observe(rng.choice(values, 300, p=chances)) for _ in range(runs))
    assert crossed <= binom.isf(1e-6, runs, failure)
    higher = values + (1 - values) * 0.3
    assert sum(BettingTest(mean, failure).observe(rng.choice(higher, 3000, p=chances)) for _ in range(20)) >= 15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BettingTest(0.0, 0.1), "mean to exceed"),
        (lambda: BettingTest(1.0, 0.1), "mean to exceed"),
        (lambda: BettingTest(0.5, 1.0), "failure probability"),
        (lambda: BettingTest(0.5, 0.1).observe([0.5, 1.5]), "samples must be"),
    ],
)
def test_what_cannot_be_bet_on_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the question: both ways to a certificate together


@pytest.mark.parametrize("needed", [0.6, 0.85, 0.97])
@pytest.mark.parametrize("failure", [0.2, 0.02])
def test_a_false_certificate_has_at_most_the_failure_probability_exactly(needed, failure):
    """All paths of votes with p just as needed, none given up: those that cross, and those that pass at the end."""
    n = 300
    crossed, alive = crossing_probability(needed, failure / 2, n, needed)
    passes = clopper_pearson_lower(np.arange(n + 1), n, failure / 2) >= needed
    false = crossed + alive[passes].sum()
    assert crossed <= failure / 2
    assert 0.1 * failure < false <= failure


@pytest.mark.parametrize("votes", ["hard", "soft"])
def test_a_question_is_answered_falsely_as_rarely_as_it_says(votes):
    failure, runs, needed = 0.1, 800, 0.8
    rng, false = np.random.default_rng(2), 0
    for _ in range(runs):
        question = Question(rule(needed, failure=failure, votes=votes))
        while question.answer is None:
            size = question.next_look()
            drawn = rng.random(size) < needed if votes == "hard" else rng.beta(4.0, 1.0, size)  # both of mean 0.8
            question.observe(drawn.astype(float))
        false += question.answer
    assert false <= binom.isf(1e-6, runs, failure)
    assert false > 0


def test_clear_votes_are_answered_early_and_close_ones_at_the_end():
    rng = np.random.default_rng(3)
    seen = {}
    for p in (0.2, 0.78, 0.808, 0.84, 0.99):  # 0.809 is what 20,000 votes would have to show
        question = Question(rule(0.8, n=20_000, failure=0.001, miss=0.001))
        while question.answer is None:
            question.observe((rng.random(question.next_look()) < p).astype(float))
        seen[p] = question.seen
        if p != 0.808:
            assert question.answer == (p > 0.8)
    assert seen[0.2] == seen[0.99] == 128
    assert 500 < seen[0.78] < seen[0.808]
    assert 500 < seen[0.84] < seen[0.808]
    assert seen[0.808] == 20_000


def test_an_image_is_given_up_where_all_samples_would_hardly_pass():
    n = 500
    hard = rule(0.8, n=n, failure=0.02)
    passing = round(hard.hopeless * n)
    assert hard.hopeless > 0.8
    assert clopper_pearson_lower(passing, n, 0.01) >= 0.8 > clopper_pearson_lower(passing - 1, n, 0.01)
    assert rule(0.8, n=n, votes="soft").hopeless == 0.8
    assert rule(0.999, n=10).hopeless == 0.999  # nothing passes

    # With p as large as that, hardly anybody is given up: 10 % may be, and then half would have passed.
    rng, given_up, runs = np.random.default_rng(5), 0, 400
    for _ in range(runs):
        question = Question(rule(0.8, n=n, failure=0.02, miss=0.1))
        while question.answer is None:
            question.observe((rng.random(question.next_look()) < hard.hopeless).astype(float))
        given_up += question.answer is False and question.seen < n
    assert given_up <= binom.isf(1e-6, runs, 0.1)


def test_looks_are_whole_blocks_until_the_last():
    question, looks = Question(rule(0.7, n=3000, votes="soft")), []
    while question.answer is None:
        looks.append(question.next_look())
        question.observe(np.full(looks[-1], 0.7))  # tells nothing
    assert sum(looks) == 3000
    assert looks[:8] == [128] * 8
    assert looks[8] == 256
    assert all(look % 128 == 0 for look in looks[:-1])


# ---- the whole


def test_certified_images_have_the_radius_and_others_are_not_far_from_it():
    distances = np.linspace(-0.45, 0.5, 57)
    images, labels = at(distances)
    found = certify_at_radius(HalfSpace(), images, labels, radius=0.3, sigma=SIGMA, n=5000)
    certified = found.radius > 0
    exact = np.abs(distances)
    assert (found.radius[certified] == 0.3).all()
    assert (exact[certified] > 0.3).all()
    assert (exact[~certified] < 0.34).all()
    np.testing.assert_array_equal(found.prediction[certified], (distances < 0)[certified])
    fixed = certify(HalfSpace(), images, labels, sigma=SIGMA, n=5000)
    np.testing.assert_array_equal(found.certified_accuracy(0.3), fixed.certified_accuracy(0.3))
    assert found.samples.mean() < fixed.samples.mean() / 4
    assert found.samples.min() == 228  # 100 to choose, one block


def test_false_certificates_by_simulation():
    """Half-spaces at just below the radius, asked often, with noise of their own each time."""
    runs, failure = 300, 0.2
    images, labels = at(np.full(runs, 0.2))
    settings = {"sigma": SIGMA, "failure_probability": failure, "n0": 20, "n": 256, "seed": 3}
    false = certify_at_radius(HalfSpace(), images, labels, radius=0.2001, **settings)
    assert 0 < (false.radius > 0).sum() <= binom.isf(1e-6, runs, failure)
    true = certify_at_radius(HalfSpace(), images, labels, radius=0.05, **settings)
    assert (true.radius > 0).mean() > 0.9


@pytest.mark.parametrize("votes", ["hard", "soft"])
@pytest.mark.parametrize("bound", ["theorem4", "theorem5", "sharp"])
def test_a_mix_is_certified_where_its_h_has_the_vote_needed(votes, bound):
    distances = np.linspace(0.0, 0.5, 40)
    images, labels = at(distances)
    alpha, radius = 0.8, 0.1
    model = HalfSpace() if votes == "hard" else Ramp()
    found = certify_at_radius(
        model, images, labels, radius=radius, sigma=SIGMA, alpha=ConstantAlpha(alpha), bound=bound, votes=votes, n=4000
    )
    needed = float(vote_needed(radius, alpha, SIGMA, bound=bound))
    if votes == "hard":
        exact = norm.cdf(distances / SIGMA)
    else:
        noise = SIGMA * norm.ppf((np.arange(4000) + 0.5) / 4000)
        exact = (1 / (1 + np.exp(-12 * (distances[:, None] + noise)))).mean(axis=1)
    assert (exact[found.radius > 0] >= needed).all()
    assert (exact[found.radius == 0] < needed + 0.05).all()
    assert 5 < (found.radius > 0).sum() < 40


def test_batches_and_interruptions_change_nothing(tmp_path):
    images, labels = at(np.linspace(0.1, 0.5, 9))
    settings = {"radius": 0.25, "sigma": SIGMA, "n": 700, "times": False}
    paths = [tmp_path / f"{i}.tsv" for i in range(3)]
    whole = certify_at_radius(HalfSpace(), images, labels, log=paths[0], **settings)
    certify_at_radius(HalfSpace(), images, labels, log=paths[1], batch_size=500, **settings)
    assert paths[1].read_bytes() == paths[0].read_bytes()
    read = read_log(paths[0])
    np.testing.assert_array_equal(read.samples, whole.samples)
    np.testing.assert_array_equal(read.radius, whole.radius)
    assert len(set(whole.samples.tolist())) > 2

    certify_at_radius(HalfSpace(), images, labels, log=paths[2], batch_size=500, **settings)
    lines = paths[2].read_text().splitlines(keepends=True)
    paths[2].write_text("".join(lines[:3]) + "2\t0\t")
    resumed = certify_at_radius(HalfSpace(), images, labels, log=paths[2], batch_size=500, **settings)
    assert paths[2].read_bytes() == paths[0].read_bytes()
    np.testing.assert_array_equal(resumed.samples, whole.samples)
    with pytest.raises(ResultsError, match="vote_needed"):
        certify_at_radius(HalfSpace(), images, labels, log=paths[0], alpha=0.9, **settings)


def test_the_expected_number_of_samples_is_never_passed_and_reached_at_the_end():
    images, labels = at(np.linspace(0.1, 0.5, 9))
    seen = []
    found = certify_at_radius(
        HalfSpace(), images, labels, radius=0.25, sigma=SIGMA, n=7000.0, batch_size=200, on_progress=seen.append
    )
    assert all(progress.samples <= progress.samples_total <= 9 * 7100 for progress in seen)
    assert seen[-1].samples == seen[-1].samples_total == found.samples.sum() < 9 * 7100 / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 10.5}, "n must be a whole number, got 10.5"),
        ({"radius": -0.1}, "radii must be"),
        ({"radius": 3.0}, "no vote, however clear, certifies the radius 3"),
        ({"alpha": 0.5}, "no vote"),
        ({"bound": "theorem6"}, "the bound must be"),
        ({"n": 0}, "n must be at least 1"),
        ({"failure_probability": 1.0}, "failure probability"),
        ({"miss_probability": 0.0}, "miss probability"),
        ({"sigma": 0.0}, "sigma must be"),
    ],
)
def test_questions_that_make_no_sense_are_refused(change, message):
    images, labels = at([0.2])
    with pytest.raises(ValueError, match=message):
        certify_at_radius(HalfSpace(), images, labels, **{"radius": 0.2, "sigma": SIGMA, "alpha": 0.9, **change})
