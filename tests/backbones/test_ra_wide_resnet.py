"""RaWRN: parity with RobustBench's class, foreign checkpoints."""

import copy
from typing import Any

import pytest
import torch
from robustbench_nets import architecture, parameters, randomized
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.dm_wide_resnet import ACTIVATIONS
from adaptive_smoothing_zoo.backbones.ra_wide_resnet import MEAN, STD, RaWideResNet, from_foreign
from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.weights import load_strictly

SMALL: dict[str, Any] = {"stem_width": 6, "depths": (2, 3, 1), "widths": (8, 12, 20), "se_ratio": 0.25}


def reference_net(activation: str = "silu") -> Any:
    """RobustBench's class at reduced size, its gates far from constant."""
    net: Any = architecture("robustarch_wide_resnet").NormalizedWideResNet(
        MEAN,
        STD,
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
    load_strictly(net, from_foreign(reference.state_dict()), "a small RaWRN")
    return net.eval()


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_equals_robustbench(activation: str) -> None:
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
    torch.testing.assert_close(net.state_dict(), from_foreign(reference.state_dict()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_key_of_a_checkpoint_finds_its_place(prefix: str) -> None:
    reference = reference_net()
    state = reference.state_dict()
    ours = from_foreign({prefix + key: value for key, value in state.items()})
    assert ours.keys() == RaWideResNet(**SMALL, num_classes=7).state_dict().keys()
    kept = {value.data_ptr() for key, value in ours.items() if key not in ("mean", "std")}
    assert kept == {value.data_ptr() for value in state.values()}
    without_counters = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    assert from_foreign(without_counters).keys() == ours.keys()


def test_unknown_key() -> None:
    with pytest.raises(WeightsError, match=r"layer\.0\.block\.0\.se\.fc3\.weight"):
        from_foreign({"layer.0.block.0.se.fc3.weight": torch.zeros(1)})


def test_the_defaults_are_the_published_net() -> None:
    with torch.device("meta"):
        ours = RaWideResNet()
        theirs = architecture("robustarch_wide_resnet").get_model("ra_wrn70_16")
    assert parameters(ours) == parameters(theirs) == 267_240_802
    shapes = {key: value.shape for key, value in from_foreign(theirs.state_dict()).items()}
    assert shapes == {key: value.shape for key, value in ours.state_dict().items()}
