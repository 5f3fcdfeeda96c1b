"""Half precision where it does little harm, float32 where it would do much."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adaptive_smoothing_zoo.backbones import ARCHITECTURES, build
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.half_precision import to_dtype
from adaptive_smoothing_zoo.method.logit_maps import NormClampPowerScale
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork

SMALL = {
    "bit_resnet": {"depth": (1, 1, 1, 1), "width": 1, "image_size": 24},
    "dm_wide_resnet": {"depth": 10, "width": 1, "activation": "silu", "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "preact_resnet18": {"width": 4},
    "ra_wide_resnet": {"stem_width": 4, "depths": (1, 1, 1), "widths": (4, 8, 12)},
    "resnet18": {"width": 4},
    "resnet20": {"width": 4},
    "lenet": {"widths": (4, 8, 12), "image_size": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "small_cnn": {"widths": (4, 8, 12), "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "strided_cnn": {"widths": (4, 8), "hidden": 12, "image_size": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "wide_resnet": {"depth": 10, "width": 1},
}
FLOAT32_ONLY = {"gaussian_smoothed", "lipschitz"}  # certificates are about the weights as they are
DEEPER = {"resnet110"}  # of the same blocks as resnet20
OTHERS = {"layers", "preprocessed", "robustbench", "timm", "torchvision"}  # nets of others
HALVES = (torch.bfloat16, torch.float16)
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def model_with(architecture, alpha="adaptive"):
    """Two nets and perhaps a mixing network; batch norm has the statistics of the images, as if it had been trained."""
    return copy.deepcopy(_made(architecture, alpha))


@functools.cache
def _made(architecture, alpha):
    torch.manual_seed(0)  # whoever asks first
    g, h = (build(architecture, num_classes=5, **SMALL[architecture]) for _ in range(2))
    if alpha == "adaptive":
        channels = [2 * g.feature_info[i]["num_chs"] for i in (0, 1)]
        alpha = AdaptiveAlpha(MixingNetwork(*channels, (4, 6, 8)), alpha_min=0.2, alpha_max=0.9)
    model = MixedClassifier(g, h, alpha, std_map=3.0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(IMAGES)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("alpha", ["adaptive", 0.7])
@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - FLOAT32_ONLY - DEEPER - OTHERS))
def test_outputs_are_near_those_of_float32(architecture, alpha):
    """Each layer rounds by up to 2^-9 (bfloat16) or 2^-12 (float16), and roundings add up over 6 to 40 layers.

    The largest error found over these nets is 0.045 and 0.011 of the range of the log-probabilities.
    """
    model = model_with(architecture, alpha)
    expected, expected_alpha = model(IMAGES), model.alpha_of(IMAGES)
    span = expected.max() - expected.min()
    for dtype, tolerance in zip(HALVES, (0.1, 0.025), strict=True):
        half = to_dtype(copy.deepcopy(model), dtype)
        found = half(IMAGES)
        assert found.dtype == half.alpha_of(IMAGES).dtype == torch.float32
        assert 0 < (found - expected).abs().max() < tolerance * span
        torch.testing.assert_close(half.alpha_of(IMAGES), expected_alpha, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(4))


@functools.cache
def _half(architecture, dtype):
    return to_dtype(model_with(architecture), dtype)


@pytest.mark.parametrize("dtype", HALVES)
class TestPrecision:
    @pytest.fixture(params=["bit_resnet", "dm_wide_resnet", "small_cnn"])
    @staticmethod
    def half(request, dtype):
        return copy.deepcopy(_half(request.param, dtype))

    def test_everything_is_cast_but_constants_and_the_last_batch_norm(self, half, dtype):
        kept = {name for name, value in half.state_dict().items() if value.dtype == torch.float32}
        constants = {f"{net}.{name}" for net in ("std_model", "rob_model") for name in ("mean", "std")}
        assert kept == {*constants, "alpha.norm.running_mean", "alpha.norm.running_var"}
        assert {parameter.dtype for parameter in half.parameters()} == {dtype}

    def test_the_stem_sees_pixels_resized_and_normalized_in_float32_and_rounded_once(self, half, dtype):
        seen = {}
        for net in (half.std_model, half.rob_model):
            net.stem.register_forward_pre_hook(lambda _, arguments, net=net: seen.update({net: arguments[0]}))
        for images in (IMAGES, IMAGES.to(dtype)):
            half(images)
            for net in (half.std_model, half.rob_model):
                exact = images.double()
                if getattr(net, "image_size", None):
                    exact = F.interpolate(exact, size=(24, 24), mode="bilinear", align_corners=False)
                exact = (exact - net.mean.double()) / net.std.double()
                # The float32 result may, rarely, lie on the other side of a rounding boundary: one step away.
                wrong = seen[net] != exact.to(dtype)
                assert seen[net].dtype == dtype
                assert wrong.float().mean() < 0.02
                torch.testing.assert_close(seen[net], exact.to(dtype), rtol=2**-7, atol=1e-4)

    def test_images_in_half_precision_are_taken_as_they_are(self, half, dtype):
        images = IMAGES.to(dtype)
        assert torch.equal(half(images), half(images.float()))
        assert torch.equal(half.alpha_of(images), half.alpha_of(images.float()))

    def test_head_after_features_is_forward(self, half, dtype):
        features = half.forward_features(IMAGES)
        assert features.dtype == torch.float32
        assert torch.equal(half.forward_head(features), half(IMAGES))

    def test_a_fresh_head_is_float32_and_learns(self, half, dtype):
        pooled = half.forward_head(half.forward_features(IMAGES), pre_logits=True)
        half.reset_classifier(3)
        logits = half(IMAGES)
        assert half.head.weight.dtype == logits.dtype == torch.float32
        torch.testing.assert_close(logits, pooled @ half.head.weight.T + half.head.bias)
        logits.sum().backward()
        torch.testing.assert_close(half.head.weight.grad, pooled.sum(dim=0).expand(3, -1))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("features", ["both", "rob_model"])
def test_a_model_with_a_fresh_head_is_cast_but_for_its_head_and_the_net_that_does_not_run(features, dtype):
    model = model_with("small_cnn")
    model.reset_classifier(3, features=features)
    expected = model(IMAGES)
    found = to_dtype(model, dtype)(IMAGES)
    assert model.head.weight.dtype == found.dtype == torch.float32
    assert model.rob_model.dtype == dtype
    assert model.std_model.dtype == (dtype if features == "both" else torch.float32)
    assert 0 < (found - expected).abs().max() < 0.03 * (expected.max() - expected.min())


@pytest.mark.parametrize("dtype", HALVES)
def test_a_constant_alpha_is_not_rounded_and_logit_maps_are_in_float32(dtype):
    model = model_with("small_cnn", 0.95)
    model.rob_map = NormClampPowerScale(scale=0.1, power=4.0, clamp_bias=0.5)
    half = to_dtype(model, dtype)
    images = IMAGES.to(dtype)
    assert torch.equal(half.alpha_of(images), torch.full((4,), 0.95))
    g, h = half.std_model(images).float(), half.rob_model(images).float()
    expected = 0.05 * (3 * g).softmax(dim=1) + 0.95 * model.rob_map(h).softmax(dim=1)
    torch.testing.assert_close(half(images).exp(), expected)
    assert torch.equal(half.predict(images), half(images).argmax(dim=1))


def test_float32_is_computed_in_again():
    model = model_with("resnet20")
    expected = model(IMAGES)
    assert torch.equal(to_dtype(copy.deepcopy(model), torch.float32)(IMAGES), expected)
    again = to_dtype(to_dtype(model, torch.bfloat16), torch.float32)
    assert {value.dtype for value in again.state_dict().values()} == {torch.float32, torch.int64}
    assert 0 < (again(IMAGES) - expected).abs().max() < 0.12 * (expected.max() - expected.min())


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_other_number_formats_are_refused(dtype):
    with pytest.raises(ValueError, match=f"got {dtype}"):
        to_dtype(model_with("small_cnn"), dtype)


def test_nets_of_others_are_refused_before_anything_is_cast():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    model = MixedClassifier(build("small_cnn", num_classes=5, **SMALL["small_cnn"]), net, 0.5)
    with pytest.raises(ValueError, match=r"half precision is not supported for rob_model \(Sequential\)"):
        to_dtype(model, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
