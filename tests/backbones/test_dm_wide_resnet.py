"""DeepMind's Wide ResNet and RaWRN: parity with RobustBench's classes, foreign checkpoints."""

import copy
from typing import Any

import pytest
import torch
from robustbench_nets import architecture, parameters, randomized
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.dm_wide_resnet import (
    ACTIVATIONS,
    CIFAR10,
    NORMALIZATION,
    DMWideResNet,
    RaWideResNet,
    from_foreign,
    ra_from_foreign,
)
from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.weights import load_strictly

MEAN, STD = NORMALIZATION["cifar100"]


def pair(activation: str, width: int = 2) -> tuple[Any, DMWideResNet]:
    """RobustBench's WRN-16 and ours with the same random weights."""
    dm_rn = architecture("dm_rn")
    function = {"relu": nn.ReLU, "silu": nn.SiLU, "swish": dm_rn.Swish}[activation]
    reference = randomized(dm_rn.WideResNet(7, 16, width, activation_fn=function, mean=MEAN, std=STD))
    net = DMWideResNet(depth=16, width=width, activation=activation, num_classes=7, mean=MEAN, std=STD)
    load_strictly(net, from_foreign(reference.state_dict(), mean=MEAN, std=STD), "WRN-16")
    return reference, net.eval()


@pytest.mark.parametrize(("activation", "width"), [("relu", 1), ("silu", 2), ("swish", 2)])
def test_equals_robustbench(activation: str, width: int) -> None:
    reference, net = pair(activation, width)
    reference, net = reference.double(), net.double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    theirs, their_maps = reference(images)
    final, maps = net.forward_intermediates(images, [0, 1])
    ours = net.forward_head(final)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(maps, list(their_maps), rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(logits[:, 0].sum(), images)[0] for logits in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_published_constants() -> None:
    dm_rn = architecture("dm_rn")
    assert NORMALIZATION == {
        "cifar10": (dm_rn.CIFAR10_MEAN, dm_rn.CIFAR10_STD),
        "cifar100": (dm_rn.CIFAR100_MEAN, dm_rn.CIFAR100_STD),
    }


@pytest.mark.parametrize("prefix", ["module.", "module.0."])
def test_checkpoints_of_the_leaderboard_class(prefix: str) -> None:
    """The class behind RobustBench's own WRN entries, saved inside wrappers and without batch counters."""
    reference = randomized(
        architecture("dm_wide_resnet").DMWideResNet(7, 10, 2, activation_fn=nn.SiLU, mean=MEAN, std=STD)
    )
    state = {prefix + k: v for k, v in reference.state_dict().items() if "num_batches_tracked" not in k}
    net = DMWideResNet(depth=10, width=2, activation="silu", num_classes=7, mean=MEAN, std=STD).eval()
    load_strictly(net, from_foreign(state, mean=MEAN, std=STD), "WRN-10-2")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        # Both run the same kernels on the same numbers but for the last average.
        torch.testing.assert_close(net(images), reference(images), rtol=1e-5, atol=1e-5)


def test_unknown_keys() -> None:
    with pytest.raises(WeightsError, match=r"layer\.0\.block\.0\.conv_2\.weight"):
        from_foreign({"layer.0.block.0.conv_2.weight": torch.zeros(1)}, mean=MEAN, std=STD)
    with pytest.raises(WeightsError, match=r"layer\.0\.block\.0\.se\.fc3\.weight"):
        ra_from_foreign({"layer.0.block.0.se.fc3.weight": torch.zeros(1)})


@pytest.mark.parametrize(("depth", "width", "count"), [(70, 16, 266_888_756), (28, 10, None)])
def test_parameter_counts(depth: int, width: int, count: int | None) -> None:
    with torch.device("meta"):
        ours = DMWideResNet(depth=depth, width=width, activation="silu", num_classes=100, mean=MEAN, std=STD)
        theirs = architecture("dm_rn").WideResNet(100, depth, width)
    assert parameters(ours) == (count or parameters(theirs)) == parameters(theirs)


SMALL: dict[str, Any] = {"stem_width": 6, "depths": (2, 3, 1), "widths": (8, 12, 20), "se_ratio": 0.25}


def reference_net(activation: str = "silu") -> Any:
    """RobustBench's class at reduced size, its gates far from constant."""
    net: Any = architecture("robustarch_wide_resnet").NormalizedWideResNet(
        *CIFAR10,
        stem_width=SMALL["stem_width"],
        depth=SMALL["depths"],
        stage_width=SMALL["widths"],
        groups=[1, 1, 1],
        activation_fn=ACTIVATIONS[activation],
        se_ratio=SMALL["se_ratio"],
        se_activation=nn.ReLU,
        se_order=2,
        num_classes=7,
    )
    for name, parameter in net.named_parameters():
        if ".se." in name:
            parameter.data.normal_(0, 2)
    return randomized(net)


def like(reference: nn.Module, activation: str = "silu") -> RaWideResNet:
    net = RaWideResNet(**SMALL, activation=activation, num_classes=7)
    load_strictly(net, ra_from_foreign(reference.state_dict()), "a small RaWRN")
    return net.eval()


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_ra_equals_robustbench(activation: str) -> None:
    reference = reference_net(activation)
    net = like(reference, activation).double()
    reference = reference.double()
    their_maps: list[Tensor] = []
    for group in reference.layer:
        group.register_forward_hook(lambda _, __, output: their_maps.append(output))
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    theirs = reference(images)
    final, maps = net.forward_intermediates(images, [0, 1, 2])
    ours = net.forward_head(final)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(maps, their_maps, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(logits[:, 0].sum(), images)[0] for logits in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_a_step_of_training_moves_the_running_statistics_as_robustbench_does() -> None:
    reference = reference_net().train()
    net = like(copy.deepcopy(reference)).train()  # loading shares tensors, and with them the statistics
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        reference(images)
        net(images)
    torch.testing.assert_close(net.state_dict(), ra_from_foreign(reference.state_dict()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_key_of_a_checkpoint_finds_its_place(prefix: str) -> None:
    reference = reference_net()
    state = reference.state_dict()
    ours = ra_from_foreign({prefix + key: value for key, value in state.items()})
    assert ours.keys() == RaWideResNet(**SMALL, num_classes=7).state_dict().keys()
    kept = {value.data_ptr() for key, value in ours.items() if key not in ("mean", "std")}
    assert kept == {value.data_ptr() for value in state.values()}
    without_counters = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    assert ra_from_foreign(without_counters).keys() == ours.keys()


def test_the_defaults_are_the_published_net() -> None:
    with torch.device("meta"):
        ours = RaWideResNet()
        theirs = architecture("robustarch_wide_resnet").get_model("ra_wrn70_16")
    assert parameters(ours) == parameters(theirs) == 267_240_802
    shapes = {key: value.shape for key, value in ra_from_foreign(theirs.state_dict()).items()}
    assert shapes == {key: value.shape for key, value in ours.state_dict().items()}
