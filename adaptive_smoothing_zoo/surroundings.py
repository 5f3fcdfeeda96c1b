"""Neutralize the caller's global PyTorch settings while this package computes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Turn inference mode off and default to float32, as building a module needs; the default device stays."""
    dtype = torch.get_default_dtype()
    with torch.inference_mode(False):
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def own_surroundings() -> Iterator[None]:
    """Gradients on, inference mode and autocast off, float32 and the CPU as defaults; restores the caller's settings.

    As a decorator (``@own_surroundings()``) it makes a function independent of its caller's modes.
    """
    with ExitStack() as stack:
        for mode in (ordinary_tensors(), torch.enable_grad()):
            stack.enter_context(mode)
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":  # the context costs time at every call of torch
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def real_device() -> Iterator[None]:
    """The CPU instead of the meta device, for constructors that compute: some fail on meta, or leave buffers there.

    Parameters stay uninitialized, as on the meta device, which costs neither time nor random numbers.
    """
    if torch.get_default_device().type != "meta":
        yield
        return
    with torch.device("cpu"), _Unset():
        yield


class _Unset(TorchFunctionMode):
    """Ignore in-place operations on parameters."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        changed = args[0] if args else kwargs.get("tensor")
        if isinstance(changed, Parameter) and re.fullmatch("[a-z].*[^_]_", name) and name != "requires_grad_":
            return changed
        return func(*args, **kwargs)
