"""The Wide ResNet of DeepMind's robust nets (Gowal et al. 2020) and of many that followed."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

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

# The Swish of the older checkpoints, x sigmoid(x) with a hand-written gradient, is SiLU, gradient included.
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "swish": nn.SiLU}


class DMBlock(nn.Module):
    """Pre-activation block; a strided 3x3 convolution is padded on the right and at the bottom only.

    That is TensorFlow's "same" padding of even sizes. A relative may let ``after`` act on the branch before the sum.
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
    """The activation of that name in ``ACTIVATIONS``. Raises ValueError: there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def block_groups(
    stem_width: int, depths: Sequence[int], widths: Sequence[int], block: Callable[[int, int, int], nn.Module]
) -> nn.ModuleList:
    """Groups of blocks, each but the first of which halves the resolution; ``stem_width`` channels enter the first.

    ``block`` makes a block from its input channels, output channels and stride.
    """
    groups = nn.ModuleList()
    for i, (depth, before, width) in enumerate(zip(depths, [stem_width, *widths[:-1]], widths, strict=True)):
        first = block(before, width, 1 if i == 0 else 2)
        groups.append(nn.Sequential(first, *(block(width, width, 1) for _ in range(depth - 1))))
    return groups


BLOCK = r"layer\.(\d)\.block\.(\d+)\."
DM_WRN_KEYS: KeyTable = {
    r"init_conv\.weight": "stem.weight",
    BLOCK + r"batchnorm_0\.(\w+)": r"stages.\1.\2.norm1.\3",
    BLOCK + r"conv_0\.weight": r"stages.\1.\2.conv1.weight",
    BLOCK + r"batchnorm_1\.(\w+)": r"stages.\1.\2.norm2.\3",
    BLOCK + r"conv_1\.weight": r"stages.\1.\2.conv2.weight",
    BLOCK + r"shortcut\.weight": r"stages.\1.\2.shortcut.weight",
    r"batchnorm\.(\w+)": r"final.0.\1",
    r"logits\.(weight|bias)": r"head.\1",
}


def from_foreign(state: Mapping[str, Tensor], *, mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    """Our state dict from one of DeepMind's PyTorch code, which RobustBench uses; it holds no normalization constants.

    Raises:
        WeightsError: a key that such a net does not have.
    """
    return {**normalization(mean, std), **rename(state, DM_WRN_KEYS, "DeepMind's Wide ResNet")}
