"""The runs of a validation's attacks on disk, each in a file of its own, so that an interrupted validation goes on.

The checks are made in one order, and what they draw belongs to seed and examples. So the k-th batch that is attacked is
the same whenever the same validation is started: what came of it is kept under k. All the rest is cheap and done again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.contract import State
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.storage.bound_state import BoundState
from adaptive_smoothing_zoo.storage.checked_file import checksum, read_or_put_aside, write_checked
from adaptive_smoothing_zoo.storage.identity import Identity


@dataclass(frozen=True, kw_only=True)
class ValidationBinding:
    """What the kept runs belong to.

    Attributes:
        model: who it is.
        data_sha256: of images and labels.
        standing_sha256: of what a recorded run and the adaptive attacks after it left; "" without one.
        checks: all that are made.
        version: of this package, since checks change.
    """

    model: Identity
    data_sha256: str
    standing_sha256: str
    norm: str
    eps: float
    seed: int
    batch_size: int
    budget: dict[str, int]
    checks: tuple[str, ...]
    channels_last: bool
    device: str
    version: str


@dataclass(frozen=True, kw_only=True)
class BatchOutcome:
    """What an attack did to a batch of N points.

    Attributes:
        found: (N,) bool.
        adversarials: (number found, channels, H, W).
        history: (N, rounds) the highest loss so far.
        margins: (N,) the lowest margin met.
        passes: forward-equivalents, counted in images.
        seconds: wall time.
    """

    found: Tensor
    adversarials: Tensor
    history: Tensor
    margins: Tensor
    passes: int
    seconds: float


_TENSORS = ("found", "adversarials", "history", "margins")


class Journal:
    """A folder of batches that were attacked.

    Args:
        folder: made if it does not exist.
        binding: of the validation that wants to go on.

    Raises:
        ResultsError: the folder belongs to something else, or cannot be read or written.
    """

    def __init__(self, folder: Path, binding: ValidationBinding) -> None:
        BoundState(folder, binding)
        self.folder, self.number = folder, 0

    def recall(self, name: str, start: State, attack: Callable[[], BatchOutcome]) -> tuple[BatchOutcome, bool]:
        """What came of the next batch, and whether that was known; if not, it is attacked now, and kept.

        Args:
            name: of the attack.
            start: where it starts.

        Raises:
            ResultsError: it cannot be written; what was written before is safe.
        """
        self.number += 1
        path = self.folder / f"batch-{self.number:06}.safetensors"
        begun = checksum({field.name: getattr(start, field.name).cpu() for field in fields(start)}, name)

        def understand(tensors: dict[str, Tensor], about: Any) -> BatchOutcome:
            if about["begun"] != begun:
                raise ResultsError(f"{path} is of another batch or another attack")
            outcome = BatchOutcome(**tensors, passes=int(about["passes"]), seconds=float(about["seconds"]))
            if not _fits(outcome, start.images):
                raise ResultsError(f"{path} is damaged: its numbers cannot be of {len(start)} images")
            return outcome

        known = read_or_put_aside(path, understand) if path.exists() else None
        if known is not None:
            return known, True
        outcome = attack()
        tensors = {name: getattr(outcome, name) for name in _TENSORS}
        write_checked(path, tensors, {"begun": begun, "passes": outcome.passes, "seconds": outcome.seconds})
        return outcome, False


def _fits(outcome: BatchOutcome, images: Tensor) -> bool:
    n, found = len(images), outcome.found
    shapes = (
        found.shape == (n,) and found.dtype == torch.bool,
        outcome.margins.shape == (n,) and outcome.margins.dtype == torch.float32,
        outcome.history.ndim == 2 and len(outcome.history) == n and outcome.history.dtype == torch.float32,
    )
    if not all(shapes) or outcome.passes < 0 or not 0.0 <= outcome.seconds < float("inf"):
        return False
    adversarials = outcome.adversarials
    return adversarials.shape == (int(found.sum()), *images.shape[1:]) and adversarials.dtype == images.dtype
