"""The driver of all attacks: full batches, ranks, restarts, snapshots; the model decides what is adversarial.

It is also the fast engine: AutoAttack's attacks, with noise that belongs to examples.
"""

from __future__ import annotations

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
VERSION = 1  # changes when the same seed no longer gives the same random numbers

# Steps between two looks at what has been found: a look costs nothing on a CPU and stalls a GPU.
_LOOK_EVERY = {"cpu": 1, "cuda": 10}


@dataclass(frozen=True)
class Verdict:
    """What an attack did to some points.

    Attributes:
        attack: its name.
        points: (P,) their places among the points attacked.
        broken: (P,) bool, the model gives another label there.
        candidates: (P, channels, H, W) the adversarial example, or the image itself.
    """

    attack: str
    points: Tensor
    broken: Tensor
    candidates: Tensor


class Search:
    """Carries out attacks of the catalogue.

    Random numbers depend on the seed, the attack, the run's rank and the example's index in the dataset alone, so
    that an example meets the same attack whatever the batch size, the order of the examples and their company. The
    attacks work on a prepared copy of the model (see ``prepare``); what is adversarial, the model decides.

    Args:
        model: images in [0, 1] to logits, in eval mode and frozen, on ``device``.
        threat: the ball.
        settings: attacks, seed, batch size and precision; if None, 256 and float32. The batch size is also that of
            the batches in which candidates are verified, and these are float32 whatever the search's precision.
        num_classes: of the model.
        device: where the model is.
        surrogate: what attacks through a surrogate ask; ready like the model.

    Attributes:
        asked, answered: by attack, points that a model was asked about, and those whose answer was used.
        flat, lost: by attack, indices of points at which a targeted attack began with a gradient of zero, and at which
            a gradient was not finite.
        resumes_inside: whatever is under way resumes from a snapshot.
        prepared: the model as the attacks see it; None before the first attack.
        deterministic: whether it gave some images the same logits twice, bit for bit; False before that.
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
        self._spent = 0  # by the attacks before it
        self._reference: ReferenceEngine | None = None  # makes AutoAttack's own checks
        self._rankings: dict[int, Tensor] = {}  # by index: the wrong classes from likely to unlikely
        self._recorder = recorder_of(device)

    @staticmethod
    def full_name() -> str:
        """What carries out the attacks, with its version."""
        return f"fast {VERSION}"

    @property
    def batch_size(self) -> int:
        """Most points in one pass."""
        return self.settings.batch_size or 1

    def check(self, images: Tensor, labels: Tensor, beat: Callable[[], object] | None = None) -> tuple[str, ...]:
        """What AutoAttack's own checks say against attacks on the model; nothing if all is well."""
        if self._reference is None:
            self._reference = ReferenceEngine(
                self.model, self.threat, self.settings, num_classes=self.num_classes, device=self.device
            )
        return self._reference.check(images, labels, beat)

    def run(self, images: Tensor, labels: Tensor, indices: Tensor) -> Iterator[Verdict]:
        """All attacks in order, each on the points that those before it left.

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
        """Attack correctly classified points; yield (positions, candidates) as points are finished, each once.

        A candidate is a verified adversarial example, or the image itself; not verified where gradients are means of
        several passes, for a randomized model, of which one pass decides: the caller's.

        Args:
            name: one of the settings' attacks.
            images: (N, channels, H, W) in [0, 1], on any device; so the others.
            labels: (N,).
            indices: (N,) of the points in the dataset.
            done: (N,) bool, points to leave out; none if None.
            snapshot: resume from there instead, with the points that were attacked then, ``done`` or not.
            beat: called between steps.

        Raises:
            ValueError: no such attack.
            ResultsError: a snapshot that does not fit.
        """
        entry_of(name)
        labels, indices = labels.cpu(), indices.cpu()  # what is counted stands there; images may stay where they are
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

    def snapshot(self) -> dict[str, Tensor] | None:
        """Where the attack under way stands, in terms of the dataset; None if there is none, or it cannot be said."""
        return None if self._runs is None else self._runs.snapshot()

    def spent(self) -> int:
        """Forward-equivalents that checks and attacks have spent since this engine was made."""
        checks = 0 if self._reference is None else self._reference.spent()
        return checks + self._spent + (0 if self._runs is None else self._runs.spent())

    def underway(self) -> float:
        """How much is done for points that were not yet yielded, in points."""
        return 0.0 if self._runs is None else self._runs.pool.underway()

    def warnings(self, name: str) -> tuple[str, ...]:
        """What there is to say against an attack as it went so far."""
        return (LOST_GRADIENT,) if self.lost[name] else ()

    def prepare(self, images: Tensor) -> nn.Module:
        """The model as attacks see it; made the first time, with some images of the kind to come."""
        if self.prepared is None:
            some = self._some(images)
            prepared = self._lowered(self.model, some)
            with torch.no_grad(), self._searching():
                self.deterministic = torch.equal(prepared(some), prepared(some))
            self.prepared = self._recorded(prepared, self.model)
        return self.prepared

    def _searching(self) -> AbstractContextManager[None]:
        """The precision in which attacks make their steps; the judge computes in its own within. A CPU has one."""
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
        """What replays the passes of a net's prepared copy, if it is one and the model answers the same twice."""
        inner = prepared.model if isinstance(prepared, Lowered) else prepared
        if self._recorder is None or not self.deterministic or inner is net:
            return prepared
        return Graphed(prepared, self._recorder)

    def made(self, name: str, images: Tensor) -> tuple[Attack[Any], nn.Module]:
        """An attack on images of this kind, and what it asks."""
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
    """The items, each made within a context; whoever takes them is outside of it."""
    iterator, end = iter(items), object()
    while True:
        with context():
            item = next(iterator, end)
        if item is end:
            return
        yield item  # type: ignore[misc]


