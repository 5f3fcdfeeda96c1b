"""The mixing network; tests/test_published_parity.py holds it against RobustBench's own."""

import pytest
import torch

from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork


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
