"""The driver of all attacks: full batches, ranks, restarts, snapshots; the model decides what is adversarial.

It is also the fast engine: AutoAttack's attacks, with random numbers per example.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.reference import LOST_GRADIENT, ReferenceEngine
from adaptive_smoothing_zoo.attacks.catalogue import complete, entry_of
from adaptive_smoothing_zoo.attacks.contract import Attack, S, Setup, State, batches
from adaptive_smoothing_zoo.attacks.losses import Model, rank_classes
from adaptive_smoothing_zoo.attacks.pool import Pool
from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.attacks.verify import predict
from adaptive_smoothing_zoo.attacks.views import stop_flat_gradients
from adaptive_smoothing_zoo.attacks.whole_steps import WholeSteps
from adaptive_smoothing_zoo.backbones.asking import asked
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.machine.folding import inner_model, prepare
from adaptive_smoothing_zoo.machine.graphs import Graphed, recorder_of
from adaptive_smoothing_zoo.machine.precision import Lowered, float32_precision
from adaptive_smoothing_zoo.threat import ThreatModel

T = TypeVar("T")
VERSION = 1  # bump when the same seed no longer gives the same random numbers

# Steps between two checks for adversarial points: a check is free on a CPU and stalls a GPU.
_LOOK_EVERY = {"cpu": 1, "cuda": 10}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """The outcome of an attack at some points.

    Attributes:
        attack: its name.
        points: (P,) their indices among the attacked points.
        broken: (P,) bool, the model gives another label there.
        candidates: (P, channels, H, W) the adversarial example, or the image itself.
    """

    attack: str
    points: Tensor
    broken: Tensor
    candidates: Tensor


class Search:
    """Carries out attacks of the catalogue.

    Random numbers depend only on the seed, the attack, the run's rank and the example's index in the dataset. The
    attack on an example is thus independent of batch size, order and other examples. Attacks run on a prepared copy of
    the model (see ``prepare``); the model itself decides what is adversarial.

    Args:
        model: images in [0, 1] to logits, in eval mode and frozen, on ``device``.
        threat: the ball.
        settings: attacks, seed, batch size (256 if None) and precision (float32 if None). Candidates are verified in
            the same batch size, always in float32.
        num_classes: of the model.
        device: the model's device.
        surrogate: the net for attacks through a surrogate; in eval mode, frozen and on the same device.

    Attributes:
        asked, answered: by attack, number of points evaluated, and of those whose output was used.
        flat, lost: by attack, indices of points at which a targeted attack started with a zero gradient, and at which
            a gradient was not finite.
        resumes_inside: whether an attack resumes from a snapshot.
        prepared: the copy that attacks evaluate; None before the first attack.
        deterministic: whether two passes of some images gave bit-identical logits; False before that test.
    """

    resumes_inside = True

    def __init__(
        self,
        model: nn.Module,
        threat: ThreatModel,
        settings: AttackSettings,
        *,
        num_classes: int,
        device: torch.device,
        surrogate: nn.Module | None = None,
    ) -> None:
        settings = complete(settings)
        self.model, self.threat, self.num_classes, self.device = asked(model), threat, num_classes, device
        self.settings = replace(settings, batch_size=settings.batch_size or 256)
        self.surrogate = surrogate
        self.name = self.full_name()
        self.asked = dict.fromkeys(settings.names, 0)
        self.answered = dict.fromkeys(settings.names, 0)
        self.flat: dict[str, set[int]] = {attack: set() for attack in settings.names}
        self.lost: dict[str, set[int]] = {attack: set() for attack in settings.names}
        self.prepared: nn.Module | None = None
        self.deterministic = False
        self._runs: _Runs | None = None  # under way
        self._spent = 0  # by earlier attacks
        self._reference: ReferenceEngine | None = None  # makes AutoAttack's own checks
        self._rankings: dict[int, Tensor] = {}  # by index: the wrong classes from likely to unlikely
        self._recorder = recorder_of(device)

    @staticmethod
    def full_name() -> str:
        """Name and version of the engine."""
        return f"fast {VERSION}"

    @property
    def batch_size(self) -> int:
        """Most points in one pass."""
        return self.settings.batch_size or 1

    def check(self, images: Tensor, labels: Tensor, beat: Callable[[], object] | None = None) -> tuple[str, ...]:
        """Warnings of AutoAttack's own checks on the model; empty if there are none."""
        if self._reference is None:
            self._reference = ReferenceEngine(
                self.model, self.threat, self.settings, num_classes=self.num_classes, device=self.device
            )
        return self._reference.check(images, labels, beat)

    def run(self, images: Tensor, labels: Tensor, indices: Tensor) -> Iterator[Verdict]:
        """Run all attacks in order, each on the points that are still robust.

        Args:
            images: (N, channels, H, W) in [0, 1], correctly classified.
            labels, indices: (N,) as for ``attack``.
        """
        left = torch.ones(len(labels), dtype=torch.bool)
        for name in self.settings.names:
            points = left.nonzero().squeeze(1)
            if len(points) == 0 or self.threat.eps == 0:
                return
            for positions, candidates in self.attack(name, images[points], labels[points], indices[points]):
                chosen = points[positions]
                candidates = self.threat.without_rounding(images[chosen], candidates)
                broken = self._predict(candidates).cpu() != labels[chosen].cpu()
                left[chosen[broken]] = False
                yield Verdict(name, chosen, broken, candidates)

    def attack(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        done: Tensor | None = None,
        *,
        snapshot: dict[str, Tensor] | None = None,
        beat: Callable[[], object] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Attack correctly classified points; yield (positions, candidates) once per point when it is finished.

        A candidate is a verified adversarial example, or the image itself. With averaged gradients (randomized
        models) candidates are not verified: one pass by the caller decides.

        Args:
            name: one of the settings' attacks.
            images: (N, channels, H, W) in [0, 1]; like the other tensors on any device.
            labels: (N,).
            indices: (N,) of the points in the dataset.
            done: (N,) bool, points to leave out; none if None.
            snapshot: resume from it, with the points attacked then, ignoring ``done``.
            beat: called between steps.

        Raises:
            ValueError: no such attack.
            ResultsError: the snapshot is of another attack or other points.
        """
        entry_of(name)
        labels, indices = labels.cpu(), indices.cpu()  # counters live on the device; images may stay where they are
        done = None if done is None else done.cpu()
        self.prepare(images)
        if self._runs is not None:  # it was given up
            self._spent += self._runs.spent()
        if snapshot is not None:
            todo = _places(_part(snapshot, "indices", (-1,)), indices)
        else:
            todo = torch.arange(len(labels)) if done is None else (~done).nonzero().squeeze(1)
        self._runs = _Runs(self, name, images[todo], labels[todo], indices[todo], snapshot)
        return self._finished(self._runs, todo, beat or (lambda: None))

    def _finished(self, runs: _Runs, todo: Tensor, beat: Callable[[], object]) -> Iterator[tuple[Tensor, Tensor]]:
        name, pool, images, indices = runs.name, runs.pool, runs.images, runs.indices
        for finished in _each_in(self._searching, pool):
            if len(finished.points) == 0:
                beat()
                continue
            kept = images[finished.points] if finished.adversarials is None else finished.adversarials
            self.lost[name] |= set(indices[sorted(pool.lost)].tolist())
            if runs.entry.targeted or runs.entry.least_classes > 2:  # those of which AutoAttack warns, too
                self.flat[name] |= set(indices[sorted(pool.flat)].tolist())
            yield todo[finished.points], kept.to(images.device)
        self.asked[name] += pool.asked
        self.answered[name] += runs.answered
        self._spent += runs.spent()
        self._runs = None
        del runs.pool  # a cycle would keep the attack's copy of the net until the next garbage collection

    def snapshot(self) -> dict[str, Tensor] | None:
        """The state of the running attack, by dataset indices; None if none is running or its state is inconsistent."""
        return None if self._runs is None else self._runs.snapshot()

    def spent(self) -> int:
        """Forward-equivalents that checks and attacks have spent since this engine was made."""
        checks = 0 if self._reference is None else self._reference.spent()
        return checks + self._spent + (0 if self._runs is None else self._runs.spent())

    def underway(self) -> float:
        """Progress on points that are not yet yielded, in points."""
        return 0.0 if self._runs is None else self._runs.pool.underway()

    def warnings(self, name: str) -> tuple[str, ...]:
        """Warnings about an attack so far."""
        return (LOST_GRADIENT,) if self.lost[name] else ()

    def prepare(self, images: Tensor) -> nn.Module:
        """The prepared copy of the model, made at the first call with some example images."""
        if self.prepared is None:
            some = self._some(images)
            prepared = self._lowered(self.model, some)
            with torch.no_grad(), self._searching():
                self.deterministic = torch.equal(prepared(some), prepared(some))
            self.prepared = self._recorded(prepared, self.model)
        return self.prepared

    def _searching(self) -> AbstractContextManager[None]:
        """Context that sets the precision of attack steps; the judge sets its own inside. CPUs use one precision."""
        tf32 = self.settings.tf32
        return float32_precision(tf32) if tf32 or self.device.type != "cpu" else nullcontext()

    def _lowered(self, net: nn.Module, some: Tensor) -> nn.Module:
        """A net prepared, in bfloat16 if that is the search's precision."""
        with float32_precision(tf32=False):
            prepared = prepare(net, some)
        if prepared is not net:
            stop_flat_gradients(inner_model(prepared))
        return Lowered(prepared) if self.settings.search_precision == "bfloat16" else prepared

    def _recorded(self, prepared: nn.Module, net: nn.Module) -> nn.Module:
        """A replay of recorded passes (CUDA graphs), if ``prepared`` is a copy and the model is deterministic."""
        inner = prepared.model if isinstance(prepared, Lowered) else prepared
        if self._recorder is None:
            return prepared
        if not self.deterministic or inner is net:
            why = "it could not be copied" if inner is net else "repeated passes differ"
            _logger.info("%s runs without CUDA graphs: %s", type(net).__name__, why)
            return prepared
        return Graphed(prepared, self._recorder)

    def made(self, name: str, images: Tensor) -> tuple[Attack[Any], nn.Module]:
        """An attack for images of this shape, and the net it evaluates."""
        prepared, shape = self.prepare(images), images.shape
        attack = entry_of(name).make(
            Setup(
                plan=self.settings.plan(name),
                threat=self.threat,
                seed=self.settings.seed,
                shape=(shape[1], shape[2], shape[3]),
                device=self.device,
                batch_size=self.batch_size,
                judge=self.model,
                prepared=prepared,
                deterministic=self.deterministic,
                surrogate=self.surrogate,
                precision=self.settings.search_precision or "float32",
            )
        )
        if attack.view is None:
            return attack, prepared
        return attack, self._recorded(self._lowered(attack.view, self._some(images)), attack.view)

    def _some(self, images: Tensor) -> Tensor:
        return images[: min(8, self.batch_size)].to(self.device)

    def rank_classes(self, images: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """The wrong classes of each point from the likeliest at the clean image to the least likely, (N, C - 1)."""
        unknown = [i for i, index in enumerate(indices.tolist()) if index not in self._rankings]
        for part in batches(torch.tensor(unknown, dtype=torch.int64), self.batch_size):
            with torch.no_grad(), float32_precision(tf32=False):
                logits = self.model(images[part].to(self.device))
            ranked = rank_classes(logits, labels[part].to(self.device)).cpu()
            self._rankings |= dict(zip(indices[part].tolist(), ranked, strict=True))
        return torch.stack([self._rankings[index] for index in indices.tolist()])

    def _predict(self, images: Tensor) -> Tensor:
        return predict(self.model, images, self.batch_size, self.device)


def _each_in(context: Callable[[], AbstractContextManager[object]], items: Iterable[T]) -> Iterator[T]:
    """Iterate with each item produced inside a context; the consumer runs outside it."""
    iterator, end = iter(items), object()
    while True:
        with context():
            item = next(iterator, end)
        if item is end:
            return
        yield item  # type: ignore[misc]


def _places(wanted: Tensor, indices: Tensor) -> Tensor:
    """Positions, among the present points, of the points of a snapshot, given by dataset index."""
    place = {index: i for i, index in enumerate(indices.tolist())}
    if not set(wanted.tolist()) <= set(place):
        raise ResultsError("the snapshot is of other points")
    return torch.tensor([place[index] for index in wanted.tolist()], dtype=torch.int64)


def _part(snapshot: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Some integers of a snapshot; -1 in a shape stands for any number of them."""
    part = snapshot.get(name)
    if part is None or part.dtype != torch.int64 or part.ndim != len(shape):
        raise ResultsError(f"the snapshot lacks {name}")
    if any(wanted not in (-1, found) for wanted, found in zip(shape, part.shape, strict=True)):
        raise ResultsError(f"the snapshot's {name} have shape {tuple(part.shape)}, not {shape}")
    return part


class _Runs:
    """The runs of one attack on some points: their start and their verification."""

    def __init__(
        self,
        search: Search,
        name: str,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        snapshot: dict[str, Tensor] | None = None,
    ) -> None:
        self.search, self.name, self.entry = search, name, entry_of(name)
        self.images, self.labels, self.indices = images, labels, indices
        self.plan = plan = search.settings.plan(name)
        self.ranks = self.entry.runs(plan, search.num_classes)
        self.goals = self.ranks // (plan.restarts or 1)  # runs from one start
        self.targets = self._targets() if snapshot is None else self._kept_targets(snapshot)
        self.attack, view = search.made(name, images)
        attack = self.attack
        if isinstance(view, Graphed) and attack.recordable:
            attack = WholeSteps(attack, view)
        self.pool = Pool(
            attack,
            view,
            start=self.start,
            verify=self.verify,
            points=len(labels),
            ranks=self.ranks,
            batch_size=search.batch_size,
            look_every=_LOOK_EVERY[search.device.type],
        )
        self._before = 0
        if snapshot is not None:
            self.pool.restore(snapshot)
            if self.attack.answered is not None:
                self.attack.answered = _part(snapshot, "answered", (1,)).sum()
            self._before = self.answered

    @property
    def answered(self) -> int:
        """Number of points whose output the attack has used."""
        return self.pool.asked if self.attack.answered is None else int(self.attack.answered)

    def spent(self) -> int:
        """Forward-equivalents since these runs were made, or resumed."""
        return self.entry.cost_at(self.search.num_classes) * (self.answered - self._before)

    def snapshot(self) -> dict[str, Tensor] | None:
        """The state of the runs."""
        kept = self.pool.snapshot()
        if kept is None:
            return None
        return kept | {"indices": self.indices, "targets": self.targets, "answered": torch.tensor([self.answered])}

    def _targets(self) -> Tensor:
        """Target class of each run of a start, (N, runs)."""
        if not self.entry.targeted:
            return self.labels[:, None]
        return self.search.rank_classes(self.images, self.labels, self.indices)[:, : self.goals].clone()

    def _kept_targets(self, snapshot: dict[str, Tensor]) -> Tensor:
        targets = _part(snapshot, "targets", (len(self.labels), self.goals))
        if not bool(((targets >= 0) & (targets < self.search.num_classes)).all()):
            raise ResultsError("the snapshot has targets that are not classes")
        return targets

    def start(self, points: Tensor, ranks: Tensor) -> State:
        """The state of new runs."""
        device = self.search.device
        images, labels = self.images[points].to(device).contiguous(), self.labels[points].to(device)
        targets = self.targets[points, ranks % self.goals].to(device)
        keys = run_keys(self.search.settings.seed, self.name, ranks, self.indices[points]).to(device)
        state: State = self.attack.restart(images, labels, targets, keys, (ranks // self.goals).to(device))
        return state

    def verify(self, points: Tensor, candidates: Tensor) -> Tensor:
        """Whether the model, in batches of fixed size, gives another label; see ``Search.attack`` for averaging."""
        if self.plan.averages:
            return torch.ones(len(points), dtype=torch.bool)
        return self.search._predict(candidates).cpu() != self.labels[points].cpu()


def advance(
    attack: Attack[S],
    state: S,
    model: Model,
    *,
    stop: bool = True,
    watch: Callable[[Tensor, S], object] | None = None,
) -> S:
    """Advance runs together until each ends; return their final state.

    For callers that watch every iterate, and for training, which needs the best point of every run.

    Args:
        stop: leave out a run once an adversarial point is found.
        watch: called after each step with the rows (M,) that advanced, and their state.
    """
    rows = torch.arange(len(state), device=state.labels.device)
    whole = state.select(rows) if stop else state
    for _ in range(attack.length):
        attack.step(state, model)
        if watch is not None:
            watch(rows, state)
        if stop and bool(state.found.any()):
            whole.put(rows, state)
            rows, state = rows[~state.found], state.select(~state.found)
            if len(rows) == 0:
                return whole
    if stop:
        whole.put(rows, state)
    return whole