def _places(wanted: Tensor, indices: Tensor) -> Tensor:
    """Where points of a snapshot, by their indices in the dataset, stand among the points that are there."""
    place = {index: i for i, index in enumerate(indices.tolist())}
    if not set(wanted.tolist()) <= set(place):
        raise ResultsError("a snapshot of other points")
    return torch.tensor([place[index] for index in wanted.tolist()], dtype=torch.int64)


def _part(snapshot: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Some integers of a snapshot; -1 in a shape stands for any number of them."""
    part = snapshot.get(name)
    if part is None or part.dtype != torch.int64 or part.ndim != len(shape):
        raise ResultsError(f"a snapshot without {name}")
    if any(wanted not in (-1, found) for wanted, found in zip(shape, part.shape, strict=True)):
        raise ResultsError(f"a snapshot whose {name} are {tuple(part.shape)}, not {shape}")
    return part


class _Runs:
    """The runs of one attack on some points: how they start and what is adversarial."""

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
        """Points whose answer the attack has used."""
        return self.pool.asked if self.attack.answered is None else int(self.attack.answered)

    def spent(self) -> int:
        """Forward-equivalents since these runs were made, or resumed."""
        return self.entry.cost_at(self.search.num_classes) * (self.answered - self._before)

    def snapshot(self) -> dict[str, Tensor] | None:
        """Where the runs stand."""
        kept = self.pool.snapshot()
        if kept is None:
            return None
        return kept | {"indices": self.indices, "targets": self.targets, "answered": torch.tensor([self.answered])}

    def _targets(self) -> Tensor:
        """The class that each run from one start moves toward, (N, runs)."""
        if not self.entry.targeted:
            return self.labels[:, None]
        return self.search.rank_classes(self.images, self.labels, self.indices)[:, : self.goals].clone()

    def _kept_targets(self, snapshot: dict[str, Tensor]) -> Tensor:
        targets = _part(snapshot, "targets", (len(self.labels), self.goals))
        if not bool(((targets >= 0) & (targets < self.search.num_classes)).all()):
            raise ResultsError("a snapshot with targets that are not classes")
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
        """Whether the model, asked in batches of one size, gives another label; see ``Search.attack`` for means."""
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
    """Runs that advance together, each to its end; their state there.

    For those who look at every iterate, and for training, which wants the best point of every run.

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
