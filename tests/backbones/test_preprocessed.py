"""A net with its preprocessing inside gives what the net gives for preprocessed images, and stays a backbone."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.backbones.libraries import timm_net, torchvision_net
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def normalized(images):
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (MEAN, STD))
    return (images - mean) / std


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=7).eval()


def test_logits_features_and_maps_are_the_net_s(net):
    inside = Preprocessed(net, MEAN, STD).eval()
    images = normalized(IMAGES)
    assert torch.equal(inside(IMAGES), net(images))
    assert torch.equal(inside.forward_features(IMAGES), net.forward_features(images))
    ours, theirs = (
        f(x, [1, 2])[1] for f, x in ((inside.forward_intermediates, IMAGES), (net.forward_intermediates, images))
    )
    assert all(map(torch.equal, ours, theirs))
    assert (inside.num_classes, inside.num_features, inside.feature_info) == (7, net.num_features, net.feature_info)
    assert inside(IMAGES[:0]).shape == (0, 7)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_images_of_another_size_are_resized_and_others_are_not(net, interpolation):
    inside = Preprocessed(net, MEAN, STD, (40, 36), interpolation).eval()
    smooth = {} if interpolation == "nearest" else {"antialias": True}
    resized = F.interpolate(IMAGES, (40, 36), mode=interpolation, **smooth)
    torch.testing.assert_close(inside(IMAGES), net(normalized(resized)))
    assert torch.equal(inside(resized), net(normalized(resized)))
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(inside(images).sum(), images)
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()


def test_a_mix_of_such_nets_mixes_and_gives_features(net):
    g, h = Preprocessed(net, MEAN, STD), Preprocessed(timm.create_model("resnet10t", num_classes=7), STD, MEAN)
    mix = MixedClassifier(g, h, 0.7).eval()
    expected = (0.3 * g(IMAGES).softmax(1) + 0.7 * h(IMAGES).softmax(1)).log()
    torch.testing.assert_close(mix(IMAGES), expected, rtol=1e-4, atol=1e-4)
    assert mix.num_features == 2 * net.num_features
    assert torch.equal(mix.forward_head(mix.forward_features(IMAGES)), mix(IMAGES))


def test_a_net_without_a_backbone_s_methods_has_none():
    inside = Preprocessed(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), MEAN, STD)
    assert inside(IMAGES).shape == (3, 4)
    assert not hasattr(inside, "feature_info")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((0.5,), STD), "one number per channel"),
        ((MEAN, (0.2, 0.0, 0.1)), "std positive"),
        ((MEAN, STD, (0, 3)), "size"),
        ((MEAN, STD, None, "lanczos"), "interpolation"),
    ],
)
def test_constants_that_make_no_sense_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Preprocessed(nn.Identity(), *arguments)


def test_images_of_other_channels_are_refused(net):
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        Preprocessed(net, MEAN, STD)(IMAGES[:, :1])


class TestLibraries:
    def test_timm_and_torchvision_nets_by_name(self):
        for made, theirs in (
            (timm_net(model="resnet10t.c3_in1k", num_classes=5), timm.create_model("resnet10t", num_classes=5)),
            (
                torchvision_net(model="shufflenet_v2_x0_5", num_classes=5, size=(64, 64)),
                torchvision.models.shufflenet_v2_x0_5(num_classes=5),
            ),
        ):
            made.net.load_state_dict(theirs.state_dict())
            made, theirs = made.eval(), theirs.eval()
            assert torch.equal(made(IMAGES), theirs(made.preprocess(IMAGES)))

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: timm_net(model="resnet10", num_classes=5), "resnet10t"),
            (lambda: torchvision_net(model="resnet49", num_classes=5), "resnet50"),
        ],
    )
    def test_an_unknown_name_lists_near_ones(self, make, said):
        with pytest.raises(ValueError, match=said):
            make()
