"""Strange numbers: bounds, radii and certificates that can be, or a sentence."""

import numpy as np
import pytest
import torch
from fuzzing import attempt_call, cases
from strange import INF, NAN, NUMBERS, strange_values

from adaptive_smoothing_zoo.certification import Certificates, mix_certificates
from adaptive_smoothing_zoo.certification.bounds.cohen import cohen_radius
from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.certification.bounds.sharp import sharp_smoothing_radius
from adaptive_smoothing_zoo.certification.bounds.theorem4 import gaussian_lipschitz, lipschitz_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.confidence import betting_lower, clopper_pearson_lower

FAILURES = [*NUMBERS, *[0.05, 0.001, 0.5, 1e-300] * 10]
BOUNDS = {"clopper": (clopper_pearson_lower, [(0, 30), (1, 60)]), "betting": (betting_lower, [(0, 1)])}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name):
    """Lower confidence bounds lie in [0, 1]."""
    lower, ranges = BOUNDS[name]
    counted = 0
    for number, rng in cases(f"bounds {name}", 500):
        arguments = (3, 10) if name == "clopper" and rng.random() < 0.5 else [strange_values(rng, *r) for r in ranges]
        low, error = attempt_call(lower, *arguments, rng.choice(FAILURES))
        if error is None:
            counted += 1
            assert ((low >= 0) & (low <= 1)).all(), number
    assert counted > 60


def test_radii():
    """Certified radii are not negative, not NaN, and no larger with a smaller alpha."""
    found_some = 0
    ranges = {"top": (0, 1), "runner_up": (0, 0.5), "alpha": (0.5, 1), "sigma": (0.1, 2)}
    radii = {
        smoothing_radius: ("top", "runner_up", "alpha", "sigma"),
        sharp_smoothing_radius: ("top", "runner_up", "alpha", "sigma"),
        cohen_radius: ("top", "sigma"),
        lipschitz_radius: ("top", "alpha", "sigma"),
        gaussian_lipschitz: ("sigma",),
        margin_needed: ("alpha",),
    }
    for number, rng in cases("radii", 1500):
        given = {name: strange_values(rng, *low_high) for name, low_high in ranges.items()}
        function, names = rng.choice(list(radii.items()))
        found, error = attempt_call(function, *(given[name] for name in names))
        if error is None:
            found_some += 1
            assert (found >= 0).all(), number
            if len(names) == 4:
                less = given | {"alpha": 0.9 * np.asarray(given["alpha"], dtype=float)}
                assert (function(*less.values()) <= found).all(), number
    assert found_some > 300


def test_certificates():
    """Certificates are consistent or refused; those of mixes are never larger than those of h."""
    for number, rng in cases("certificates", 800):
        n = rng.choice([0, 1, 3])
        given = {"index": np.arange(n), "label": np.arange(n) % 3, "prediction": np.arange(n) % 2}
        given |= {"radius": np.linspace(0.0, 1.0, n), "correct": np.arange(n) % 3 == np.arange(n) % 2}
        given |= {"seconds": np.ones(n)}
        for name in rng.sample(sorted(given), rng.choice([0, 1, 1, 2])):
            odd = np.full(n, rng.choice([NAN, INF, -1, 2**62, 0.5]))
            given[name] = rng.choice([strange_values(rng, -1, 3), given[name][::-1], odd, [2**70] * n, None])
        made, error = attempt_call(Certificates, **given)
        if error is not None:
            continue
        assert len(made.index) == len(set(made.index.tolist())), number
        assert (made.radius >= 0).all(), number
        for name, value in given.items():
            exact = np.asarray(value.numpy() if isinstance(value, torch.Tensor) else value)
            kept = getattr(made, name)
            assert np.array_equal(kept.astype(float), exact.astype(float), equal_nan=True), (number, name)
        alpha, sigma = rng.choice([*NUMBERS, 0.9]), rng.choice([*NUMBERS, 0.5])
        bound = rng.choice(["theorem", "sharp", "other", None])
        mixed, error = attempt_call(mix_certificates, made, alpha, sigma, bound=bound)
        assert error is not None or (mixed.radius <= made.radius).all(), number
        share, error = attempt_call(made.certified_accuracy, strange_values(rng, 0, 2))
        assert error is not None or ((share >= 0) & (share <= 1)).all(), number
        _, error = attempt_call(made.average_certified_radius)
        assert (error is None) == (len(made) > 0), number
