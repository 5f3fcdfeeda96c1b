"""Rounding of float32 products, set explicitly instead of inherited from the calling program."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def float32_precision(tf32: bool) -> Iterator[None]:
    """Within the block, full float32 in matrix products and convolutions, or with ``tf32`` TF32 on CUDA."""
    settings = _new_settings() if hasattr(torch.backends.cuda.matmul, "fp32_precision") else _old_settings()
    before = [(owner, name, getattr(owner, name)) for owner, name, _, _ in settings]
    try:
        for owner, name, exact, rounded in settings:
            setattr(owner, name, rounded if tf32 else exact)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def tf32_allowed() -> bool:
    """Whether CUDA may at present round float32 matrix products or convolutions to TF32."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # reading allow_tf32 may then raise
        return any(getattr(owner, name) == rounded != exact for owner, name, exact, rounded in _new_settings())
    return any(getattr(owner, name) for owner, name, _, _ in _old_settings())


def _new_settings() -> list[tuple[Any, str, str, str]]:
    """Owner, attribute, value for float32, value for TF32. The CPU always computes in full float32."""
    cuda = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    cpu = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)  # type: ignore[attr-defined]
    return [(owner, "fp32_precision", "ieee", "tf32") for owner in cuda] + [
        (owner, "fp32_precision", "ieee", "ieee") for owner in cpu
    ]


def _old_settings() -> list[tuple[Any, str, bool, bool]]:
    """The same for versions of torch that have only ``allow_tf32``."""
    return [(owner, "allow_tf32", False, True) for owner in (torch.backends.cuda.matmul, torch.backends.cudnn)]


class Lowered(nn.Module):
    """Runs a net under bfloat16 autocast; takes and returns float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            return self.model(images).float()  # type: ignore[no-any-return]
