"""The state of many runs of an attack side by side, one row per run, in a form that can be cut and filled again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import Model


@dataclass
class State:
    """Every field is a tensor whose first axis is the run; a run knows nothing of the others.

    Attributes:
        images: (N, channels, H, W) the clean images.
        labels: (N,) the labels to move away from.
        targets: (N,) the classes to move toward; whatever for an untargeted attack.
        found: (N,) bool, a misclassified point of the ball was met.
        adversarials: (N, channels, H, W) the first such point since ``found`` was last False; whatever before.
        exhausted: (N,) bool, the budget is spent.
        lost: (N,) bool, a gradient was not finite.
        flat: (N,) bool, the gradient was zero at the start.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    found: Tensor
    adversarials: Tensor
    exhausted: Tensor
    lost: Tensor
    flat: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> Self:
        """A copy of some rows."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: Tensor, other: Self) -> None:
        """Overwrite some rows with all rows of another state."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    def meet(self, points: Tensor, misclassified: Tensor) -> None:
        """Keep each run's first misclassified point."""
        new = misclassified & ~self.found & ~self.exhausted
        self.adversarials = torch.where(new.view(-1, 1, 1, 1), points, self.adversarials)
        self.found = self.found | new

    def look_at(self, gradient: Tensor, *, at_start: Tensor) -> None:
        """Note gradients that give an attack nothing to go by."""
        sums = gradient.abs().flatten(1).sum(dim=1)
        self.lost = self.lost | (~torch.isfinite(sums) & ~self.exhausted)
        self.flat = self.flat | ((sums == 0) & at_start)


S = TypeVar("S", bound=State)
S_contra = TypeVar("S_contra", bound=State, contravariant=True)


class Attack(Protocol[S_contra]):
    """An attack whose runs advance side by side, step by step."""

    name: str

    def step(self, state: S_contra, model: Model) -> int:
        """Advance every run by one step, and say about how many points the model was asked.

        Runs that are exhausted go on idly; nothing of them is used. A step exchanges the state's tensors, and writes
        into none of them.
        """

    def spent(self, state: S_contra) -> Tensor:
        """Which share of its budget each run has spent, (N,) in [0, 1]."""


def join(states: list[State]) -> State:
    """The rows of several states of one attack, one after the other."""
    first = states[0]
    rows = {field.name: torch.cat([getattr(state, field.name) for state in states]) for field in fields(first)}
    return type(first)(**rows)


def to_tensors(state: State, prefix: str) -> dict[str, Tensor]:
    """The fields of a state under names that begin with a prefix."""
    return {f"{prefix}.{field.name}": getattr(state, field.name) for field in fields(state)}


def from_tensors(tensors: dict[str, Tensor], prefix: str, like: S, rows: int) -> S:
    """The inverse: a copy with so many rows, of the kind and on the device of another state.

    Raises:
        ValueError: a field is missing, or is not what it must be.
    """
    found = {}
    for field in fields(like):
        name, template = f"{prefix}.{field.name}", getattr(like, field.name)
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype != template.dtype or tensor.shape != (rows, *template.shape[1:]):
            what = "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"{name} is {what}, not {template.dtype} {(rows, *template.shape[1:])}")
        found[field.name] = tensor.to(template.device, copy=True)
    return type(like)(**found)


def batches(indices: Tensor, size: int) -> Iterable[Tensor]:
    """The indices in parts of ``size``, of which none is empty: many nets refuse a batch of no images."""
    return indices.split(size) if len(indices) else ()
