"""What an attack is: runs side by side that advance step by step, in a form that can be cut and filled again.

An attack registers itself in the catalogue by its name. The driver (``search``) does everything else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import Model
from adaptive_smoothing_zoo.attacks.settings import Plan, Precision
from adaptive_smoothing_zoo.threat import ThreatModel


@dataclass
class State:
    """The state of many runs. Every field is a tensor whose first axis is the run; a run knows nothing of the others.

    Attributes:
        images: (N, channels, H, W) the clean images.
        labels: (N,) the labels to move away from.
        targets: (N,) the classes to move toward; the labels for an untargeted attack.
        found: (N,) bool, an adversarial point was met.
        adversarials: (N, channels, H, W) the first such point since ``found`` was last False; whatever before.
        exhausted: (N,) bool, the budget is spent.
        lost: (N,) bool, a gradient was not finite.
        flat: (N,) bool, the gradient was zero at the start.
        iteration: (N,) steps so far; a random search counts its queries.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    found: Tensor
    adversarials: Tensor
    exhausted: Tensor
    lost: Tensor
    flat: Tensor
    iteration: Tensor

    @classmethod
    def begin(cls, images: Tensor, labels: Tensor, targets: Tensor, **own: Tensor) -> Self:
        """Runs that nothing has happened to, with the fields that a subclass adds."""
        no = torch.zeros_like(labels, dtype=torch.bool)
        return cls(
            images=images,
            labels=labels,
            targets=targets,
            found=no,
            adversarials=images.clone(),
            exhausted=no.clone(),
            lost=no.clone(),
            flat=no.clone(),
            iteration=torch.zeros_like(labels),
            **own,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> Self:
        """A copy of some rows."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: Tensor, other: Self) -> None:
        """Overwrite some rows with all rows of another state."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    def meet(self, points: Tensor, adversarial: Tensor) -> None:
        """Keep each run's first adversarial point."""
        new = adversarial & ~self.found & ~self.exhausted
        self.adversarials = torch.where(new.view(-1, 1, 1, 1), points, self.adversarials)
        self.found = self.found | new

    def keep(self, points: Tensor, adversarial: Tensor) -> None:
        """Keep each run's last adversarial point, for an attack that says itself when it has found one."""
        kept = (adversarial & ~self.exhausted).view(-1, 1, 1, 1)
        self.adversarials = torch.where(kept, points, self.adversarials)

    def look_at(self, gradient: Tensor) -> None:
        """Note gradients that give an attack nothing to go by."""
        sums = gradient.abs().flatten(1).sum(dim=1)
        self.lost = self.lost | (~torch.isfinite(sums) & ~self.exhausted)
        self.flat = self.flat | ((sums == 0) & (self.iteration == 0))


S = TypeVar("S", bound=State)


class Attack(ABC, Generic[S]):
    """An attack whose runs advance side by side.

    Attributes:
        name: in the catalogue.
        length: steps (or queries) of a run.
        view: what it asks in the model's place; the model itself if None.
        answered: answers that all runs have used, where these are more than were asked for; else None.
        recordable: whether a step does nothing but exchange the state's tensors, by operations that depend on nothing
            else that changes. Then a GPU may replay it whole.
    """

    recordable: ClassVar[bool] = False
    name: str
    length: int
    view: nn.Module | None = None
    answered: Tensor | None = None

    @abstractmethod
    def start(self, images: Tensor, labels: Tensor, targets: Tensor, keys: Tensor) -> S:
        """The state of new runs.

        Args:
            images, labels, targets: see :class:`State`.
            keys: (N,) int64; all that is random about a run depends on its key (see ``random_streams``).
        """

    def restart(self, images: Tensor, labels: Tensor, targets: Tensor, keys: Tensor, restarts: Tensor) -> S:
        """The same where it matters how many starts a point has had before, (N,) int64; it does not by default."""
        return self.start(images, labels, targets, keys)

    @abstractmethod
    def step(self, state: S, model: Model) -> int:
        """Advance every run by one step; return about how many points the model was asked.

        Runs that are exhausted go on idly; nothing of them is used. A step exchanges the state's tensors and writes
        into none of them.
        """

    def spent(self, state: S) -> Tensor:
        """Which share of its budget each run has spent, (N,) in [0, 1]."""
        return (state.iteration / self.length).clamp(max=1.0)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What an attack is made from.

    Attributes:
        plan: its numbers, all of them given.
        seed: of random numbers that all runs share; a run's own come from its key.
        shape: (channels, H, W) of the images.
        judge: the model that decides, images to logits.
        prepared: its fast copy, which attacks ask.
        deterministic: whether that gives the same answers twice.
        surrogate: what the authors of a triplet attack in its place, if there is one.
        precision: in which ``prepared`` computes.
    """

    plan: Plan
    threat: ThreatModel
    seed: int
    shape: tuple[int, int, int]
    device: torch.device
    batch_size: int
    judge: nn.Module
    prepared: nn.Module
    deterministic: bool = True
    surrogate: nn.Module | None = None
    precision: Precision = "float32"

    @property
    def iterations(self) -> int:
        """Of a run."""
        return self.plan.iterations or 0

    @property
    def queries(self) -> int:
        """Of a run."""
        return self.plan.queries or 0

    @property
    def eot(self) -> int:
        """Passes that each gradient is the mean of."""
        return self.plan.eot or 1


Make = Callable[[Setup], Attack[Any]]
M = TypeVar("M", bound=Make)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An attack in the catalogue.

    Attributes:
        make: from a setup.
        numbers: that its plan has, and their standard values.
        cost: forward-equivalents of a point that it asks about.
        class_cost: further ones for each class of the model.
        targeted: runs move toward the likeliest wrong classes, one run for each.
        least_classes: that a model must have.
        instead: the attack that takes its place where a model has fewer; none does if it is "".
    """

    make: Make
    numbers: dict[str, int]
    cost: int = 2
    class_cost: int = 0
    targeted: bool = False
    least_classes: int = 2
    instead: str = ""

    known: ClassVar[dict[str, Entry]] = {}

    def runs(self, plan: Plan, classes: int) -> int:
        """Of each point."""
        return (plan.restarts or 1) * (min(plan.targets or 1, classes - 1) if self.targeted else 1)

    def passes(self, plan: Plan, classes: int) -> int:
        """Forward-equivalents spent on a point that stays robust."""
        length = (plan.iterations or plan.queries or 1) * (plan.eot or 1)
        return self.cost_at(classes) * length * self.runs(plan, classes)

    def cost_at(self, classes: int) -> int:
        """Forward-equivalents of a point that it asks a model of so many classes about."""
        return self.cost + self.class_cost * classes


def register(
    name: str,
    *,
    cost: int = 2,
    class_cost: int = 0,
    targeted: bool = False,
    least_classes: int = 2,
    instead: str = "",
    **numbers: int,
) -> Callable[[M], M]:
    """Enter an attack into the catalogue; a decorator of what makes it from a :class:`Setup`, a class or a function.

    Args:
        name, cost, class_cost, targeted, least_classes, instead: see :class:`Entry`.
        numbers: of its plan: iterations, targets, restarts, queries, eot.

    Raises:
        ValueError: the name is taken by another attack, or cannot be a name.
    """
    plan = Plan(name, **numbers)

    def entered(make: M) -> M:
        before = Entry.known.get(name)
        if before is not None and _place(before.make) != _place(make):
            raise ValueError(f"there is already an attack {name!r}, {'.'.join(_place(before.make))}")
        Entry.known[name] = Entry(
            make=make,
            numbers=plan.numbers,
            cost=cost,
            class_cost=class_cost,
            targeted=targeted,
            least_classes=least_classes,
            instead=instead,
        )
        return make

    return entered


def _place(make: Any) -> tuple[str, str]:
    make = getattr(make, "func", make)  # of a partial, whose own place says nothing
    return getattr(make, "__module__", ""), getattr(make, "__qualname__", "")


def join(states: list[S]) -> S:
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
