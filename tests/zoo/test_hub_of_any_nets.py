"""A mix of any two nets on the Hub and in timm: what code written for pretrained models and backbones asks of it."""

import re
from functools import partial

import pytest
import timm
import torch
from hub_server import OWNER
from timm.optim import create_optimizer_v2
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, load_model, register
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.storage.identity import identity_of

CLASSES = 4
SHAPE = (3, 32, 32)
IMAGES = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))


def ours():
    return build("small_cnn", num_classes=CLASSES, widths=[4, 6], mean=[0.5] * 3, std=[0.25] * 3)


def layers():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(900, CLASSES))


def of_timm(name="test_vit", **options):
    options = {"img_size": 32} if name == "test_vit" else {}
    return timm.create_model(name, num_classes=CLASSES, **options)


def preprocessed():
    return Preprocessed(of_timm("resnet10t"), (0.5,) * 3, (0.25,) * 3, (48, 48))


PAIRS = {
    "timm + ours": lambda: (of_timm(), ours()),
    "preprocessed timm + timm": lambda: (preprocessed(), of_timm()),
    "layers + ours": lambda: (layers(), ours()),
}
BACKBONES = ["timm + ours", "preprocessed timm + timm"]  # PyTorch's layers have no interface of a backbone


def mix_of(pair):
    return MixedClassifier(*PAIRS[pair](), 0.5).eval()


@pytest.mark.parametrize("pair", PAIRS)
def test_whoever_reads_the_pushed_card_loads_the_mix(pair, hub, tmp_path, monkeypatch):
    mix = mix_of(pair)
    address = mix.push_to_hub("org/mine", token=OWNER, image_shape=SHAPE, name="Mine2026", license="mit")
    assert "/org/mine/tree/" in address
    card = hub.content("org/mine", "README.md").decode()
    assert "license: mit" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert 'load_model("hf-hub:org/mine")' in code
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    torch.testing.assert_close(names["log_probabilities"], mix(names["images"]), rtol=1e-6, atol=1e-6)
    assert identity_of(names["model"], SHAPE) == identity_of(mix, SHAPE)


def test_timm_creates_it_from_what_it_knows_of_the_hub_and_of_a_folder(hub, tmp_path):
    """timm's own client of the Hub comes before this, see tests/plug/test_timm.py."""
    register()
    mix = mix_of("timm + ours")
    mix.push_to_hub("org/mine", token=OWNER)
    mix.save_pretrained(tmp_path)
    for told in ({"hf_hub_id": "org/mine"}, {"file": str(tmp_path / "model.safetensors")}):
        create = partial(timm.create_model, "adaptive_smoothing_triplet", pretrained=True, pretrained_cfg=told)
        torch.testing.assert_close(create().eval()(IMAGES), mix(IMAGES), rtol=1e-6, atol=1e-6)
        assert create(num_classes=7)(IMAGES).shape == (2, 7)
        maps = create(features_only=True, out_indices=[0, 1])(IMAGES)
        assert [each.shape[1] for each in maps] == [info["num_chs"] for info in mix.feature_info[:2]]


def test_caches_and_offline_mode(hub, tmp_path):
    mix, cache = mix_of("timm + ours"), tmp_path / "cache"
    mix.push_to_hub("org/mine", token=OWNER)
    with pytest.raises(WeightsError):
        MixedClassifier.from_pretrained("org/mine", cache_dir=cache, local_files_only=True)
    MixedClassifier.from_pretrained("org/mine", cache_dir=cache)
    asked = len(hub.requests)
    again = MixedClassifier.from_pretrained("org/mine", cache_dir=cache, local_files_only=True)
    assert len(hub.requests) == asked
    torch.testing.assert_close(again(IMAGES), mix(IMAGES), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_half_precision_of_our_own_nets_alone(dtype, tmp_path):
    """Nets of others may compute anything, so they stay in float32."""
    MixedClassifier(ours(), ours(), 0.5).save_pretrained(tmp_path / "ours", image_shape=SHAPE)
    half = load_model(str(tmp_path / "ours"), dtype=dtype)
    assert half.std_model.head.weight.dtype == (torch.bfloat16 if dtype == "bfloat16" else dtype)
    assert half(IMAGES).dtype == torch.float32
    mix_of("timm + ours").save_pretrained(tmp_path / "others")
    with pytest.raises(ValueError, match="std_model"):
        load_model(str(tmp_path / "others"), dtype=dtype)


@pytest.mark.parametrize("pair", BACKBONES)
def test_checkpointing_changes_no_gradient(pair):
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        mix = mix_of(pair)
        mix.set_grad_checkpointing(enable)
        mix(IMAGES).sum().backward()
        gradients.append([parameter.grad for parameter in mix.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("pair", BACKBONES)
def test_layer_wise_learning_rates_cover_every_parameter_once(pair):
    mix = mix_of(pair)
    optimizer = create_optimizer_v2(mix, "sgd", lr=0.1, layer_decay=0.5, weight_decay=0.1)
    found = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in found} == {id(parameter) for parameter in mix.parameters()}
    assert len(found) == len(list(mix.parameters()))
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    for net in (mix.std_model, mix.rob_model):
        last = scales[id(net.get_classifier().weight)]
        assert last == max(scales[id(parameter)] for parameter in net.parameters())
        assert last > min(scales[id(parameter)] for parameter in net.parameters())


@pytest.mark.parametrize("pair", BACKBONES)
def test_features_and_head_are_forward(pair):
    mix = mix_of(pair)
    torch.testing.assert_close(mix.forward_head(mix.forward_features(IMAGES)), mix(IMAGES))
    assert mix.forward_head(mix.forward_features(IMAGES), pre_logits=True).shape == (2, mix.num_features)
    maps = mix.forward_intermediates(IMAGES, intermediates_only=True)
    assert [each.shape[1] for each in maps] == [info["num_chs"] for info in mix.feature_info]


def test_layers_without_the_interface_say_so():
    mix = mix_of("layers + ours")
    for call in (mix.set_grad_checkpointing, mix.group_matcher):
        with pytest.raises(ValueError, match=r"std_model \(Sequential\) has no"):
            call()
