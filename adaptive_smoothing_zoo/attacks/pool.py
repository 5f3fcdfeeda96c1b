"""Full batches: the runs of an attack share slots, and a free slot takes the next run."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.contract import Attack, State, from_tensors, join, to_tensors
from adaptive_smoothing_zoo.attacks.losses import Model
from adaptive_smoothing_zoo.errors import ResultsError

Start = Callable[[Tensor, Tensor], State]  # points (R,), ranks (R,) -> the initial state of these runs
Verify = Callable[[Tensor, Tensor], Tensor]  # points (R,), candidates (R, ...) -> (R,) bool, are they adversarial


@dataclass(frozen=True)
class Finished:
    """Finished points, (P,) int64; an empty tensor is a heartbeat that only returns control to the caller.

    ``adversarials`` are (P, channels, H, W), verified; None if no run succeeded at any of these points.
    """

    points: Tensor
    adversarials: Tensor | None


class Pool:
    """Carries out the runs of one attack on many points.

    A run that finds an adversarial point frees its slot at once. Such points are verified in full batches; if
    verification fails, the run resumes in a new slot. Another pool can resume from a ``snapshot`` of this one, with
    bit-identical results if no random number depends on when it is drawn.

    Args:
        attack: what a step does to the runs.
        model: the attack's model; it need not be the one that verifies.
        start: makes the state of new runs.
        verify: decides what is adversarial.
        points: how many points there are, numbered from 0.
        ranks: runs per point, e.g. one per target class; a point is finished by the first run that succeeds.
        batch_size: maximal number of simultaneous runs.
        look_every: steps between two checks for adversarial points. A check synchronizes with the device.
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
        self.asked = 0  # points that the model evaluated
        self.lost: set[int] = set()  # points at which a gradient was not finite
        self.flat: set[int] = set()  # points at which an attack started with a zero gradient
        self._queue = _Queue(points, ranks)
        # The same width for every round, so that the last one is not a short one.
        rounds = -(-points * ranks // batch_size)
        self._width = -(-points * ranks // rounds)
        self._state: State | None = None
        self._owners: list[int | None] = []  # the point of each row's run; None if the row is free
        self._waiting: list[tuple[State, list[int]]] = []  # runs that met a misclassified point, and their points
        self._paused: list[tuple[State, list[int]]] = []  # single runs that wait for a slot
        self._held: list[int] = []  # finished points that are not reported yet
        self._whole = True  # the fields fit each other

    def __iter__(self) -> Iterator[Finished]:
        """Run everything; yield each point once when it is finished, and a heartbeat at each check."""
        while True:
            if self._waiting and (self._state is None or self._count_waiting() >= self.batch_size):
                broken, adversarials = self._verify()
                if broken:
                    yield Finished(torch.tensor(broken), adversarials)
            self._whole = False
            self._fill()
            self._whole = True
            if self._state is not None:
                self._step(self._state)
            elif not self._waiting:
                break
            if len(self._held) >= self.batch_size:
                yield self._tell_held()
            yield Finished(torch.empty(0, dtype=torch.int64), None)
        if self._held:
            yield self._tell_held()

    def snapshot(self) -> dict[str, Tensor] | None:
        """The state of the pool, in tensors; None if an exception has interrupted its bookkeeping.

        Points already yielded count as finished.
        """
        if not self._whole:
            return None
        numbers = {
            "asked": [self.asked],
            "width": [self._width],
            "batch_size": [self.batch_size],
            "lost": sorted(self.lost),
            "flat": sorted(self.flat),
            "held": self._held,
        }
        kept = {name: _integers(values) for name, values in numbers.items()}
        for name, runs in self._groups().items():
            kept[f"{name}.owners"] = _integers(owner for _, owners in runs for owner in owners)
            if runs:
                kept |= to_tensors(join([state for state, _ in runs]), name)  # a copy
        return kept | self._queue.snapshot()

    def restore(self, kept: dict[str, Tensor]) -> None:
        """Resume from the snapshot of another pool with the same number of points and ranks; batch sizes may differ.

        Raises:
            ResultsError: the snapshot does not fit.
        """
        try:
            self._restore(kept)
        except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
            raise ResultsError(f"invalid snapshot of a pool: {error}") from error

    def _restore(self, kept: dict[str, Tensor]) -> None:
        self._queue.restore(kept)
        self.asked = int(kept["asked"])
        self.lost, self.flat = set(kept["lost"].tolist()), set(kept["flat"].tolist())
        self._held = kept["held"].tolist()
        template = self.start(torch.tensor([0]), torch.tensor([0]))
        running, owners = self._read(kept, "running", template)
        if running is not None and int(kept["batch_size"]) == self.batch_size:
            self._width = int(kept["width"])
            self._state, self._owners = running, [None if owner < 0 else owner for owner in owners]
        elif running is not None:
            self._paused = [run for run in _single(running, owners) if run[1] != [-1]][::-1]
        waiting, owners = self._read(kept, "waiting", template)
        self._waiting = [] if waiting is None else [(waiting, owners)]
        paused, owners = self._read(kept, "paused", template)
        self._paused = ([] if paused is None else _single(paused, owners)) + self._paused

    def _read(self, kept: dict[str, Tensor], name: str, template: State) -> tuple[State | None, list[int]]:
        """Some runs of a snapshot and their points; None if there are none."""
        owners = kept[f"{name}.owners"].tolist()
        if not owners:
            return None, []
        if not -1 <= min(owners) <= max(owners) < self._queue.points:
            raise ValueError(f"runs of the points {min(owners)} to {max(owners)}, of {self._queue.points}")
        return from_tensors(kept, name, template, len(owners)), owners

    def underway(self) -> float:
        """Progress on points that are not yet yielded, in points: half the budget of one point is 0.5."""
        shares = 0.0
        for state, owners in (run for runs in self._groups().values() for run in runs):
            shares += float(self.attack.spent(state).cpu()[torch.tensor(owners) >= 0].sum())
        return len(self._held) + (self._queue.ended() + shares) / self._queue.ranks

    def _groups(self) -> dict[str, list[tuple[State, list[int]]]]:
        """All runs that have begun, with the point of each; -1 for a row that is free."""
        running = [] if self._state is None else [(self._state, [-1 if row is None else row for row in self._owners])]
        return {"running": running, "waiting": self._waiting, "paused": self._paused}

    def _step(self, state: State) -> None:
        """Some steps and a check. Steps replace the tensors of a state, so an exception leaves the state valid."""
        moved, asked = copy.copy(state), 0
        for _ in range(self.look_every):
            asked += self.attack.step(moved, self.model)
        self._whole = False
        self._state = moved
        self.asked += asked
        self._held += self._clear()
        self._whole = True

    def _tell_held(self) -> Finished:
        held, self._held = self._held, []
        return Finished(torch.tensor(held), None)

    def _fill(self) -> None:
        """Assign free rows to waiting runs; drop free rows once there are enough of them."""
        width = self._width if self._state is None else len(self._owners)
        free = [row for row in range(width) if self._state is None or self._owners[row] is None]
        states, owners = self._take_paused(len(free))
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

    def _take_paused(self, most: int) -> tuple[list[State], list[int]]:
        states: list[State] = []
        owners: list[int] = []
        while self._paused and len(owners) < most:
            state, points = self._paused.pop()
            states.append(state)
            owners += points
        return states, owners

    def _shrink(self) -> None:
        """Reduce rows in steps of 1/8 of the batch, so that the model sees few shapes."""
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
        """Free the rows of finished runs; return the points that are finished and still robust."""
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

    def _verify(self) -> tuple[list[int], Tensor]:
        """Verify all waiting candidates; return misclassified points and their adversarial examples."""
        points = [point for _, owners in self._waiting for point in owners]
        state = join([state for state, _ in self._waiting])
        adversarial = self.verify(torch.tensor(points), state.adversarials).tolist()
        exhausted = state.exhausted.tolist()
        self._whole = False
        self._waiting = []
        broken: dict[int, int] = {}  # two runs may have broken the same point
        rejected = []
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
                    self._held.append(point)
            else:
                rejected.append(row)
        for row in rejected:
            run = state.select(_rows([row]))
            run.found = torch.zeros_like(run.found)
            self._paused.append((run, [points[row]]))
        for row, owner in enumerate(self._owners):
            if owner in broken:
                self._owners[row] = None
        self._paused = [(run, owners) for run, owners in self._paused if owners[0] not in broken]
        self._whole = True
        return list(broken), state.adversarials[_rows(list(broken.values()))]


def _rows(rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)


def _integers(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _single(state: State, owners: list[int]) -> list[tuple[State, list[int]]]:
    """Each run on its own."""
    return [(state.select(_rows([row])), [owner]) for row, owner in enumerate(owners)]


class _Queue:
    """The order of runs: first the next run of points that have no active run, then further runs of the others.

    The latter are wasted if the active run succeeds, but the slots would be empty otherwise.
    """

    def __init__(self, points: int, ranks: int) -> None:
        self.points, self.ranks = points, ranks
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
        """Record that a run failed; return whether it was the point's last."""
        self._under_way[point] -= 1
        if self._over[point] or self._under_way[point]:
            return False
        if self._next_rank[point] < self.ranks:
            self._ready.append(point)
            return False
        self._over[point] = True
        return True

    def suspend(self, points: list[int]) -> None:
        """Start no further run of these points until their candidates are verified."""
        for point in points:
            self._suspended[point] += 1

    def resume(self, point: int) -> None:
        """Continue a point whose candidate was rejected."""
        self._suspended[point] -= 1
        self._ahead.append(point)

    def break_point(self, point: int) -> None:
        self._over[point] = True

    def ended(self) -> int:
        """Number of finished runs of unfinished points."""
        runs = zip(self._over, self._next_rank, self._under_way, strict=True)
        return sum(begun - going for over, begun, going in runs if not over)

    def snapshot(self) -> dict[str, Tensor]:
        """The state of the queue."""
        parts = {name.lstrip("_"): _integers(getattr(self, name)) for name in (*_PER_POINT, *_IN_LINE)}
        return parts | {"ranks": torch.tensor([self.ranks])}

    def restore(self, kept: dict[str, Tensor]) -> None:
        """Resume from the snapshot of another queue."""
        lists = {name: kept[name.lstrip("_")].tolist() for name in (*_PER_POINT, *_IN_LINE)}
        if int(kept["ranks"]) != self.ranks or any(len(lists[name]) != self.points for name in _PER_POINT):
            raise ValueError(f"not of {self.points} points and {self.ranks} ranks")
        if not {*lists["_ready"], *lists["_ahead"]} <= set(range(self.points)):
            raise ValueError("a queued point that does not exist")
        self._next_rank, self._under_way, self._suspended = (lists[name] for name in _PER_POINT[:3])
        self._over = [bool(over) for over in lists["_over"]]
        self._ready, self._ahead = deque(lists["_ready"]), deque(lists["_ahead"])


_PER_POINT = ("_next_rank", "_under_way", "_suspended", "_over")
_IN_LINE = ("_ready", "_ahead")
