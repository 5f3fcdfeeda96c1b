"""Logit maps against their formulas, and where plain arithmetic would overflow or lose the gradient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale, Scale

FEW = settings(max_examples=60)
SCALES = st.floats(1e-2, 10.0)


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


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
ANY_FLOAT32 = st.one_of(FLOAT32, st.sampled_from([0.0, 1.0, *(s * float(np.finfo(np.float32).max) for s in (1, -1))]))
FEW_VALUES = st.sampled_from([-1.0, 0.0, 2.0, 2.0, 3e38, -3e38])  # for ties


class TestHardMax:
    @FEW
    @given(st.one_of(arrays(np.float32, (3, 4), elements=ANY_FLOAT32), arrays(np.float32, (3, 4), elements=FEW_VALUES)))
    def test_probabilities_are_exactly_the_one_hot_of_the_first_largest_logit(self, values):
        probabilities = HardMax()(torch.tensor(values)).softmax(dim=1)
        np.testing.assert_array_equal(probabilities.numpy(), np.eye(4)[values.argmax(axis=1)])

    @FEW
    @given(arrays(np.float32, (3, 4), elements=ANY_FLOAT32))
    def test_log_probabilities_and_sums_of_many_are_finite_and_the_gradient_is_zero(self, values):
        logits = torch.tensor(values, requires_grad=True)
        log_probabilities = HardMax()(logits).log_softmax(dim=1)
        assert (1e5 * log_probabilities).sum().isfinite()
        for i in range(4):
            (gradient,) = torch.autograd.grad(log_probabilities[:, i].sum(), logits, retain_graph=True)
            np.testing.assert_array_equal(gradient.numpy(), 0.0)

    def test_it_is_one_function_with_and_without_gradient(self):
        logits = torch.randn(50, 4)
        logits[:, 1] = logits[:, 0] + 1e-6  # where a steep smooth map is undecided
        tracked = HardMax()(2.0 * logits.clone().requires_grad_())
        with torch.no_grad():
            assert torch.equal(HardMax()(2.0 * logits), tracked)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_logit_that_is_not_finite_is_not_hidden(self, bad):
        assert HardMax()(torch.tensor([[1.0, bad, 0.0]])).softmax(dim=1).isnan().all()


CIFAR10 = {"scale": 5.0, "power": 4.0, "clamp_bias": -1.1}
CIFAR100 = {"scale": 0.6115753843212784, "power": 3.571428571428571, "clamp_bias": -2.142857142857143}
PUBLISHED = st.sampled_from([CIFAR10, CIFAR100])
GELU_MINIMUM = 0.17  # of -GELU, rounded up


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def by_hand(logits, scale, power, clamp_bias, top_k=250):
    """NormClampPowerScale without its shift, from the definition."""
    top = np.sort(logits, axis=1)[:, ::-1][:, :top_k]
    z = (logits - top.mean(axis=1, keepdims=True)) / np.sqrt(top.var(axis=1, ddof=1, keepdims=True) + 1e-8)
    clamped = gelu(z + clamp_bias)
    return scale * np.sign(clamped) * np.abs(clamped) ** power


def standardized(logits):
    return (logits - logits.mean(axis=1, keepdims=True)) / np.sqrt(logits.var(axis=1, ddof=1, keepdims=True) + 1e-8)


def shifted(mapped):
    return mapped - mapped.max(axis=1, keepdims=True)


class TestNormClampPowerScale:
    MODERATE = arrays(np.float64, (3, 12), elements=st.floats(-30, 30))

    @FEW
    @given(
        MODERATE,
        st.floats(0.01, 10.0),
        st.floats(1.0, 5.0),
        st.floats(-3.0, 3.0),
        st.sampled_from([2, 5, 11, 12, 13, 250]),
    )
    def test_it_is_the_formula(self, logits, scale, power, clamp_bias, top_k):
        arguments = {"scale": scale, "power": power, "clamp_bias": clamp_bias, "top_k": top_k}
        mapped = NormClampPowerScale(**arguments)(torch.tensor(logits)).numpy()
        expected = shifted(by_hand(logits, **arguments))
        np.testing.assert_allclose(mapped, expected, rtol=1e-7, atol=1e-9 + 1e-7 * np.abs(expected).max())
        np.testing.assert_array_equal(mapped.max(axis=1), 0.0)

    @FEW
    @given(MODERATE, PUBLISHED, st.floats(-5, 5), st.floats(0.1, 10.0))
    def test_shifting_and_stretching_the_logits_changes_nothing(self, logits, arguments, shift, stretch):
        assume(logits.var(axis=1).min() > 1e-2)  # beside which 1e-8 is nothing
        logit_map = NormClampPowerScale(**arguments)
        expected, found = (logit_map(torch.tensor(x)).softmax(dim=1) for x in (logits, stretch * (logits + shift)))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)

    @FEW
    @given(MODERATE, PUBLISHED)
    def test_the_order_is_kept_above_the_clamp_and_nearly_so_below(self, logits, arguments):
        mapped = NormClampPowerScale(**arguments)(torch.tensor(logits)).numpy()
        z, order = standardized(logits), logits.argsort(axis=1)
        steps = np.diff(np.take_along_axis(mapped, order, axis=1), axis=1)
        clear = np.take_along_axis(z, order, axis=1)[:, 1:] >= 1e-9 - arguments["clamp_bias"]
        rounding = 1e-12 * (1 + np.abs(mapped).max())
        assert (steps[clear] >= -rounding).all()
        assert (steps >= -arguments["scale"] * GELU_MINIMUM ** arguments["power"] - rounding).all()

    def test_below_the_clamp_the_order_can_turn_around_as_in_the_published_map(self):
        logits = np.array([[0.0, -0.1] + [-0.05] * 7 + [-50.0]])  # nine alike and an outlier
        mapped = NormClampPowerScale(scale=5.0, power=4.0, clamp_bias=-1.1)(torch.tensor(logits)).numpy()
        assert logits.argmax() == 0
        assert mapped.argmax() == by_hand(logits, **CIFAR10).argmax() == 9

    @FEW
    @given(
        st.one_of(
            arrays(np.float32, (3, 5), elements=ANY_FLOAT32),
            arrays(np.float32, (3, 5), elements=FEW_VALUES),
            FLOAT32.map(lambda x: np.full((3, 5), x, np.float32)),
        ),
        st.floats(1.0, 6.0),
        st.sampled_from([0.0, -1.1, 2.0]),
        st.sampled_from([3, 250]),
    )
    def test_the_result_and_its_gradient_are_finite_for_any_finite_logits(self, values, power, clamp_bias, top_k):
        logits = torch.tensor(values, requires_grad=True)
        logit_map = NormClampPowerScale(scale=5.0, power=power, clamp_bias=clamp_bias, top_k=top_k)
        log_probabilities = logit_map(logits).log_softmax(dim=1)
        assert log_probabilities.isfinite().all()
        for i in range(5):
            (gradient,) = torch.autograd.grad(log_probabilities[:, i].sum(), logits, retain_graph=True)
            assert gradient.isfinite().all()

    def test_logits_beyond_1e15_count_as_1e15(self):
        huge = torch.tensor([[1e300, 5e14, -1e14, -1e308], [3e15, 2e15, 0.0, 1e15]], dtype=torch.float64)
        logit_map = NormClampPowerScale(**CIFAR10)
        assert logit_map(huge).isfinite().all()
        assert torch.equal(logit_map(huge), logit_map(huge.clamp(-1e15, 1e15)))

    @pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.571428571428571])
    def test_the_gradient_is_finite_where_the_clamped_logit_is_exactly_zero(self, power):
        logits = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        mapped = NormClampPowerScale(scale=2.0, power=power, clamp_bias=0.0)(logits)
        (gradient,) = torch.autograd.grad(mapped[0, 1] - mapped[0, 0], logits)
        assert gradient.isfinite().all()

    @pytest.mark.parametrize("arguments", [CIFAR10, CIFAR100, {**CIFAR10, "top_k": 4}, {**CIFAR10, "power": 1.0}])
    def test_gradients_are_those_of_finite_differences(self, arguments):
        logits = 3 * torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
        logit_map = NormClampPowerScale(**arguments)
        assert torch.autograd.gradcheck(lambda x: logit_map(x).log_softmax(dim=1), logits.detach().requires_grad_())

    def test_small_gaps_between_large_values_survive_float32(self):
        logits = torch.zeros(1, 100)
        logits[0, 0], logits[0, 1] = 10.0, 9.9999
        mapped = NormClampPowerScale(**CIFAR100)(logits).numpy()
        expected = by_hand(logits.double().numpy(), **CIFAR100)
        assert expected[0, 0] > 100
        np.testing.assert_allclose(mapped[0, 1], expected[0, 1] - expected[0, 0], rtol=1e-6)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"scale": 0.0}, "finite positive number"),
            ({"scale": math.inf}, "finite positive number"),
            ({"power": 0.9}, "power must be"),
            ({"power": math.nan}, "power must be"),
            ({"clamp_bias": math.inf}, "clamp bias must be"),
            ({"top_k": 1}, "top_k >= 2"),
            ({"power": 40.0}, "could exceed 1e20"),
            ({"power": 1e9}, "could exceed 1e20"),
        ],
    )
    def test_wrong_parameters_are_refused(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            NormClampPowerScale(**{**CIFAR10, **wrong})

    @pytest.mark.parametrize("top_k", [2, 12, 250])
    def test_the_limit_on_parameters_is_one_on_results(self, top_k):
        """The largest possible standardized logit, at parameters just inside the limit."""
        limit = (math.log(1e20) - math.log(5.0)) / math.log(math.sqrt(top_k) + 1.0)
        with pytest.raises(ValueError, match="could exceed 1e20"):
            NormClampPowerScale(scale=5.0, power=1.001 * limit, clamp_bias=1.0, top_k=top_k)
        logits = torch.zeros(1, 1000, requires_grad=True)
        with torch.no_grad():
            logits[0, 0] = 1e15
        mapped = NormClampPowerScale(scale=5.0, power=0.999 * limit, clamp_bias=1.0, top_k=top_k)(logits)
        assert 1e3 < -mapped.min().item() <= 1e20
        (gradient,) = torch.autograd.grad(mapped.log_softmax(dim=1)[0, 1], logits)
        assert gradient.isfinite().all()


MAPS = [Scale(3.0), HardMax(), NormClampPowerScale(**CIFAR10)]


@pytest.mark.parametrize("logit_map", MAPS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_mapped_in_float32_and_other_formats_stay(logit_map, dtype):
    logits = torch.randn(2, 10).to(dtype)
    wide = logits if dtype.itemsize >= 4 else logits.float()
    mapped = logit_map(logits)
    assert mapped.dtype == wide.dtype
    torch.testing.assert_close(mapped, logit_map(wide), rtol=0, atol=0)
