import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.machine import folding, winograd
from adaptive_smoothing_zoo.machine.folding import prepare
from adaptive_smoothing_zoo.machine.winograd import IMAGE, KERNEL, OUTPUT, use_winograd
from adaptive_smoothing_zoo.training.frozen import faster_copy


def _conv(inputs=128, outputs=128, kernel=3, **words):
    return nn.Conv2d(inputs, outputs, kernel, **({"padding": 1} | words)).requires_grad_(False)


def _changed(net, images):
    copied = copy.deepcopy(net)
    use_winograd(copied, images)
    return [name for name, module in copied.named_modules() if isinstance(module, winograd._WinogradConv2d)]


@given(st.integers(0, 2**32 - 1))
def test_the_three_transformations_give_a_correlation_in_exact_arithmetic(seed):
    torch.manual_seed(seed)
    tile, kernel = torch.randn(6, 6, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    image, turned, output = (torch.tensor(matrix, dtype=torch.float64) for matrix in (IMAGE, KERNEL, OUTPUT))
    found = output @ ((turned @ kernel @ turned.T) * (image @ tile @ image.T)) @ output.T
    expected = F.conv2d(tile[None, None], kernel[None, None])[0, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("count", "inputs", "outputs", "size", "bias"),
    [
        (16, 128, 128, (4, 4), True),
        (5, 128, 160, (8, 8), False),
        (3, 144, 128, (7, 11), True),
        (1, 128, 128, (33, 16), True),
    ],
)
def test_outputs_and_gradients_are_those_of_the_convolution(count, inputs, outputs, size, bias):
    torch.manual_seed(count)
    conv = _conv(inputs, outputs, bias=bias)
    exact = copy.deepcopy(conv).double()
    images = torch.randn(count, inputs, *size)
    assert use_winograd(conv, images) == 1
    weights = torch.randn(count, outputs, *size)
    results = []
    for net, dtype in ((conv, torch.float32), (exact, torch.float64)):
        for layout in (torch.contiguous_format, torch.channels_last):
            points = images.to(dtype).contiguous(memory_format=layout).requires_grad_()
            found = net(points)
            (gradient,) = torch.autograd.grad((found * weights.to(dtype)).sum(), points)
            results.append((found.detach(), gradient))
    for ours in results[:2]:
        for found, expected in zip(ours, results[2], strict=True):
            assert found.dtype == torch.float32
            assert found.shape == expected.shape
            error = (found - expected).abs().max() / expected.abs().max()
            assert (
                0 < error < 2e-5
            )  # of a convolution in float32 it is 1e-6; 0 would mean that nothing was computed anew


def test_only_layers_change_that_it_can_compute_and_that_it_makes_faster():
    net = nn.Sequential()
    for name, conv in {
        "good": _conv(),
        "no bias": _conv(bias=False),
        "narrow in": nn.Sequential(_conv(128, 127), _conv(127, 128)),
        "stride": nn.Sequential(_conv(stride=2), nn.Upsample(scale_factor=2)),
        "kernel": _conv(kernel=5, padding=2),
        "dilated": _conv(dilation=2, padding=2),
        "groups": _conv(groups=2),
        "reflect": _conv(padding_mode="reflect"),
        "same": _conv(padding="same"),
        "learning": _conv().requires_grad_(True),
    }.items():
        net.add_module(name, conv)
    assert _changed(net, torch.rand(2, 128, 16, 16)) == ["good", "no bias"]
    assert _changed(net, torch.rand(2, 128, 5, 5).repeat(1, 1, 1, 2)) == []  # tiles of 8 x 12 pixels for 5 x 10
    assert _changed(net.double(), torch.rand(2, 128, 16, 16).double()) == []


def test_kernels_take_no_more_memory_than_allowed(monkeypatch):
    net = nn.Sequential(*(_conv(bias=False) for _ in range(4)))
    one = 36 * 128 * 128 * 4 * 2
    monkeypatch.setattr(winograd, "MEMORY", 3 * one - 1)
    assert _changed(net, torch.rand(2, 128, 16, 16)) == ["0", "1"]
    use_winograd(net, torch.rand(2, 128, 16, 16))
    assert sum(buffer.nbytes for buffer in net.buffers()) == 2 * one


def test_other_passes_are_computed_as_before():
    torch.manual_seed(0)
    conv = _conv()
    plain = copy.deepcopy(conv)
    images = torch.randn(4, 128, 16, 16)
    use_winograd(conv, images)
    few = images[:, :, :4, :4]
    assert torch.equal(conv(few), plain(few))
    assert torch.equal(conv(images[0]), plain(images[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv(images), plain(images))
    assert torch.equal(conv.double()(images.double()), plain.double()(images.double()))


def test_a_layer_keeps_its_hooks_its_state_and_its_pickle():
    conv = _conv()
    seen = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    keys = list(conv.state_dict())
    images = torch.randn(4, 128, 16, 16)
    use_winograd(conv, images)
    seen.clear()
    found = conv(images)
    assert seen == [1]
    assert list(conv.state_dict()) == keys
    conv._forward_hooks.clear()
    assert torch.equal(pickle.loads(pickle.dumps(conv))(images), found)
    with torch.inference_mode():
        assert torch.equal(conv(images), found)


def test_prepared_nets_and_nets_in_training_use_it_and_stay_the_same_up_to_rounding():
    torch.manual_seed(0)
    net = build("wide_resnet", depth=10, width=4).eval().requires_grad_(False)
    images = torch.rand(4, 3, 32, 32)
    exact = copy.deepcopy(net).double()(images.double())
    for made in (prepare(net, images), faster_copy(net, images, None)):
        assert sum(isinstance(module, winograd._WinogradConv2d) for module in made.modules()) == 2
        torch.testing.assert_close(made(images).double(), exact, rtol=0, atol=1e-4 * float(exact.abs().max()))
    assert not any(isinstance(module, winograd._WinogradConv2d) for module in net.modules())


def test_a_net_that_rounding_changes_too_much_is_only_folded(monkeypatch, caplog):
    def spoil(net, images):
        next(module for module in net.modules() if isinstance(module, nn.Conv2d)).weight.mul_(1.5)
        return 1

    net = build("resnet20", width=4).eval()
    images = torch.rand(2, 3, 32, 32)
    folded = prepare(net, images)
    monkeypatch.setattr(folding, "use_winograd", spoil)
    assert torch.equal(prepare(net, images)(images), folded(images))
    assert "without Winograd's algorithm, hence slower: the copy with it gives other outputs" in caplog.text


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_net_may_write_into_an_output_and_have_gradients_of_gradients(size):
    torch.manual_seed(0)
    plain = nn.Sequential(_conv(), nn.ReLU(inplace=True), _conv(), nn.Softplus())
    images, fast = torch.randn(4, 128, *size), copy.deepcopy(plain)
    assert use_winograd(fast, images) == 2
    found = []
    for net in (plain, fast):
        points = images.clone().requires_grad_()
        (first,) = torch.autograd.grad(net(points).square().sum(), points, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), points)))
    for ours, expected in zip(*found[::-1], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
