"""Keeps every batch full: runs of an attack share a batch of slots, and a slot that is free takes the next run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import Model
from adaptive_smoothing_zoo.attacks.state import Attack, State, join

Start = Callable[[Tensor, Tensor], State]  # points (R,), ranks (R,) -> the state of these runs at their beginning
Verify = Callable[[Tensor, Tensor], Tensor]  # points (R,), candidates (R, ...) -> (R,) bool, they are adversarial


@dataclass(frozen=True)
class Finished:
    """Points that the attack is done with.

    Attributes:
        points: (P,) int64, their numbers.
        adversarials: (P, channels, H, W) verified; None if no run broke any of these points.
    """

    points: Tensor
    adversarials: Tensor | None


class Pool:
    """Carries out the runs of one attack on many points.

    A run that meets a misclassified point gives up its slot at once. Such points are verified in full batches; a run
    whose point does not hold takes a slot again and goes on from where it was.

    Args:
        attack: what a step does to the runs.
        model: the attack's model; it need not be the one that verifies.
        start: makes the state of new runs.
        verify: decides what is adversarial.
        points: how many points there are, numbered from 0.
        ranks: runs per point, e.g. one per target class; a point is done with the first that breaks it.
        batch_size: most runs at a time.
        look_every: steps between two looks at what has been found. A look makes the host wait for the device.
    """

    def __init__(
        self,
        attack: Attack[Any],
        model: Model,
        *,
        start: Start,
        verify: Verify,
        points: int,
        ranks: int,
        batch_size: int,
        look_every: int,
    ) -> None:
        self.attack, self.model, self.start, self.verify = attack, model, start, verify
        self.batch_size, self.look_every = batch_size, look_every
        self.asked = 0  # points that the model was asked about
        self.lost: set[int] = set()  # points at which a gradient was not finite
        self.flat: set[int] = set()  # points at which an attack began with a gradient of zero
        self._queue = _Queue(points, ranks)
        # The same width for every round, so that the last one is not a short one.
        rounds = -(-points * ranks // batch_size)
        self._width = -(-points * ranks // rounds)
        self._state: State | None = None
        self._owners: list[int | None] = []  # the point of each row's run; None if the row is free
        self._waiting: list[tuple[State, list[int]]] = []  # runs that met a misclassified point, and their points
        self._rejected: list[tuple[State, list[int]]] = []  # runs whose point did not hold

    def __iter__(self) -> Iterator[Finished]:
        """Run everything; yield points as they are finished, each once."""
        held: list[int] = []
        while True:
            self._fill()
            if self._state is None:
                if not self._waiting:
                    break
            else:
                for _ in range(self.look_every):
                    self.asked += self.attack.step(self._state, self.model)
                held += self._clear()
            if self._state is None or self._count_waiting() >= self.batch_size:
                broken, adversarials, more_held = self._verify()
                held += more_held
                if broken:
                    yield Finished(torch.tensor(broken), adversarials)
            if len(held) >= self.batch_size:
                yield Finished(torch.tensor(held), None)
                held = []
        if held:
            yield Finished(torch.tensor(held), None)

    def _fill(self) -> None:
        """Give free rows to runs that wait; drop rows that stay free once they are enough to matter."""
        width = self._width if self._state is None else len(self._owners)
        free = [row for row in range(width) if self._state is None or self._owners[row] is None]
        states, owners = self._take_rejected(len(free))
        runs = self._queue.take(len(free) - len(owners))
        if runs:
            points, ranks = zip(*runs, strict=True)
            states.append(self.start(torch.tensor(points), torch.tensor(ranks)))
            owners += points
        if states:
            new = states[0] if len(states) == 1 else join(states)
            if self._state is None:
                self._state, self._owners = new, list(owners)
                return
            rows = free[: len(owners)]
            self._state.put(_rows(rows), new)
            for row, owner in zip(rows, owners, strict=True):
                self._owners[row] = owner
        self._shrink()

    def _take_rejected(self, most: int) -> tuple[list[State], list[int]]:
        states: list[State] = []
        owners: list[int] = []
        while self._rejected and len(owners) + len(self._rejected[-1][1]) <= most:
            state, points = self._rejected.pop()
            states.append(state)
            owners += points
        return states, owners

    def _shrink(self) -> None:
        """Fewer rows in steps of an eighth, so that the model sees few shapes."""
        if self._state is None:
            return
        taken = [row for row, owner in enumerate(self._owners) if owner is not None]
        step = -(-self._width // 8)
        width = -(-len(taken) // step) * step
        if width >= len(self._owners):
            return
        if not taken:
            self._state, self._owners = None, []
            return
        free = [row for row, owner in enumerate(self._owners) if owner is None]
        rows = sorted(taken + free[: width - len(taken)])
        self._state = self._state.select(_rows(rows))
        self._owners = [self._owners[row] for row in rows]

    def _clear(self) -> list[int]:
        """Free the rows whose runs are over; the points that are done for without an adversarial example."""
        state = self._state
        assert state is not None
        flags = torch.stack([state.found, state.exhausted, state.lost, state.flat])
        found, exhausted, lost, flat = flags.cpu().tolist()
        hits = [row for row, owner in enumerate(self._owners) if found[row] and owner is not None]
        if hits:
            owners = [owner for row in hits if (owner := self._owners[row]) is not None]
            self._waiting.append((state.select(_rows(hits)), owners))
            self._queue.suspend(owners)
        held = []
        for row, owner in enumerate(self._owners):
            if owner is not None and (found[row] or exhausted[row]):
                self._owners[row] = None
                self.lost.update([owner] * lost[row])
                self.flat.update([owner] * flat[row])
                if not found[row] and self._queue.end_run(owner):
                    held.append(owner)
        return held

    def _count_waiting(self) -> int:
        return sum(len(points) for _, points in self._waiting)

    def _verify(self) -> tuple[list[int], Tensor, list[int]]:
        """Let the judge decide on all that wait: broken points, their adversarial examples, points that held."""
        points = [point for _, owners in self._waiting for point in owners]
        state = join([state for state, _ in self._waiting])
        self._waiting = []
        adversarial = self.verify(torch.tensor(points), state.adversarials).tolist()
        broken: dict[int, int] = {}  # two runs may have broken the same point
        held = []
        rejected = []
        exhausted = state.exhausted.tolist()
        for row, point in enumerate(points):
            if adversarial[row]:
                broken.setdefault(point, row)
                self._queue.break_point(point)
        for row, point in enumerate(points):
            if point in broken:
                continue
            self._queue.resume(point)
            if exhausted[row]:
                if self._queue.end_run(point):
                    held.append(point)
            else:
                rejected.append(row)
        for row in rejected:
            run = state.select(_rows([row]))
            run.found = torch.zeros_like(run.found)
            self._rejected.append((run, [points[row]]))
        for row, owner in enumerate(self._owners):
            if owner in broken:
                self._owners[row] = None
        return list(broken), state.adversarials[_rows(list(broken.values()))], held


def _rows(rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)


class _Queue:
    """Which run comes next: first the next run of points that have none under way, then further runs of the others.

    The latter are wasted if the run under way succeeds, but the slots would be empty otherwise.
    """

    def __init__(self, points: int, ranks: int) -> None:
        self.ranks = ranks
        self._ready = deque(range(points))
        self._ahead: deque[int] = deque()
        self._next_rank = [0] * points
        self._under_way = [0] * points
        self._suspended = [0] * points
        self._over = [False] * points

    def take(self, most: int) -> list[tuple[int, int]]:
        """Up to ``most`` runs as (point, rank)."""
        runs: list[tuple[int, int]] = []
        while len(runs) < most and (self._ready or self._ahead):
            point = (self._ready or self._ahead).popleft()
            if self._over[point] or self._suspended[point] or self._next_rank[point] == self.ranks:
                continue
            runs.append((point, self._next_rank[point]))
            self._next_rank[point] += 1
            self._under_way[point] += 1
            self._ahead.append(point)
        return runs

    def end_run(self, point: int) -> bool:
        """A run broke nothing; whether it was the point's last."""
        self._under_way[point] -= 1
        if self._over[point] or self._under_way[point]:
            return False
        if self._next_rank[point] < self.ranks:
            self._ready.append(point)
            return False
        self._over[point] = True
        return True

    def suspend(self, points: list[int]) -> None:
        """No further run of these points until it is known whether they are broken."""
        for point in points:
            self._suspended[point] += 1

    def resume(self, point: int) -> None:
        """A run of the point did not break it after all."""
        self._suspended[point] -= 1
        self._ahead.append(point)

    def break_point(self, point: int) -> None:
        self._over[point] = True
