"""Labelled images, and their checks before any measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptive_smoothing_zoo.storage.provenance import tensors_sha256
from adaptive_smoothing_zoo.units import pixels_hint, shortest


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Images with labels and where they came from.

    Attributes:
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        source: one sentence for the run record: which data, which split, which caveats.
        test_set_size: number of examples in the official test set if these are its first N in its order, else None.
        num_classes: how many classes the labels are of, where that is known.
        classes: their names in the order of the labels, where these are known.
    """

    images: Tensor
    labels: Tensor
    source: str
    test_set_size: int | None = None
    num_classes: int | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """Hash of the bytes of images and labels."""
        return tensors_sha256({"images": self.images, "labels": self.labels})

    def first(self, n: int | None) -> Examples:
        """The first ``n`` examples, or all of them if it is None.

        Raises:
            ValueError: ``n`` is not positive or larger than the data.
        """
        if n is None:
            return self
        check_n(n, len(self), self.source)
        return self.at(range(n))

    def at(self, places: range) -> Examples:
        """The examples at some places, which rise; any but the first in their order are no longer the official ones."""
        where, official = slice(places.start, places.stop, places.step), are_the_first(places)
        size = self.test_set_size if official else None
        return replace(self, images=self.images[where], labels=self.labels[where], test_set_size=size)


def are_the_first(places: range) -> bool:
    """Whether places are 0, 1, 2, ..."""
    return places.start == 0 and places.step == 1


def check_n(n: int, available: int, source: str) -> None:
    """Raise ValueError unless there are ``n`` examples."""
    if not 0 < n <= available:
        raise ValueError(f"n must be between 1 and the {available} examples of {source}, got {n}")


def check_examples(images: Tensor, labels: Tensor, num_classes: int | None = None) -> None:
    """Reject invalid images and labels.

    Raises:
        TypeError: not tensors.
        ValueError: the first problem found: no examples, shape, dtype, a value that is not finite or outside [0, 1],
            labels of another length or dtype or outside [0, num_classes).
    """
    for tensor, name in ((images, "images"), (labels, "labels")):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"{name} must be a dense tensor with values, got {tensor.layout} on {tensor.device}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must have shape (N, channels, H, W), got {tuple(images.shape)}")
    if len(images) == 0:
        raise ValueError("there are no images to evaluate")
    if images.dtype != torch.float32:
        raise ValueError(f"images must be float32 in [0, 1], got {images.dtype}{_dtype_hint(images)}")
    if (i := _first(~torch.isfinite(images))) is not None:
        raise ValueError(f"image {i} has a pixel that is NaN or infinite")
    if (i := _first((images < 0) | (images > 1))) is not None:
        low, high = float(images[i].min()), float(images[i].max())
        raise ValueError(
            f"image {i} has values in [{shortest(low)}, {shortest(high)}]; pixels must lie in [0, 1]"
            f"{pixels_hint(float(images.min()), float(images.max()))}"
        )
    if labels.shape != (len(images),):
        raise ValueError(f"{len(images)} images need labels of shape ({len(images)},), got {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 class indices, got {labels.dtype}")
    if num_classes is not None and (i := _first((labels < 0) | (labels >= num_classes))) is not None:
        raise ValueError(f"label {int(labels[i])} of image {i} is not in 0..{num_classes - 1}")


def _first(bad: Tensor) -> int | None:
    """The first example of which something is bad, (N, ...)."""
    found = bad.flatten(1).any(dim=1) if bad.ndim > 1 else bad
    return int(found.nonzero()[0]) if bool(found.any()) else None


def _dtype_hint(images: Tensor) -> str:
    """How images of another kind of number become float32 in [0, 1]."""
    if images.dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        return "; divide 8-bit images by 255"
    if images.dtype not in (torch.float64, torch.float16, torch.bfloat16):
        return ""
    low, high = float(images.min()), float(images.max())
    return pixels_hint(low, high) if low < 0.0 or high > 1.0 else ""
