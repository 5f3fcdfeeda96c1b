"""The published MixedNUTS classifiers: RobustBench's composite and ours, with the same weights, say the same."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from robustbench_nets import architecture, parameters, randomized
from torch import nn

from adaptive_smoothing_zoo.attacks.surrogates import SURROGATES
from adaptive_smoothing_zoo.backbones import bit_resnet, dm_wide_resnet
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale
from adaptive_smoothing_zoo.zoo.weights import load_strictly


class Published(NamedTuple):
    dataset: str
    rob_name: str
    scale: float
    power: float
    clamp_bias: float
    alpha: float
    surrogate_alpha: float

    def as_stored_by(self, model: Any) -> "Published":
        """The same constants as RobustBench's module rounds them, to float32."""
        theirs = model.rob_map.scale, model.rob_map.power, model.rob_map.clamp_bias, model._alpha, model._alpha_diffable
        stored = self._make([*self[:2], *(float(value) for value in theirs)])
        assert stored[2:] == pytest.approx(self[2:], rel=1e-7)
        return stored


PUBLISHED = [
    Published("cifar10", "Peng2023Robust", 5.0, 4.0, -1.1, 0.9987500602493457, 0.9570535356459247),
    Published(
        "cifar100",
        "Wang2023Better_WRN-70-16",
        0.6115753843212784,
        3.571428571428571,
        -2.142857142857143,
        0.9860300534207915,
        0.9706995384302841,
    ),
]
CLASSES = {"cifar10": 10, "cifar100": 100}
SMALL_BIT = {"depth": (1, 1, 1, 1), "width": 1}
SMALL_RA = {"stem_width": 8, "depths": (1, 2, 1), "widths": (16, 24, 32)}
SMALL_DM = {"depth": 10, "width": 2}


def patchy_images() -> torch.Tensor:
    """Patches with some noise: pure noise is all alike to a random net, and pure patches make ties in max pooling."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(6, 3, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return 0.9 * patches + 0.1 * torch.rand(6, 3, 32, 32, generator=generator)


IMAGES = patchy_images()
each_published = pytest.mark.parametrize("published", PUBLISHED, ids=lambda p: p.dataset)


def robustbench_composite(published: Published, monkeypatch: pytest.MonkeyPatch, *, small: bool) -> Any:
    """What ``get_nonlin_mixed_classifier`` makes, with small base nets if ``small``, and nets that are confident."""
    comp_model = architecture("comp_model")
    if small:
        std_net = functools.partial(comp_model.bit_rn_v2.ResNetV2, SMALL_BIT["depth"], SMALL_BIT["width"])
        monkeypatch.setitem(comp_model.bit_rn_v2.KNOWN_MODELS, "BiT-M-R152x2", std_net)
        monkeypatch.setattr(comp_model, "get_robustarch_model", lambda _: small_ra_net())
        dm_net = comp_model.DMWideResNet
        monkeypatch.setattr(comp_model, "DMWideResNet", lambda **given: dm_net(**{**given, **SMALL_DM}))
    model = comp_model.get_nonlin_mixed_classifier(published.dataset)
    for net, head in ((model.std_model, model.std_model.head.conv), (model.rob_model, model.rob_model.logits)):
        make_varied(randomized(net), head)
    with torch.no_grad():  # so that ignoring the checkpoint's normalization is seen
        model.std_model.mean.uniform_(0.4, 0.6)
        model.std_model.std.uniform_(0.4, 0.6)
    return model.eval()


@torch.no_grad()
def make_varied(net: Any, head: Any) -> None:
    """Let the logits of different images differ in their largest, and in how far it stands out."""
    factors = 30 * torch.linspace(0.1, 1, len(head.weight)) ** 6
    head.weight.mul_(factors.view(-1, *[1] * (head.weight.ndim - 1)))
    head.bias.zero_()
    head.bias.sub_(net(IMAGES).mean(dim=0))


def small_ra_net() -> Any:
    ra_net = architecture("robustarch_wide_resnet")
    return ra_net.NormalizedWideResNet(
        ra_net.CIFAR10_MEAN,
        ra_net.CIFAR10_STD,
        stem_width=SMALL_RA["stem_width"],
        depth=SMALL_RA["depths"],
        stage_width=SMALL_RA["widths"],
        groups=[1, 1, 1],
        activation_fn=nn.SiLU,
        se_ratio=0.25,
        se_activation=nn.ReLU,
        se_order=2,
    )


def ours_like(model: Any, published: Published, *, small: bool) -> tuple[MixedClassifier, nn.Module]:
    """Our classifier with the weights of RobustBench's, and its surrogate; tensors are shared."""
    state = model.rob_model.state_dict()
    with torch.device("meta"):
        std_model = bit_resnet.BiTResNet(**SMALL_BIT if small else {}, num_classes=CLASSES[published.dataset])
        rob_model: nn.Module
        if published.dataset == "cifar10":
            rob_model = dm_wide_resnet.RaWideResNet(**SMALL_RA if small else {})
        else:
            mean, std = dm_wide_resnet.NORMALIZATION["cifar100"]
            size = SMALL_DM if small else {"depth": 70, "width": 16}
            rob_model = dm_wide_resnet.DMWideResNet(**size, activation="silu", num_classes=100, mean=mean, std=std)
    if published.dataset == "cifar10":
        state = dm_wide_resnet.ra_from_foreign(state)
    else:
        state = dm_wide_resnet.from_foreign(state, mean=mean, std=std)
    load_strictly(std_model, bit_resnet.from_foreign(model.std_model.state_dict()), "g")
    load_strictly(rob_model, state, "h")
    rob_map = NormClampPowerScale(scale=published.scale, power=published.power, clamp_bias=published.clamp_bias)
    mixed = MixedClassifier(std_model, rob_model, published.alpha, std_map=HardMax(), rob_map=rob_map).eval()
    return mixed, SURROGATES["mixednuts"](mixed, published.surrogate_alpha)


