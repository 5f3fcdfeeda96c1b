"""CERTIFY against nets whose smoothed radius is known, against a literal count, and through interruptions."""

import math
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.confidence import betting_lower
from adaptive_smoothing_zoo.certification.journal import read_settings, settings_path
from adaptive_smoothing_zoo.certification.logs import read_log
from adaptive_smoothing_zoo.certification.sampling import Noise, Sampling
from adaptive_smoothing_zoo.errors import EvaluationError, ResultsError
from adaptive_smoothing_zoo.machine.precision import float32_precision, tf32_allowed
from adaptive_smoothing_zoo.storage.bound_state import locked

SIGMA = 0.3
CPU = torch.device("cpu")
IMAGES = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


class Pixels(nn.Module):
    """Logits are three pixels: no arithmetic, so no batch shape changes a bit. The label is the brightest."""

    nap = 0.0  # seconds; how long a call takes is nothing to know a model by

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        time.sleep(self.nap)
        return images.flatten(1)[:, :3] * self.scale


class HalfSpace(nn.Module):
    """Two classes on the two sides of one pixel's value 1/2: the smoothed net's exact radius is the distance."""

    def forward(self, images):
        pixel = images.flatten(1)[:, 0]
        return torch.stack([pixel, 1.0 - pixel], dim=1)


class Sure(nn.Module):
    """Probabilities 0.9 and 0.1 everywhere."""

    def forward(self, images):
        return torch.tensor([[0.9, 0.1]]).log().expand(len(images), 2)


def equal(a, b):
    for name in ("index", "label", "prediction", "radius", "correct"):  # all but the time
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


# ---- what is certified


def test_the_radius_of_a_half_space_is_just_below_its_distance():
    images = torch.linspace(0, 1, 41)[:, None, None, None].expand(-1, 1, 1, 1).contiguous()
    distance = (images.flatten() - 0.5).abs().double().numpy()
    result = certify(HalfSpace(), images, torch.zeros(41, dtype=torch.int64), sigma=SIGMA, n0=5000, n=20_000)
    certain = ~result.abstained
    assert (result.radius <= distance)[certain].all()  # 41 chances of one in a thousand, with a fixed seed
    np.testing.assert_allclose(result.radius[certain], distance[certain], atol=0.03)
    assert (distance[result.abstained] < 0.02).all()
    np.testing.assert_array_equal(result.prediction[certain], (images.flatten().numpy() < 0.5)[certain])


def literal_votes(model, image, index, n0, n, seed=0):
    """Predictions and probabilities of one noisy copy after the other, from the same stream of noise."""
    noise = Noise(seed, index, image.shape, CPU)
    copies = torch.empty(n0 + n, *image.shape)
    for copy in copies.split(1):
        noise.add_to(image, SIGMA, copy)
    logits = torch.cat([model(copy[None]) for copy in copies])
    return logits.argmax(1).numpy(), logits.softmax(1).numpy()


@pytest.mark.parametrize("votes", ["hard", "soft"])
@pytest.mark.parametrize("n", [40, 300])
def test_certificates_are_those_of_a_literal_count(votes, n):
    model, n0, failure = Pixels(scale=8.0), 30, 0.01
    result = certify(model, IMAGES, LABELS, sigma=SIGMA, n0=n0, n=n, failure_probability=failure, votes=votes)
    for i, image in enumerate(IMAGES):
        labels, probabilities = literal_votes(model, image, i, n0, n)
        if votes == "hard":
            top = int(np.bincount(labels[:n0], minlength=3).argmax())
            k = int((labels[n0:] == top).sum())
            p = beta.ppf(failure, k, n - k + 1)
        else:
            top = int(probabilities[:n0].sum(0).argmax())
            p = float(betting_lower(probabilities[n0:, top], failure))
        expected = (top, SIGMA * norm.ppf(p)) if p > 0.5 else (-1, 0.0)
        assert result.prediction[i] == expected[0]
        assert result.radius[i] == pytest.approx(expected[1], rel=1e-6, abs=1e-9)
    assert result.abstained.any() or n == 300
    assert (~result.abstained).any() or n == 40


