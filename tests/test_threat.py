"""Threat models: what they take, and what they say of points, against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adaptive_smoothing_zoo import ThreatModel
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.threat import NORMS, TOLERANCE, threat_of
from adaptive_smoothing_zoo.units import UnitsWarning


def test_a_radius_may_be_a_text():
    assert ThreatModel("Linf", "8/255") == ThreatModel("Linf", 8 / 255)
    assert str(ThreatModel("L2", "0.5")) == "L2 0.5"


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("linf", 0.1, "the norm must be 'Linf' or 'L2', got 'linf'"),
        ("Linf", -0.1, "eps must be a finite number >= 0"),
        ("L2", math.inf, "eps must be a finite number >= 0"),
        ("L2", math.nan, "eps must be a finite number >= 0"),
        ("L2", "8/0", "eps must be a number or a fraction like 8/255"),
        ("L2", "-1/2", "eps must not be negative"),
    ],
)
def test_what_is_no_threat_model_is_refused(norm, eps, message):
    with pytest.raises(ValueError, match=message):
        ThreatModel(norm, eps)


def test_an_l_inf_radius_above_one_is_warned_of():
    with pytest.warns(UnitsWarning, match="8/255"):
        ThreatModel("Linf", 8)


def test_a_call_names_it_once():
    threat = ThreatModel("L2", 0.5)
    for norm in ("L2", None):
        assert threat_of(threat, norm, None) is threat
    assert threat_of(None, "L2", "1/2") == threat
    assert threat_of(None, None, 0.5) == ThreatModel("Linf", 0.5)
    with pytest.raises(ValueError, match="contradicts the threat model L2"):
        threat_of(threat, "Linf", None)
    with pytest.raises(ValueError, match="norm must be"):
        threat_of(None, "", 0.5)
    for wrong in ((threat, "L2", 0.5), (None, "L2", None)):
        with pytest.raises(ValueError, match="give either threat="):
            threat_of(*wrong)


@given(st.sampled_from(NORMS), st.floats(0.0, 2.0), st.integers(0, 10**6))
def test_distances_and_rules_are_those_of_the_definition(norm, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    originals = torch.rand(4, 2, 3, 1, generator=generator)
    points = (originals + 0.3 * torch.randn(4, 2, 3, 1, generator=generator)).double()
    expected = []
    for point, original in zip(points.flatten(1).tolist(), originals.flatten(1).tolist(), strict=True):
        away = [abs(a - b) for a, b in zip(point, original, strict=True)]
        expected.append(max(away) if norm == "Linf" else math.sqrt(math.fsum(a * a for a in away)))
    threat = ThreatModel(norm, min(eps, 1.0))
    assert threat.distance(originals, points).tolist() == pytest.approx(expected)
    finite, box, ball = (bad for bad, _ in threat.broken_rules(originals, points))
    assert not finite.any()
    assert box.tolist() == [bool(((p < 0) | (p > 1)).any()) for p in points]
    assert ball.tolist() == [distance > threat.eps + TOLERANCE for distance in threat.distance(originals, points)]


def test_evaluate_takes_it_whole_or_in_two_words():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    images = torch.rand(2, 1, 2, 2)
    labels = model(images).argmax(1)
    short = {"settings": AttackSettings(attacks=("apgd-ce",)), "device": "cpu"}
    whole = evaluate(model, images, labels, threat=ThreatModel("L2", "1/2"), **short)
    words = evaluate(model, images, labels, norm="L2", eps=0.5, **short)
    assert (whole.norm, whole.eps) == (words.norm, words.eps) == ("L2", 0.5)
    assert (whole.robust == words.robust).all()
    with pytest.raises(ValueError, match="give either threat="):
        evaluate(model, images, labels)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("safe", [False, True])
def test_a_projection_is_the_nearest_point_of_the_ball_then_of_the_box(norm, safe):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 4, 4, generator=generator, dtype=torch.float64)
    points = 2 * torch.rand(5, 1, 4, 4, generator=generator, dtype=torch.float64) - 0.5
    radius = torch.tensor([0.0, 0.1, 0.2, 0.5, 9.0], dtype=torch.float64).view(-1, 1, 1, 1)
    found = ThreatModel(norm, 0.2).project(images, points, radius, safe=safe)
    away = points - images
    if norm == "Linf":
        inside = images + away.clamp(-radius, radius)
    else:
        inside = images + away * (radius / away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(max=1)
    torch.testing.assert_close(found, inside.clamp(0, 1), rtol=0, atol=1e-9)
    assert ThreatModel(norm, 0.2).contains(images[2:3], found[2:3]).all()
    torch.testing.assert_close(ThreatModel(norm, 0.2).project(images, points)[2], found[2], rtol=0, atol=1e-9)
