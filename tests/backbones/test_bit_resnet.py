"""BiT ResNet: parity with RobustBench's class, folding, foreign checkpoints."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from robustbench_nets import architecture, parameters, randomized
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.bit_resnet import (
    BiTResNet,
    StdConv2d,
    fold_weight_standardization,
    from_foreign,
    from_npz,
)
from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.weights import load_strictly

DEPTH, CLASSES = (1, 2, 1, 1), 7


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32)


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    """RobustBench's small BiT; its constructor moves two constants to a GPU, which this prevents."""
    bit_rn = architecture("bit_rn")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    return randomized(bit_rn.ResNetV2(DEPTH, 1, head_size=CLASSES))


@pytest.fixture
def net(reference: nn.Module) -> BiTResNet:
    net = BiTResNet(depth=DEPTH, width=1, num_classes=CLASSES, image_size=64)
    load_strictly(net, from_foreign(reference.state_dict()), "BiT")
    return net.eval()


def small() -> BiTResNet:
    return randomized(BiTResNet(depth=(1, 1, 1, 1), width=1, image_size=32))


def test_equals_robustbench(reference: Any, net: BiTResNet, images: Tensor) -> None:
    # In float64 the order of sums hardly matters, so this tells another function from rounding.
    reference, net = reference.double(), net.double()
    images = images.double().requires_grad_()
    theirs, their_maps = reference(F.interpolate(images, size=(64, 64), mode="bilinear"))
    final, maps = net.forward_intermediates(images, [0, 1])
    ours = net.forward_head(final)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(maps, list(their_maps), rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(logits[:, 0].sum(), images)[0] for logits in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_equals_robustbench_successor(images: Tensor) -> None:
    """The class of MixedNUTS, which resizes by itself and whose checkpoints may hold the normalization."""
    reference = randomized(architecture("bit_rn_v2").ResNetV2(DEPTH, 1, head_size=CLASSES))
    net = BiTResNet(depth=DEPTH, width=1, num_classes=CLASSES).eval()
    load_strictly(net, from_foreign({f"module.{k}": v for k, v in reference.state_dict().items()}), "BiT")
    with torch.no_grad():
        torch.testing.assert_close(net(images), reference(images), rtol=1e-4, atol=1e-4)


def test_authors_npz(reference: Any, images: Tensor) -> None:
    """The authors' names and layouts, as RobustBench's own reader of such files understands them."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=a.shape).astype("float32") for name, a in npz_of(reference).items()}
    reference.load_from(arrays)
    net = BiTResNet(depth=DEPTH, width=1, num_classes=CLASSES).eval()
    load_strictly(net, from_npz(arrays), "BiT")
    with torch.no_grad():
        theirs, _ = reference(F.interpolate(images, size=(128, 128), mode="bilinear"))
        ours = net(images)
    assert theirs.std() > 1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    numbered = {k.replace("a/standardized_conv2d", "a/standardized_conv2d_3"): a for k, a in arrays.items()}
    assert from_npz(numbered).keys() == from_npz(arrays).keys()
    with pytest.raises(WeightsError, match="resnet/block1/unit01/d/group_norm/gamma"):
        from_npz({"resnet/block1/unit01/d/group_norm/gamma": np.zeros(1, "float32")})


def npz_of(reference: Any) -> dict[str, np.ndarray]:
    arrays = {
        "root_block/standardized_conv2d/kernel": reference.root.conv.weight,
        "group_norm/gamma": reference.head.gn.weight,
        "group_norm/beta": reference.head.gn.bias,
        "head/conv2d/kernel": reference.head.conv.weight,
        "head/conv2d/bias": reference.head.conv.bias,
    }
    for block_name, block in reference.body.named_children():
        for unit_name, unit in block.named_children():
            at = f"{block_name}/{unit_name}"
            for letter, conv, norm in (
                ("a", unit.conv1, unit.gn1),
                ("b", unit.conv2, unit.gn2),
                ("c", unit.conv3, unit.gn3),
            ):
                arrays[f"{at}/{letter}/standardized_conv2d/kernel"] = conv.weight
                arrays[f"{at}/{letter}/group_norm/gamma"] = norm.weight
                arrays[f"{at}/{letter}/group_norm/beta"] = norm.bias
            if hasattr(unit, "downsample"):
                arrays[f"{at}/a/proj/standardized_conv2d/kernel"] = unit.downsample.weight
    return {
        f"resnet/{name}": (value.permute(2, 3, 1, 0) if value.ndim == 4 else value).detach().numpy()
        for name, value in arrays.items()
    }


def test_unknown_and_doubled_keys(net: BiTResNet) -> None:
    with pytest.raises(WeightsError, match=r"body\.block1\.unit01\.gn4\.weight"):
        from_foreign({"body.block1.unit01.gn4.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="twice"):
        from_foreign({"root.conv.weight": torch.zeros(1), "module.root.conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="missing"):
        load_strictly(net, from_foreign({}), "BiT")


@pytest.mark.parametrize("kind", ["BiT-M-R50x1", "BiT-M-R101x3", "BiT-M-R152x2"])
def test_parameter_counts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bit_rn = architecture("bit_rn")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    depth, width = (int(number) for number in kind.removeprefix("BiT-M-R").split("x"))
    with torch.device("meta"):
        ours = BiTResNet(depth=depth, width=width, num_classes=100)
        theirs = bit_rn.KNOWN_MODELS[kind](head_size=100)
    assert parameters(ours) == parameters(theirs)
    if kind == "BiT-M-R152x2":
        assert parameters(ours) == 232_647_908


def test_folding_keeps_the_function(images: Tensor) -> None:
    net = small()
    folded, reloaded = copy.deepcopy(net), copy.deepcopy(net)
    folded.requires_grad_(False)
    fold_weight_standardization(folded)
    assert not any(isinstance(module, StdConv2d) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert folded.state_dict().keys() == net.state_dict().keys()
    reloaded.load_state_dict(folded.state_dict())
    with torch.no_grad():
        expected = net(images)
        torch.testing.assert_close(folded(images), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(reloaded(images), expected, rtol=1e-4, atol=1e-4)


def test_without_resizing() -> None:
    net = randomized(BiTResNet(depth=(1, 1, 1, 1), width=1, image_size=None))
    with torch.no_grad():
        maps = net.forward_intermediates(torch.rand(1, 3, 64, 64), [0, 3])[1]
    assert [64 // m.shape[-1] for m in maps] == [net.feature_info[i]["reduction"] for i in (0, 3)] == [4, 32]