def test_unanimous_votes_reach_the_published_cap():
    image = torch.tensor([0.0, 1.0])[:, None, None, None]
    result = certify(HalfSpace(), image, torch.tensor([1, 0]), sigma=0.01, n=10_000)
    np.testing.assert_allclose(result.radius, 0.01 * norm.ppf(0.001 ** (1 / 10_000)), rtol=1e-9)
    assert result.correct.all()


def test_soft_votes_are_bounded_by_betting():
    result = certify(Sure(), IMAGES, LABELS % 2, sigma=SIGMA, n=500, votes="soft")
    p = betting_lower(np.full(500, np.float32(0.9), dtype=np.float64), 0.001)
    np.testing.assert_allclose(result.radius, SIGMA * norm.ppf(p), rtol=1e-5)
    assert 0.8 < p < 0.9


# ---- what does not matter


@pytest.mark.parametrize("votes", ["hard", "soft"])
def test_batches_neighbours_and_order_change_nothing(votes):
    settings = {"sigma": SIGMA, "n0": 20, "n": 150, "votes": votes, "seed": 5}
    whole = certify(Pixels(4.0), IMAGES, LABELS, **settings)
    for batch_size in (1, 64, 128, 170, 1000):
        equal(certify(Pixels(4.0), IMAGES, LABELS, batch_size=batch_size, **settings), whole)
    back = certify(Pixels(4.0), IMAGES.flip(0), LABELS.flip(0), indices=range(6, -1, -1), **settings)
    np.testing.assert_array_equal(back.radius[::-1], whole.radius)
    part = certify(Pixels(4.0), IMAGES[[2, 5]], LABELS[[2, 5]], indices=[2, 5], **settings)
    np.testing.assert_array_equal(part.radius, whole.radius[[2, 5]])
    np.testing.assert_array_equal(part.index, [2, 5])
    other = certify(Pixels(4.0), IMAGES, LABELS, **{**settings, "seed": 6})
    assert (other.radius != whole.radius).any()


def test_noise_is_standard_normal_and_different_for_each_example():
    draws = {}
    for index in (0, 1):
        noise = Noise(0, index, (1, 4, 4), CPU)
        out = torch.empty(2000, 1, 4, 4)
        noise.add_to(torch.full((1, 4, 4), 0.5), 2.0, out)
        draws[index] = ((out - 0.5) / 2.0).flatten().double().numpy()
        size = len(draws[index])
        assert abs(draws[index].mean()) < 5 / np.sqrt(size)
        assert abs(draws[index].var() - 1) < 5 * np.sqrt(2 / size)
        assert abs(norm.cdf(draws[index]).mean() - 0.5) < 5 * np.sqrt(1 / 12 / size)
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 5 / np.sqrt(size)
    assert len(np.unique(draws[0])) > 0.99 * size


def test_the_model_and_the_global_generator_are_left_as_they_were():
    model = nn.Sequential(Pixels(), nn.Dropout(0.9)).train()
    model[0].eval()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = certify(model, IMAGES, LABELS, sigma=SIGMA, n=100)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert not model[0].training
    assert model[1].training
    equal(certify(model, IMAGES, LABELS, sigma=SIGMA, n=100), first)  # without dropout


def test_folding_changes_no_vote():
    model = build("small_cnn").eval()
    with torch.no_grad():
        model.head.weight *= 30
        for _ in range(2):
            model.train()(torch.rand(64, 1, 8, 8))
    images = torch.rand(3, 1, 8, 8)
    runs = [
        certify(model, images, torch.zeros(3, dtype=torch.int64), sigma=0.5, n=200, fold=fold) for fold in (True, False)
    ]
    equal(*runs)
    assert (runs[0].radius > 0).any()


