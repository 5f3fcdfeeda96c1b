"""The LeNet of [JS21]'s MNIST tables."""

from collections.abc import Sequence

from torch import nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.base import BaseNet, stage_info


@architecture("lenet")
class LeNet(BaseNet):
    """Two 5x5 convolutions without padding, each with ReLU and 2x2 max pooling, then a dense layer with ReLU.

    With 28x28 images this is the net that the authors of [JS21] train (431,080 weights). The dense layer is a
    convolution over the whole map; on larger images it runs at several positions.

    Args:
        widths: channels of the two convolutions, and width of the dense layer.
        image_size: side of the square images, a multiple of 4 and at least 16.

    Raises:
        ValueError: another image size.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (20, 50, 500),
        image_size: int = 28,
        num_classes: int = 10,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(mean, std)
        if image_size < 16 or image_size % 4:
            raise ValueError(f"image_size must be a multiple of 4 and at least 16, got {image_size}")
        first, second, dense = widths
        side = image_size // 4 - 3
        self.stem = nn.Identity()
        convolutions = nn.Sequential(*_unit(len(mean), first), *_unit(first, second))
        self.stages = nn.ModuleList([convolutions, nn.Sequential(nn.Conv2d(second, dense, side), nn.ReLU())])
        self.final = nn.Identity()
        self.head = nn.Linear(dense, num_classes)
        self.feature_info = stage_info([second, dense], [image_size // side, image_size])


def _unit(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 5), nn.ReLU(), nn.MaxPool2d(2)]
