"""The fast engine: AutoAttack "standard" (Croce and Hein 2020) in full batches, with noise that belongs to examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD
from adaptive_smoothing_zoo.attacks.autoattack.fab import FAB
from adaptive_smoothing_zoo.attacks.autoattack.pool import Pool
from adaptive_smoothing_zoo.attacks.autoattack.reference import LOST_GRADIENT, STANDARD_ATTACKS, ReferenceEngine
from adaptive_smoothing_zoo.attacks.autoattack.square import QUERIES, Square
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, targeted_dlr
from adaptive_smoothing_zoo.attacks.margin_bounds import BoundedMargins, bounded_margins
from adaptive_smoothing_zoo.attacks.random_streams import KeyedSquares, normal_images, run_keys, uniform_images
from adaptive_smoothing_zoo.attacks.state import Attack, State, batches
from adaptive_smoothing_zoo.attacks.verify import predict
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.machine.folding import prepare

VERSION = 1  # changes when the same seed no longer gives the same random numbers

# Steps between two looks at what has been found: a look costs nothing on a CPU and stalls a GPU.
_LOOK_EVERY = {"cpu": 1, "cuda": 10}

# Forward-equivalents of a point that an attack asks about.
_COST = {"apgd-ce": 2, "apgd-t": 2, "fab-t": 3, "square": 1}


class FastEngine:
    """The attacks, iterates and settings of pyautoattack, organized for throughput.

    Random numbers depend on the seed, the attack, the target's rank and the example's index in the dataset alone, so
    that an example meets the same attack whatever the batch size, the order of the examples and their company. The
    attacks work on a prepared copy of the model (see ``prepare``); what is adversarial, the model decides.

    Args:
        model: images in [0, 1] to logits, in eval mode and frozen, on ``device``.
        norm: "Linf" or "L2".
        eps: radius of the ball.
        seed: of the random numbers.
        batch_size: most points in one pass, and the size of the batches in which candidates are verified.
        num_classes: of the model. The targeted attacks try 9 wrong classes, or all there are if they are fewer.
        device: where the model is.

    Attributes:
        asked: by attack, points that the prepared model was asked about so far. For each, APGD takes a pass forward
            and backward, FAB a pass forward as well, and Square a pass forward only.
        answered: by attack, points whose answer the attack has used. Square need not ask about all of them anew if the
            model answers the same twice (see there); on CPUs only, as ``bounds``.
        flat: by attack, indices of points at which a targeted attack began with a gradient of zero, and found nothing.
        lost: by attack, indices of points at which a gradient was not finite.
        resumes_inside: True: whatever is under way can be gone on with from a snapshot.
        prepared: the model as the attacks see it; None before the first attack.
        deterministic: whether it gave some images the same logits twice, bit for bit; False before that.
        bounds: how Square asks a mix, which it then does not run as a whole (see ``BoundedMargins``); on CPUs only,
            since each question makes the host wait for the device.
        iterations, queries: of APGD and FAB, and of Square, per run; the protocol's. Other numbers are for timings.
    """

    resumes_inside = True

    def __init__(
        self,
        model: nn.Module,
        *,
        norm: str,
        eps: float,
        seed: int,
        batch_size: int,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self.name = self.full_name()
        self.model, self.norm, self.eps, self.seed = model, norm, eps, seed
        self.batch_size, self.device = batch_size, device
        self.num_targets, self.num_classes = min(9, num_classes - 1), num_classes
        self.asked = dict.fromkeys(STANDARD_ATTACKS, 0)
        self.answered = dict.fromkeys(STANDARD_ATTACKS, 0)
        self.flat: dict[str, set[int]] = {attack: set() for attack in STANDARD_ATTACKS}
        self.lost: dict[str, set[int]] = {attack: set() for attack in STANDARD_ATTACKS}
        self.iterations, self.queries = 100, QUERIES
        self._runs: _Runs | None = None  # under way
        self._spent = 0  # by the attacks before it
        # Its checks of the model are AutoAttack's own, and are asked in its words.
        self._reference = ReferenceEngine(
            model, norm=norm, eps=eps, seed=seed, batch_size=batch_size, num_classes=num_classes, device=device
        )
        self.prepared: nn.Module | None = None
        self.deterministic = False
        self.bounds: BoundedMargins | None = None
        self._rankings: dict[int, Tensor] = {}  # by index: the wrong classes from likely to unlikely

    @staticmethod
    def full_name() -> str:
        """What carries out the attacks, with its version."""
        return f"fast {VERSION}"

    def check(self, images: Tensor, labels: Tensor, beat: Callable[[], object] | None = None) -> tuple[str, ...]:
        """What AutoAttack's own checks say against attacks on the model; nothing if all is well."""
        return self._reference.check(images, labels, beat)

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

        A candidate is a verified adversarial example, or the image itself.

        Args:
            name: of an attack of the standard protocol.
            images: (N, channels, H, W) in [0, 1], on any device; so the others.
            labels: (N,).
            indices: (N,) of the points in the dataset.
            done: (N,) bool, points to leave out; none if None.
            snapshot: go on from there instead, with the points that were attacked then, ``done`` or not.
            beat: called between steps.

        Raises:
            ValueError: no such attack.
            ResultsError: a snapshot that does not fit.
        """
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
        for finished in pool:
            if len(finished.points) == 0:
                beat()
                continue
            kept = images[finished.points] if finished.adversarials is None else finished.adversarials
            self.lost[name] |= set(indices[sorted(pool.lost)].tolist())
            if name.endswith("-t"):
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
        return self._reference.spent() + self._spent + (0 if self._runs is None else self._runs.spent())

    def underway(self) -> float:
        """How much is done for points that were not yet yielded, in points."""
        return 0.0 if self._runs is None else self._runs.pool.underway()

    def warnings(self, name: str) -> tuple[str, ...]:
        """What there is to say against an attack as it went so far."""
        return (LOST_GRADIENT,) if self.lost[name] else ()

    def prepare(self, images: Tensor) -> None:
        """Make the model ready, unless that is done, with some images of the kind to come."""
        if self.prepared is None:
            some = images[: min(8, self.batch_size)].to(self.device)
            self.prepared = prepare(self.model, some)
            with torch.no_grad():
                self.deterministic = torch.equal(self.prepared(some), self.prepared(some))
            if self.device.type == "cpu":
                self.bounds = bounded_margins(getattr(self.prepared, "model", self.prepared))

    def rank_classes(self, images: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """The wrong classes of each point from the likeliest at the clean image to the least likely, (N, C - 1)."""
        unknown = [i for i, index in enumerate(indices.tolist()) if index not in self._rankings]
        for part in batches(torch.tensor(unknown, dtype=torch.int64), self.batch_size):
            with torch.no_grad():
                order = self.model(images[part].to(self.device)).argsort(dim=1, descending=True).cpu()
            for index, classes, label in zip(indices[part].tolist(), order, labels[part], strict=True):
                self._rankings[index] = classes[classes != label]
        return torch.stack([self._rankings[index] for index in indices.tolist()])


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
        engine: FastEngine,
        name: str,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        snapshot: dict[str, Tensor] | None = None,
    ) -> None:
        self.engine, self.name = engine, name
        self.images, self.labels, self.indices = images, labels, indices
        self.ranks = engine.num_targets if name.endswith("-t") else 1
        self.targets = self._targets() if snapshot is None else self._kept_targets(snapshot)
        shape = images.shape[1], images.shape[2], images.shape[3]
        self.squares: KeyedSquares | None = None
        if name == "square":
            self.squares = KeyedSquares(engine.seed, name, shape, engine.norm, engine.device, engine.queries)
        self.attack = self._attack()
        assert engine.prepared is not None
        self.pool = Pool(
            self.attack,
            engine.prepared,
            start=self.start,
            verify=self.verify,
            points=len(labels),
            ranks=self.ranks,
            batch_size=engine.batch_size,
            look_every=_LOOK_EVERY[engine.device.type],
        )
        self._before = 0
        if snapshot is not None:
            self.pool.restore(snapshot)
            if isinstance(self.attack, Square):
                self.attack.answered = _part(snapshot, "answered", (1,)).sum()
            self._before = self.answered

    @property
    def answered(self) -> int:
        """Points whose answer the attack has used."""
        return int(self.attack.answered) if isinstance(self.attack, Square) else self.pool.asked

    def spent(self) -> int:
        """Forward-equivalents since these runs were made, or gone on with."""
        return _COST[self.name] * (self.answered - self._before)

    def snapshot(self) -> dict[str, Tensor] | None:
        """Where the runs stand."""
        kept = self.pool.snapshot()
        if kept is None:
            return None
        targets = self.targets[:, : self.ranks].clone()
        return kept | {"indices": self.indices, "targets": targets, "answered": torch.tensor([self.answered])}

    def _targets(self) -> Tensor:
        """The classes to move toward by rank, (N, at least as many as ranks)."""
        if self.name.endswith("-t"):
            return self.engine.rank_classes(self.images, self.labels, self.indices)
        return self.labels[:, None]

    def _kept_targets(self, snapshot: dict[str, Tensor]) -> Tensor:
        targets = _part(snapshot, "targets", (len(self.labels), self.ranks))
        if not bool(((targets >= 0) & (targets < self.engine.num_classes)).all()):
            raise ResultsError("a snapshot with targets that are no classes")
        return targets

    def _attack(self) -> Attack[Any]:
        norm, eps, steps = self.engine.norm, self.engine.eps, self.engine.iterations
        if self.name == "apgd-ce":
            return APGD(self.name, norm=norm, eps=eps, loss=cross_entropy, steps=steps)
        if self.name == "apgd-t":
            return APGD(self.name, norm=norm, eps=eps, loss=targeted_dlr, steps=steps)
        if self.name == "fab-t":
            return FAB(self.name, norm=norm, eps=eps, steps=steps)
        if self.squares is not None:
            looks_back = self.engine.deterministic and self.engine.device.type == "cpu"
            return Square(
                self.name,
                norm=norm,
                eps=eps,
                draw=self.squares,
                queries=self.engine.queries,
                ask=self.engine.bounds,
                batch_size=self.engine.batch_size,
                twins=self.squares.twins if looks_back else None,
            )
        raise ValueError(f"the standard protocol has the attacks {', '.join(STANDARD_ATTACKS)}, not {self.name!r}")

    def start(self, points: Tensor, ranks: Tensor) -> State:
        """The state of new runs."""
        device = self.engine.device
        images, labels = self.images[points].to(device).contiguous(), self.labels[points].to(device)
        targets = self.targets[points, ranks].to(device)
        keys = run_keys(self.engine.seed, self.name, ranks, self.indices[points]).to(device)
        if isinstance(self.attack, APGD):
            draw = uniform_images if self.engine.norm == "Linf" else normal_images
            return self.attack.start(images, labels, targets, draw(keys, images.shape[1:]))
        if isinstance(self.attack, FAB):
            return self.attack.start(images, labels, targets)
        assert isinstance(self.attack, Square)
        assert self.squares is not None
        return self.attack.start(images, labels, targets, keys, self.squares.start(keys))

    def verify(self, points: Tensor, candidates: Tensor) -> Tensor:
        """Whether the model, asked in batches of one size, gives another label."""
        predicted = predict(self.engine.model, candidates, self.engine.batch_size, self.engine.device)
        return predicted.cpu() != self.labels[points].cpu()
