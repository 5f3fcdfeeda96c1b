"""PREDICT against scipy's binomial test, a closed form, and nets whose smoothed class is known."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import binom, binomtest, norm
from test_certify import CPU, HalfSpace, Pixels
from test_runner_up import ScriptedCopies

from adaptive_smoothing_zoo.certification import predict_smoothed, read_log
from adaptive_smoothing_zoo.certification.predicting import predict_examples, predicting, tie_probability
from adaptive_smoothing_zoo.certification.sampling import Noise, Sampling
from adaptive_smoothing_zoo.cli import asz

IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("a", "b"), [(1, 0), (5, 5), (60, 40), (0, 0), (3, 90), (1000, 800), (7, 0)])
def test_the_p_value_is_scipys_and_for_two_classes_a_closed_form(a, b):
    found = tie_probability(a, b)
    if a + b:
        assert found == pytest.approx(binomtest(a, a + b, 0.5).pvalue, rel=1e-9)
    if b == 0:
        assert found == pytest.approx(min(1.0, 2.0 * 0.5**a))


def test_a_class_is_returned_where_its_votes_are_clear():
    rule = predicting(Sampling(sigma=0.1, n=100, failure_probability=0.01))
    counts = np.array([[60.0, 38.0, 2.0], [63.0, 37.0, 0.0], [36.0, 0.0, 64.0], [50.0, 50.0, 0.0], [99.0, 1.0, 0.0]])
    found = rule.certify(ScriptedCopies(counts), torch.zeros(5))
    expected = [
        -1 if binomtest(int(c.max()), int(np.sort(c)[-2:].sum()), 0.5).pvalue > 0.01 else c.argmax() for c in counts
    ]
    assert found.predictions.tolist() == expected
    assert -1 in expected
    assert 2 in expected
    assert not found.radii.any()


def test_predictions_are_those_of_a_literal_count():
    n, sigma = 60, 0.3
    found = predict_smoothed(Pixels(), IMAGES, sigma=sigma, n=n, failure_probability=0.05, seed=3)
    for i, image in enumerate(IMAGES):
        copies = torch.empty(1 + n, *image.shape)
        Noise(3, i, image.shape, CPU).add_to(image, sigma, copies)
        counts = torch.bincount(Pixels()(copies[1:]).argmax(1), minlength=3).sort()
        first, second = int(counts.values[-1]), int(counts.values[-2])
        clear = binomtest(first, first + second, 0.5).pvalue <= 0.05
        assert found[i] == (counts.indices[-1] if clear else -1)
    assert len({*found.tolist()}) > 1


def test_a_wrong_class_is_returned_as_rarely_as_it_says():
    """Exactly: a class of probability below one half wins a clear majority with at most half of the failure."""
    n, failure = 80, 0.05
    counts = np.arange(n + 1)
    clear = tie_probability(counts, n - counts) <= failure
    for p in (0.5, 0.45, 0.3):
        assert binom.pmf(counts, n, p)[clear & (counts > n / 2)].sum() <= failure / 2 + 1e-12


def test_near_the_boundary_of_a_half_space_it_abstains_and_far_from_it_it_does_not():
    images = torch.full((2, 1, 2, 2), 0.5)
    images[1, 0, 0, 0] = 0.5 + 0.1 * float(norm.ppf(0.7))
    found = predict_examples(HalfSpace(), images, torch.tensor([0, 0]), sigma=0.1, n=2000, seed=1)
    assert found.prediction.tolist() == [-1, 0]
    assert found.correct.tolist() == [False, True]


def test_soft_votes_are_refused():
    with pytest.raises(ValueError, match="PREDICT counts hard votes"):
        predict_smoothed(Pixels(), IMAGES, sigma=0.1, votes="soft")


def test_the_command_writes_a_log_and_goes_on(tmp_path):
    command = "predict Demo2026Constant --dataset digits --part rob_model --sigma 0.2 --n-samples 50 --n 5"
    arguments = [*command.split(), "--device", "cpu", "--no-times", "--out", str(tmp_path)]
    result = CliRunner().invoke(asz, arguments, catch_exceptions=False)
    (log,) = tmp_path.rglob("*-predicted.tsv")
    found, text = read_log(log), log.read_text()
    assert len(found) == 5
    assert not found.radius.any()
    assert f"correct {100 * found.correct.mean():.2f} %" in result.output
    log.write_text("".join(text.splitlines(keepends=True)[:3]))
    CliRunner().invoke(asz, arguments, catch_exceptions=False)
    assert log.read_text() == text
    refused = CliRunner().invoke(asz, ["predict", "Demo2026Smoothed", "--dataset", "digits", "--n", "2"])
    assert "not about a mix with one" in str(refused.exception)
