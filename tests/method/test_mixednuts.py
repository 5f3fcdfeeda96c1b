"""A mixed classifier with MixedNUTS's maps: everything it offers, held against the formula in plain arithmetic."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale

C = 10
ALPHA, SCALE, POWER, CLAMP_BIAS = 0.9987500602493457, 5.0, 4.0, -1.1
LOGITS = arrays(np.float64, (6, 2 * C), elements=st.one_of(st.floats(-30, 30), st.sampled_from([0.0, 1.0, 30.0])))


class Pixels(nn.Module):
    """Logits are read off the image."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop
        self.images_seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images_seen += len(images)
        return images[:, self.start : self.stop, 0, 0]


def with_maps(std_model: nn.Module, rob_model: nn.Module, alpha: float = ALPHA) -> MixedClassifier:
    rob_map = NormClampPowerScale(scale=SCALE, power=POWER, clamp_bias=CLAMP_BIAS)
    return MixedClassifier(std_model, rob_model, alpha, std_map=HardMax(), rob_map=rob_map)


def read_off(alpha: float = ALPHA) -> MixedClassifier:
    return with_maps(Pixels(0, C), Pixels(C, 2 * C), alpha)


def as_images(logits: np.ndarray) -> Tensor:
    return torch.tensor(logits)[:, :, None, None]


def probabilities(std_logits: Tensor, rob_logits: Tensor, alpha: float) -> Tensor:
    """The mix, term by term, in float64."""
    std_logits, rob_logits = std_logits.double(), rob_logits.double()
    one_hot = F.one_hot(std_logits.argmax(dim=1), C).double()
    deviation = (rob_logits.var(dim=1, keepdim=True) + 1e-8).sqrt()
    clamped = F.gelu((rob_logits - rob_logits.mean(dim=1, keepdim=True)) / deviation + CLAMP_BIAS)
    return (1 - alpha) * one_hot + alpha * (SCALE * clamped.sign() * clamped.abs() ** POWER).softmax(dim=1)


@settings(max_examples=60)
@given(LOGITS, st.sampled_from([0.0, 0.3, 0.9, ALPHA, 1.0]))
def test_it_is_the_formula(logits: np.ndarray, alpha: float) -> None:
    images = as_images(logits)
    expected = probabilities(images[:, :C, 0, 0], images[:, C:, 0, 0], alpha)
    torch.testing.assert_close(read_off(alpha)(images).exp(), expected, rtol=1e-9, atol=1e-12)
    found = read_off(alpha)(images.float())
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    expected = probabilities(images[:, :C, 0, 0].float(), images[:, C:, 0, 0].float(), alpha)
    torch.testing.assert_close(found.exp(), expected.float(), rtol=1e-5, atol=1e-7)


def test_the_standard_net_is_not_asked_where_mapped_probabilities_leave_no_room() -> None:
    """Raw probabilities of h would leave room here: its logits are close together, but not in standard deviations."""
    certain = np.r_[np.zeros(C), 0.01, np.zeros(C - 1)]
    undecided = np.r_[0.0, 1.0, np.zeros(C - 2), 1.0, 1.0 - 1e-5, np.zeros(C - 2)]
    model = read_off()
    assert model.predict(as_images(np.stack([certain, undecided]))).tolist() == [0, 1]
    assert (model.std_model.images_seen, model.rob_model.images_seen) == (1, 2)


def test_the_gradient_is_the_robust_nets_alone() -> None:
    images = torch.randn(4, 2 * C, 1, 1, requires_grad=True)
    for label in range(C):
        (gradient,) = torch.autograd.grad(read_off()(images)[:, label].sum(), images)
        assert gradient.isfinite().all()
        assert (gradient[:, :C] == 0).all()
    (gradient,) = torch.autograd.grad(read_off(0.0)(images).sum(), images)
    assert (gradient == 0).all()