@each_published
def test_the_constants_are_those_of_robustbench(published: Published) -> None:
    comp_model = architecture("comp_model")
    settings = comp_model.yaml.safe_load((Path(comp_model.__file__).parent / "optimal_spca.yaml").read_text())
    found = settings[published.dataset][published.rob_name]
    mapped, linear = (found[kind][found[kind]["default_beta"]] for kind in ("gelu", "none"))
    theirs = (mapped["s"], mapped["p"], mapped["c"], mapped["alpha"], linear["alpha"])
    assert theirs == published[2:]


def test_a_checkpoint_without_normalization_gets_the_published_one() -> None:
    """As the authors' files have it."""
    reference = architecture("bit_rn_v2").ResNetV2(SMALL_BIT["depth"], SMALL_BIT["width"], head_size=10)
    state = {key: value for key, value in reference.state_dict().items() if key not in ("mean", "std")}
    assert len(state) == len(reference.state_dict()) - 2
    torch.testing.assert_close(
        bit_resnet.from_foreign(state), bit_resnet.from_foreign(reference.state_dict()), rtol=0, atol=0
    )


@each_published
def test_it_is_the_same_function(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 hardly anything differs: their last step is to float32, and g's deviation has their 1e-8 added."""
    model = robustbench_composite(published, monkeypatch, small=True)
    stored = published.as_stored_by(model)
    mixed, surrogate = ours_like(model, stored, small=True)
    images = IMAGES[:4].double().requires_grad_()
    theirs = model.double()(images, return_all=True)[:2]
    ours = mixed.double()(images), surrogate(images)
    assert len(set(theirs[0].argmax(dim=1).tolist())) > 1
    assert theirs[0].min() < -10  # so the map's power shows
    weights = torch.randn(theirs[0].shape)
    for our_output, their_output in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_output.float(), their_output, rtol=1e-6, atol=1e-7)
        gradients = [
            torch.autograd.grad((weights * out).sum(), images, retain_graph=True)[0]
            for out in (our_output, their_output)
        ]
        largest = gradients[1].abs().max().item()
        assert largest > 1e-3
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-6 * largest)


@torch.no_grad()
def compare(model: Any, published: Published, *, small: bool) -> MixedClassifier:
    """Outputs in float32 with the constants as published.

    The nets round, and the power magnifies it: at full size log-probabilities of both sides are 1.3e-4 of their size
    away from what float64 gives (where they are equal), at reduced size with unlucky weights 1e-3. Hence the
    tolerances; a small error of the map is the float64 test's to find.
    """
    mixed, surrogate = ours_like(model, published, small=small)
    theirs, their_surrogate, _ = model(IMAGES, return_all=True)
    assert theirs.isfinite().all()
    torch.testing.assert_close(mixed(IMAGES), theirs, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(surrogate(IMAGES), their_surrogate, rtol=1e-2, atol=1e-3)
    assert torch.equal(mixed.predict(IMAGES), theirs.argmax(dim=1))
    return mixed


@each_published
def test_reduced_size(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(robustbench_composite(published, monkeypatch, small=True), published, small=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@each_published
def test_full_size(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """About 2 GB of weights, which both sides share."""
    mixed = compare(robustbench_composite(published, monkeypatch, small=False), published, small=False)
    expected = {"cifar10": [232_279_178, 267_240_802], "cifar100": [232_647_908, 266_888_756]}[published.dataset]
    assert [parameters(net) for net in (mixed.std_model, mixed.rob_model)] == expected
