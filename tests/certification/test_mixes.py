"""Smoothed and Lipschitz robust nets in a mix: their certificates, and attacks that end at them."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.logs import mix_certificates, read_log
from adaptive_smoothing_zoo.certification.mixes import certify_lipschitz, certify_mix

IMAGES = torch.tensor([0.05, 0.2, 0.45, 0.7, 0.95])[:, None, None, None]
LABELS = torch.tensor([1, 1, 1, 0, 1])


class HalfSpace(nn.Module):
    """Sure of class 0 above 1/2 and of class 1 below."""

    def forward(self, images):
        above = (images.flatten(1)[:, :1] > 0.5).to(images)
        return torch.cat([above, 1 - above], dim=1) * 60


class Slope(nn.Module):
    """Probabilities (x, 1 - x): Lipschitz constants 1."""

    def forward(self, images):
        pixel = images.flatten(1)[:, :1]
        return torch.cat([pixel, 1 - pixel], dim=1).log()


class Against(nn.Module):
    """A g that is always sure of the class that h does not choose at the image it was made for."""

    def __init__(self, label):
        super().__init__()
        self.label = label

    def forward(self, images):
        logits = torch.zeros(len(images), 2, dtype=images.dtype)
        logits[:, 1 - self.label] = 100.0
        return logits


def test_a_smoothed_net_is_the_mean_over_its_bank():
    torch.manual_seed(1)
    base = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    net = GaussianSmoothed(base, sigma=0.5, image_shape=(1, 2, 2), num_noises=7, seed=3)
    images = torch.rand(5, 1, 2, 2, requires_grad=True)
    expected = sum(base(images + 0.5 * noise).softmax(1) for noise in net.noise) / 7
    torch.testing.assert_close(net(images).exp(), expected)
    assert torch.equal(net(images), net(images))
    net(images)[:, 0].sum().backward()
    assert (images.grad.abs() > 0).all()
    again = GaussianSmoothed(base, sigma=0.5, image_shape=(1, 2, 2), num_noises=7, seed=3)
    assert torch.equal(again.noise, net.noise)
    assert "noise" in net.state_dict()


def test_a_smoothed_half_space_is_phi():
    net = GaussianSmoothed(HalfSpace(), sigma=0.3, image_shape=(1, 1, 1), num_noises=20_000)
    share = net(IMAGES)[:, 0].exp().numpy()
    np.testing.assert_allclose(share, norm.cdf((IMAGES.flatten().numpy() - 0.5) / 0.3), atol=0.015)


@pytest.mark.parametrize("arguments", [{"sigma": 0.0}, {"sigma": float("inf")}, {"sigma": 1.0, "num_noises": 0}])
def test_a_smoothing_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ValueError, match=r"sigma must be|at least 1 noise"):
        GaussianSmoothed(HalfSpace(), image_shape=(1, 1, 1), **arguments)


@pytest.mark.parametrize("bound", ["theorem", "sharp"])
def test_a_smoothed_mix_is_certified_through_its_h(bound, tmp_path):
    h = GaussianSmoothed(HalfSpace(), sigma=0.3, image_shape=(1, 1, 1), num_noises=5)
    model = MixedClassifier(Slope(), h, 0.8)
    of_mix = certify_mix(model, IMAGES, LABELS, bound=bound, n=5000, log=tmp_path / "h.tsv")
    of_h = certify(HalfSpace(), IMAGES, LABELS, sigma=0.3, votes="soft", n=5000)
    np.testing.assert_array_equal(read_log(tmp_path / "h.tsv").radius, of_h.radius)
    np.testing.assert_array_equal(of_mix.radius, mix_certificates(of_h, 0.8, 0.3, bound=bound).radius)
    # Half-spaces are the worst case of the sharp bound, so it is near the exact radius and never above it.
    distance = np.abs(IMAGES.flatten().double().numpy() - 0.5)
    exact = np.maximum(distance - 0.3 * norm.ppf(1 / 1.6), 0)
    assert (of_mix.radius <= exact).all()
    if bound == "sharp":
        np.testing.assert_allclose(of_mix.radius, exact, atol=0.06)
    assert (of_mix.radius > 0).sum() >= 3


def test_mixes_that_are_not_covered_are_refused():
    h = GaussianSmoothed(HalfSpace(), sigma=0.3, image_shape=(1, 1, 1), num_noises=2)
    with pytest.raises(ValueError, match="GaussianSmoothed"):
        certify_mix(MixedClassifier(Slope(), HalfSpace(), 0.8), IMAGES, LABELS)
    with pytest.raises(ValueError, match="rob_map"):
        certify_mix(MixedClassifier(Slope(), h, 0.8, rob_map=2.0), IMAGES, LABELS)


def test_a_lipschitz_net_and_its_mix():
    alone = certify_lipschitz(Slope(), IMAGES, LABELS, lipschitz=1.0, batch_size=2, indices=range(5, 10))
    pixels = IMAGES.flatten().double().numpy()
    gap = np.abs(2 * pixels - 1)
    np.testing.assert_allclose(alone.radius, gap / 2, atol=1e-6)
    np.testing.assert_array_equal(alone.prediction, [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(alone.correct, [True, True, True, True, False])
    np.testing.assert_array_equal(alone.index, range(5, 10))
    mixed = certify_lipschitz(MixedClassifier(Slope(), Slope(), 0.8), IMAGES, LABELS, lipschitz=1.0)
    np.testing.assert_allclose(mixed.radius, np.maximum(gap - 0.25, 0) / 2, atol=1e-6)
    np.testing.assert_array_equal(mixed.prediction, [1, 1, -1, 0, 0])
    for i in (0, 1, 3, 4):  # shifts up to the radius keep the label against the worst g, slightly further ones do not
        label = int(mixed.prediction[i])
        model = MixedClassifier(Against(label), Slope(), 0.8)
        toward = 1.0 if label == 1 else -1.0
        steps = toward * mixed.radius[i] * torch.tensor([0.0, 0.5, 0.9999, 1.0001])
        found = model(IMAGES[i] + steps[:, None, None, None]).argmax(1)
        assert found.tolist() == [label, label, label, 1 - label]


def test_a_lipschitz_net_is_left_in_its_mode():
    model = nn.Sequential(Slope(), nn.Dropout(0.5)).train()
    model[0].eval()
    certify_lipschitz(model, IMAGES, LABELS, lipschitz=1.0)
    assert model.training
    assert model[1].training
    assert not model[0].training
