"""Batch sizes: the largest that fits a device, and one that a CPU handles within seconds."""

from __future__ import annotations

import gc
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from adaptive_smoothing_zoo.machine.ready import refusals_named

LARGEST = {"cpu": 256, "cuda": 4096}  # more gains nothing on a CPU
# Usable share of free memory. Attacks keep some tensors of the images' size next to the net's own; on a GPU, graphs
# keep as much again as a pass takes.
SHARE = {"cpu": 0.6, "cuda": 0.4}

BRISK_OPERATIONS = 64 * 10**9  # of a batch's forward pass; with the gradient, about two seconds on two cores


def largest_batch_size(model: nn.Module, images: Tensor, device: torch.device) -> int:
    """A batch size that fits in memory, a power of two; measured by a forward and backward pass of up to 8 images.

    Args:
        model: on ``device``.
        images: (N, channels, H, W), N >= 1, of the size to come.

    Raises:
        EvaluationError: the model fails on images of that shape.
    """
    few = images[:8].to(device)
    measure = _cuda_bytes if device.type == "cuda" else _cpu_bytes
    with refusals_named(images):
        taken, free = measure(model, few)
    fitting = int(SHARE[device.type] * free) // max(1, taken // len(few))
    size = 1
    while 2 * size <= min(fitting, LARGEST[device.type]):
        size *= 2
    return size


def _cuda_bytes(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """Peak memory of a pass of these images, and free memory, in bytes."""
    device = images.device
    gc.collect()  # an earlier run's graphs hold memory until then
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    points = images.clone().requires_grad_()
    torch.autograd.grad(model(points).sum(), points)
    return torch.cuda.max_memory_allocated(device) - before, torch.cuda.mem_get_info(device)[0]


def _cpu_bytes(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """The same on a CPU, where PyTorch does not track memory: twice what a pass keeps for the gradient."""
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
        output = model(images.clone().requires_grad_())  # kept alive, so that no storage is freed and counted twice
    del output
    return 2 * sum(kept.values()), psutil.virtual_memory().available


def brisk_batch_size(model: nn.Module, images: Tensor) -> int:
    """A batch size, a power of two up to 256, with which a CPU takes a step of an attack within seconds.

    So a run reports progress often and can be interrupted at any time; for nets of this cost, larger batches are no
    faster per image. The size follows from the number of operations, not from the clock, so it is the same in every
    run. Operations without a known count are taken as free.

    Args:
        model: on the CPU.
        images: (N, channels, H, W), N >= 1, of the size to come.
    """
    counter = _Operations()
    with torch.no_grad(), counter:
        model(images[:1])
    fitting = min(max(1, BRISK_OPERATIONS // max(1, counter.count)), LARGEST["cpu"])
    return 1 << (fitting.bit_length() - 1)


class _Operations(TorchDispatchMode):
    """Counts the floating-point operations of all matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result
