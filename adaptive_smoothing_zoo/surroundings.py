"""What a caller's program may have set for all of PyTorch, put aside while this package computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def own_surroundings() -> Iterator[None]:
    """Gradients on, inference mode and autocast off, float32 and the CPU as defaults; the caller's are put back.

    As a decorator (``@own_surroundings()``) it makes a function independent of the mode in which it is called.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        for mode in (torch.inference_mode(False), torch.enable_grad()):
            stack.enter_context(mode)
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":  # the context costs time at every call of torch
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield
