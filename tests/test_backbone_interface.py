"""timm's interface: what code written for a backbone asks of a mixed classifier."""

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.classifier import MixedClassifier
from adaptive_smoothing_zoo.mixing_network import MixingNetwork

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def model_with(alpha):
    """Two nets of different family and width: maps of (4, 8, 16, 32) and of (6, 12, 24) channels."""
    std_model, rob_model = (
        build("resnet18", width=4, num_classes=5),
        build("resnet20", width=6, num_classes=5),
    )
    if alpha == "adaptive":
        alpha = AdaptiveAlpha(MixingNetwork(4 + 6, 8 + 12, (4, 6, 8)), alpha_min=0.3, alpha_max=0.9)
    return MixedClassifier(std_model, rob_model, alpha, std_map=2.0, rob_map=0.5).eval()


@pytest.fixture(params=[0.0, 0.3, 1.0, "adaptive"])
def model(request):
    return model_with(request.param)


def outputs_of_modules(model, names, images):
    """What the named modules give during a forward pass."""
    found = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
        for name in names
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in names]


def test_head_after_features_is_forward(model):
    torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES)), model(IMAGES))


def test_head_after_the_features_of_forward_intermediates_is_forward(model):
    features, _ = model.forward_intermediates(IMAGES)
    torch.testing.assert_close(model.forward_head(features), model(IMAGES))


def test_pre_logits_are_the_pooled_features_of_both_nets(model):
    pooled = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    expected = [net.forward_features(IMAGES).mean(dim=(2, 3)) for net in (model.std_model, model.rob_model)]
    torch.testing.assert_close(pooled, torch.cat(expected, dim=1))
    assert pooled.shape == (3, model.num_features) == (3, 32 + 24)


def test_the_last_feature_is_the_alpha_logit():
    model = model_with("adaptive")
    features = model.forward_features(IMAGES)
    assert features.shape == (3, model.num_features + 1)
    torch.testing.assert_close(features[:, -1], model.alpha_logit_of(IMAGES))


def test_num_classes_is_the_length_of_the_output(model):
    assert model(IMAGES).shape == (3, model.num_classes) == (3, 5)


def test_feature_info_tells_channels_and_reduction_of_each_map(model):
    maps = model.forward_intermediates(IMAGES, intermediates_only=True)
    assert len(maps) == len(model.feature_info) == 4 + 3
    for feature_map, info in zip(maps, model.feature_info, strict=True):
        side = 16 // info["reduction"]
        assert feature_map.shape == (3, info["num_chs"], side, side)


def test_feature_info_names_the_module_that_gives_each_map():
    model = model_with(0.5)
    names = [info["module"] for info in model.feature_info]
    maps = model.forward_intermediates(IMAGES, intermediates_only=True)
    for expected, found in zip(outputs_of_modules(model, names, IMAGES), maps, strict=True):
        assert torch.equal(expected, found)


def test_maps_come_in_the_order_asked_for(model):
    everything = model.forward_intermediates(IMAGES, intermediates_only=True)
    chosen = model.forward_intermediates(IMAGES, [5, 0, -1], intermediates_only=True)
    for found, i in zip(chosen, (5, 0, 6), strict=True):
        assert torch.equal(found, everything[i])


@pytest.mark.parametrize("index", [7, -8])
def test_a_map_that_does_not_exist_is_refused(index):
    with pytest.raises(IndexError):
        model_with(0.5).forward_intermediates(IMAGES, [index])


def test_the_classifier_is_the_two_linear_heads(model):
    heads = model.get_classifier()
    assert [head.weight.shape for head in heads] == [(5, 32), (5, 24)]
    assert heads[0] is model.std_model.head
    assert heads[1] is model.rob_model.head


def test_gradients_through_features_and_head_are_those_of_forward():
    model = model_with("adaptive").double()
    images = IMAGES.double().requires_grad_()
    for label in range(2):
        direct, in_two_parts = (
            torch.autograd.grad(output[:, label].sum(), images)[0]
            for output in (model(images), model.forward_head(model.forward_features(images)))
        )
        assert direct.abs().sum() > 0
        torch.testing.assert_close(direct, in_two_parts)


class TestTimm:
    """timm's own nets as base nets; maps 1 and 2 of a ResNet have reductions 4 and 8."""

    @pytest.fixture(scope="class")
    @staticmethod
    def model():
        timm = pytest.importorskip("timm")
        nets = [timm.create_model("resnet10t", pretrained=False, num_classes=10) for _ in range(2)]
        channels = [2 * nets[0].feature_info[i]["num_chs"] for i in (1, 2)]
        alpha = AdaptiveAlpha(MixingNetwork(*channels, (4, 6, 8)), std_taps=(1, 2), rob_taps=(1, 2))
        return MixedClassifier(*nets, alpha).eval()

    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def test_the_output_is_the_mix_of_the_nets_own_outputs(self, model):
        with torch.no_grad():
            alpha = model.alpha_of(self.images)[:, None]
            g, h = (net(self.images).softmax(dim=1) for net in (model.std_model, model.rob_model))
            torch.testing.assert_close(model(self.images).exp(), (1 - alpha) * g + alpha * h)

    def test_the_mixing_network_reads_the_maps_that_feature_info_names(self, model):
        with torch.no_grad():
            names = [model.std_model.feature_info[i]["module"] for i in (1, 2)]
            std_maps = outputs_of_modules(model.std_model, names, self.images)
            rob_maps = outputs_of_modules(model.rob_model, names, self.images)
            torch.testing.assert_close(model.alpha_logit_of(self.images), model.alpha(std_maps, rob_maps))

    def test_features_head_and_feature_info_agree_with_forward(self, model):
        with torch.no_grad():
            features, maps = model.forward_intermediates(self.images)
            torch.testing.assert_close(model.forward_head(features), model(self.images))
        assert features.shape == (2, model.num_features + 1) == (2, 512 + 512 + 1)
        for feature_map, info in zip(maps, model.feature_info, strict=True):
            assert feature_map.shape[1:] == (
                info["num_chs"],
                64 // info["reduction"],
                64 // info["reduction"],
            )
            assert isinstance(model.get_submodule(info["module"]), nn.Module)
