"""Devices: which one to compute on, and whether its memory ran out."""

import torch

from adaptive_smoothing_zoo.errors import reason


def known_device(device: str | torch.device) -> torch.device:
    """The named device of this machine; ValueError if it has none such, or for "meta", where tensors have no values."""
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"this machine has no device {str(device)!r}: {reason(error)}") from None
    if found.type == "meta":
        raise ValueError("tensors on the device 'meta' have no values; name another device")
    return found


def pick_device(device: str | torch.device | None) -> torch.device:
    """The named CPU or CUDA device; ValueError for any other. None or "auto": CUDA if available, else the CPU."""
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; use auto, cpu or cuda") from None
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported; use auto, cpu or cuda")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but this machine has no usable CUDA device; use cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {device!r}; this machine has {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "cpu" and chosen.index:
        raise ValueError(f"there is no device {device!r}; the CPU is one device, cpu")
    return chosen


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. PyTorch raises its own class on GPUs; on CPUs only the message tells."""
    text = str(error)
    has_class = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return has_class or "can't allocate memory" in text or "not enough memory" in text
