import pytest
import torch
from quadrants import IMAGES, a_net
from torch import nn

from adaptive_smoothing_zoo.attacks.prepare import fold_batch_norms
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.training.frozen import faster_copy


def shaken(net):
    """The net with statistics and weights of batch norms that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2.0, generator=generator)
            for tensor in (module.running_mean, module.bias.data):
                tensor.uniform_(-0.5, 0.5, generator=generator)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "preact_resnet18"])
def test_the_copy_has_the_net_s_logits_and_maps_and_fewer_layers(name):
    options = {"widths": (4, 8)} if name == "small_cnn" else {"width": 4}
    net = shaken(build(name, num_classes=4, **options))
    images = IMAGES[:4] if name == "small_cnn" else torch.rand(4, 3, 16, 16)
    copied = faster_copy(net, images[:2], (0, 1))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copied.modules()) < sum(
        isinstance(module, nn.BatchNorm2d) for module in net.modules()
    )
    torch.testing.assert_close(copied(images), net(images), rtol=1e-4, atol=1e-5)
    for mine, its in zip(
        copied.forward_intermediates(images, [0, 1])[1], net.forward_intermediates(images, [0, 1])[1], strict=True
    ):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


class Peeping(nn.Module):
    """Looks at its layers from outside, so that folding changes what it says."""

    def __init__(self):
        super().__init__()
        self.net = shaken(a_net())

    def forward(self, images):
        return self.net(images) + sum(isinstance(module, nn.BatchNorm2d) for module in self.modules())


def test_where_folding_changes_the_net_the_net_itself_is_used(caplog):
    net = Peeping().eval()
    assert fold_batch_norms(Peeping().eval(), IMAGES[:2]) > 0
    assert faster_copy(net, IMAGES[:2], None) is net
    assert "gives other outputs" in caplog.text
