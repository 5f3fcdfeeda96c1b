"""Which two nets can be mixed is said when the mix is built; a mixing network reads any two nets of timm's kind."""

import warnings

import pytest
import timm
import torch
from torch import nn

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.method.taps import adaptive_alpha

CLASSES = 4
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PLANES = (4, 6, 8)


def ours(channels=3):
    return build("small_cnn", num_classes=CLASSES, widths=[4, 6], mean=[0.5] * channels, std=[0.25] * channels)


def of_timm(name, classes=CLASSES, **options):
    return timm.create_model(name, num_classes=classes, **options)


def vit(size=32):
    return of_timm("test_vit", img_size=size)


def preprocessed(net, size):
    return Preprocessed(net, (0.5,) * 3, (0.25,) * 3, size)


class TestSizes:
    @pytest.mark.parametrize(
        ("std", "rob", "said"),
        [
            (lambda: of_timm("resnet10t", 7), ours, "std_model has 7 classes and rob_model 4"),
            (lambda: ours(1), ours, "std_model has 1 channels of images and rob_model 3"),
            (lambda: of_timm("resnet10t", in_chans=1), ours, "std_model has 1 channels"),
            (ours, lambda: of_timm("resnet10t", 0), r"rob_model \(ResNet\) outputs features"),
            (vit, lambda: vit(64), "32 x 32 and rob_model takes only images of 64 x 64"),
        ],
    )
    def test_nets_that_cannot_be_mixed_are_refused_when_the_mix_is_built(self, std, rob, said):
        with pytest.raises(ValueError, match=said):
            MixedClassifier(std(), rob(), 0.5)

    def test_a_function_is_no_net(self):
        with pytest.raises(TypeError, match=r"rob_model must be a torch\.nn\.Module, got function"):
            MixedClassifier(ours(), lambda images: images, 0.5)

    def test_features_in_place_of_logits_are_found_at_the_first_pass(self):
        mix = MixedClassifier(nn.Conv2d(3, CLASSES, 3), ours(), 0.5)
        with pytest.raises(ValueError, match=r"Conv2d gives \(2, 4, 30, 30\) for 2 images; a base net gives logits"):
            mix(IMAGES)

    def test_a_net_that_takes_one_size_says_so(self):
        mix = MixedClassifier(vit(), ours(), 0.5).eval()
        assert mix(IMAGES).shape == (2, CLASSES)
        with pytest.raises(ValueError, match=r"std_model takes only images of \(3, 32, 32\), got \(3, 24, 24\)"):
            mix(IMAGES[:, :, :24, :24])

    def test_another_size_than_a_net_was_made_for_is_told(self):
        mix = MixedClassifier(ours(), of_timm("resnet10t"), 0.5).eval()
        with pytest.warns(UserWarning, match=r"rob_model was made for images of \(3, 176, 176\), got \(3, 32, 32\)"):
            mix(IMAGES)

    def test_a_net_that_resizes_inside_is_silent(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            MixedClassifier(preprocessed(of_timm("resnet10t"), (48, 48)), ours(), 0.5).eval()(IMAGES)


NETS = {
    "ours": lambda: (ours(), (0, 1)),
    "ResNet": lambda: (preprocessed(of_timm("resnet10t"), (64, 64)), ("layer1", "layer2")),
    "ConvNeXt": lambda: (of_timm("convnext_atto"), ("stages.0", "stages.1")),
    "ViT": lambda: (vit(), (-2, -1)),
    "Swin": lambda: (of_timm("swin_tiny_patch4_window7_224", **SWIN), ("layers.0", "layers.1")),
}
SWIN = {"img_size": 32, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}


@pytest.mark.filterwarnings("ignore:images of")
class TestTaps:
    @pytest.mark.parametrize("std", NETS)
    @pytest.mark.parametrize("rob", ["ours", "ViT", "Swin"])
    def test_alpha_reads_any_two_nets(self, std, rob):
        (g, std_taps), (h, rob_taps) = NETS[std](), NETS[rob]()
        alpha = adaptive_alpha(g, h, PLANES, std_taps=std_taps, rob_taps=rob_taps, alpha_min=0.25, alpha_max=0.75)
        mix = MixedClassifier(g, h, alpha).eval()
        images = IMAGES.clone().requires_grad_()
        alphas = mix.alpha_of(images)
        assert alphas.shape == (2,)
        assert 0.25 <= alphas.min().item() <= alphas.max().item() <= 0.75
        alphas.sum().backward()
        assert images.grad.abs().sum() > 0
        weights = (alphas[:, None], 1 - alphas[:, None])
        expected = (weights[1] * g.eval()(IMAGES).softmax(1) + weights[0] * h.eval()(IMAGES).softmax(1)).log()
        torch.testing.assert_close(mix(IMAGES), expected)

    def test_maps_of_other_sizes_are_resized_to_the_smaller_one(self):
        torch.manual_seed(0)
        network = MixingNetwork(5, 5, PLANES).eval()
        small = torch.rand(1, 2, 8, 8), torch.rand(1, 3, 4, 4)
        large = (small[0].repeat_interleave(2, 2).repeat_interleave(2, 3), small[1])
        first, second = (torch.rand(1, 3, 8, 8), torch.rand(1, 2, 4, 4))
        # Halving an image of equal 2 x 2 squares by the triangle filter is this convolution.
        kernel = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        smoothed = nn.functional.conv2d(
            large[0].transpose(0, 1), torch.outer(kernel, kernel)[None, None], stride=2, padding=1
        ).transpose(0, 1)
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        resized = nn.functional.interpolate(large[0], (8, 8), mode="bilinear", antialias=True, align_corners=False)
        torch.testing.assert_close(resized[inner], smoothed[inner])
        torch.testing.assert_close(
            network(large, (first, second)), network((resized, small[1]), (first, second)), rtol=0, atol=0
        )

    @pytest.mark.parametrize(
        ("taps", "said"),
        [
            (
                ("layer1", "layer9"),
                r"no feature map called 'layer9' \(std_taps\); it has 5 feature maps: 0: act1 \(64 channels, 1/2 of",
            ),
            ((0, 5), r"std_model has no feature map at index 5"),
            (("layer2", "layer1"), "must be ascending"),
        ],
    )
    def test_a_map_that_does_not_exist_lists_those_that_do(self, taps, said):
        with pytest.raises(ValueError, match=said):
            adaptive_alpha(of_timm("resnet10t"), ours(), PLANES, std_taps=taps)

    def test_a_mixing_network_for_other_maps_is_refused_when_the_mix_is_built(self):
        alpha = AdaptiveAlpha(MixingNetwork(7, 11, PLANES))
        with pytest.raises(ValueError, match=r"takes feature maps of \[7, 11\] channels.* have \[8, 12\] in total"):
            MixedClassifier(ours(), ours(), alpha)
        with pytest.raises(ValueError, match=r"at index 2 \(rob_taps\)"):
            MixedClassifier(ours(), ours(), AdaptiveAlpha(MixingNetwork(8, 12, PLANES), rob_taps=(1, 2)))

    def test_the_maps_of_a_timm_net_are_those_that_its_feature_info_names(self):
        """ConvNeXt of timm 1.0.9 gives a map of its stem before them."""
        net = of_timm("convnext_atto").eval()
        found = {}
        for i in (0, 1):
            net.stages[i].register_forward_hook(lambda module, inputs, output, i=i: found.update({i: output}))
        maps = MixedClassifier(net, ours(), adaptive_alpha(net, ours(), PLANES)).base_outputs(IMAGES).std_maps
        for i in (0, 1):
            torch.testing.assert_close(maps[i], found[i], rtol=0, atol=0)

    def test_it_can_be_saved(self, tmp_path):
        g, h = NETS["ViT"]()[0], NETS["ConvNeXt"]()[0]
        mix = MixedClassifier(g, h, adaptive_alpha(g, h, PLANES, std_taps=("blocks.1", "blocks.3"))).eval()
        mix.save_pretrained(tmp_path)
        again = MixedClassifier.from_pretrained(tmp_path)
        torch.testing.assert_close(again(IMAGES), mix(IMAGES), rtol=1e-6, atol=1e-6)
        assert again.entry.alpha.std_taps == (1, 3)
