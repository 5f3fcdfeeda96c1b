"""The mixing network against the published counts and RobustBench's own code."""

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork, default_planes

PUBLISHED_CHANNELS = (64, 160, 256, 512)


@pytest.fixture(scope="module")
def theirs():
    """RobustBench's module of mixing networks, without the rest of RobustBench."""
    package = importlib.util.find_spec("robustbench")
    if package is None:
        pytest.skip("RobustBench is not installed")
    path = Path(package.submodule_search_locations[0]) / "model_zoo" / "architectures" / "mixing_net.py"
    spec = importlib.util.spec_from_file_location("robustbench_mixing_net", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def our_key(key):
    for their_part, our_part in (
        ("layers.", "groups."),
        (".bn1.", ".norm1."),
        (".bn2.", ".norm2."),
        (".shortcut.0.", ".shortcut."),
        ("linear.", "head."),
        ("conv1x1.", "project."),
    ):
        key = key.replace(their_part, our_part)
    return key


def with_the_weights_of(their_net, first_channels, second_channels, planes, version):
    with torch.device("meta"):
        net = MixingNetwork(first_channels, second_channels, planes, version=version)
    net.load_state_dict({our_key(key): value for key, value in their_net.state_dict().items()}, assign=True)
    return net.eval()


@pytest.mark.parametrize("version", [3, 4])
def test_outputs_are_those_of_robustbench_with_the_same_weights(theirs, version, monkeypatch):
    their_net = {3: theirs.MixingNetV3, 4: theirs.MixingNetV4}[version]({"in_planes": (64, 64)}).eval()
    for module in their_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    ours = with_the_weights_of(their_net, 128, 256, (256, 512, 1024), version)
    std_maps, rob_maps = ([torch.randn(2, 64, 8, 8), torch.randn(2, 128, 4, 4)] for _ in range(2))
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(torch, "all", bool)  # RobustBench's version 3 asserts torch.all of a plain bool
        expected = their_net([std_maps[0], rob_maps[0]], [std_maps[1], rob_maps[1]])
        found = ours(std_maps, rob_maps)
    assert found.shape == (2, 1)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_published_network_has_its_published_number_of_parameters():
    with torch.device("meta"):
        net = MixingNetwork(512 + 256, 1024 + 512, (512, 768, 1024))
    assert sum(parameter.numel() for parameter in net.parameters()) == 67_848_704


@pytest.mark.parametrize("channels", [*itertools.combinations_with_replacement(PUBLISHED_CHANNELS, 2)])
def test_default_planes_are_those_of_robustbench(theirs, channels):
    with torch.device("meta"):
        expected = theirs.MixingNetV3({"in_planes": channels}).planes[1:]
    assert default_planes(*channels) == default_planes(*channels[::-1]) == tuple(expected)


@pytest.mark.parametrize("channels", [(63, 64), (64, 1024)])
def test_channels_without_published_planes_are_refused(channels):
    unknown = next(c for c in channels if c not in PUBLISHED_CHANNELS)
    with pytest.raises(ValueError, match=f"of {unknown} channels.*give planes explicitly"):
        default_planes(*channels)


def test_version_4_projects_second_maps_of_any_width():
    net = MixingNetwork(5, 7, (4, 6, 8))
    output = net([torch.rand(3, 2, 8, 8), torch.rand(3, 3, 4, 4)], [torch.rand(3, 3, 8, 8), torch.rand(3, 4, 4, 4)])
    assert output.shape == (3, 1)


def test_the_output_depends_on_every_feature_map():
    net = MixingNetwork(4, 4, (4, 6, 8), version=3).eval()
    maps = [torch.randn(1, 2, side, side, requires_grad=True) for side in (8, 4, 8, 4)]
    gradients = torch.autograd.grad(net(maps[:2], maps[2:]).sum(), maps)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("arguments", "version", "message"),
    [
        ((4, 4, (4, 6, 8)), 5, "versions 3 and 4, got 5"),
        ((4, 4, (4, 6)), 4, "three groups"),
        ((4, 5, (4, 6, 8)), 3, "use version 4"),
    ],
)
def test_networks_that_cannot_be_are_refused(arguments, version, message):
    with pytest.raises(ValueError, match=message):
        MixingNetwork(*arguments, version=version)
