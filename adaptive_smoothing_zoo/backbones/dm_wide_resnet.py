"""The Wide ResNet of DeepMind's robust nets [GQU20], and RaWRN, its deeper and narrower variant."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.base import BaseNet, stage_info
from adaptive_smoothing_zoo.backbones.key_tables import KeyTable, normalization, rename
from adaptive_smoothing_zoo.backbones.resnet import blocks_per_group

# Mean and standard deviation per color channel, as published with the nets.
NORMALIZATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
CIFAR10 = NORMALIZATION["cifar10"]

# The Swish of the older checkpoints, x sigmoid(x) with a hand-written gradient, is SiLU, gradient included.
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "swish": nn.SiLU}


class DMBlock(nn.Module):
    """Pre-activation block; a strided 3x3 convolution is padded on the right and at the bottom only.

    That is TensorFlow's "same" padding for even sizes. ``after`` acts on the branch before the sum; here it is the
    identity.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        strided = stride != 1
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if strided else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 0 if strided else 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.after: nn.Module = nn.Identity()
        self.activation = activation()
        same_shape = not strided and in_channels == out_channels
        self.shortcut = None if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        activated = self.activation(self.norm1(features))
        out = self.conv1(self.pad(activated))
        out = self.after(self.conv2(self.activation(self.norm2(out))))
        return out + (features if self.shortcut is None else self.shortcut(activated))  # type: ignore[no-any-return]


@architecture("dm_wide_resnet")
class DMWideResNet(BaseNet):
    """WRN-depth-width with DeepMind's padding and choice of activation. Feature maps: the output of each group.

    Args:
        depth: 6 n + 4, with n blocks in each of the three groups.
        width: multiple of the channels (16, 32, 64) of the groups.
        activation: a key of ``ACTIVATIONS``.
        mean, std: see :class:`BaseNet`; those of CIFAR-10 and CIFAR-100 are in ``NORMALIZATION``.

    Raises:
        ValueError: a depth that is not 6 n + 4, or an unknown activation.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        activation: str,
        mean: Sequence[float],
        std: Sequence[float],
        num_classes: int = 10,
    ) -> None:
        super().__init__(mean, std)
        blocks = blocks_per_group(depth)
        act = activation_named(activation)
        widths = [16 * width * 2**i for i in range(3)]
        self.stem = nn.Conv2d(len(mean), 16, 3, 1, 1, bias=False)
        self.stages = block_groups(16, (blocks,) * 3, widths, partial(DMBlock, activation=act))
        self.final = nn.Sequential(nn.BatchNorm2d(widths[-1]), act())
        self.head = nn.Linear(widths[-1], num_classes)
        self.feature_info = stage_info(widths, (1, 2, 4))


def activation_named(name: str) -> type[nn.Module]:
    """The activation of that name in ``ACTIVATIONS``. Raises ValueError: unknown name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def block_groups(
    stem_width: int, depths: Sequence[int], widths: Sequence[int], block: Callable[[int, int, int], nn.Module]
) -> nn.ModuleList:
    """Groups of blocks; all groups but the first halve the resolution.

    Args:
        stem_width: input channels of the first group.
        depths, widths: blocks and channels of each group.
        block: makes a block from its input channels, output channels and stride.
    """
    groups = nn.ModuleList()
    for i, (depth, before, width) in enumerate(zip(depths, [stem_width, *widths[:-1]], widths, strict=True)):
        first = block(before, width, 1 if i == 0 else 2)
        groups.append(nn.Sequential(first, *(block(width, width, 1) for _ in range(depth - 1))))
    return groups


