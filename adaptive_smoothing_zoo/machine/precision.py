"""How float32 products are rounded, stated instead of inherited from whatever the program set before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def float32_precision(tf32: bool) -> Iterator[None]:
    """Full float32 in matrix products and convolutions, or TF32 on CUDA if asked for; put back afterwards."""
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
    """Whether matrix products or convolutions of float32 on CUDA may be rounded to TF32 at present."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # a look at allow_tf32 may then be an error
        return any(getattr(owner, name) == rounded != exact for owner, name, exact, rounded in _new_settings())
    return any(getattr(owner, name) for owner, name, _, _ in _old_settings())


def _new_settings() -> list[tuple[Any, str, str, str]]:
    """Owner, attribute, its value for float32, its value for TF32. The CPU has no TF32 and stays exact."""
    cuda = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    cpu = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)  # type: ignore[attr-defined]
    return [(owner, "fp32_precision", "ieee", "tf32") for owner in cuda] + [
        (owner, "fp32_precision", "ieee", "ieee") for owner in cpu
    ]


def _old_settings() -> list[tuple[Any, str, bool, bool]]:
    """The same for versions of torch that know only ``allow_tf32``."""
    return [(owner, "allow_tf32", False, True) for owner in (torch.backends.cuda.matmul, torch.backends.cudnn)]


class Lowered(nn.Module):
    """A net that computes in bfloat16 where that is safe (autocast); it takes and gives float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            return self.model(images).float()  # type: ignore[no-any-return]
