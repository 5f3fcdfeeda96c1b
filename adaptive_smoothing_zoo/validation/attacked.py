"""Results of a validation's attacks and their checkpoints, so that an interrupted validation resumes. Checks run in a
fixed order, and random numbers depend on seed and examples. So the k-th attacked batch is the same in every run of the
same validation, and its result is saved under k. Everything else is cheap and repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import Any

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.contract import State
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.storage.bound_state import BoundState
from adaptive_smoothing_zoo.storage.checked_file import checksum


@dataclass(frozen=True)
class Attacked:
    """The outcome of an attack on N points.

    Attributes:
        found: (N,) bool.
        adversarials: (N, channels, H, W), the first point found, or the image itself.
        history: (N, rounds) the highest loss so far; a run that ended stays at its last. NaN for Square.
        margins: (N,) the lowest margin of the model's output met on the way.
    """

    found: Tensor
    adversarials: Tensor
    history: Tensor
    margins: Tensor

    @classmethod
    def nothing(cls, images: Tensor, rounds: int) -> Attacked:
        """An attack that has not begun; its tensors are there to be written into."""
        n, device = len(images), images.device
        history = torch.full((n, rounds), torch.nan, device=device)
        margins = torch.full((n,), inf, device=device)
        return cls(torch.zeros(n, dtype=torch.bool, device=device), images.clone(), history, margins)

    @property
    def left(self) -> Tensor:
        """Rows of the points that were not found."""
        return (~self.found).nonzero().squeeze(1)

    def meet(self, rows: Tensor, margins: Tensor) -> None:
        """Note margins met at some rows."""
        self.margins[rows] = torch.minimum(self.margins[rows], margins)

    def find(self, rows: Tensor, found: Tensor, points: Tensor) -> None:
        """Note what was found at some rows."""
        self.found[rows] |= found
        self.adversarials[rows[found]] = points[found]

    def followed_by(self, other: Attacked, rows: Tensor) -> Attacked:
        """This attack and then another one on some rows; the history stays this one's."""
        both = Attacked(self.found.clone(), self.adversarials.clone(), self.history, self.margins.clone())
        both.find(rows, other.found, other.adversarials)
        both.meet(rows, other.margins)
        return both

    def tensors(self, rows: Tensor) -> dict[str, Tensor]:
        """What it did to some rows, by name."""
        return {field.name: getattr(self, field.name)[rows] for field in fields(self)}

    def put(self, rows: Tensor, tensors: dict[str, Tensor]) -> None:
        """Write what ``tensors`` has given."""
        for name, tensor in tensors.items():
            getattr(self, name)[rows] = tensor.to(rows.device)


class Journal:
    """The batches of one validation in its state."""

    def __init__(self, state: BoundState) -> None:
        self.state, self.number, self._begun = state, 0, ""

    @property
    def _file(self) -> str:
        return f"batch-{self.number:06}"

    def recall(self, name: str, start: State, like: dict[str, Tensor]) -> tuple[dict[str, Tensor], int, float] | None:
        """The next batch: what an attack did, its passes and seconds; None if that is not known.

        Args:
            name: of the attack.
            start: where it starts.
            like: tensors of the same kinds.
        """
        self.number += 1
        self._begun = checksum({field.name: getattr(start, field.name).cpu() for field in fields(start)}, name)

        def understand(tensors: dict[str, Tensor], about: Any) -> tuple[dict[str, Tensor], int, float]:
            passes, seconds = int(about["passes"]), float(about["seconds"])
            fits = about["begun"] == self._begun and _kinds(tensors) == _kinds(like)
            if not fits or passes < 0 or not 0.0 <= seconds < inf:
                raise ResultsError(f"{self._file} in {self.state.folder} is of another batch or another attack")
            return tensors, passes, seconds

        return self.state.read(self._file, understand)

    def keep(self, tensors: dict[str, Tensor], passes: int, seconds: float) -> None:
        """Write what came of the batch that ``recall`` did not know.

        Raises:
            ResultsError: it cannot be written; what was written before is safe.
        """
        self.state.replace(self._file, tensors, {"begun": self._begun, "passes": passes, "seconds": seconds})


def _kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
