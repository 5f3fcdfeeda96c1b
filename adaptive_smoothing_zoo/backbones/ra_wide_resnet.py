"""The Wide ResNet of robust design principles, RaWRN (Peng et al. 2023): deeper, narrower, squeeze and excitation."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.base import BaseNet, stage_info
from adaptive_smoothing_zoo.backbones.dm_wide_resnet import (
    BLOCK,
    DM_WRN_KEYS,
    NORMALIZATION,
    DMBlock,
    activation_named,
    block_groups,
)
from adaptive_smoothing_zoo.backbones.key_tables import KeyTable, normalization, rename

MEAN, STD = NORMALIZATION["cifar10"]


class SqueezeExcitation(nn.Module):
    """Every channel times a number in (0, 1) that depends on the averages of all channels (Hu et al. 2018, fig. 1)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        averages = features.mean(dim=(2, 3), keepdim=True)
        return features * torch.sigmoid(self.fc2(F.relu(self.fc1(averages))))


class _Block(DMBlock):
    def __init__(
        self, in_channels: int, out_channels: int, stride: int, activation: type[nn.Module], se_ratio: float
    ) -> None:
        super().__init__(in_channels, out_channels, stride, activation)
        self.after = SqueezeExcitation(out_channels, round(se_ratio * out_channels))


@architecture("ra_wide_resnet")
class RaWideResNet(BaseNet):
    """DeepMind's Wide ResNet with free depths and widths, and squeeze and excitation behind each block's branch.

    The defaults are those of the published RaWRN-70-16 for CIFAR-10. Feature maps: the output of each group.

    Args:
        stem_width: channels of the first convolution.
        depths, widths: blocks and channels of each group.
        activation: a key of ``ACTIVATIONS``.
        se_ratio: inner channels of squeeze and excitation, as a share of the block's.

    Raises:
        ValueError: an unknown activation, depths and widths of different number, a group without blocks, or an
            ``se_ratio`` that leaves no inner channel.
    """

    def __init__(
        self,
        *,
        stem_width: int = 96,
        depths: Sequence[int] = (30, 31, 10),
        widths: Sequence[int] = (216, 432, 864),
        activation: str = "silu",
        se_ratio: float = 0.25,
        num_classes: int = 10,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__(mean, std)
        if len(depths) != len(widths) or min(depths, default=0) < 1:
            raise ValueError(f"each group needs a width and at least one block, got depths {depths}, widths {widths}")
        if round(se_ratio * min(widths)) < 1:
            raise ValueError(f"an se_ratio of {se_ratio} leaves no inner channel of {min(widths)}")
        act = activation_named(activation)
        self.stem = nn.Conv2d(len(mean), stem_width, 3, 1, 1, bias=False)
        self.stages = block_groups(stem_width, depths, widths, partial(_Block, activation=act, se_ratio=se_ratio))
        self.final = nn.Sequential(nn.BatchNorm2d(widths[-1]), act())
        self.head = nn.Linear(widths[-1], num_classes)
        self.feature_info = stage_info(widths, [2**i for i in range(len(widths))])
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.01  # as the published net was trained


RA_WRN_KEYS: KeyTable = {
    **DM_WRN_KEYS,
    BLOCK + r"se\.(fc[12])\.(weight|bias)": r"stages.\1.\2.after.\3.\4",
}


def from_foreign(
    state: Mapping[str, Tensor], *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> dict[str, Tensor]:
    """Our state dict from one of the authors' code, which RobustBench uses; it holds no normalization constants.

    Raises:
        WeightsError: a key that such a net does not have.
    """
    return {**normalization(mean, std), **rename(state, RA_WRN_KEYS, "a RaWRN")}
