"""The mixed classifier against the formula it stands for, and where that formula breaks down."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork

FEW = settings(max_examples=40)
N, C = 3, 4
ALPHAS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 5e-324, 1e-8, 0.5, 1 - 2**-53, 1.0]))
SCALES = st.floats(0.1, 3.0)
MODERATE = arrays(np.float64, (N, 2 * C), elements=st.floats(-30, 30))
EXTREMES = {
    kind: [float(factor * np.finfo(kind).max) for factor in (1, -1, 0.5, -0.5)] for kind in (np.float32, np.float64)
}


class Pixels(nn.Module):
    """Logits and alpha_logit are read off the image, so that a test can choose them freely."""

    def __init__(self, start, stop, dtype=None):
        super().__init__()
        self.start, self.stop, self.dtype = start, stop, dtype
        self.calls = self.images_seen = 0

    def forward(self, images):
        self.calls += 1
        self.images_seen += len(images)
        return images[:, self.start : self.stop, 0, 0].to(self.dtype or images.dtype)

    def forward_intermediates(self, images, indices):
        return images, [images for _ in indices]

    def forward_head(self, final):
        return self(final)


class LastPixel(nn.Module):
    """A stand-in for the mixing network that reads a map of each net."""

    def forward(self, std_maps, rob_maps):
        return 0.5 * (std_maps[0] + rob_maps[1])[:, -1:, 0, 0]


def read_off(alpha, dtype=None, **scales):
    """A mixed classifier whose image is (g's logits, h's logits, perhaps the alpha_logit)."""
    return MixedClassifier(Pixels(0, C, dtype), Pixels(C, 2 * C, dtype), alpha, **scales)


def adaptive(**alpha_range):
    """alpha_logit is the image's last pixel, up to the constant of batch norm."""
    alpha = AdaptiveAlpha(LastPixel(), logit_scale=np.sqrt(1 + 1e-5), logit_bias=0.0, **alpha_range)
    return alpha.eval()


def as_images(values, **options):
    return torch.as_tensor(np.array(values), **options)[:, :, None, None]


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def small_nets():
    return [build("small_cnn", widths=(4, 8), num_classes=C) for _ in range(2)]


def small_adaptive_model():
    alpha = AdaptiveAlpha(MixingNetwork(8, 16, (4, 6, 8)), alpha_min=0.6, alpha_max=0.95)
    return MixedClassifier(*small_nets(), alpha, std_map=2.0, rob_map=0.5).eval()


class TestFormula:
    @FEW
    @given(MODERATE, ALPHAS, SCALES, SCALES)
    def test_a_constant_alpha_gives_the_log_of_the_weighted_softmaxes(self, values, alpha, std_scale, rob_scale):
        found = read_off(alpha, std_map=std_scale, rob_map=rob_scale)(as_images(values)).numpy()
        g, h = softmax(std_scale * values[:, :C]), softmax(rob_scale * values[:, C:])
        np.testing.assert_allclose(found, np.log((1 - alpha) * g + alpha * h), rtol=0, atol=1e-6)

    @FEW
    @given(
        MODERATE,
        arrays(np.float64, (N, 1), elements=st.floats(-20, 20)),
        st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    )
    def test_an_adaptive_alpha_gives_the_log_of_the_weighted_softmaxes(self, values, alpha_logits, alpha_range):
        low, high = alpha_range
        model = read_off(adaptive(alpha_min=low, alpha_max=high), std_map=2.0).double()
        images = as_images(np.hstack([values, alpha_logits]))
        alpha = low + (high - low) / (1 + np.exp(-alpha_logits))
        g, h = softmax(2.0 * values[:, :C]), softmax(values[:, C:])
        np.testing.assert_allclose(model(images).numpy(), np.log((1 - alpha) * g + alpha * h), rtol=0, atol=1e-6)
        np.testing.assert_allclose(model.alpha_of(images).numpy(), alpha[:, 0], atol=1e-12)
        np.testing.assert_allclose(model.alpha_logit_of(images).numpy(), alpha_logits[:, 0], atol=1e-9)

    @FEW
    @given(MODERATE, ALPHAS)
    def test_the_exponentials_of_the_output_sum_to_one(self, values, alpha):
        np.testing.assert_allclose(read_off(alpha)(as_images(values)).exp().sum(dim=1), 1.0, atol=1e-9)

    def test_gradients_are_those_of_the_formula(self):
        images = torch.randn(N, 2 * C, 1, 1, dtype=torch.float64, requires_grad=True)
        model = read_off(0.7, std_map=2.0, rob_map=0.5)
        flat = images.flatten(1)
        literal = (0.3 * (2.0 * flat[:, :C]).softmax(1) + 0.7 * (0.5 * flat[:, C:]).softmax(1)).log()
        for label in range(C):
            ours, theirs = (
                torch.autograd.grad(output[:, label].sum(), images, retain_graph=True)[0]
                for output in (model(images), literal)
            )
            torch.testing.assert_close(ours, theirs)


