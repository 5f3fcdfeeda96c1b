"""The mixing network: feature maps of both base nets in, one real number per input out [BAKS24, Fig. 3]."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.key_tables import rename
from adaptive_smoothing_zoo.backbones.resnet import PreActBlock


class _Block(PreActBlock):
    """Pre-activation block whose shortcut, projected or not, starts after the first activation, as published."""

    def forward(self, features: Tensor) -> Tensor:
        activated = F.relu(self.norm1(features))
        out = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        return out + (activated if self.shortcut is None else self.shortcut(activated))  # type: ignore[no-any-return]


class MixingNetwork(nn.Module):
    """Three groups of two residual blocks, each group halving the resolution.

    Group 0 sees the first feature maps of both base nets, concatenated over channels. The second feature maps, also
    concatenated, are added to its output: directly in version 3, through a bias-free 1x1 convolution in version 4 (the
    version of all published models).

    Args:
        first_channels: channels of the concatenated first maps; (N, first_channels, H, W). If the maps of g and h
            differ in size, both are resized to the smaller height and width.
        second_channels: channels of the concatenated second maps; (N, second_channels, H/2, W/2); other sizes are
            resized to it.
        planes: output channels of the three groups; (512, 768, 1024) in [BAKS24].
        version: 3 or 4.

    Raises:
        ValueError: an unknown version; not three group widths; or, in version 3, second maps whose channels differ
            from group 0's output.
    """

    def __init__(self, first_channels: int, second_channels: int, planes: Sequence[int], *, version: int = 4) -> None:
        super().__init__()
        if version not in (3, 4):
            raise ValueError(f"the mixing network has versions 3 and 4, got {version}")
        if len(planes) != 3 or min(planes) < 1:
            raise ValueError(f"the mixing network has three groups of channels, got planes={tuple(planes)}")
        if version == 3 and second_channels != planes[0]:
            raise ValueError(
                f"version 3 adds the second feature maps ({second_channels} channels) to the output of group 0 "
                f"({planes[0]} channels); make them equal or use version 4"
            )
        inputs = (first_channels, *planes[:2])
        self.groups = nn.ModuleList(
            nn.Sequential(_Block(channels, plane, 2), _Block(plane, plane, 1))
            for channels, plane in zip(inputs, planes, strict=True)
        )
        self.project = nn.Identity() if version == 3 else nn.Conv2d(second_channels, planes[0], 1, bias=False)
        self.head = nn.Linear(planes[2], 1, bias=False)

    @property
    def input_channels(self) -> list[int]:
        """Channels of the concatenated first and second maps."""
        first = self.groups[0][0].conv1.in_channels  # type: ignore[index]
        if isinstance(self.project, nn.Conv2d):
            return [first, self.project.in_channels]
        return [first, self.groups[0][0].conv1.out_channels]  # type: ignore[index]

    def forward(self, std_maps: Sequence[Tensor], rob_maps: Sequence[Tensor]) -> Tensor:
        """First and second feature map of each base net -> (N, 1) raw outputs."""
        channels = self.input_channels
        features = self.groups[0](_side_by_side(std_maps[0], rob_maps[0], channels[0]))
        features = features + self.project(_side_by_side(std_maps[1], rob_maps[1], channels[1], like=features))
        for group in self.groups[1:]:
            features = group(features)
        return self.head(features.mean(dim=(2, 3)))  # type: ignore[no-any-return]


@torch.fx.wrap
def _side_by_side(std_map: Tensor, rob_map: Tensor, channels: int, like: Tensor | None = None) -> Tensor:
    """Both maps, (N, C, H, W) each, concatenated over channels; resized where they, or ``like``, differ in H or W.

    Raises:
        ValueError: another total number of channels.
    """
    if std_map.shape[1] + rob_map.shape[1] != channels:
        raise ValueError(
            f"the mixing network takes feature maps of {channels} channels in total, got {std_map.shape[1]} from g and "
            f"{rob_map.shape[1]} from h; choose other taps, or nets whose feature_info is correct"
        )
    sizes = [each.shape[2:] for each in ((std_map, rob_map) if like is None else (like,))]
    size = (min(s[0] for s in sizes), min(s[1] for s in sizes))
    maps = (std_map, rob_map)
    return torch.cat([each if tuple(each.shape[2:]) == size else _resized(each, size) for each in maps], dim=1)


def _resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    fine = features.float() if features.dtype.itemsize < 4 else features  # CPUs do not resize half precision
    return F.interpolate(fine, size, mode="bilinear", antialias=True, align_corners=False).to(features.dtype)


_BLOCK = r"layers\.(\d)\.(\d)\."
MIXING_NETWORK_KEYS = {
    _BLOCK + r"bn([12])\.(\w+)": r"mixing_network.groups.\1.\2.norm\3.\4",
    _BLOCK + r"conv([12])\.weight": r"mixing_network.groups.\1.\2.conv\3.weight",
    _BLOCK + r"shortcut\.0\.weight": r"mixing_network.groups.\1.\2.shortcut.weight",
    r"conv1x1\.weight": "mixing_network.project.weight",
    r"linear\.weight": "mixing_network.head.weight",
}
NORM_KEYS = {r"(running_mean|running_var|num_batches_tracked)": r"norm.\1"}


def from_foreign(network: Mapping[str, Tensor], norm: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of an ``AdaptiveAlpha`` from the parts of a published file, as RobustBench hosts it.

    Args:
        network: state dict of the mixing network, version 3 or 4; the file's ``model``.
        norm: state dict of the batch norm after it; the file's ``bn``.

    Raises:
        WeightsError: an unknown key.
    """
    return {
        **rename(network, MIXING_NETWORK_KEYS, "the mixing network"),
        **rename(norm, NORM_KEYS, "the batch norm behind the mixing network"),
    }
