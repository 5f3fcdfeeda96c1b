"""One evaluation by several processes, as ``torchrun`` or ``accelerate launch`` start them."""

import os
from datetime import timedelta
from pathlib import Path

from torch import Tensor

from adaptive_smoothing_zoo.evaluation.evaluate import Evaluation, merge_chunks
from adaptive_smoothing_zoo.evaluation.evaluation_state import binding_of, read_chunks
from adaptive_smoothing_zoo.evaluation.ledger import Chunk

_PATIENCE = timedelta(days=7)  # how long the first process to finish waits for the last


def world_size() -> int:
    """How many processes were started together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is."""
    return int(os.environ.get("RANK", "0"))


def local_device(device: str) -> str:
    """The device asked for; with several processes and "auto" or "cuda", each process on a machine has its own GPU."""
    import torch

    local = os.environ.get("LOCAL_RANK")
    if world_size() > 1 and local is not None and device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device


def shard_of(text: str | None) -> tuple[int, int]:
    """The shard (i, k) of this process: what the user asked for ("i/k"), or its place among the processes.

    Raises:
        ValueError: not "i/k" with 0 <= i < k; or asked for although a launcher shares the examples out.
    """
    if text is None:
        return rank(), world_size()
    if world_size() > 1:
        raise ValueError(f"--shard {text} was given, but the launcher already shares the examples among its processes")
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"a shard is i/k with 0 <= i < k, as 0/4, got {text!r}")
    return int(number), int(count)


def merge_all(state: Path, images: Tensor, labels: Tensor) -> Evaluation | None:
    """Bring the finished shards of all processes together; the evaluation in the first process, None in the others.

    The processes need no common file system. Only this package's own objects are exchanged, among processes of one job.

    Args:
        state: this process's.
    """
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        own = read_chunks(state)
        collected: list[list[Chunk] | None] | None = [None] * world_size() if rank() == 0 else None
        dist.gather_object(own, collected)
        dist.barrier()  # nobody leaves, and takes its connection along, before the first process has everything
    finally:
        dist.destroy_process_group()
    if collected is None:
        return None
    chunks = [chunk for part in collected for chunk in part or ()]
    return merge_chunks(chunks, binding_of(state), images, labels, what=f"{world_size()} processes")
