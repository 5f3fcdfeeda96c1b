"""The surrogates against their formulas."""

import pickle

import pytest
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.surrogates import SURROGATES, MixedNUTSSurrogate
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale

C = 4
ALPHA = 0.95


class Pixels(nn.Module):
    """Logits are read off the image."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, images: Tensor) -> Tensor:
        return images[:, self.start : self.stop, 0, 0]


def surrogate(alpha: float = ALPHA) -> nn.Module:
    rob_map = NormClampPowerScale(scale=5.0, power=4.0, clamp_bias=-1.1)
    model = MixedClassifier(Pixels(0, C), Pixels(C, 2 * C), 0.99, std_map=HardMax(), rob_map=rob_map)
    return SURROGATES["mixednuts"](model, alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.3, ALPHA, 1.0])
def test_it_is_the_formula(alpha: float) -> None:
    images = 3 * torch.randn(5, 2 * C, 1, 1, dtype=torch.float64)
    g, h = images[:, :C, 0, 0], images[:, C:, 0, 0]
    clamped = nn.functional.gelu((h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True) + 1e-8).sqrt() - 1.1)
    mapped = 5.0 * clamped.sign() * clamped.abs() ** 4
    expected = (1 - alpha) * g.softmax(1) + 0.9 * alpha * h.softmax(1) + 0.1 * alpha * mapped.softmax(1)
    torch.testing.assert_close(surrogate(alpha)(images).exp(), expected)


def test_unlike_the_model_it_has_a_gradient_in_the_standard_net() -> None:
    images = torch.randn(5, 2 * C, 1, 1, requires_grad=True)
    stand_in = surrogate()
    (through_model,) = torch.autograd.grad(stand_in.model(images)[:, 0].sum(), images)
    (through_surrogate,) = torch.autograd.grad(stand_in(images)[:, 0].sum(), images)
    assert (through_model[:, :C] == 0).all()
    assert (through_surrogate != 0).all()


@pytest.mark.parametrize("largest", [200.0, 3e38])
def test_confident_nets_leave_output_and_gradient_finite(largest: float) -> None:
    logits = [largest, 0.0, -largest, 0.0] * 2
    images = torch.tensor([logits])[:, :, None, None].requires_grad_()
    output = surrogate()(images)
    assert output.isfinite().all()
    for label in range(C):
        (gradient,) = torch.autograd.grad(output[0, label], images, retain_graph=True)
        assert gradient.isfinite().all()


def test_half_precision_logits_come_out_as_float32() -> None:
    images = torch.randn(3, 2 * C, 1, 1).bfloat16()
    output = surrogate()(images)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, surrogate()(images.float()))


def test_it_is_a_module_that_shares_the_models_weights() -> None:
    rob_map = NormClampPowerScale(scale=5.0, power=4.0, clamp_bias=-1.1)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(4, C)) for _ in range(2)]
    model = MixedClassifier(*nets, 0.99, std_map=HardMax(), rob_map=rob_map)
    stand_in = MixedNUTSSurrogate(model, ALPHA)
    assert {id(p) for p in stand_in.parameters()} == {id(p) for p in model.parameters()}
    images = torch.rand(2, 1, 2, 2)
    assert torch.equal(pickle.loads(pickle.dumps(stand_in))(images), stand_in(images))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be in"):
        surrogate(alpha)


def test_what_is_no_batch_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(N, channels, H, W\)"):
        surrogate()(torch.rand(2 * C, 1, 1))


def test_a_model_that_no_longer_mixes_is_refused() -> None:
    model = MixedClassifier(build("small_cnn", widths=(4,)), build("small_cnn", widths=(4,)), 0.9)
    model.reset_classifier(3)
    with pytest.raises(ValueError, match="MixedNUTSSurrogate: reset_classifier has replaced the mix"):
        MixedNUTSSurrogate(model, ALPHA)
