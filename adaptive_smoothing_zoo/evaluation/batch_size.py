"""How many images a device holds at once."""

from __future__ import annotations

import psutil
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.verify import refusals_named

LARGEST = {"cpu": 256, "cuda": 4096}  # more gains nothing on a CPU
SHARE = 0.6  # of the memory that is free; attacks keep some tensors of the images' size beside the net's own


def largest_batch_size(model: nn.Module, images: Tensor, device: torch.device) -> int:
    """A batch size that fits, a power of two, from the memory that a pass of a few images takes forward and backward.

    Args:
        model: on ``device``.
        images: (N, channels, H, W), of the kind to come.
    """
    few = images[:8].to(device)
    measure = _cuda_bytes if device.type == "cuda" else _cpu_bytes
    with refusals_named(images):
        taken, free = measure(model, few)
    fitting = int(SHARE * free) // max(1, taken // len(few))
    size = 1
    while 2 * size <= min(fitting, LARGEST[device.type]):
        size *= 2
    return size


def _cuda_bytes(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """The most that a pass of these images takes, and what is free, in bytes."""
    device = images.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    points = images.clone().requires_grad_()
    torch.autograd.grad(model(points).sum(), points)
    return torch.cuda.max_memory_allocated(device) - before, torch.cuda.mem_get_info(device)[0]


def _cpu_bytes(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """The same. PyTorch does not count on CPUs: taken is twice what a pass keeps for the gradient."""
    kept: dict[int, int] = {}
    tensors = (*model.parameters(), *model.buffers())
    weights = {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.layout == torch.strided}

    def note(tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided:  # sparse ones have no storage of their own
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(images.clone().requires_grad_())  # alive, and with it all that is kept: no storage counts twice
    del output
    return 2 * sum(kept.values()), psutil.virtual_memory().available
