"""A validation that was interrupted goes on, and ends as if nothing had happened."""

import dataclasses
import random

import nets
import numpy as np
import pytest
from test_traps import SMALL

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.storage.bound_state import BoundState
from adaptive_smoothing_zoo.storage.checked_file import read_checked, write_checked
from adaptive_smoothing_zoo.validation import validate

N = 6
SHORT = dataclasses.replace(SMALL, steps=3, restarts=1, grid_steps=3, queries=6)
CHECKS = ("losses_agree", "monotone_accuracy", "black_box_is_weaker", "alpha_detached", "base_nets_transferred")


class Interrupted(BaseException):
    """What nothing handles."""


@pytest.fixture
def model():
    return nets.triplet()


def run(model, state=None, **changes):
    images, labels = nets.examples(N)
    settings = {"norm": "Linf", "eps": nets.EPS, "device": "cpu", "batch_size": 4, "budget": SHORT, "seed": 1}
    return validate(model, images, labels, **{"only": CHECKS, "state": state, **settings, **changes})


def stop_after(number):
    """A progress that stops the validation after some reports."""
    reports = iter(range(number))

    def report(progress):
        if next(reports, None) is None:
            raise Interrupted

    return report


def assert_same(a, b):
    for x, y in zip(a.checks, b.checks, strict=True):
        assert dataclasses.replace(x, seconds=0.0) == dataclasses.replace(y, seconds=0.0)
    assert a.series == b.series
    for name in ("clean_correct", "broken", "broken_by", "adversarials"):
        assert np.array_equal(getattr(a, name), getattr(b, name))


@pytest.fixture(scope="module")
def whole():
    return run(nets.triplet())


def test_whatever_the_moment_of_interruption_the_end_is_the_same(model, whole, tmp_path):
    rng = random.Random(0)
    for _ in range(4):
        with pytest.raises(Interrupted):
            run(model, tmp_path / "state", on_progress=stop_after(rng.randrange(5, 60)))
    assert_same(run(model, tmp_path / "state"), whole)


def test_what_is_kept_is_not_attacked_again_and_its_time_counts(model, whole, tmp_path, monkeypatch):
    first = run(model, tmp_path / "state")
    monkeypatch.setattr(BoundState, "replace", None)  # which would be called for a batch that is attacked
    again = run(model, tmp_path / "state")
    assert_same(again, whole)
    assert sum(check.seconds for check in again.checks) > 0.5 * sum(check.seconds for check in first.checks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "made with settings.seed 1, this run has settings.seed 2"),
        ({"eps": 0.1}, r"made with threat.eps 0\.2"),
        ({"batch_size": 3}, "made with settings.batch_size 4"),
        ({"budget": dataclasses.replace(SHORT, steps=2)}, "made with budget.steps 3"),
        ({"only": ["losses_agree"]}, "made with checks"),
        ({"channels_last": True}, "made with settings.channels_last False"),
    ],
)
def test_a_state_of_another_validation_is_refused_with_both_values(model, tmp_path, changes, message):
    with pytest.raises(Interrupted):
        run(model, tmp_path, on_progress=stop_after(3))
    with pytest.raises(ResultsError, match=message):
        run(model, tmp_path, **changes)


def test_a_state_of_another_model_is_refused(model, tmp_path):
    with pytest.raises(Interrupted):
        run(model, tmp_path, on_progress=stop_after(3))
    with pytest.raises(ResultsError, match="made with model"):
        run(nets.triplet("Demo2026Constant"), tmp_path, only=["losses_agree"])


@pytest.mark.parametrize(
    "harm", ["cut", *(pytest.param(harm, marks=pytest.mark.slow) for harm in ("exchanged", "of another width"))]
)
def test_a_batch_that_is_damaged_or_not_the_one_to_come_is_attacked_again(model, whole, tmp_path, harm, caplog):
    run(model, tmp_path)
    second, third = (tmp_path / f"batch-00000{number}.safetensors" for number in (2, 3))
    if harm == "cut":
        second.write_bytes(second.read_bytes()[:-5])
    elif harm == "of another width":  # with a right checksum
        tensors, about = read_checked(second, lambda tensors, about: (tensors, about))
        write_checked(second, tensors | {"history": tensors["history"][:, :-1]}, about)
    else:
        second.write_bytes(third.read_bytes())
    assert_same(run(model, tmp_path), whole)
    assert "put aside" in caplog.text
    assert second.with_suffix(".damaged").exists()
    assert second.exists()


def test_two_at_once_are_refused(model, tmp_path):
    def second(progress):
        run(model, tmp_path)

    with pytest.raises(ResultsError, match="another process works in"):
        run(model, tmp_path, on_progress=second)
