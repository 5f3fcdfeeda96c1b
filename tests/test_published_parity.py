"""The published triplets' composite: RobustBench's classes and ours, with the same weights, say the same."""

from typing import Any

import pytest
import torch
from published_composites import FULL_SIZE, PUBLISHED, SMALL, Published, robustbench_composite
from robustbench_nets import architecture, parameters, randomized
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones import bit_resnet, dm_wide_resnet
from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork, from_foreign
from adaptive_smoothing_zoo.zoo.weights import load_strictly


def ours_like(model: Any, published: Published, *, small: bool) -> MixedClassifier:
    """Our classifier with the weights of RobustBench's; tensors are shared."""
    std, rob = SMALL if small else FULL_SIZE
    classes = 100 if published.dataset == "cifar100" else 10
    mean, deviation = dm_wide_resnet.NORMALIZATION[published.dataset]
    with torch.device("meta"):
        std_model = bit_resnet.BiTResNet(**std, num_classes=classes)
        rob_model = dm_wide_resnet.DMWideResNet(
            **rob, activation=published.activation, num_classes=classes, mean=mean, std=deviation
        )
        first, second = (sum(net.feature_info[i]["num_chs"] for net in (std_model, rob_model)) for i in (0, 1))
        planes = (384, 640, 1024) if small else (512, 768, 1024)
        mixed = MixedClassifier(
            std_model,
            rob_model,
            AdaptiveAlpha(
                MixingNetwork(first, second, planes),
                alpha_min=published.alpha_min,
                alpha_max=published.alpha_max,
                logit_scale=2.0,
                logit_bias=published.logit_bias,
            ),
            std_map=published.std_scale,
            rob_map=published.rob_scale,
        )
    std_state, rob_state = (net.state_dict() for net in model.models)
    load_strictly(std_model, bit_resnet.from_foreign(std_state), "g")
    load_strictly(rob_model, dm_wide_resnet.from_foreign(rob_state, mean=mean, std=deviation), "h")
    alpha_state = from_foreign(model.policy_net.state_dict(), model.bn.state_dict())
    load_strictly(mixed.alpha, alpha_state, "the mixing network")
    return mixed.eval()


@torch.no_grad()
def compare(model: Any, mixed: MixedClassifier, images: Tensor) -> None:
    """Logits, alpha and alpha_logit agree to float32 rounding.

    The logits are log-probabilities down to -9. Rounding (6e-8, relative) makes them differ by up to 1e-5 at
    full size; a wrong constant, padding or activation by 0.01 or more. The tolerance lies between.
    """
    theirs, their_logit = model(images)
    logit = mixed.alpha_logit_of(images)
    torch.testing.assert_close(logit, their_logit, rtol=0, atol=1e-4)
    their_alpha = their_logit.sigmoid() * model.alpha_scale + model.alpha_bias
    torch.testing.assert_close(mixed.alpha.alpha(logit), their_alpha, rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed(images), theirs, rtol=0, atol=1e-4)
    assert theirs.isfinite().all()
    assert theirs.std() > 0.1


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda p: f"{p.name}-{p.dataset}")
def test_reduced_size(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    model = robustbench_composite(published, monkeypatch, small=True)
    compare(model, ours_like(model, published, small=True), torch.rand(2, 3, 32, 32))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """About 2.3 GB of weights, which both sides share."""
    model = robustbench_composite(PUBLISHED[0], monkeypatch, small=False)
    mixed = ours_like(model, PUBLISHED[0], small=False)
    assert [parameters(net) for net in (mixed.std_model, mixed.rob_model, mixed.alpha)] == [
        232_647_908,
        266_888_756,
        67_848_704,
    ]
    images = torch.rand(2, 3, 32, 32)
    compare(model, mixed, images)
    bit_resnet.fold_weight_standardization(mixed)
    compare(model, mixed, images)


@pytest.mark.parametrize("version", [3, 4])
def test_mixing_network(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mixing_net = architecture("mixing_net")
    theirs = randomized(getattr(mixing_net, f"MixingNetV{version}")({"in_planes": (64, 64)}))
    norm = randomized(nn.BatchNorm1d(1, affine=False))
    ours = AdaptiveAlpha(MixingNetwork(128, 256, (256, 512, 1024), version=version)).eval()
    load_strictly(ours, from_foreign(theirs.state_dict(), norm.state_dict()), "the mixing network")
    first, second = torch.randn(2, 2, 64, 8, 8), torch.randn(2, 2, 128, 4, 4)  # net, image, channels, H, W
    std_maps, rob_maps = zip(first, second, strict=True)
    with torch.no_grad():
        with monkeypatch.context() as patch:
            # Version 3 compares shapes with torch.all, which takes no bool: it cannot run as it is.
            patch.setattr(torch, "all", lambda same: same)
            raw = theirs(first.unbind(), second.unbind())
        expected = ours.logit_scale * norm(raw).squeeze(1) + ours.logit_bias
        torch.testing.assert_close(ours(std_maps, rob_maps), expected, rtol=1e-4, atol=1e-5)


def test_mixing_network_parameters() -> None:
    with torch.device("meta"):
        network = MixingNetwork(768, 1536, (512, 768, 1024))
        theirs = architecture("mixing_net").MixingNetV4({"in_planes": (512, 256)})
    assert parameters(network) == parameters(theirs) == 67_848_704


def test_unknown_keys_of_the_mixing_network() -> None:
    with pytest.raises(WeightsError, match=r"layers\.0\.0\.conv3\.weight"):
        from_foreign({"layers.0.0.conv3.weight": torch.zeros(1)}, {})
    with pytest.raises(WeightsError, match="weight"):
        from_foreign({}, {"weight": torch.zeros(1)})