def test_bfloat16_certifies_nearly_the_same_and_computes_in_it():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[1].weight *= 20
    seen = []
    model[1].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    runs = [certify(model, IMAGES, LABELS, sigma=0.1, n=2000, dtype=t) for t in (torch.float32, torch.bfloat16)]
    assert set(seen) == {torch.float32, torch.bfloat16}
    np.testing.assert_allclose(runs[0].radius, runs[1].radius, atol=0.01)
    assert (runs[0].radius > 0.05).any()


def test_progress_reaches_the_end():
    seen = []
    certify(Pixels(), IMAGES, LABELS, sigma=SIGMA, n0=10, n=100, batch_size=50, on_progress=seen.append)
    assert (seen[-1].done, seen[-1].total) == (7, 7)
    assert seen[-1].samples == seen[-1].samples_total == 7 * 110
    assert all(a.samples <= b.samples and a.done <= b.done for a, b in pairwise(seen))
    assert max(b.samples - a.samples for a, b in pairwise(seen)) == 50


@pytest.mark.parametrize("votes", ["hard", "soft"])
def test_counts_may_be_written_as_floats_without_a_fraction(tmp_path, votes):
    whole = {"n0": 20, "n": 100, "seed": 3, "batch_size": 50}
    floats = {name: float(value) for name, value in whole.items()}
    runs = [
        certify(Pixels(), IMAGES, LABELS, sigma=SIGMA, votes=votes, log=tmp_path / "log.tsv", **counts)
        for counts in (whole, floats)  # the second goes on with the log of the first: the settings are the same
    ]
    equal(*runs)


@pytest.mark.parametrize("name", ["n0", "n", "seed", "batch_size"])
@pytest.mark.parametrize("value", [1.5, math.nan, math.inf, "1e3", [2, 3]])
def test_a_count_with_a_fraction_is_refused(name, value):
    with pytest.raises(ValueError, match="must be a whole number, got"):
        certify(Pixels(), IMAGES, LABELS, sigma=SIGMA, **{name: value})


# ---- logs


SETTINGS = {"sigma": SIGMA, "n0": 20, "n": 150, "batch_size": 64}


def test_a_log_is_the_result_and_a_finished_run_is_not_done_again(tmp_path):
    path = tmp_path / "log.tsv"
    result = certify(Pixels(), IMAGES, LABELS, log=path, **SETTINGS)
    equal(read_log(path), result)
    equal(certify(Pixels(), IMAGES, LABELS, **SETTINGS), result)
    seen = []
    again = certify(Pixels(), IMAGES, LABELS, log=path, on_progress=seen.append, **SETTINGS)
    assert seen == []
    equal(again, result)
    np.testing.assert_allclose(again.seconds, result.seconds, atol=1e-6)
    assert (again.samples == 170).all()
    assert (result.samples == 170).all()
    assert path.read_text().splitlines()[0].split("\t") == ["idx", "label", "predict", "radius", "correct", "time"]


@pytest.mark.parametrize("batch_size", [64, 500])  # one image at a time, and several in a batch
@pytest.mark.parametrize("keep", [0, 1, 4])
@pytest.mark.parametrize("torn", ["", "4\t1\t1\t0.", "\x00\x00\x00"])
def test_an_interrupted_run_goes_on(tmp_path, batch_size, keep, torn, caplog):
    path = tmp_path / "log.tsv"
    settings = {**SETTINGS, "batch_size": batch_size}
    expected = certify(Pixels(), IMAGES, LABELS, log=path, **settings)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: 1 + keep]) + torn)
    resumed = certify(Pixels(), IMAGES, LABELS, log=path, **settings)
    equal(resumed, expected)
    equal(read_log(path), expected)
    assert ("half written" in caplog.text) == bool(torn)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_certify import IMAGES, LABELS, SETTINGS, Pixels, certify

