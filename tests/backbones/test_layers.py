"""A net of PyTorch's layers, as data and back: the same layers, the same outputs."""

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.backbones.layers import LAYERS, Residual, describe, layered


def _block(inner, outer, stride):
    main = nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.ReLU(), nn.Conv2d(outer, outer, 3, 1, 1))
    shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inner, outer, 1, stride)
    return nn.Sequential(Residual(main, shortcut), nn.ReLU(inplace=True))


NETS = {
    "lenet": nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 5)
    ),
    "residual": nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), _block(4, 6, 2), _block(6, 6, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(6, 5),
    ),
    "others": nn.Sequential(
        nn.Conv2d(1, 4, (3, 1), dilation=2, padding="same"), nn.GroupNorm(2, 4), nn.GELU(approximate="tanh"),
        nn.AvgPool2d(2, 2), nn.Upsample(scale_factor=2), nn.Flatten(1), nn.Linear(256, 5), nn.Softplus(beta=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NETS))
def test_a_described_net_is_made_again(name):
    net = NETS[name].eval()
    text = json.dumps(describe(net))
    twin = layered(net=json.loads(text), num_classes=None).eval()
    twin.load_state_dict(net.state_dict())
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(twin(images), net(images))
    assert describe(twin) == describe(net)
    assert str(twin) == str(net)


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_a_setting_that_is_not_the_default_is_kept(kind):
    required = {"Conv2d": (3, 4, 2), "Linear": (3, 4), "BatchNorm1d": (3,), "BatchNorm2d": (3,), "GroupNorm": (2, 4)}
    required |= {"Subsample": (2, 3), "MaxPool2d": (3,), "AvgPool2d": (3,), "AdaptiveAvgPool2d": ((2, 3),)}
    other = {"Conv2d": {"groups": 1, "bias": False}, "BatchNorm2d": {"eps": 1e-3, "affine": False}}
    other |= {"MaxPool2d": {"stride": 1, "ceil_mode": True}, "Linear": {"bias": False}, "ELU": {"alpha": 0.5}}
    layer = LAYERS[kind](*required.get(kind, ()), **other.get(kind, {}))
    assert str(layered(net=describe(layer))) == str(layer)


class Own(nn.Module):
    def forward(self, images):
        return images


class OwnReLU(nn.ReLU):
    pass


@pytest.mark.parametrize("part", [Own(), OwnReLU(), nn.LSTM(2, 2)])
def test_code_that_is_not_pytorch_s_is_no_data(part):
    with pytest.raises(ValueError, match="cannot be described as data"):
        describe(nn.Sequential(part))


@pytest.mark.parametrize(
    "description",
    [
        None,
        [],
        {},
        {"layer": 3},
        {"layer": "Own"},
        {"layer": "Linear"},
        {"layer": "ReLU", "heat": 1},
        {"layer": "exec"},
        {"layer": "Sequential"},
        {"layer": "Sequential", "layers": 3},
        {"layer": "Sequential", "layers": [], "more": 1},
        {"layer": "Residual", "main": {"layer": "ReLU"}},
    ],
)
def test_a_description_of_nothing_is_refused(description):
    with pytest.raises(ValueError, match="layer"):
        layered(net=description)


def test_other_classes_than_the_entry_s_are_refused():
    with pytest.raises(ValueError, match="5 classes, not 7"):
        layered(net=describe(NETS["lenet"]), num_classes=7)


def test_children_keep_their_names_and_in_place_layers_their_setting():
    inner = nn.Sequential(OrderedDict(relu=nn.ReLU(inplace=True), out=nn.Linear(8, 5)))
    net = nn.Sequential(OrderedDict(flat=nn.Flatten(), first=nn.Linear(16, 8), rest=inner))
    twin = layered(net=json.loads(json.dumps(describe(net))))
    assert str(twin) == str(net)
    assert list(twin.state_dict()) == ["first.weight", "first.bias", "rest.out.weight", "rest.out.bias"]


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b.c"], ["a", 3], "ab", {"a": 1, "b": 2}])
def test_names_that_are_not_one_per_layer_are_refused(names):
    with pytest.raises(ValueError, match="one text per layer, all different"):
        layered(net={"layer": "Sequential", "layers": [{"layer": "ReLU"}, {"layer": "Tanh"}], "names": names})
