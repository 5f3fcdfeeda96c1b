"""The results for every point of an evaluation: the sum of chunks, in any order and from any process."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from adaptive_smoothing_zoo.errors import ResultsError

CLEAN = "clean"  # the stage before all attacks, and ``broken_by`` of points misclassified without an attack
VERIFIED = "verified"  # the stage after all attacks: every adversarial example was checked again


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The results of one stage for some points.

    Attributes:
        stage: "clean", an attack, or "verified".
        indices: (n,) int64, the points' indices in the data.
        held: (n,) bool, classified correctly: without an attack, or after this one.
        adversarials: (number of points where the attack succeeded, channels, H, W) float32, in the order of
            ``indices``; empty for the other stages.
        flat: (m,) int64, points at which this attack started with a zero gradient.
        deterministic: whether two passes over these points gave the same logits (stage "clean" only).
        seconds: wall time.
        batch_size: maximal number of points per batch.
        warnings, remarks: texts collected during the stage.
    """

    stage: str
    indices: Tensor
    held: Tensor
    adversarials: Tensor
    flat: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    deterministic: bool = True
    seconds: float = 0.0
    batch_size: int = 0
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for wrong types or inconsistent parts; a file may hold anything."""
        fallen = int((~self.held).sum()) if self.held.dtype == torch.bool else -1
        texts = (*self.warnings, *self.remarks)
        for fine, what in (
            (type(self.stage) is str, "stage"),
            (_are_indices(self.indices), "indices"),
            (self.held.dtype == torch.bool and self.held.shape == self.indices.shape, "held"),
            (self.adversarials.dtype == torch.float32 and self.adversarials.ndim == 4, "adversarials"),
            (len(self.adversarials) == (0 if self.stage in (CLEAN, VERIFIED) else fallen), "adversarials"),
            (_are_indices(self.flat), "flat"),
            (type(self.deterministic) is bool, "deterministic"),
            (type(self.seconds) in (int, float) and 0.0 <= self.seconds < float("inf"), "seconds"),
            (type(self.batch_size) is int and self.batch_size >= 0, "batch_size"),
            (all(type(text) is str for text in texts), "warnings or remarks"),
        ):
            if not fine:
                raise ValueError(f"a chunk's {what} are invalid")


def joined(chunks: list[Chunk]) -> Chunk:
    """Merge several chunks of one stage."""
    tensors = {name: torch.cat([getattr(chunk, name) for chunk in chunks]) for name in TENSORS}
    return Chunk(
        stage=chunks[0].stage,
        deterministic=all(chunk.deterministic for chunk in chunks),
        seconds=sum(chunk.seconds for chunk in chunks),
        batch_size=max(chunk.batch_size for chunk in chunks),
        warnings=tuple(dict.fromkeys(text for chunk in chunks for text in chunk.warnings)),
        remarks=tuple(dict.fromkeys(text for chunk in chunks for text in chunk.remarks)),
        **tensors,
    )


TENSORS = ("indices", "held", "adversarials", "flat")  # fields of a chunk


def _are_indices(tensor: Tensor) -> bool:
    return tensor.dtype == torch.int64 and tensor.ndim == 1 and bool((tensor >= 0).all())


class Ledger:
    """The points of an evaluation and their results.

    Args:
        images: (N, channels, H, W), all data.
        points: indices of the evaluated images, ascending.
        attacks: in order.
        individual: each attack runs on all correct points, not only on those that are still robust.
    """

    def __init__(self, images: Tensor, points: Tensor, attacks: tuple[str, ...], *, individual: bool = False) -> None:
        n = len(images)
        self.images, self.individual = images, individual
        self.points, self.attacks, self.stages = points, attacks, (CLEAN, *attacks, VERIFIED)
        self.adversarials = images.clone()
        self.done = {stage: torch.zeros(n, dtype=torch.bool) for stage in self.stages}
        self.correct = torch.zeros(n, dtype=torch.bool)
        self.broken = {attack: torch.zeros(n, dtype=torch.bool) for attack in attacks}
        self.flat: dict[str, set[int]] = {attack: set() for attack in attacks}
        self.seconds = dict.fromkeys(attacks, 0.0)
        self.deterministic = True
        self.batch_size = 0
        self._said: dict[str, list[str]] = {stage: [] for stage in self.done}
        self._remarks: list[str] = []

    def add(self, chunk: Chunk) -> None:
        """Add the results of a chunk. Adding a chunk twice changes nothing.

        Raises:
            ResultsError: its points, images or stage do not belong to these data and attacks.
        """
        if chunk.stage not in self.stages:
            raise ResultsError(f"the chunk of {chunk.stage} belongs to an attack that this evaluation does not have")
        n, shape = len(self.adversarials), self.adversarials.shape[1:]
        if bool((chunk.indices >= n).any() | (chunk.flat >= n).any()) or chunk.adversarials.shape[1:] != shape:
            raise ResultsError(f"the chunk of {chunk.stage} belongs to other data than {n} images {tuple(shape)}")
        self.done[chunk.stage][chunk.indices] = True
        if chunk.stage == VERIFIED:
            self.batch_size = max(self.batch_size, chunk.batch_size)
        if chunk.stage == CLEAN:
            self.correct[chunk.indices] = chunk.held
            self.deterministic &= chunk.deterministic
        elif chunk.stage != VERIFIED:
            fallen = chunk.indices[~chunk.held]
            self.broken[chunk.stage][fallen] = True
            first = ~self._broken_before(chunk.stage)[fallen]
            self.adversarials[fallen[first]] = chunk.adversarials[first]
            self.flat[chunk.stage].update(chunk.flat.tolist())
            self.seconds[chunk.stage] += chunk.seconds
        self._said[chunk.stage] += [text for text in chunk.warnings if text not in self._said[chunk.stage]]
        self._remarks += [text for text in chunk.remarks if text not in self._remarks]

    def standing(self, attack: str | None = None) -> Tensor:
        """(N,) bool: correct, and robust to the attacks before ``attack`` (to all attacks if None)."""
        return self.correct & ~self._broken_before(attack)

    def _broken_before(self, attack: str | None) -> Tensor:
        """(N,) bool: misclassified after an attack before ``attack`` (after any attack if None)."""
        broken = torch.zeros_like(self.correct)
        for earlier in self.attacks[: None if attack is None else self.attacks.index(attack)]:
            broken |= self.broken[earlier]
        return broken

    def left(self, stage: str) -> Tensor:
        """Indices of the unfinished points of a stage; for an attack, among the robust ones."""
        points = self.points_of(stage)
        return points[~self.done[stage][points]]

    def points_of(self, stage: str) -> Tensor:
        """All points of a stage."""
        if stage not in self.attacks:
            return self.points
        return self.points[(self.correct if self.individual else self.standing(stage))[self.points]]

    def broken_by(self) -> np.ndarray:
        """(N,) str: the first attack that succeeded, "clean" if none was needed, "" if the point is robust."""
        longest = max(8, *map(len, self.attacks))
        found = np.where(self.correct.numpy(), "", CLEAN).astype(f"<U{longest}")
        for attack in reversed(self.attacks):
            found[(self.broken[attack] & self.correct).numpy()] = attack
        return found

    def accuracy_after(self) -> dict[str, float]:
        """Accuracy on the points after each stage, in the protocol's order; fractions."""
        stages = {CLEAN: self.correct}
        for attack, later in zip(self.attacks, (*self.attacks[1:], None), strict=True):
            stages[attack] = self.standing(later)
        return {stage: float(standing[self.points].double().mean()) for stage, standing in stages.items()}

    def accuracy_alone(self) -> dict[str, float]:
        """Accuracy on the points under each attack alone, if attacks are individual; fractions."""
        left = {attack: self.correct & ~broken for attack, broken in self.broken.items()}
        return {attack: float(standing[self.points].double().mean()) for attack, standing in left.items()}

    def warnings(self) -> tuple[str, ...]:
        """The warnings, each text once, in the protocol's order."""
        said: list[str] = []
        for stage, texts in self._said.items():
            said += texts
            if flat := self.flat.get(stage):
                said.append(f"{stage} started with a zero gradient at {len(flat)} points, where it cannot succeed")
        return tuple(dict.fromkeys(said))

    def said(self, stage: str) -> tuple[str, ...]:
        """The warnings of one stage."""
        return tuple(self._said[stage])

    def remarks(self) -> tuple[str, ...]:
        """Events that a reader of the numbers should know."""
        return tuple(self._remarks)
