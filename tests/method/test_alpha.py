"""Where alpha comes from, against decimal arithmetic of fifty digits."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, ConstantAlpha, check_alpha, log_weights_of

FEW = settings(max_examples=50)
RANGES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
ALPHA_LOGITS = st.floats(-60, 60)


class Raw(nn.Module):
    """A stand-in for the mixing network: its raw output is the first map of the standard net."""

    def forward(self, std_maps, rob_maps):
        return std_maps[0]


def adaptive(**settings_):
    return AdaptiveAlpha(Raw(), **settings_).double().eval()


def exact_log_weights(alpha_min, alpha_max, alpha_logit):
    """log(1 - alpha) and log(alpha) with fifty digits, as floats."""
    with localcontext(prec=50):
        low, high = Decimal(alpha_min), Decimal(alpha_max)
        alpha = low + (high - low) / (1 + (-Decimal(alpha_logit)).exp())
        return [float(weight.ln()) if weight > 0 else -math.inf for weight in (1 - alpha, alpha)]


@FEW
@given(RANGES, ALPHA_LOGITS)
def test_log_weights_are_the_logarithms_of_alpha_and_its_complement(alpha_range, alpha_logit):
    logit = torch.tensor([[alpha_logit]], dtype=torch.float64)
    found = [
        float(weight) for weight in adaptive(alpha_min=alpha_range[0], alpha_max=alpha_range[1]).log_weights_at(logit)
    ]
    expected = exact_log_weights(*alpha_range, alpha_logit)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@FEW
@given(RANGES, ALPHA_LOGITS)
def test_alpha_stays_in_its_range_and_agrees_with_its_log_weight(alpha_range, alpha_logit):
    low, high = alpha_range
    source = adaptive(alpha_min=low, alpha_max=high)
    alpha = source.alpha(torch.tensor([alpha_logit], dtype=torch.float64))
    assert low - 1e-12 <= alpha.item() <= high + 1e-12
    assert alpha.item() == pytest.approx(math.exp(exact_log_weights(low, high, alpha_logit)[1]), abs=1e-12)


@pytest.mark.parametrize("alpha_range", [(0.0, 1.0), (0.0, 0.9), (0.8, 1.0), (0.84, 0.99)])
@pytest.mark.parametrize("alpha_logit", [-60.0, 60.0])
def test_log_weights_have_their_gradient_where_sigmoid_saturates_in_float32(alpha_range, alpha_logit):
    low, high = alpha_range
    source = AdaptiveAlpha(Raw(), alpha_min=low, alpha_max=high)
    logit = torch.tensor([[alpha_logit]], requires_grad=True)
    assert torch.sigmoid(torch.tensor(60.0)).item() == 1.0  # a plain sigmoid has no gradient left
    sigmoid, complement = 1 / (1 + math.exp(-alpha_logit)), 1 / (1 + math.exp(alpha_logit))
    slope = (high - low) * sigmoid * complement
    alpha = low * complement + high * sigmoid
    other = (1 - low) * complement + (1 - high) * sigmoid
    for weight, expected in zip(source.log_weights_at(logit), (-slope / other, slope / alpha), strict=True):
        (gradient,) = torch.autograd.grad(weight.sum(), logit, retain_graph=True)
        assert gradient.item() != 0.0
        assert gradient.item() == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("alpha_logit", [-1e4, 1e4])
@pytest.mark.parametrize("alpha_range", [(0.0, 1.0), (0.2, 1.0), (0.0, 0.7), (0.3, 0.6)])
def test_log_weights_and_gradients_are_finite_far_beyond_saturation(alpha_range, alpha_logit):
    logit = torch.tensor([[alpha_logit]], requires_grad=True)
    for weight in AdaptiveAlpha(Raw(), alpha_min=alpha_range[0], alpha_max=alpha_range[1]).log_weights_at(logit):
        (gradient,) = torch.autograd.grad(weight.sum(), logit, retain_graph=True)
        assert weight.isfinite().all()
        assert gradient.isfinite().all()


def test_alpha_logit_is_the_normalized_output_times_scale_plus_bias():
    source = adaptive(logit_scale=3.0, logit_bias=-0.5)
    source.norm.running_mean.fill_(2.0)
    source.norm.running_var.fill_(4.0)
    raw = torch.tensor([[-1.0], [0.0], [5.0]], dtype=torch.float64)
    expected = 3.0 * (raw.squeeze(1) - 2.0) / math.sqrt(4.0 + 1e-5) - 0.5
    torch.testing.assert_close(source([raw], []), expected)


def test_the_batch_norm_has_no_affine_part_and_momentum_one_hundredth():
    source = AdaptiveAlpha(Raw(), logit_scale=1.0, logit_bias=0.0).train()
    raw = torch.randn(50, 1) * 3 + 7
    output = source([raw], [])
    assert list(source.parameters()) == []
    torch.testing.assert_close(output, ((raw - raw.mean()) / raw.std(correction=0)).squeeze(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(source.norm.running_mean, 0.01 * raw.mean().view(1))


def test_clamp_limits_the_raw_output_to_its_batch_mean_and_deviations():
    source = adaptive(clamp=0.6, logit_scale=1.0, logit_bias=0.0)
    raw = np.random.default_rng(0).normal(3.0, 2.0, (40, 1))
    centre, spread = raw.mean(), raw.std(ddof=1)
    expected = np.clip(raw, centre - 0.6 * spread, centre + 0.6 * spread)[:, 0] / math.sqrt(1 + 1e-5)
    assert len(np.unique(expected)) < 40  # something is cut
    np.testing.assert_allclose(source([torch.tensor(raw)], []).numpy(), expected)


def test_clamp_leaves_a_single_image_as_it_is():
    raw = torch.tensor([[1.5]], dtype=torch.float64)
    torch.testing.assert_close(adaptive(clamp=0.6)([raw], []), adaptive()([raw], []))


@pytest.mark.parametrize("training", [True, False])
def test_neither_range_nor_clamp_depends_on_train_or_eval(training):
    source = adaptive(alpha_min=0.8, alpha_max=0.9, clamp=0.6).train(training)
    assert (source.alpha_min, source.alpha_max, source.clamp) == (0.8, 0.9, 0.6)
    alpha = source.alpha(torch.tensor([-100.0, 100.0], dtype=torch.float64))
    torch.testing.assert_close(alpha, torch.tensor([0.8, 0.9], dtype=torch.float64))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (-0.1, 0.5, "alpha_min must be in"),
        (0.5, 1.1, "alpha_max must be in"),
        (float("nan"), 0.5, "alpha_min must be in"),
        (0.6, 0.5, "alpha_min must not exceed alpha_max"),
    ],
)
def test_a_bad_range_is_refused_and_the_old_one_kept(low, high, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveAlpha(Raw(), alpha_min=low, alpha_max=high)
    source = adaptive(alpha_min=0.2, alpha_max=0.3)
    with pytest.raises(ValueError, match=message):
        source.set_range(low, high)
    assert (source.alpha_min, source.alpha_max) == (0.2, 0.3)


@given(st.floats(0, 1))
@FEW
def test_a_constant_gives_every_image_its_value(value):
    assert ConstantAlpha(value).log_weights(None) == log_weights_of(value)
    np.testing.assert_allclose(log_weights_of(value), exact_log_weights(value, value, 0.0), rtol=1e-12, atol=1e-40)


@pytest.mark.parametrize("value", [-1e-9, 1.0 + 1e-9, float("nan"), float("inf")])
def test_a_number_outside_0_to_1_is_no_alpha(value):
    with pytest.raises(ValueError, match="alpha must be in"):
        ConstantAlpha(value)
    with pytest.raises(ValueError, match="the weight must be in"):
        check_alpha(value, "the weight")
