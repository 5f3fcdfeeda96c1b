import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.bit_resnet import StdConv2d
from adaptive_smoothing_zoo.machine.folding import fold_batch_norms, prepare


def _lived_in(model):
    """Batch norms whose statistics and weights are not those they are born with."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.3, 3.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


NETS = {
    "plain": lambda: build("small_cnn", widths=(4, 8), mean=(0.1,) * 3, std=(0.5,) * 3),
    "residual": lambda: build("resnet20", width=4),
    "pre-activation": lambda: build("preact_resnet18", width=4),
    "wide": lambda: build("wide_resnet", depth=10, width=1),
    "bit": lambda: build("bit_resnet", depth=(1, 1, 1, 1), width=1, image_size=None),
}


@pytest.mark.parametrize("name", NETS)
def test_a_prepared_net_gives_the_same_logits_and_gradients_faster(name):
    torch.manual_seed(1)
    model = _lived_in(NETS[name]())
    images = torch.rand(3, 3, 32, 32)
    prepared = prepare(model, images)
    assert prepared is not model
    left = [
        m
        for m in prepared.modules()
        if isinstance(m, StdConv2d) or (name in ("plain", "residual") and isinstance(m, nn.BatchNorm2d))
    ]
    assert not left
    results = []
    for net in (model, prepared):
        points = images.clone().requires_grad_()
        logits = net(points)
        (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), points)
        results.append((logits.detach(), gradient))
    for ours, expected in zip(results[1], results[0], strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * max(scale, 1e-3))


def test_pre_activation_nets_keep_the_norms_that_follow_no_convolution():
    model = _lived_in(build("preact_resnet18", width=4))
    folded = fold_batch_norms(copy.deepcopy(model), torch.rand(2, 3, 32, 32))
    assert 0 < folded < sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_the_model_itself_is_left_alone():
    model = load_model("Demo2026Adaptive", dataset="digits").train().requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    prepared = prepare(model.eval(), torch.rand(4, 1, 8, 8))
    model.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in prepared.modules())


class TwoWays(nn.Module):
    """The convolution's output goes through the norm and past it: folding would change the function."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        out = self.conv(images)
        return (F.relu(self.norm(out)) + out).mean((2, 3))


class Shared(nn.Module):
    """One norm behind two convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.norm(self.second(F.relu(self.norm(self.first(images))))).mean((2, 3))


class Meddling(nn.Module):
    """Looks into its own norm, beside running it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.norm(self.conv(images)).mean((2, 3)) + (0.0 if hasattr(self.norm, "running_mean") else 1.0)


def test_a_net_that_folding_would_change_is_used_as_it_is(caplog):
    model = _lived_in(Meddling())
    with caplog.at_level(logging.WARNING):
        assert prepare(model, torch.rand(2, 3, 8, 8)) is model
    assert "gives other outputs" in caplog.text


@pytest.mark.parametrize("net", [Shared, TwoWays])
def test_a_norm_is_folded_only_if_it_alone_follows_the_convolution(net):
    model = _lived_in(net())
    images = torch.rand(2, 3, 8, 8)
    prepared = prepare(model, images)
    assert any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())
    torch.testing.assert_close(prepared(images), model(images))


def test_a_net_that_cannot_be_copied_is_used_as_it_is(caplog):
    class Stubborn(nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    model = Stubborn()
    with caplog.at_level(logging.WARNING):
        assert prepare(model, torch.rand(2, 3, 8, 8)) is model
    assert "no copies" in caplog.text


class Particular(Meddling):
    """Insists on its norm, but only where it is differentiated."""

    def forward(self, images):
        if torch.is_grad_enabled() and isinstance(self.norm, nn.Identity):
            raise TypeError("where is the norm")
        return self.norm(self.conv(images)).mean((2, 3))


def test_a_net_whose_copy_has_no_gradient_is_used_as_it_is(caplog):
    model = _lived_in(Particular())
    with caplog.at_level(logging.WARNING), torch.no_grad():
        assert prepare(model, torch.rand(2, 3, 8, 8)) is model
    assert "where is the norm" in caplog.text


class Viewing(nn.Module):
    """Takes pixels apart by ``view``, which only contiguous images allow."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 5)

    def forward(self, images):
        return self.linear(images.view(len(images), -1))


def test_a_net_that_needs_contiguous_images_gets_them():
    model, images = Viewing(), torch.rand(3, 3, 4, 4)
    assert torch.equal(prepare(model, images)(images), model(images))
