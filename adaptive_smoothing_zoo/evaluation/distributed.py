"""One evaluation by several processes, as ``torchrun`` or ``accelerate launch`` start them."""

import os
from datetime import timedelta
from pathlib import Path

from torch import Tensor

from adaptive_smoothing_zoo.evaluation.evaluate import Evaluation, merge_chunks
from adaptive_smoothing_zoo.evaluation.evaluation_state import binding_of, read_chunks
from adaptive_smoothing_zoo.evaluation.ledger import Chunk

_PATIENCE = timedelta(days=7)  # how long the first finished process waits for the last


def world_size() -> int:
    """Number of processes of the launcher; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Index of this process."""
    return int(os.environ.get("RANK", "0"))


def local_device(device: str) -> str:
    """The requested device; with several processes and "auto" or "cuda", each process of a machine gets its own GPU."""
    import torch

    local = os.environ.get("LOCAL_RANK")
    if world_size() > 1 and local is not None and device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device


def shard_of(text: str | None) -> tuple[int, int]:
    """The shard (i, k) of this process: the user's choice ("i/k"), or its rank among the processes.

    Raises:
        ValueError: not "i/k" with 0 <= i < k; or given although a launcher distributes the examples.
    """
    if text is None:
        return rank(), world_size()
    if world_size() > 1:
        raise ValueError(
            f"--shard {text} was given, but the launcher already distributes the examples over its processes"
        )
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"a shard is i/k with 0 <= i < k, as 0/4, got {text!r}")
    return int(number), int(count)


def merge_all(state: Path, images: Tensor, labels: Tensor) -> Evaluation | None:
    """Gather the finished shards of all processes; return the evaluation in the first process, None in the others.

    The processes need no common file system. They exchange only objects of this package, within one job.

    Args:
        state: this process's.
    """
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        own = read_chunks(state)
        collected: list[list[Chunk] | None] | None = [None] * world_size() if rank() == 0 else None
        dist.gather_object(own, collected)
        dist.barrier()  # no process exits and closes its connection before the first process has everything
    finally:
        dist.destroy_process_group()
    if collected is None:
        return None
    chunks = [chunk for part in collected for chunk in part or ()]
    return merge_chunks(chunks, binding_of(state), images, labels, what=f"{world_size()} processes")
