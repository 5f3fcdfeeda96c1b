"""Collects the caller's examples, given as tensors or as batches of a loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from adaptive_smoothing_zoo.backbones.asking import own_copy
from adaptive_smoothing_zoo.data import check_examples

Batches = Iterable[tuple[Tensor, Tensor]]  # as a DataLoader yields them


def gathered(images: Tensor | Batches, labels: Tensor | None, *, resumes: bool = False) -> tuple[Tensor, Tensor]:
    """Images (N, channels, H, W) and labels (N,) on the CPU, checked and copied.

    Args:
        images: the tensor; or a DataLoader, or another finite iterable of batches (images, labels), which is read to
            its end once. The examples keep its order.
        labels: the tensor; None if they are in the batches.
        resumes: whether a state is kept, which needs a fixed order; a loader that shuffles is then refused.

    Raises:
        TypeError: neither tensors nor batches.
        ValueError: invalid examples, or a loader that shuffles although a state is kept.
    """
    if not isinstance(images, Tensor) and labels is None:
        if resumes and _shuffles(images):
            raise ValueError("a state resumes only with the same order of examples; give a loader with shuffle=False")
        pairs = [(own_copy(batch), own_copy(classes)) for batch, classes in _pairs(images)]
        if not pairs:
            raise ValueError("no images to evaluate: the loader is empty")
        images, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        check_examples(images, labels)
        return images, labels
    check_examples(images, labels)  # type: ignore[arg-type]
    assert isinstance(images, Tensor)
    assert isinstance(labels, Tensor)
    return own_copy(images), own_copy(labels)


def _shuffles(loader: Any) -> bool:
    return isinstance(loader, DataLoader) and not isinstance(loader.sampler, SequentialSampler)


def _pairs(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches, each checked."""
    if isinstance(loader, Dataset) or not isinstance(loader, Iterable):
        raise TypeError(
            f"give evaluate tensors (images, labels), or a DataLoader of both, not a {type(loader).__name__}; a "
            "dataset becomes one by DataLoader(dataset, batch_size=256)"
        )
    for i, batch in enumerate(loader):
        fine = isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
        if not fine or batch[0].ndim != 4 or batch[1].shape != batch[0].shape[:1]:
            raise TypeError(
                f"a loader must yield (images, labels) of shapes (N, channels, H, W) and (N,), but batch {i} is "
                f"{_said(batch)}"
            )
        yield batch[0], batch[1]


def _said(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor {tuple(batch.shape)}"
    if isinstance(batch, (tuple, list)):
        parts = (f"{tuple(p.shape)}" if isinstance(p, Tensor) else type(p).__name__ for p in batch[:4])
        return f"a {type(batch).__name__} of {len(batch)}: {', '.join(parts)}"
    return f"a {type(batch).__name__}"
