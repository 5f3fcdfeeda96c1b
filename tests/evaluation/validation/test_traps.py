"""Each net that is built to fool an evaluation is caught, by the check that was made for it; honest nets pass all."""

import nets
import pytest

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.evaluation.validation import CHECKS, Budget, validate

SMALL = Budget(
    steps=25,
    grid_steps=10,
    long_steps=40,
    restarts=2,
    survivors=4,
    queries=60,
    noises=10,
    directions=3,
    planted=8,
    inner=30,
    search=60,
)
N = 20


def run(model, *only, n=N, **settings):
    examples = nets.examples(n)
    settings = {"eps": nets.EPS, "budget": SMALL, "device": "cpu", **settings}
    return validate(model, examples.images, examples.labels, only=only or None, **settings)


def by_name(findings):
    return {result.name: result for result in findings.checks}


@pytest.mark.parametrize("make", [nets.honest_net, nets.triplet], ids=["plain net", "adaptive triplet"])
def test_an_honest_net_passes_every_check_that_applies(make):
    findings = run(make())
    assert findings.failed == ()
    results = by_name(findings)
    assert set(results) == set(CHECKS)
    inapplicable = {name for name, result in results.items() if result.verdict == "not applicable"}
    of_a_mix = {check.name for check in CHECKS.values() if check.needs != "any"}
    expected = {"recorded_run"} | (set() if isinstance(make(), MixedClassifier) else of_a_mix)
    assert inapplicable == expected
    assert 0 < findings.broken.sum() < N
    assert all(result.found.endswith(".") for result in results.values() if result.verdict != "not applicable")


@pytest.mark.parametrize(
    ("make", "caught_by"),
    [
        (nets.TextbookHead, {"finite_gradients"}),
        (nets.saturated_alpha, {"alpha_not_saturated"}),
        (nets.Quantized, {"nonzero_gradients", "planted_boundaries_are_found", "losses_agree", "loss_curves_are_flat"}),
        (nets.QuantizedWithBorrowedGradient, {"finite_differences"}),
        (nets.TwoFaced, {"forward_with_gradient"}),
        (nets.Randomized, {"repeated_forward", "forward_with_gradient"}),
        (nets.BatchDependent, {"batch_company"}),
        (nets.Overconfident, {"nonzero_gradients", "losses_agree"}),
        (nets.DoubleMinded, {"float64_verdicts", "finite_differences"}),
        (
            lambda: nets.Fortress(nets.examples(N).images),
            {"unbounded_radius", "nonzero_gradients", "monotone_accuracy"},
        ),
        (nets.Fragile, {"eight_bits"}),
    ],
    ids=lambda value: getattr(value, "__name__", "") if callable(value) else "",
)
def test_a_trap_is_caught_by_name(make, caught_by):
    assert set(run(make(), *caught_by).failed) == caught_by