class TestAnyFiniteLogits:
    @staticmethod
    def check(model, images):
        images.requires_grad_()
        output = model(images)
        assert output.isfinite().all()
        for label in range(C):
            (gradient,) = torch.autograd.grad(output[:, label].sum(), images, retain_graph=True)
            assert gradient.isfinite().all()

    @FEW
    @given(
        st.data(),
        st.sampled_from([np.float32, np.float64]),
        ALPHAS,
        st.sampled_from([1e-3, 0.3, 1.0, 2.0, 1e20]),
    )
    def test_output_and_gradient_are_finite_with_a_constant_alpha(self, data, kind, alpha, scale):
        elements = st.one_of(
            st.floats(-EXTREMES[kind][0], EXTREMES[kind][0], width=kind(0).itemsize * 8),
            st.sampled_from([0.0, 1.0, *EXTREMES[kind]]),
        )
        values = data.draw(arrays(kind, (N, 2 * C), elements=elements))
        self.check(read_off(alpha, std_map=scale, rob_map=1.0), as_images(values))

    @FEW
    @given(
        st.data(),
        st.sampled_from([np.float32, np.float64]),
        st.sampled_from([-1e4, -100.0, 0.0, 100.0, 1e4]),
        st.sampled_from([(0.0, 1.0), (0.0, 0.9), (0.96, 1.0), (0.8, 0.9), (0.0, 0.0), (1.0, 1.0)]),
    )
    def test_output_and_gradient_are_finite_with_an_adaptive_alpha(self, data, kind, alpha_logit, alpha_range):
        elements = st.one_of(st.floats(-300, 300, width=32), st.sampled_from([0.0, *EXTREMES[kind]]))
        values = data.draw(arrays(kind, (N, 2 * C), elements=elements))
        alpha = adaptive(alpha_min=alpha_range[0], alpha_max=alpha_range[1])
        model = read_off(alpha, std_map=2.0).to(getattr(torch, kind.__name__))
        self.check(model, as_images(np.hstack([values, np.full((N, 1), alpha_logit, kind)])))

    def test_two_confident_nets_break_the_textbook_formula_and_not_ours(self):
        images = as_images([[200.0, 0.0, 0.0, 0.0] * 2], dtype=torch.float32).requires_grad_()
        flat = images.flatten(1)
        textbook = (0.5 * flat[:, :C].softmax(1) + 0.5 * flat[:, C:].softmax(1)).log()
        assert textbook[0, 1].item() == -np.inf
        assert torch.autograd.grad(textbook[0, 1], images)[0].isnan().any()

        output = read_off(0.5)(images)
        (gradient,) = torch.autograd.grad(output[0, 1], images)
        assert output[0, 1].item() == pytest.approx(-200.0)
        expected = torch.tensor([-0.5, 0.5, 0.0, 0.0] * 2)  # half of each net's one-hot minus softmax
        torch.testing.assert_close(gradient.flatten(), expected)

    @pytest.mark.parametrize("alpha_logit", [-60.0, 60.0])
    def test_a_saturated_alpha_still_has_a_gradient(self, alpha_logit):
        values = [[200.0, 0.0, 0.0, 0.0, 0.0, 200.0, 0.0, 0.0, alpha_logit]]
        images = as_images(values, dtype=torch.float32).requires_grad_()
        output = read_off(adaptive())(images)
        wrong_net_s_label = 0 if alpha_logit > 0 else 1
        (gradient,) = torch.autograd.grad(output[0, wrong_net_s_label], images)
        assert gradient[0, -1].abs() > 0.1


class TestEnds:
    @pytest.mark.parametrize(
        "alpha", [0.0, 1.0, adaptive(alpha_min=0.0, alpha_max=0.0), adaptive(alpha_min=1.0, alpha_max=1.0)]
    )
    def test_alpha_0_and_1_give_one_net_exactly_and_do_not_run_the_other(self, alpha):
        model = read_off(alpha)
        end = model.alpha.alpha_max
        images = torch.randn(N, 2 * C + 1, 1, 1)
        logits = images[:, C : 2 * C, 0, 0] if end else images[:, :C, 0, 0]
        torch.testing.assert_close(model(images), logits.log_softmax(dim=1), rtol=0, atol=1e-6)
        assert (model.std_model.calls, model.rob_model.calls) == ((0, 1) if end else (1, 0))

    def test_a_constant_has_an_alpha_and_no_alpha_logit(self):
        assert read_off(0.25).alpha_of(torch.zeros(5, 1, 1, 1)).tolist() == [0.25] * 5
        with pytest.raises(TypeError, match="constant alpha has no alpha_logit"):
            read_off(0.25).alpha_logit_of(torch.zeros(5, 2 * C, 1, 1))


