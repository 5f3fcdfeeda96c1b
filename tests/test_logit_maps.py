"""Scale against the plain product, and where the plain product overflows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adaptive_smoothing_zoo.logit_maps import Scale

FEW = settings(max_examples=60, deadline=None)
SCALES = st.floats(1e-2, 10.0)


def numpy_softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@FEW
@given(arrays(np.float64, (3, 4), elements=st.floats(-50, 50)), SCALES)
def test_the_softmax_of_scaled_logits_is_that_of_the_product(logits, scale):
    scaled = Scale(scale)(torch.tensor(logits))
    np.testing.assert_allclose(scaled.softmax(dim=1).numpy(), numpy_softmax(scale * logits), rtol=1e-9, atol=1e-300)


@FEW
@given(arrays(np.float64, (3, 4), elements=st.floats(-50, 50)), SCALES)
def test_gaps_between_logits_are_multiplied_and_the_largest_logit_is_zero(logits, scale):
    scaled = Scale(scale)(torch.tensor(logits)).numpy()
    np.testing.assert_array_equal(scaled.max(axis=1), 0.0)
    np.testing.assert_allclose(scaled, scale * (logits - logits.max(axis=1, keepdims=True)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 7.0, 1e20])
def test_the_result_and_its_log_softmax_are_finite_up_to_the_largest_logits(dtype, scale):
    largest = np.finfo(dtype).max
    values = [largest, -largest, largest / 2, 0.0, 1.0, np.finfo(dtype).tiny]
    logits = torch.tensor(
        [[a, b, c] for a in values for b in values for c in values], dtype=getattr(torch, dtype.__name__)
    )
    logits.requires_grad_()
    log_probabilities = Scale(scale)(logits).log_softmax(dim=1)
    assert log_probabilities.isfinite().all()
    for i in range(3):
        (gradient,) = torch.autograd.grad(log_probabilities[:, i].sum(), logits, retain_graph=True)
        assert gradient.isfinite().all()


def test_the_order_of_huge_logits_is_kept():
    logits = torch.tensor([[3e38, 2e38, -1e38, -3e38]])
    scaled = Scale(2.0)(logits)
    assert (scaled.diff(dim=1) <= 0).all()
    assert scaled[0, 0] > scaled[0, 1]


def test_the_gradient_of_a_log_probability_is_that_of_the_plain_product():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    for label in range(4):
        ours = torch.autograd.grad(Scale(1.7)(logits).log_softmax(dim=1)[:, label].sum(), logits)[0]
        expected = 1.7 * (torch.eye(4, dtype=torch.float64)[label] - (1.7 * logits).softmax(dim=1))
        torch.testing.assert_close(ours, expected.detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_out_as_float32(dtype):
    logits = torch.randn(2, 3).to(dtype)
    scaled = Scale(3.0)(logits)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.softmax(dim=1), (3.0 * logits.float()).softmax(dim=1))


def test_double_precision_stays():
    assert Scale(1.0)(torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_and_positive_is_refused(scale):
    with pytest.raises(ValueError, match="finite positive number"):
        Scale(scale)
