"""Residual nets for small images: ResNet, pre-activation ResNet and Wide ResNet."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.base import BaseNet, stage_info
from adaptive_smoothing_zoo.backbones.key_tables import KeyTable

_NO_SHIFT, _NO_SCALE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm, plus a shortcut that is projected where shapes differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, features: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(features)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(features))


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each 3x3 convolution; a projected shortcut starts after the first ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = None if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        activated = F.relu(self.norm1(features))
        out = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        return out + (features if self.shortcut is None else self.shortcut(activated))  # type: ignore[no-any-return]


class ResNet(BaseNet):
    """Residual net; the first stage keeps the image's resolution, the others halve it.

    Args:
        depths, widths: blocks and channels per stage. Feature maps: the output of each stage.
        stem_width: channels of the first convolution; if None, those of the first stage.
        pre_activation: pre-activation blocks instead of basic ones.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        stem_width: int | None = None,
        pre_activation: bool = False,
        num_classes: int = 10,
        mean: Sequence[float] = _NO_SHIFT,
        std: Sequence[float] = _NO_SCALE,
    ) -> None:
        super().__init__(mean, std)
        block: type[nn.Module] = PreActBlock if pre_activation else BasicBlock
        channels = stem_width or widths[0]
        self.stem = nn.Sequential(nn.Conv2d(len(mean), channels, 3, 1, 1, bias=False))
        if not pre_activation:
            self.stem.extend([nn.BatchNorm2d(channels), nn.ReLU()])
        self.stages = nn.ModuleList()
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            strides = [1 if i == 0 else 2] + [1] * (depth - 1)
            inputs = [channels] + [width] * (depth - 1)
            self.stages.append(nn.Sequential(*(block(c, width, s) for c, s in zip(inputs, strides, strict=True))))
            channels = width
        self.final = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()) if pre_activation else nn.Identity()
        self.head = nn.Linear(channels, num_classes)
        self.feature_info = stage_info(widths, [2**i for i in range(len(widths))])


@architecture("resnet18")
def resnet18(*, width: int = 64, **options: Any) -> ResNet:
    """ResNet-18 for 32x32 images; ``width`` 64 is the usual size. ``options`` are those of :class:`ResNet`."""
    return ResNet(depths=(2, 2, 2, 2), widths=[width * 2**i for i in range(4)], **options)


@architecture("preact_resnet18")
def preact_resnet18(**options: Any) -> ResNet:
    """Pre-activation ResNet-18 for 32x32 images."""
    return resnet18(pre_activation=True, **options)


@architecture("resnet20")
def resnet20(*, width: int = 16, **options: Any) -> ResNet:
    """ResNet-20 for 32x32 images: three stages of three blocks."""
    return ResNet(depths=(3, 3, 3), widths=[width * 2**i for i in range(3)], **options)


@architecture("resnet110")
def resnet110(*, width: int = 16, **options: Any) -> ResNet:
    """ResNet-110 for 32x32 images, usual in randomized smoothing: three stages of 18 blocks."""
    return ResNet(depths=(18, 18, 18), widths=[width * 2**i for i in range(3)], **options)


@architecture("wide_resnet")
def wide_resnet(*, depth: int, width: int, **options: Any) -> ResNet:
    """WRN-depth-width: three stages of (depth - 4) / 6 pre-activation blocks behind a 16-channel stem.

    Raises:
        ValueError: depth - 4 is not a positive multiple of 6.
    """
    blocks = blocks_per_group(depth)
    widths = [16 * width * 2**i for i in range(3)]
    return ResNet(depths=(blocks,) * 3, widths=widths, stem_width=16, pre_activation=True, **options)


def blocks_per_group(depth: int) -> int:
    """n of a Wide ResNet with 6 n + 4 layers. Raises ValueError: there is no such n >= 1."""
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise ValueError(f"the depth of a Wide ResNet is 6 n + 4 (10, 16, 22, 28, ...), got {depth}")
    return blocks


# Keys of the widespread ResNet-18 code for CIFAR.
CIFAR_RESNET_KEYS: KeyTable = {
    r"conv1\.(\w+)": r"stem.0.\1",
    r"bn1\.(\w+)": r"stem.1.\1",
    r"layer([1-4])\.(.+)": lambda match: f"stages.{int(match[1]) - 1}.{match[2].replace('bn', 'norm')}",
    r"linear\.(\w+)": r"head.\1",
}
