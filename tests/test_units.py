"""Units: what is larger than all of pixel space is told, once, and what is not is left alone."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptive_smoothing_zoo.certification import certify
from adaptive_smoothing_zoo.units import UnitsWarning, shortest, warn_of_noise, warn_of_radius


def said(warn, *values):
    """The sentences in which something is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn(*values)
    assert all(warning.category is UnitsWarning for warning in caught)
    return [str(warning.message) for warning in caught]


@given(st.floats(0.0, 1e6))
def test_a_radius_or_a_noise_above_1_is_odd_and_no_other(value):
    for found in (said(warn_of_radius, "Linf", value), said(warn_of_noise, value)):
        assert len(found) == (value > 1.0)
    assert not said(warn_of_radius, "L2", value)


def test_the_sentence_names_what_was_most_likely_meant():
    assert said(warn_of_radius, "Linf", 8) == [
        "the l_inf radius 8 is larger than all of pixel space, [0, 1]; did you mean 8/255?"
    ]
    (noise,) = said(warn_of_noise, 64.0)
    assert "sigma 64 is larger than all of pixel space, [0, 1]; did you mean 64/255?" in noise
    assert not said(warn_of_noise, math.nan)


def test_it_is_said_once_from_wherever_it_is_said():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            warn_of_radius("Linf", 8.0)
            warn_of_radius("Linf", 0.5)
            warn_of_noise(64.0)
    assert len(caught) == 2


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_shortest_digits_give_the_same_float32(value):
    assert np.float32(shortest(value)) == np.float32(value)


def test_a_noise_in_units_of_bytes_is_warned_of_where_it_is_used():
    images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    with pytest.warns(UnitsWarning, match="sigma 64"):
        certify(net, images, labels, sigma=64, n0=2, n=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnitsWarning)
        certify(net, images, labels, sigma=1.0, n0=2, n=5)
