"""Smoothed and Lipschitz robust nets in a mix: their certificates, and attacks that end at them."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, Triplet
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification.bounds.sharp import lipschitz_logit_radius
from adaptive_smoothing_zoo.certification.bounds.theorem4 import lipschitz_radius
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.kinds import subject_of
from adaptive_smoothing_zoo.certification.logs import read_log
from adaptive_smoothing_zoo.certification.mixes import certify_lipschitz, certify_mix, mix_certificates
from adaptive_smoothing_zoo.errors import ConfigError, EvaluationError
from adaptive_smoothing_zoo.method.logit_maps import HardMax, Scale
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, ConstantAlphaConfig, Entry, Paper

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


def test_soft_votes_know_the_scale_of_logits_and_so_does_what_is_certified():
    torch.manual_seed(1)
    base = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    arguments = {"sigma": 0.5, "image_shape": (1, 2, 2), "num_noises": 7, "seed": 3}
    net, images = GaussianSmoothed(base, logit_scale=20.0, **arguments), torch.rand(5, 1, 2, 2)
    expected = sum((20.0 * base(images + 0.5 * noise)).softmax(1) for noise in net.noise) / 7
    torch.testing.assert_close(net(images).exp(), expected)
    labels = torch.arange(5) % 3
    found = certify_mix(MixedClassifier(base, net, 1.0), images, labels, n=200)
    scaled = nn.Linear(4, 3)
    scaled.load_state_dict({name: 20.0 * value for name, value in base[1].state_dict().items()})
    oracle = certify(nn.Sequential(nn.Flatten(), scaled), images, labels, sigma=0.5, n=200, votes="soft")
    np.testing.assert_allclose(found.radius, oracle.radius, atol=1e-5)
    assert (oracle.radius > 0).any()
    hard = [GaussianSmoothed(base, logit_scale=scale, votes="hard", **arguments)(images) for scale in (1.0, 20.0)]
    assert torch.equal(*hard)


def test_hard_votes_are_shares_of_argmaxes():
    torch.manual_seed(2)
    base = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    net = GaussianSmoothed(base, sigma=2.0, image_shape=(1, 2, 2), num_noises=23, votes="hard")
    images = torch.rand(5, 1, 2, 2)
    expected = sum(torch.nn.functional.one_hot(base(images + 2.0 * noise).argmax(1), 3) for noise in net.noise) / 23
    torch.testing.assert_close(net(images).exp(), expected)
    assert torch.isfinite(net(images)).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"sigma": 0.0},
        {"sigma": float("inf")},
        {"sigma": 1.0, "num_noises": 0},
        {"sigma": 1.0, "votes": "loud"},
        {"sigma": 1.0, "logit_scale": 0.0},
    ],
)
def test_a_smoothing_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ValueError, match=r"sigma must be|at least 1 noise|votes must be|a logit scale must be"):
        GaussianSmoothed(HalfSpace(), image_shape=(1, 1, 1), **arguments)


def test_images_of_another_shape_than_the_noise_are_refused():
    with pytest.raises(ValueError, match=r"must have shape \(N, 1, 1, 1\)"):
        GaussianSmoothed(HalfSpace(), sigma=1.0, image_shape=(1, 1, 1))(torch.rand(2, 1, 8, 8))


def smoothed_entry(**arguments):
    """An entry whose rob_model is a smoothed small CNN."""
    base = {"architecture": "small_cnn", "arguments": {"widths": [4, 6]}}
    rob_model = {"base": base, "sigma": 0.25, "image_shape": [1, 8, 8], "num_noises": 12, **arguments}
    return Entry(
        name="Doe2024Smoothed",
        dataset="digits",
        threat_model="L2",
        eps="0.25",
        description="A tiny mix with a smoothed net.",
        num_classes=10,
        image_shape=(1, 8, 8),
        std_model=BaseNetConfig(architecture="small_cnn", arguments={"widths": [3, 5]}),
        rob_model=BaseNetConfig(architecture="gaussian_smoothed", arguments=rob_model),
        alpha=ConstantAlphaConfig(value=0.75),
        paper=Paper(title="Tiny Nets", authors="Jane Doe", venue="none", link="https://example.org"),
        architecture="two small CNNs",
        additional_data=False,
    )


def test_a_triplet_with_a_smoothed_net_is_saved_loaded_and_certified(tmp_path):
    torch.manual_seed(4)
    model = Triplet(smoothed_entry()).eval()
    images = torch.rand(3, 1, 8, 8)
    model.save_pretrained(tmp_path)
    again = Triplet.from_pretrained(tmp_path)
    assert torch.equal(again(images), model(images))
    assert torch.equal(again.rob_model.noise, model.rob_model.noise)
    assert again.num_classes == 10
    assert torch.equal(again.predict(images), again(images).argmax(1))
    found = certify_mix(again, images, torch.tensor([1, 2, 3]), n=200)
    of_h = certify(again.rob_model.base, images, torch.tensor([1, 2, 3]), sigma=0.25, n=200, votes="soft")
    np.testing.assert_array_equal(found.radius, mix_certificates(of_h, 0.75, 0.25).radius)
    assert torch.equal(Triplet(smoothed_entry(seed=1)).rob_model.noise, Triplet(smoothed_entry(seed=1)).rob_model.noise)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("small_cnn", "'base' must hold 'architecture'"),
        ({"arguments": {}}, "'base' must hold 'architecture'"),
        ({"architecture": "small_cnn", "weights": 1}, "'base' must hold 'architecture'"),
        ({"architecture": "resnet19"}, "unknown architecture 'resnet19'"),
    ],
)
def test_a_smoothed_net_of_no_known_base_is_refused(base, message):
    with pytest.raises(ConfigError, match=message):
        Triplet(smoothed_entry(base=base))


def test_a_mix_is_certified_at_a_radius_with_fewer_samples():
    h = GaussianSmoothed(HalfSpace(), sigma=0.3, image_shape=(1, 1, 1), num_noises=5, votes="hard")
    model = MixedClassifier(Slope(), h, 0.8)
    fixed = certify_mix(model, IMAGES, LABELS, bound="sharp", n=5000)
    at = certify_mix(model, IMAGES, LABELS, bound="sharp", n=5000, radius=0.1)
    np.testing.assert_array_equal(at.radius > 0, fixed.radius >= 0.1)
    assert at.samples.sum() < fixed.samples.sum() / 4


@pytest.mark.parametrize("bound", ["theorem5", "sharp"])
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


@pytest.mark.parametrize("bound", ["theorem4", "sharp"])
@pytest.mark.parametrize("alpha", [0.6, 0.9, 1.0])
def test_a_lipschitz_net_proves_its_own_constants(bound, alpha):
    torch.manual_seed(5)
    h = LipschitzNet(widths=(12, 8), patch=4, num_classes=3, std=(0.5,))
    images, labels = torch.rand(20, 1, 4, 4), torch.randint(0, 3, (20,))
    model = MixedClassifier(Against(0), h, alpha, rob_map=30.0)
    found = certify_lipschitz(model, images, labels, bound=bound)
    logits = 30.0 * h.double()(images.double()).detach().numpy()
    h.float()
    constant = 30.0 * h.lipschitz
    if bound == "sharp":
        expected = lipschitz_logit_radius(logits, alpha, constant)
    else:
        expected = lipschitz_radius(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), alpha, constant * 2**-1.5)
    np.testing.assert_allclose(found.radius, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.prediction, np.where(expected > 0, logits.argmax(1), -1))
    assert (expected > 0).any()
    assert next(h.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (Slope(), {}, "constants of Slope are not known"),
        (Slope(), {"lipschitz": 1.0, "bound": "sharp"}, "sharp bound needs a LipschitzNet"),
        (Slope(), {"lipschitz": 1.0, "bound": "theorem5"}, "must be one of theorem4, sharp"),
        (Slope(), {"lipschitz": 1.0, "bound": "theorem6"}, "the bound must be"),
        (MixedClassifier(Slope(), LipschitzNet(widths=(2,), patch=1), 0.9, rob_map=HardMax()), {}, "must be a scale"),
    ],
)
def test_lipschitz_certificates_without_known_constants_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        certify_lipschitz(model, IMAGES, LABELS, **arguments)


def test_a_lipschitz_net_may_hold_its_logits_in_something():
    class Tupled(nn.Module):
        def forward(self, images):
            return (Slope()(images), None)

    expected = certify_lipschitz(Slope(), IMAGES, LABELS, lipschitz=1.0).radius
    for model in (Tupled(), MixedClassifier(Slope(), Tupled(), 1.0)):
        np.testing.assert_array_equal(certify_lipschitz(model, IMAGES, LABELS, lipschitz=1.0).radius, expected)


def test_a_part_of_a_mix_leaves_the_nets_in_their_modes():
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in range(2)]
    mix = MixedClassifier(*nets, 0.9).train()
    before = [module.training for module in mix.modules()]
    subject_of(mix, "rob_model", sigma=0.1)
    assert [module.training for module in mix.modules()] == before
    assert before[1]


def test_a_lipschitz_net_is_left_in_its_mode():
    model = nn.Sequential(Slope(), nn.Dropout(0.5)).train()
    model[0].eval()
    certify_lipschitz(model, IMAGES, LABELS, lipschitz=1.0)
    assert model.training
    assert model[1].training
    assert not model[0].training


def test_images_of_another_size_than_the_net_takes_are_refused_in_a_sentence():
    with pytest.raises(EvaluationError, match=r"fails on torch.float32 images of shape \(1, 1, 1\)"):
        certify_lipschitz(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), IMAGES, LABELS, lipschitz=1.0)


def flip(module, inputs, output):
    return output.flip(1)


@pytest.mark.parametrize("hooked", ["mix", "rob_map", "rob_model"])
def test_what_a_hook_changes_has_no_certificate(hooked):
    smoothed = GaussianSmoothed(HalfSpace(), sigma=0.1, image_shape=(1, 1, 1), num_noises=4)
    ours = LipschitzNet(widths=(4,), patch=1, num_classes=2)
    for h, certify_it in (
        (smoothed, lambda mix: certify_mix(mix, IMAGES, LABELS, n=100, n0=10)),
        (ours, lambda mix: certify_lipschitz(mix, IMAGES, LABELS)),
    ):
        mix = MixedClassifier(HalfSpace(), h, 0.9)
        certify_it(mix)
        (mix if hooked == "mix" else getattr(mix, hooked)).register_forward_hook(flip)
        with pytest.raises(ValueError, match="hook"):
            certify_it(mix)


class Steep(Scale):
    def forward(self, logits):
        return 1000.0 * super().forward(logits)


class Flipped(MixedClassifier):
    def rob_outputs(self, images, taps=None):
        log_rob, maps = super().rob_outputs(images, taps)
        return log_rob.flip(1), maps


class Louder(GaussianSmoothed):
    def _votes(self, logits):
        return super()._votes(logits).flip(1)


def test_what_a_subclass_changes_has_no_certificate():
    arguments = {"sigma": 0.1, "image_shape": (1, 1, 1), "num_noises": 4}
    smoothed, ours = GaussianSmoothed(HalfSpace(), **arguments), LipschitzNet(widths=(4,), patch=1, num_classes=2)
    for h, certify_it, louder in (
        (smoothed, lambda mix: certify_mix(mix, IMAGES, LABELS, n=100, n0=10), Louder(HalfSpace(), **arguments)),
        (ours, lambda mix: certify_lipschitz(mix, IMAGES, LABELS), None),
    ):
        patched = MixedClassifier(HalfSpace(), h, 0.9)
        patched.std_outputs = patched.rob_outputs
        for mix in (MixedClassifier(HalfSpace(), h, 0.9, rob_map=Steep()), Flipped(HalfSpace(), h, 0.9), patched):
            with pytest.raises(ValueError, match=r"scale|other code"):
                certify_it(mix)
        if louder is not None:
            with pytest.raises(ValueError, match="other code"):
                certify_it(MixedClassifier(HalfSpace(), louder, 0.9))


class Band(nn.Module):
    """Sure of class 0 where the pixel is in [-1, 1], and of class 1 elsewhere."""

    def forward(self, images):
        inside = (images.flatten(1)[:, :1].abs() < 1).to(images)
        return torch.cat([inside, 1 - inside], dim=1) * 60


@pytest.mark.parametrize(("name", "value"), [("sigma", 4.0), ("votes", "hard")])
@pytest.mark.parametrize("radius", [None, 0.05])
def test_noise_and_votes_other_than_h_s_own_certify_another_mix_and_are_refused(name, value, radius):
    """With a sigma of 4 most votes on a band of class 0 are for class 1, which h never says there."""
    h = GaussianSmoothed(Band(), sigma=0.1, image_shape=(1, 1, 1), num_noises=5)
    mix = MixedClassifier(Slope(), h, 0.9)
    with pytest.raises(ValueError, match=r"smoothed with sigma 0\.1 and soft votes; omit sigma and votes"):
        certify_mix(mix, IMAGES, LABELS, n=200, radius=radius, **{name: value})
    own = certify_mix(mix, IMAGES, LABELS, n=200, radius=radius, sigma=0.1, votes="soft")
    np.testing.assert_array_equal(own.radius, certify_mix(mix, IMAGES, LABELS, n=200, radius=radius).radius)
    assert 1 not in own.prediction
