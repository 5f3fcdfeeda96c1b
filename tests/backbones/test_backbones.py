"""What every base net promises, whatever its architecture."""

import math

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.backbones import ARCHITECTURES, build

OTHERS = {
    "gaussian_smoothed",
    "layers",
    "preprocessed",
    "robustbench",
    "timm",
    "torchvision",
}  # which are made of other nets
NETS = sorted(set(ARCHITECTURES) - OTHERS)
SMALL = {
    "bit_resnet": {"depth": (1, 1, 1, 1), "width": 1, "image_size": None},
    "dm_wide_resnet": {"depth": 10, "width": 1, "activation": "silu", "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "lenet": {"widths": (4, 8, 12), "image_size": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "lipschitz": {"widths": (8, 12), "patch": 4, "halve": True, "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "preact_resnet18": {"width": 4},
    "ra_wide_resnet": {"stem_width": 4, "depths": (1, 2, 1), "widths": (4, 8, 12)},
    "resnet18": {"width": 4},
    "resnet20": {"width": 4},
    "resnet110": {"width": 2},
    "small_cnn": {"widths": (4, 8, 12), "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "strided_cnn": {"widths": (4, 8), "hidden": 12, "image_size": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "wide_resnet": {"depth": 10, "width": 1},
}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=NETS)
def net(request):
    return build(request.param, num_classes=7, **SMALL[request.param]).eval()


def test_head_after_features_is_forward(net):
    features = net.forward_features(IMAGES)
    assert features.shape[:2] == (2, net.num_features)
    assert net(IMAGES).shape == (2, net.num_classes) == (2, 7)
    torch.testing.assert_close(net.forward_head(features), net(IMAGES))


def test_the_classifier_maps_pooled_features_to_logits(net):
    pooled = net.forward_head(net.forward_features(IMAGES), pre_logits=True)
    assert pooled.shape == (2, net.num_features)
    torch.testing.assert_close(net.get_classifier()(pooled), net(IMAGES))


def test_feature_info_tells_shape_and_origin_of_each_map(net):
    captured = {}
    for info in net.feature_info:
        name = info["module"]
        net.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: captured.update({name: out}))
    final, maps = net.forward_intermediates(IMAGES, range(len(net.feature_info)))
    torch.testing.assert_close(final, net.forward_features(IMAGES))
    for feature_map, info in zip(maps, net.feature_info, strict=True):
        side = 32 // info["reduction"]
        assert feature_map.shape == (2, info["num_chs"], side, side)
        assert torch.equal(feature_map, captured[info["module"]])
    for found, i in zip(net.forward_intermediates(IMAGES, [1, 0])[1], (1, 0), strict=True):
        assert torch.equal(found, maps[i])


def test_the_gradient_reaches_the_image(net):
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(images)[:, 3].sum(), images)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("architecture", NETS)
def test_normalization_happens_inside_and_travels_with_the_weights(architecture):
    mean, std = (0.1, 0.4, 0.7), (0.5, 0.25, 2.0)
    arguments = {**SMALL[architecture], "num_classes": 7}
    normalizing = build(architecture, **{**arguments, "mean": mean, "std": std}).eval()
    plain = build(architecture, **{**arguments, "mean": (0.0,) * 3, "std": (1.0,) * 3}).eval()
    weights = normalizing.state_dict()
    plain.load_state_dict({**weights, "mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1)})
    by_hand = torch.stack([(IMAGES[:, i] - mean[i]) / std[i] for i in range(3)], dim=1)
    torch.testing.assert_close(normalizing(IMAGES), plain(by_hand))
    plain.load_state_dict(weights)
    assert torch.equal(plain(IMAGES), normalizing(IMAGES))


PROJECTIONS = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # the shortcuts of He et al. (2016) have no parameters


@pytest.mark.parametrize(
    ("architecture", "arguments", "published"),
    [
        ("resnet18", {}, 11_173_962),
        ("wide_resnet", {"depth": 28, "width": 10}, 36_479_194),
        ("resnet20", {}, 269_722 + PROJECTIONS),
        ("resnet110", {}, 1_727_962 + PROJECTIONS),
    ],
)
def test_nets_have_their_published_number_of_parameters(architecture, arguments, published):
    with torch.device("meta"):
        net = build(architecture, num_classes=10, **arguments)
    assert sum(parameter.numel() for parameter in net.parameters()) == published


def test_a_resnet_halves_the_resolution_in_every_stage_but_the_first():
    maps = build("resnet18", width=4).forward_intermediates(IMAGES, range(4))[1]
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]


def test_small_cnn_takes_gray_images_of_digits_by_default():
    assert build("small_cnn")(torch.rand(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize("architecture", sorted(set(NETS) - {"lipschitz", "resnet110"}))
def test_a_fresh_net_in_training_mode_gives_every_parameter_a_gradient(architecture):
    net = build(architecture, **SMALL[architecture]).train()
    nn.functional.cross_entropy(net(IMAGES), torch.tensor([0, 1])).backward()
    norms = [parameter.grad.norm().item() for parameter in net.parameters()]
    assert all(math.isfinite(norm) for norm in norms)
    assert net.head.weight.grad.norm() > 0
    assert next(iter(net.parameters())).grad.norm() > 0


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("resnet19", {}, r"unknown architecture 'resnet19'.*resnet18, resnet20"),
        ("resnet18", {"depth": 18}, "wrong arguments for architecture 'resnet18'"),
        ("wide_resnet", {"depth": 28}, "wrong arguments for architecture 'wide_resnet'"),
        ("small_cnn", {"widths": 3}, "wrong arguments for architecture 'small_cnn'"),
        *(("wide_resnet", {"depth": depth, "width": 1}, r"6 n \+ 4") for depth in (4, 9, 27, -2)),
        ("dm_wide_resnet", {**SMALL["dm_wide_resnet"], "depth": 20}, r"6 n \+ 4"),
        ("dm_wide_resnet", {**SMALL["dm_wide_resnet"], "activation": "gelu"}, "unknown activation 'gelu'"),
        ("ra_wide_resnet", {"activation": "gelu"}, "unknown activation 'gelu'"),
        ("ra_wide_resnet", {"depths": (1, 1)}, "each group"),
        ("ra_wide_resnet", {"depths": (1, 0, 1)}, "at least one block"),
        ("ra_wide_resnet", {"se_ratio": 0.001}, "no inner channel"),
        *(("bit_resnet", {"depth": depth, "width": 1}, "depth") for depth in (18, (1, 1, 1))),
        ("lipschitz", {"widths": (8, 7)}, "must be even, got 7"),
    ],
)
def test_what_cannot_be_built_is_refused(architecture, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(architecture, **arguments)


def test_lenet_is_the_net_of_the_smoothmix_tables():
    net = build("lenet")
    assert sum(parameter.numel() for parameter in net.parameters()) == 431_080
    assert [tuple(m.weight.shape) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)] == [
        (20, 1, 5, 5),
        (50, 20, 5, 5),
        (500, 50, 4, 4),
        (10, 500),
    ]
    with pytest.raises(ValueError, match="image_size must be a multiple of 4"):
        build("lenet", image_size=30)
