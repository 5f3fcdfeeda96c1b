"""How many images a device holds at once."""

import torch
from torch import Tensor, nn

DEFAULT = 256  # on a CPU, where more gains nothing
LARGEST = 4096
SHARE = 0.6  # of the memory that is free; attacks keep some tensors of the images' size beside the net's own


def largest_batch_size(model: nn.Module, images: Tensor, device: torch.device) -> int:
    """A batch size that fits, a power of two, from the memory of a forward and backward pass of a few images."""
    if device.type != "cuda":
        return DEFAULT
    few = images[:8].to(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    points = few.clone().requires_grad_()
    torch.autograd.grad(model(points).sum(), points)
    per_image = max(1, (torch.cuda.max_memory_allocated(device) - before) // len(few))
    free, _ = torch.cuda.mem_get_info(device)
    fitting = int(SHARE * free) // per_image
    size = 1
    while 2 * size <= min(fitting, LARGEST):
        size *= 2
    return size
