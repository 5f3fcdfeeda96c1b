"""BiT's ResNet-v2, with group norm and weight-standardized convolutions [KBZ20]."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.base import BaseNet, stage_info
from adaptive_smoothing_zoo.backbones.key_tables import KeyTable, normalization, rename

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # units per block

# Of the published nets, which add 1e-8 to the standard deviation; a float32 buffer rounds it to 0.5.
MEAN, STD = (0.5,) * 3, (0.5 + 1e-8,) * 3


class StdConv2d(nn.Conv2d):
    """Convolution without bias; its kernel is its weight, standardized to mean 0 and variance 1 per output channel."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, size, stride, size // 2, bias=False)

    def standardized_weight(self) -> Tensor:
        """The kernel, (out_channels, in_channels, size, size)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        kernel: Tensor = (self.weight - mean) / torch.sqrt(variance + 1e-10)
        return kernel

    def forward(self, features: Tensor) -> Tensor:
        return self._conv_forward(features, self.standardized_weight(), None)  # type: ignore[no-any-return]

    def folded(self) -> nn.Conv2d:
        """A plain convolution that computes the same."""
        size, stride = self.kernel_size[0], self.stride[0]
        conv = nn.Conv2d(self.in_channels, self.out_channels, size, stride, size // 2, bias=False, device="meta")
        conv.weight = nn.Parameter(self.standardized_weight().detach(), self.weight.requires_grad)
        return conv.train(self.training)


def fold_weight_standardization(net: nn.Module) -> None:
    """Replace, in place, every standardized convolution inside a frozen ``net`` by a plain one with its kernel.

    Outputs and the keys of the state dict stay the same. An unfolded net that loads a folded state dict has the same
    outputs up to rounding: standardizing twice is standardizing once.
    """
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, StdConv2d):
                setattr(module, name, child.folded())


class _Unit(nn.Module):
    """Pre-activation bottleneck with the stride on the 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = out_channels // 4
        self.norm1 = nn.GroupNorm(32, in_channels)
        self.conv1 = StdConv2d(in_channels, inner, 1)
        self.norm2 = nn.GroupNorm(32, inner)
        self.conv2 = StdConv2d(inner, inner, 3, stride)
        self.norm3 = nn.GroupNorm(32, inner)
        self.conv3 = StdConv2d(inner, out_channels, 1)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = None if same_shape else StdConv2d(in_channels, out_channels, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        activated = F.relu(self.norm1(features))
        out = self.conv1(activated)
        out = self.conv2(F.relu(self.norm2(out)))
        out = self.conv3(F.relu(self.norm3(out)))
        return out + (features if self.shortcut is None else self.shortcut(activated))  # type: ignore[no-any-return]


class _ZeroFrame(nn.Module):
    """Puts a frame of zeros around a feature map. The zeros enter the max pooling that follows: maps may be negative.

    The frame is concatenated. onnxruntime would merge a padding layer into the pooling, whose padding is ignored.
    """

    def forward(self, features: Tensor) -> Tensor:
        row = torch.zeros_like(features[:, :, :1])
        features = torch.cat([row, features, row], dim=2)
        column = torch.zeros_like(features[:, :, :, :1])
        return torch.cat([column, features, column], dim=3)


@architecture("bit_resnet")
class BiTResNet(BaseNet):
    """BiT ResNet-v2; the published accurate nets are ``depth=152, width=2`` on images resized to 128x128.

    Args:
        depth: 50, 101, 152, or the number of units in each of the four blocks.
        width: multiple of the usual channels.
        image_size: side to which images are resized bilinearly; None for no resizing.

    Raises:
        ValueError: another depth.

    Feature maps: the outputs of the four blocks; the first block includes the root. ``feature_info`` gives their
    reduction relative to 32x32 images, or relative to the image if it is not resized.
    """

    def __init__(
        self,
        *,
        depth: int | Sequence[int] = 152,
        width: int = 2,
        num_classes: int = 10,
        image_size: int | None = 128,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__(mean, std)
        units = DEPTHS.get(depth, ()) if isinstance(depth, int) else tuple(depth)
        if len(units) != 4:
            raise ValueError(f"the depth of a BiT ResNet is 50, 101, 152 or four numbers, got {depth}")
        self.image_size = image_size
        self.stem = nn.Sequential(StdConv2d(len(mean), 64 * width, 7, 2), _ZeroFrame(), nn.MaxPool2d(3, 2))
        widths = [256 * width * 2**i for i in range(4)]
        self.stages = nn.ModuleList()
        for i, (count, before, out) in enumerate(zip(units, [64 * width, *widths[:3]], widths, strict=True)):
            self.stages.append(
                nn.Sequential(_Unit(before, out, 1 if i == 0 else 2), *(_Unit(out, out, 1) for _ in range(count - 1)))
            )
        self.final = nn.Sequential(nn.GroupNorm(32, widths[-1]), nn.ReLU())
        self.head = nn.Linear(widths[-1], num_classes)
        shrinking = [4 * 2**i for i in range(4)]
        self.feature_info = stage_info(
            widths, shrinking if image_size is None else [max(1, s * 32 // image_size) for s in shrinking]
        )

    def resize(self, images: Tensor) -> Tensor:
        if self.image_size is None:
            return images
        return F.interpolate(images, size=(self.image_size,) * 2, mode="bilinear", align_corners=False)


def _in_unit(rest: str) -> Callable[[re.Match[str]], str]:
    """Our key for a match whose first groups are block and unit, counted from 1; ``rest`` is a template."""
    return lambda match: f"stages.{int(match[1]) - 1}.{int(match[2]) - 1}.{match.expand(rest)}"


_UNIT = r"body\.block(\d)\.unit(\d+)\."
BIT_KEYS: KeyTable = {
    r"root\.conv\.weight": "stem.0.weight",
    _UNIT + r"gn([123])\.(weight|bias)": _in_unit(r"norm\3.\4"),
    _UNIT + r"(conv[123])\.weight": _in_unit(r"\3.weight"),
    _UNIT + r"downsample\.weight": _in_unit("shortcut.weight"),
    r"head\.gn\.(weight|bias)": r"final.0.\1",
    r"head\.conv\.(weight|bias)": r"head.\1",
    r"(mean|std)": r"\1",  # of the successor's class only
}

_NPZ_UNIT = r"resnet/block(\d)/unit(\d+)/"
_NPZ_CONV = r"standardized_conv2d(?:_\d+)?/kernel"  # some files number the layers
BIT_NPZ_KEYS: KeyTable = {
    r"resnet/root_block/" + _NPZ_CONV: "stem.0.weight",
    **{
        f"{_NPZ_UNIT}{letter}/{theirs}": _in_unit(ours.format(i))
        for i, letter in enumerate("abc", 1)
        for theirs, ours in (
            (_NPZ_CONV, "conv{}.weight"),
            ("group_norm/gamma", "norm{}.weight"),
            ("group_norm/beta", "norm{}.bias"),
        )
    },
    _NPZ_UNIT + r"a/proj/" + _NPZ_CONV: _in_unit("shortcut.weight"),
    r"resnet/group_norm/gamma": "final.0.weight",
    r"resnet/group_norm/beta": "final.0.bias",
    r"resnet/head/conv2d/kernel": "head.weight",
    r"resnet/head/conv2d/bias": "head.bias",
}


def from_foreign(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from one of BiT's PyTorch code. Raises WeightsError: a key that such a net does not have."""
    return _completed(rename(state, BIT_KEYS, "BiT's ResNet"))


def from_npz(arrays: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, Tensor]:
    """Our state dict from the arrays of the authors' .npz files, with kernels (height, width, in, out).

    Raises:
        WeightsError: a key that such files do not have.
    """
    state = {
        name: torch.from_numpy(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
        for name, array in arrays.items()
    }
    return _completed(rename(state, BIT_NPZ_KEYS, "BiT's .npz files"))


def _completed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with normalization constants, added if missing, and a linear head."""
    state = {**normalization(MEAN, STD), **{key: value.detach() for key, value in state.items()}}
    if "head.weight" in state:
        state["head.weight"] = state["head.weight"].flatten(1)  # a 1x1 convolution there
    return state