class TestSweep:
    ALPHAS = (0.0, 1e-6, 0.3, 0.5, 0.99, 1.0)

    def test_a_sweep_is_one_classifier_per_alpha(self):
        images = torch.randn(N, 2 * C, 1, 1)
        scales = {"std_map": 2.0, "rob_map": 0.3}
        expected = torch.stack([read_off(alpha, **scales)(images) for alpha in self.ALPHAS])
        torch.testing.assert_close(read_off(0.77, **scales).sweep(images, self.ALPHAS), expected)
        as_tensor = torch.tensor(self.ALPHAS, dtype=torch.float64)
        torch.testing.assert_close(read_off(0.77, **scales).sweep(images, as_tensor), expected)

    @pytest.mark.parametrize("alpha", [0.5, adaptive()])
    def test_a_sweep_runs_each_net_once(self, alpha):
        model = read_off(alpha)
        assert model.sweep(torch.randn(N, 2 * C + 1, 1, 1), self.ALPHAS).shape == (6, N, C)
        assert (model.std_model.calls, model.rob_model.calls) == (1, 1)

    @pytest.mark.parametrize(("alphas", "message"), [([], "at least one"), ([0.5, 1.5], "must be in"), ([-0.1], "1")])
    def test_a_sweep_over_nothing_or_over_numbers_that_are_no_alphas_is_refused(self, alphas, message):
        with pytest.raises(ValueError, match=message):
            read_off(0.5).sweep(torch.randn(N, 2 * C, 1, 1), alphas)


class TestPredict:
    @staticmethod
    def check_labels(model, images):
        """Labels of ``predict`` are those of ``forward``, or one of forward's best two where these are tied."""
        output, labels = model(images), model.predict(images)
        best = output.max(dim=1)
        chosen = output.gather(1, labels[:, None])[:, 0]
        rounding = 1e-6 if output.dtype == torch.float32 else 1e-12
        assert ((labels == best.indices) | (best.values - chosen < rounding)).all()

    @settings(max_examples=100)
    @given(
        arrays(np.float64, (8, C), elements=st.one_of(st.floats(-8, 8), st.sampled_from([0.0, 1.0]))),
        st.one_of(st.floats(0, 1), st.floats(0.5, 0.52), st.floats(0.99, 1.0), st.sampled_from([0.5, 1.0])),
        st.sampled_from([torch.float32, torch.float64]),
        st.booleans(),
    )
    def test_labels_are_those_of_forward_whatever_the_standard_net_says(self, h, alpha, dtype, against_h):
        runner_up = np.eye(C)[h.argsort(axis=1)[:, -2]]
        g = 1e4 * runner_up if against_h else np.roll(h, 1, axis=0)
        self.check_labels(read_off(alpha), as_images(np.hstack([g, h])).to(dtype))

    @FEW
    @given(st.floats(0.5, 1.0), st.floats(-7, -3).map(lambda x: 10**x), st.booleans())
    def test_labels_are_those_of_forward_on_either_side_of_the_margin_that_decides(self, alpha, distance, wider):
        margin = np.clip((1 - alpha) / alpha + (distance if wider else -distance), 0, 1 - 1e-9)
        h = np.log([[(1 + margin) / 2, (1 - margin) / 2, 1e-300, 1e-300]])
        g = np.array([[0.0, 1e4, 0.0, 0.0]])
        self.check_labels(read_off(alpha), as_images(np.hstack([g, h])))
        self.check_labels(read_off(alpha), as_images(np.hstack([g, h]), dtype=torch.float32))

    @FEW
    @given(
        arrays(np.float64, (8, C), elements=st.floats(-8, 8)),
        arrays(np.float64, (8, 1), elements=st.floats(-50, 50)),
        st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)).map(sorted),
    )
    def test_labels_are_those_of_forward_with_an_adaptive_alpha(self, h, alpha_logits, alpha_range):
        g = 1e4 * np.eye(C)[h.argsort(axis=1)[:, -2]]
        alpha = adaptive(alpha_min=alpha_range[0], alpha_max=alpha_range[1])
        self.check_labels(read_off(alpha).double(), as_images(np.hstack([g, h, alpha_logits])))

    @pytest.mark.parametrize("alpha", [0.8, adaptive(alpha_min=0.8, alpha_max=0.9)])
    def test_the_standard_net_sees_only_images_on_which_the_robust_one_leaves_room(self, alpha):
        h = np.zeros((6, C))
        h[:4, 0] = 20.0  # four images on which h is certain
        images = as_images(np.hstack([np.eye(C)[[1] * 6] * 50, h, np.zeros((6, 1))]), dtype=torch.float32)
        model = read_off(alpha)
        assert model.predict(images).tolist() == [0, 0, 0, 0, 1, 1]
        assert (model.std_model.images_seen, model.rob_model.images_seen) == (2, 6)
        assert model.predict(images[:4]).tolist() == [0] * 4
        assert model.std_model.images_seen == 2

    def test_the_mixing_network_reads_both_nets_maps_of_the_same_images(self):
        certain, undecided = [20.0, 0.0, 0.0, 0.0], [0.4, 0.0, -20.0, -20.0]
        images = as_images(
            [
                [0.0, 0.0, 0.0, 0.0, *certain, 1000.0],
                [0.0, 50.0, 0.0, 0.0, *undecided, -10.0],  # alpha is smallest and g decides
                [0.0, 50.0, 0.0, 0.0, *undecided, 10.0],  # alpha is largest and h decides
            ]
        )
        model = read_off(adaptive(alpha_min=0.55, alpha_max=0.99)).double()
        assert model.predict(images).tolist() == model(images).argmax(dim=1).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 8, 8), r"shape \(N, channels, H, W\), got \(3, 8, 8\)"),
        (torch.rand(1, 1, 3, 8, 8), r"shape \(N, channels, H, W\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "divide 8-bit images by 255"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "floating-point"),
    ],
)
def test_what_is_no_batch_of_float_images_is_refused_everywhere(images, message):
    model = small_adaptive_model()
    calls = (
        model,
        model.predict,
        model.alpha_of,
        model.alpha_logit_of,
        lambda x: model.sweep(x, [0.5]),
        model.forward_features,
        model.forward_intermediates,
    )
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(images)


