"""A plain net of a few strided convolutions, cheap enough to attack a whole test set on a CPU."""

from collections.abc import Sequence

from torch import nn

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.base import BaseNet, stage_info


@architecture("strided_cnn")
class StridedCNN(BaseNet):
    """Per stage: 4x4 convolution of stride 2, batch norm, ReLU; the last stage is one dense layer and ReLU.

    Args:
        widths: channels of the convolutional stages; feature maps: the outputs of these and of the dense layer.
        hidden: width of the dense layer, a convolution over the whole map; on larger images it runs at several
            positions.
        image_size: side of the square images, a multiple of 2 ** len(widths).

    Raises:
        ValueError: another image size.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (16, 32),
        hidden: int = 100,
        image_size: int = 28,
        num_classes: int = 10,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(mean, std)
        halvings = 2 ** len(widths)
        if image_size < halvings or image_size % halvings:
            raise ValueError(f"image_size must be a multiple of {halvings}, got {image_size}")
        self.stem = nn.Identity()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for before, width in zip([len(mean), *widths[:-1]], widths, strict=True)
        )
        self.stages.append(nn.Sequential(nn.Conv2d(widths[-1], hidden, image_size // halvings), nn.ReLU()))
        self.final = nn.Identity()
        self.head = nn.Linear(hidden, num_classes)
        self.feature_info = stage_info([*widths, hidden], [*(2 ** (i + 1) for i in range(len(widths))), image_size])
