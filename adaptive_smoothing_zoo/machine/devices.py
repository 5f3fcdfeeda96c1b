"""Where to compute."""

import torch

from adaptive_smoothing_zoo.errors import reason


def known_device(device: str | torch.device) -> torch.device:
    """A device of this machine, of any kind but "meta", where tensors have no values; ValueError for another."""
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"this machine has no device {str(device)!r}: {reason(error)}") from None
    if found.type == "meta":
        raise ValueError("on the device 'meta' tensors have no values; name another")
    return found


def pick_device(device: str | torch.device | None) -> torch.device:
    """The CPU or CUDA device asked for, else ValueError; for None or "auto", CUDA if there is one, else the CPU."""
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
    """Whether memory ran out. PyTorch has a class for it on GPUs, and on CPUs a sentence."""
    text = str(error)
    has_class = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return has_class or "can't allocate memory" in text or "not enough memory" in text