def test_a_mixing_network_needs_base_nets_with_feature_maps():
    with pytest.raises(ValueError, match=r"rob_model \(Linear\) has no forward_intermediates"):
        MixedClassifier(Pixels(0, C), nn.Linear(2, 2), adaptive())


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["std_map", "rob_map"])
def test_scales_that_are_not_finite_and_positive_are_refused(name, scale):
    with pytest.raises(ValueError, match="finite positive number"):
        read_off(0.5, **{name: scale})


class TestModule:
    images = torch.linspace(0, 1, 5 * 64).view(5, 1, 8, 8)

    def test_train_and_eval_differ_in_batch_norm_alone(self):
        model = small_adaptive_model()
        expected = model(self.images)
        model.train()
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert len(norms) > 5
        for module in norms:
            module.eval()
        assert torch.equal(model(self.images), expected)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_copies_give_the_same_output_and_share_nothing(self, copied):
        model = small_adaptive_model()
        expected, twin = model(self.images), copied(model)
        assert torch.equal(twin(self.images), expected)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert torch.equal(model(self.images), expected)

    def test_a_state_dict_carries_everything_that_was_learned(self):
        model, other = small_adaptive_model(), small_adaptive_model()
        model.alpha.norm.running_mean.fill_(0.3)
        assert not torch.allclose(model(self.images), other(self.images))
        other.load_state_dict(model.state_dict())
        assert torch.equal(model(self.images), other(self.images))

    @pytest.mark.parametrize("convert", [lambda model: model.double(), lambda model: model.to(torch.float64)])
    def test_double_precision_is_the_same_function(self, convert):
        model = small_adaptive_model()
        expected = model(self.images)
        found = convert(model)(self.images.double())
        assert found.dtype == torch.float64
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)

    def test_moving_to_another_device_moves_everything(self):
        model = small_adaptive_model().to("meta")
        assert model(self.images.to("meta")).device.type == "meta"

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_logits_come_out_as_float32(self, dtype):
        images = torch.randn(N, 2 * C + 1, 1, 1)
        for alpha in (0.0, 0.7, adaptive(alpha_min=0.8)):
            output = read_off(alpha, dtype)(images)
            assert output.dtype == torch.float32
            torch.testing.assert_close(output.exp().sum(dim=1), torch.ones(N))