Pixels.nap = 0.05
certify(Pixels(), IMAGES, LABELS, log={path!r}, fold=False, **SETTINGS)
"""


def test_a_run_that_was_killed_goes_on(tmp_path):
    path = tmp_path / "log.tsv"
    script = SCRIPT.format(tests=os.path.dirname(__file__), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not path.exists() or len(path.read_text().splitlines()) < 4:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = read_log(path)
    assert 3 <= len(done) < 7

    model = Pixels()
    resumed = certify(model, IMAGES, LABELS, log=path, fold=False, **SETTINGS)
    assert model.seen == 7 + (7 - len(done)) * 170
    equal(resumed, certify(Pixels(), IMAGES, LABELS, fold=False, **SETTINGS))
    np.testing.assert_array_equal(resumed.seconds[: len(done)], done.seconds)


def test_without_times_the_same_run_gives_the_same_bytes_also_when_it_was_interrupted(tmp_path):
    whole, part = tmp_path / "whole.tsv", tmp_path / "part.tsv"
    for path in (whole, part):
        certify(Pixels(), IMAGES, LABELS, log=path, times=False, **SETTINGS)
    assert part.read_bytes() == whole.read_bytes()
    part.write_bytes(part.read_bytes()[:100])
    certify(Pixels(), IMAGES, LABELS, log=part, times=False, **SETTINGS)
    assert part.read_bytes() == whole.read_bytes()
    assert settings_path(part).read_bytes() == settings_path(whole).read_bytes()
    assert np.isnan(read_log(whole).seconds).all()


def test_two_runs_do_not_write_one_log(tmp_path):
    path = tmp_path / "log.tsv"
    with locked(tmp_path, ".log.tsv.lock"), pytest.raises(ResultsError, match="another process works in"):
        certify(Pixels(), IMAGES, LABELS, log=path, **SETTINGS)
    assert not path.exists()
    certify(Pixels(), IMAGES, LABELS, log=path, **SETTINGS)  # the lock went with its owner


def test_an_error_lets_go_of_the_log(tmp_path):
    path = tmp_path / "log.tsv"
    with pytest.raises(EvaluationError, match="NaN"):
        certify(Broken(), IMAGES, LABELS, log=path, fold=False, **{**SETTINGS, "sigma": 2.0})
    with pytest.raises(ResultsError, match=r"was made with sigma 2\.0, this run has sigma 0\.3"):
        certify(Pixels(), IMAGES, LABELS, log=path, fold=False, **SETTINGS)


def test_products_are_exact_and_the_log_says_so(tmp_path):
    seen = []

    class Watching(Pixels):
        def forward(self, images):
            seen.append(tf32_allowed())
            return super().forward(images)

    with float32_precision(tf32=True):
        certify(Watching(), IMAGES, LABELS, log=tmp_path / "log.tsv", **SETTINGS)
        assert tf32_allowed()
    assert set(seen) == {False}
    assert read_settings(tmp_path / "log.tsv")["tf32"] is False


def test_tf32_is_let_in_where_it_is_asked_for_and_the_log_says_so(tmp_path, monkeypatch):
    seen = []

    class Watching(Pixels):
        def forward(self, images):
            seen.append(tf32_allowed())
            return super().forward(images)

    with pytest.raises(ValueError, match="TF32 is a precision of CUDA; on cpu take float32 or bfloat16"):
        certify(Watching(), IMAGES, LABELS, dtype="tf32", **SETTINGS)
    assert not seen
    monkeypatch.setattr(Sampling, "device_for", lambda self, model: torch.device("cpu"))  # as if this were a GPU
    path, before = tmp_path / "log.tsv", tf32_allowed()
    certify(Watching(), IMAGES, LABELS, dtype="tf32", log=path, **SETTINGS)
    assert seen[-1]
    assert sum(seen) > len(seen) // 2
    assert tf32_allowed() == before
    assert (read_settings(path)["dtype"], read_settings(path)["tf32"]) == ("float32", True)
    with pytest.raises(ResultsError, match="tf32 True, this run has tf32 False"):
        certify(Watching(), IMAGES, LABELS, log=path, **SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.5}, "sigma 0.3, this run has sigma 0.5"),
        ({"n": 151}, "n 150, this run has n 151"),
        ({"n0": 21}, "n0 20"),
        ({"seed": 1}, "seed 0"),
        ({"votes": "soft"}, "votes 'hard'"),
        ({"failure_probability": 0.01}, "failure_probability 0.001"),
        ({"fold": False}, "fold True"),
        ({"dtype": torch.bfloat16}, "dtype 'float32', this run has dtype 'bfloat16'"),
        ({"model": HalfSpace()}, "made with model"),
        ({"images": IMAGES * 0.5}, "images and labels of SHA-256"),
        ({"labels": LABELS.flip(0)}, "images and labels of SHA-256"),
        ({"indices": range(1, 8)}, "images and labels of SHA-256"),
    ],
)
def test_a_log_of_other_settings_is_refused(tmp_path, change, message):
    path = tmp_path / "log.tsv"
    certify(Pixels(), IMAGES, LABELS % 2, log=path, **SETTINGS)
    before = path.read_text()
    arguments = {"model": Pixels(), "images": IMAGES, "labels": LABELS % 2, "log": path, **SETTINGS, **change}
    with pytest.raises(ResultsError, match=message):
        certify(**arguments)
    assert path.read_text() == before


def test_logs_that_cannot_be_continued_are_refused(tmp_path):
    path = tmp_path / "log.tsv"
    certify(Pixels(), IMAGES, LABELS, log=path, **SETTINGS)
    text = path.read_text()
    path.write_text(text.replace("\n3\t", "\nx\t"))
    with pytest.raises(ResultsError, match="line 5"):
        certify(Pixels(), IMAGES, LABELS, log=path, **SETTINGS)
    path.with_name("log.tsv.json").write_text("{")
    with pytest.raises(ResultsError, match="cannot read the settings"):
        certify(Pixels(), IMAGES, LABELS, log=path, **SETTINGS)
    path.with_name("log.tsv.json").write_text("[]")
    with pytest.raises(ResultsError, match="does not hold the settings"):
        certify(Pixels(), IMAGES, LABELS, log=path, **SETTINGS)
    path.with_name("log.tsv.json").unlink()
    with pytest.raises(ResultsError, match="cannot be continued"):
        certify(Pixels(), IMAGES, LABELS, log=path, **SETTINGS)


# ---- what is refused


class Broken(Pixels):
    """NaN for noisy images whose first pixel is far out."""

    def forward(self, images):
        logits = super().forward(images)
        return torch.where(logits[:, :1] > 1.5, torch.nan, logits)


@pytest.mark.parametrize("votes", ["hard", "soft"])
@pytest.mark.parametrize(("n0", "n"), [(2000, 1), (1, 2000)])
def test_a_net_that_gives_nan_is_refused(votes, n0, n):
    with pytest.raises(EvaluationError, match="NaN or infinity for a noisy copy of one of the examples 0 to"):
        certify(Broken(), IMAGES[:1], LABELS[:1], sigma=0.5, n0=n0, n=n, votes=votes, fold=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "sigma must be"),
        ({"sigma": float("nan")}, "sigma must be"),
        ({"n": 0}, "at least 1"),
        ({"n0": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"failure_probability": 0.0}, "failure probability"),
        ({"votes": "loud"}, "'hard' or 'soft'"),
        ({"dtype": torch.float64}, "not in torch.float64"),
        ({"indices": [0, 1]}, "as many indices"),
        ({"indices": [0] * 7}, "different numbers"),
        ({"images": IMAGES * 2}, "pixels must lie"),
        ({"labels": LABELS + 1}, "label 3 of image"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    arguments = {"model": Pixels(), "images": IMAGES, "labels": LABELS, "sigma": SIGMA, **change}
    with pytest.raises(ValueError, match=message):
        certify(**arguments)


def test_a_model_of_another_shape_is_refused():
    with pytest.raises(EvaluationError, match=r"\(N, classes\)"):
        certify(nn.Identity(), IMAGES, LABELS, sigma=SIGMA)


def test_images_of_another_size_are_refused_in_a_sentence():
    with pytest.raises(EvaluationError, match=r"fails on torch.float32 images of shape \(1, 4, 4\) .*check the shape"):
        certify(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), IMAGES, LABELS, sigma=SIGMA)