_BLOCK = r"layer\.(\d)\.block\.(\d+)\."
DM_WRN_KEYS: KeyTable = {
    r"init_conv\.weight": "stem.weight",
    _BLOCK + r"batchnorm_0\.(\w+)": r"stages.\1.\2.norm1.\3",
    _BLOCK + r"conv_0\.weight": r"stages.\1.\2.conv1.weight",
    _BLOCK + r"batchnorm_1\.(\w+)": r"stages.\1.\2.norm2.\3",
    _BLOCK + r"conv_1\.weight": r"stages.\1.\2.conv2.weight",
    _BLOCK + r"shortcut\.weight": r"stages.\1.\2.shortcut.weight",
    r"batchnorm\.(\w+)": r"final.0.\1",
    r"logits\.(weight|bias)": r"head.\1",
}


def from_foreign(state: Mapping[str, Tensor], *, mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    """Our state dict from one of DeepMind's PyTorch code, which RobustBench uses.

    Args:
        mean, std: normalization constants, which such a state dict does not hold.

    Raises:
        WeightsError: a key that such a net does not have.
    """
    return {**normalization(mean, std), **rename(state, DM_WRN_KEYS, "DeepMind's Wide ResNet")}


class SqueezeExcitation(nn.Module):
    """Multiplies every channel by a number in (0, 1) computed from the averages of all channels [HSS18, Fig. 1]."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        averages = features.mean(dim=(2, 3), keepdim=True)
        return features * torch.sigmoid(self.fc2(F.relu(self.fc1(averages))))


class _RaBlock(DMBlock):
    identity_name = "_Block"

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, activation: type[nn.Module], se_ratio: float
    ) -> None:
        super().__init__(in_channels, out_channels, stride, activation)
        self.after = SqueezeExcitation(out_channels, round(se_ratio * out_channels))


@architecture("ra_wide_resnet")
class RaWideResNet(BaseNet):
    """DeepMind's Wide ResNet with free depths and widths, and squeeze-and-excitation after each block's branch.

    The defaults are those of the published RaWRN-70-16 for CIFAR-10 [PXC23].
    Feature maps: the output of each group.

    Args:
        stem_width: channels of the first convolution.
        depths, widths: blocks and channels of each group.
        activation: a key of ``ACTIVATIONS``.
        se_ratio: inner channels of squeeze-and-excitation, as a share of the block's channels.

    Raises:
        ValueError: an unknown activation, different numbers of depths and widths, a group without blocks, or an
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
        mean: Sequence[float] = CIFAR10[0],
        std: Sequence[float] = CIFAR10[1],
    ) -> None:
        super().__init__(mean, std)
        if len(depths) != len(widths) or min(depths, default=0) < 1:
            raise ValueError(f"each group needs a width and at least one block, got depths {depths}, widths {widths}")
        if round(se_ratio * min(widths)) < 1:
            raise ValueError(f"an se_ratio of {se_ratio} leaves no inner channel of {min(widths)}")
        act = activation_named(activation)
        self.stem = nn.Conv2d(len(mean), stem_width, 3, 1, 1, bias=False)
        self.stages = block_groups(stem_width, depths, widths, partial(_RaBlock, activation=act, se_ratio=se_ratio))
        self.final = nn.Sequential(nn.BatchNorm2d(widths[-1]), act())
        self.head = nn.Linear(widths[-1], num_classes)
        self.feature_info = stage_info(widths, [2**i for i in range(len(widths))])
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.01  # as the published net was trained


RA_WRN_KEYS: KeyTable = {
    **DM_WRN_KEYS,
    _BLOCK + r"se\.(fc[12])\.(weight|bias)": r"stages.\1.\2.after.\3.\4",
}


def ra_from_foreign(
    state: Mapping[str, Tensor], *, mean: Sequence[float] = CIFAR10[0], std: Sequence[float] = CIFAR10[1]
) -> dict[str, Tensor]:
    """Our state dict from one of the authors' code, which RobustBench uses.

    Args:
        mean, std: normalization constants, which such a state dict does not hold.

    Raises:
        WeightsError: a key that such a net does not have.
    """
    return {**normalization(mean, std), **rename(state, RA_WRN_KEYS, "a RaWRN")}
