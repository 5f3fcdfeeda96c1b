"""The one interface through which base nets give logits and feature maps. It is timm's, so timm nets fit as well."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class BaseNet(nn.Module):
    """A convolutional net from images in [0, 1] to logits that normalizes inside itself.

    A subclass sets, in its constructor, ``stem``, ``stages`` (one feature map each), ``final`` (what follows the last
    stage before pooling), ``head`` (linear) and ``feature_info``.

    Args:
        mean, std: per-channel normalization constants; kept as buffers, so they move with the net and travel with
            its weights. Their number is the number of image channels.
    """

    stem: nn.Module
    stages: nn.ModuleList
    final: nn.Module
    head: nn.Module
    mean: Tensor
    std: Tensor
    feature_info: list[dict[str, Any]]  # num_chs, reduction (relative to the input image), module

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    @property
    def num_features(self) -> int:
        return int(self.feature_info[-1]["num_chs"])

    @property
    def num_classes(self) -> int:
        return int(self.head.out_features)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) images in [0, 1] -> (N, classes) logits."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map, (N, num_features, h, w)."""
        return self.forward_intermediates(images, [])[0]

    def forward_intermediates(self, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The last feature map and the outputs of the stages at ``indices``, in the order asked for.

        Raises:
            ValueError: images of another number of channels than the net's.
        """
        channels = len(self.mean)
        if images.ndim != 4 or images.shape[1] != channels:  # one channel would broadcast to three without a word
            raise ValueError(f"images must have shape (N, {channels}, H, W), got {tuple(images.shape)}")
        features = self.stem((images - self.mean) / self.std)
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return self.final(features), [maps[i] for i in indices]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The last feature map -> (N, classes) logits, or its (N, num_features) average over positions."""
        pooled = features.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def get_classifier(self) -> nn.Module:
        return self.head


def stage_info(channels: Sequence[int], reductions: Sequence[int]) -> list[dict[str, Any]]:
    """``feature_info`` of a net whose feature maps are the outputs of its stages."""
    return [
        {"num_chs": num_chs, "reduction": reduction, "module": f"stages.{i}"}
        for i, (num_chs, reduction) in enumerate(zip(channels, reductions, strict=True))
    ]


def check_image_tensor(images: Tensor) -> None:
    """Raise ValueError unless ``images`` is a float tensor (N, channels, H, W); its values are not read."""
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, channels, H, W), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating-point in [0, 1], got {images.dtype}; divide 8-bit images by 255")
