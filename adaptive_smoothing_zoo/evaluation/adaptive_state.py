"""What adaptive attacks have found so far and where a batch stands, in one file that is replaced again and again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation.evaluation_state import check_same, locked
from adaptive_smoothing_zoo.storage.checked_file import read_or_put_aside, write_checked
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import parse, to_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AdaptiveBinding:
    """What a state belongs to. Whatever decides a verdict is in here.

    Attributes:
        model, surrogate: who they are; None for no surrogate.
        examples: how many there are.
        data_sha256: of images and labels.
        robust_sha256: of the verdicts that the attacks start from.
        attacks: in order.
    """

    model: Identity
    surrogate: Identity | None
    examples: int
    data_sha256: str
    robust_sha256: str
    attacks: tuple[str, ...]
    norm: str
    eps: float
    seed: int
    engine: str
    tf32: bool
    channels_last: bool
    device: str


@dataclass
class Found:
    """What is known of N points after some batches of some attacks.

    Attributes:
        finished: (N,) int64, how many of the attacks, from the first on, are done with the point.
        fallen_to: (N,) int64, the number of the attack that broke the point, from 0; -1 if none has.
        adversarials: (N, channels, H, W) float32, an adversarial example of each point that fell, else the image.
        seconds: (number of attacks,) float64, wall time of each.
    """

    finished: Tensor
    fallen_to: Tensor
    adversarials: Tensor
    seconds: Tensor

    @classmethod
    def nothing(cls, images: Tensor, attacks: int) -> Self:
        """Before the first batch."""
        zeros = torch.zeros(len(images), dtype=torch.int64)
        return cls(zeros, zeros - 1, images.clone(), torch.zeros(attacks, dtype=torch.float64))


class AdaptiveState:
    """A file that keeps what is found.

    Args:
        path: of the file, which need not be there.
        binding: of the evaluation that wants to go on.
    """

    def __init__(self, path: Path, binding: AdaptiveBinding) -> None:
        self.path, self.binding = path, binding

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes away from the file.

        Raises:
            ResultsError: another process works with it.
        """
        with locked(self.path.parent, _lock(self.path).name):
            yield

    def read(self, images: Tensor) -> tuple[Found, dict[str, Tensor]]:
        """What the file says about these images, and where a batch stands, in the words of the engine; nothing if there
        is no file. A damaged one is put aside.

        Raises:
            ResultsError: it belongs to another evaluation.
        """
        nothing = Found.nothing(images, len(self.binding.attacks))
        if not self.path.exists():
            return nothing, {}
        known = read_or_put_aside(self.path, lambda tensors, about: (self._binding(about), tensors))
        if known is None:
            return nothing, {}
        binding, tensors = known
        check_same(binding, self.binding, self.path)
        batch = {name.removeprefix(_BATCH): tensors.pop(name) for name in list(tensors) if name.startswith(_BATCH)}
        _check_fit(tensors, images, len(self.binding.attacks), self.path)
        nothing.adversarials[tensors["fallen_to"] >= 0] = tensors.pop("adversarials")
        return Found(**tensors, adversarials=nothing.adversarials), batch

    def write(self, found: Found, batch: dict[str, Tensor] | None) -> None:
        """Replace the file.

        Raises:
            ResultsError: it cannot be written; the one that was there is safe.
        """
        tensors = {
            "finished": found.finished,
            "fallen_to": found.fallen_to,
            "adversarials": found.adversarials[found.fallen_to >= 0],
            "seconds": found.seconds,
        }
        tensors |= {_BATCH + name: tensor for name, tensor in (batch or {}).items()}
        write_checked(self.path, tensors, to_json(self.binding))

    def _binding(self, about: Any) -> AdaptiveBinding:
        return parse(AdaptiveBinding, about, str(self.path))


_BATCH = "batch."  # how the names of a batch's tensors begin


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def remove_adaptive_state(path: Path) -> None:
    """Delete a state, when the results are written."""
    path.unlink(missing_ok=True)
    _lock(path).unlink(missing_ok=True)


def _check_fit(tensors: dict[str, Tensor], images: Tensor, attacks: int, path: Path) -> None:
    """Raise ResultsError unless the tensors are those of a state of these images."""
    n, fallen = (len(images),), int((tensors.get("fallen_to", torch.empty(0)) >= 0).sum())
    wanted = {
        "finished": (torch.int64, n),
        "fallen_to": (torch.int64, n),
        "adversarials": (torch.float32, (fallen, *images.shape[1:])),
        "seconds": (torch.float64, (attacks,)),
    }
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    if found != wanted or any(int(tensors[name].max()) > attacks for name in ("finished", "fallen_to")):
        raise ResultsError(f"{path} holds no state of these {n[0]} images; delete it to begin again")
