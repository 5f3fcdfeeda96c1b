"""A small plain convolutional net, made for 8x8 digits."""

from collections.abc import Sequence

from torch import nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.base import BaseNet, stage_info


@architecture("small_cnn")
class SmallCNN(BaseNet):
    """Per stage, twice: 3x3 convolution, batch norm, ReLU. All stages but the first halve the resolution.

    Args:
        widths: channels per stage; two stages or more. Feature maps: the output of each stage.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32, 64),
        num_classes: int = 10,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(mean, std)
        inputs = [len(mean), *widths[:-1]]
        self.stem = nn.Identity()
        self.stages = nn.ModuleList(
            nn.Sequential(*_unit(c, width, 1 if i == 0 else 2), *_unit(width, width, 1))
            for i, (c, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.final = nn.Identity()
        self.head = nn.Linear(widths[-1], num_classes)
        self.feature_info = stage_info(widths, [2**i for i in range(len(widths))])


def _unit(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]
