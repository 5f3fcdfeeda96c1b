"""The net under validation, the attacks that checks make on it, and what these have broken."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD, APGDState
from adaptive_smoothing_zoo.attacks.autoattack.square import Square, SquareState
from adaptive_smoothing_zoo.attacks.autoattack.square_draws import KeyedSquares
from adaptive_smoothing_zoo.attacks.contract import Attack, State, batches
from adaptive_smoothing_zoo.attacks.losses import (
    LOSSES,
    Loss,
    Model,
    cross_entropy,
    margin,
    rank_classes,
    target_gap,
)
from adaptive_smoothing_zoo.attacks.random_streams import noise_of, run_keys, uniform_images
from adaptive_smoothing_zoo.attacks.search import advance
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.threat import ThreatModel, l2_norm
from adaptive_smoothing_zoo.units import UnitsWarning
from adaptive_smoothing_zoo.validation.attacked import Attacked, Journal

# Points asked about, what the differentiated model said, and which examples these are -> found (N,).
Judge = Callable[[Tensor, Tensor, Tensor], Tensor]
TARGETS = 9  # most wrong classes that a targeted attack tries, as in AutoAttack


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the checks may spend. The defaults suit a hundred small images on one core.

    Attributes:
        steps: of an APGD run.
        restarts: random starts for each loss.
        grid_steps: of an APGD run at each radius of the grid.
        long_steps, survivors: of the runs on the points that came closest to being broken, and how many these are.
        queries: of the Square attack.
        noises: points of the ball drawn at random, per image.
        directions: along which a gradient is compared with differences, per image.
        planted: images around which a boundary is planted.
        inner: points of the inner ball that a planted boundary leaves out, per image.
        search: random changes that move it outward, per image.
    """

    steps: int = 100
    restarts: int = 5
    grid_steps: int = 20
    long_steps: int = 300
    survivors: int = 20
    queries: int = 1000
    noises: int = 50
    directions: int = 5
    planted: int = 30
    inner: int = 50
    search: int = 100


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """What a recorded evaluation of the same weights says of the same points.

    Attributes:
        robust: (M,) bool, M >= N: its verdicts on all of its points, of which the first N are those under validation.
        fallen: indices of those that recorded adaptive attacks broke after it.
        data_sha256: of all its points, if it is known.
    """

    robust: np.ndarray
    fallen: tuple[int, ...] = ()
    data_sha256: str | None = None

    @property
    def standing(self) -> np.ndarray:
        """(M,) bool, neither the run nor the adaptive attacks broke the point."""
        standing = self.robust.copy()
        standing[list(self.fallen)] = False
        return standing


@dataclass(frozen=True)
class Run:
    """Auto-PGD on each of some points, from one random start.

    Attributes:
        name: what the random start depends on, with the seed, ``restart`` and the example.
        loss: of an output, labels and ``targets``.
        view: what to differentiate in the model's place.
        judge: what counts as found; the model's misclassification if None.
        steps, eps: the budget's and the subject's if None.
        targets: (N,) classes; the labels if None.
        stop: end a run where it finds something.
    """

    name: str
    loss: Callable[..., Tensor]
    view: Model | None = None
    judge: Judge | None = None
    steps: int | None = None
    eps: float | None = None
    restart: int = 0
    targets: Tensor | None = None
    stop: bool = True

    def of(self, rows: Tensor) -> Run:
        """The run on some of the points."""
        return self if self.targets is None else replace(self, targets=self.targets[rows])


class Subject:
    """A model with examples, and a ledger.

    Args:
        model: images to logits (N, C), in eval mode, frozen, on ``device``.
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        settings: seed of everything drawn, and most points in one pass.
        recorded: a recorded evaluation of these points, if there is one.

    Attributes:
        journal: keeps what attacks find; None for nothing.
        passes: forward-equivalents spent so far, counted in images; a gradient costs as much as a forward pass.
        recalled_seconds: of the attacks that the journal knew.
        on_pass: called when passes are spent.
        check: name of the check that runs.
        broken: (N,) bool, an attack of some check found a misclassified point in the ball.
        adversarials: (N, channels, H, W), that point, or the image itself.
        broken_by: (N,) str, the check whose attack was the first to do it.
        series: curves and samples for the figures, by name.

    A forward pass that gives NaN classifies nothing: such a point counts neither as correct nor as broken.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        settings: AttackSettings,
        device: torch.device,
        budget: Budget,
        recorded: RecordedRun | None = None,
    ) -> None:
        self.model, self.threat, self.settings, self.device = model, threat, settings, device
        self.images, self.labels = images.to(device).contiguous(), labels.to(device)
        self.seed, self.batch_size = settings.seed, min(settings.batch_size or len(labels), len(labels))
        self.budget, self.recorded = budget, recorded
        self.journal: Journal | None = None
        self.passes, self.recalled_seconds = 0, 0.0
        self.on_pass: Callable[[], None] = lambda: None
        self.check = ""
        self.broken = torch.zeros(len(labels), dtype=torch.bool, device=device)
        self.adversarials = self.images.clone()
        self.broken_by = np.full(len(labels), "", dtype="<U32")
        self.series: dict[str, tuple[tuple[float, ...], ...]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def spend(self, passes: int) -> None:
        """Count forward-equivalents."""
        self.passes += passes
        self.on_pass()

    @torch.no_grad()
    def logits(self, images: Tensor, model: Model | None = None) -> Tensor:
        """Outputs (N, C) from batches of one size, the last filled up: one shape gives one verdict."""
        ask, size = model or self.model, self.batch_size
        if len(images) == 0:
            return ask(images)
        outputs = []
        for batch in images.split(size):
            filled = torch.cat([batch, batch[-1:].expand(size - len(batch), *batch.shape[1:])])
            outputs.append(ask(filled)[: len(batch)])
        self.spend(len(images))
        return torch.cat(outputs)

    def fooled(self, images: Tensor, labels: Tensor) -> Tensor:
        """(N,) bool, the model gives another label than these."""
        return misclassified(self.logits(images), labels)

    @cached_property
    def clean_logits(self) -> Tensor:
        return self.logits(self.images)

    @cached_property
    def correct(self) -> Tensor:
        """Indices of the points that are classified correctly without an attack."""
        logits = self.clean_logits
        right = (logits.argmax(dim=1) == self.labels) & ~logits.isnan().any(dim=1)
        return right.nonzero().squeeze(1)

    @property
    def num_classes(self) -> int:
        return int(self.clean_logits.shape[1])

    @property
    def losses(self) -> dict[str, Loss]:
        """What attacks increase, by name, as far as the number of classes allows."""
        usable = {name: loss for name, loss in LOSSES.items() if name != "dlr" or self.num_classes >= 3}
        return usable | {"scaled-ce": scaled_cross_entropy}

    def accuracy(self, found: Tensor) -> float:
        """Of all points, the share that is correct and not ``found``, given for ``correct``."""
        return int((~found).sum()) / len(self)

    @property
    def standing(self) -> Tensor:
        """Indices of the points that are correct and that no check has broken."""
        return self.correct[~self.broken[self.correct]]

    @cached_property
    def single_runs(self) -> dict[str, Attacked]:
        """APGD with the model's own gradient on the points of ``correct``, by loss, from one start each."""
        return {name: self.attack(self.correct, Run(name, loss)) for name, loss in self.losses.items()}

    @cached_property
    def white_box(self) -> dict[str, Attacked]:
        """The same from all starts, and targeted attacks; together the yardstick for other attacks."""
        attacks = {}
        for name, first in self.single_runs.items():
            runs = (Run(name, self.losses[name], restart=i) for i in range(1, self.budget.restarts))
            attacks[name] = self.in_turn(self.correct, runs, first)
        return attacks | {"targeted": self.targeted(self.correct, "targeted")}

    @property
    def white_box_found(self) -> Tensor:
        """Which points of ``correct`` the white box broke."""
        return torch.stack([attacked.found for attacked in self.white_box.values()]).any(dim=0)

    @property
    def left(self) -> Tensor:
        """Indices of the points that neither the white box nor the recorded attacks, if there are any, broke."""
        points = self.correct[~self.white_box_found]
        if self.recorded is None:
            return points
        return points[torch.from_numpy(self.recorded.standing).to(self.device)[points]]

    def attack(self, points: Tensor, run: Run) -> Attacked:
        """A run on the examples of these indices (N,); at the subject's eps its finds go into the ledger."""
        eps, steps = self.threat.eps if run.eps is None else run.eps, run.steps or self.budget.steps
        attacked, targets = Attacked.nothing(self.images[points], steps + 1), run.targets
        classes = self.labels[points] if targets is None else targets

        def loss(output: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
            return run.loss(output, labels, classes[rows])

        def fooled(asked: Tensor, said: Tensor, state: State) -> Tensor:
            output, rows = said, state.targets
            if run.judge is None and run.view is not None:
                with torch.no_grad():
                    output = self.model(asked)
                self.spend(len(asked))
            attacked.meet(rows, margin(output, state.labels).nan_to_num(nan=torch.inf))
            return misclassified(output, state.labels) if run.judge is None else run.judge(asked, said, points[rows])

        def watch(rows: Tensor, state: APGDState) -> None:
            attacked.history[state.targets, int(state.iteration[0]) - 1 :] = state.best_loss[:, None]
            self.spend(2 * len(rows))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnitsWarning)  # a large radius is meant
            threat = ThreatModel(self.threat.norm, eps)
        apgd = APGD(run.name, threat, loss, steps=steps, fooled=fooled)
        self._in_batches(apgd, run, points, attacked, watch)
        return self.enter(points, attacked) if run.judge is None and eps == self.threat.eps else attacked

    def square(self, points: Tensor) -> Attacked:
        """The Square attack; what it finds goes into the ledger."""
        queries, shape = self.budget.queries, tuple(self.images.shape[1:])
        draws = KeyedSquares(self.seed, "square", shape, self.threat, self.device, queries)  # type: ignore[arg-type]
        attacked = Attacked.nothing(self.images[points], queries + 1)

        def watch(rows: Tensor, state: SquareState) -> None:
            attacked.meet(state.targets, state.best_margin)
            self.spend(len(rows))

        square = Square(self.threat, draws, queries=queries)
        self._in_batches(square, Run("square", cross_entropy), points, attacked, watch)
        return self.enter(points, attacked)

    def _in_batches(
        self, attack: Attack[Any], run: Run, points: Tensor, attacked: Attacked, watch: Callable[[Tensor, Any], None]
    ) -> None:
        """Carry out an attack, or recall from the journal what it did; what it did is written into ``attacked``."""
        view = run.view or self.model
        for rows in batches(torch.arange(len(points), device=self.device), self.batch_size):
            keys = run_keys(self.seed, run.name, run.restart, points[rows].cpu()).to(self.device)
            state = attack.start(self.images[points[rows]], self.labels[points[rows]], rows, keys)
            begun, passes = time.perf_counter(), self.passes
            name = f"{self.check} {run.name} {run.eps} {attack.length}"
            known = self.journal.recall(name, state, attacked.tensors(rows)) if self.journal else None
            if known is not None:
                attacked.put(rows, known[0])
                self.spend(known[1])
                self.recalled_seconds += known[2]
                continue
            end = advance(attack, state, lambda x: with_finite_gradient(view, x), stop=run.stop, watch=watch)
            attacked.find(rows, end.found, end.adversarials)
            if self.journal:
                self.journal.keep(attacked.tensors(rows), self.passes - passes, time.perf_counter() - begun)

    def in_turn(self, points: Tensor, runs: Iterable[Run], first: Attacked | None = None) -> Attacked:
        """Each run on the points that those before it left; the history is the first one's.

        Args:
            first: what an attack did before them.
        """
        attacked = first
        for run in runs:
            if attacked is None:
                attacked = self.attack(points, run)
            else:
                left = attacked.left
                attacked = attacked.followed_by(self.attack(points[left], run.of(left)), left)
        return attacked or Attacked.nothing(self.images[points], 0)

    def targeted(self, points: Tensor, name: str, steps: int | None = None) -> Attacked:
        """APGD toward the likeliest wrong classes, one after the other on the points that are left."""
        wrong = rank_classes(self.clean_logits[points], self.labels[points])
        return self.toward(points, wrong[:, :TARGETS], name, steps)

    def toward(self, points: Tensor, classes: Tensor, name: str, steps: int | None = None) -> Attacked:
        """APGD on the gap to each of some wrong classes, (N, K), one after the other on the points that are left."""
        columns = enumerate(classes.unbind(dim=1))
        return self.in_turn(points, (Run(f"{name} {k}", target_gap, steps=steps, targets=c) for k, c in columns))

    def candidates(self, points: Tensor, images: Tensor) -> Attacked:
        """Given points of the ball, one for each example; those that are misclassified go into the ledger."""
        attacked = Attacked.nothing(images, 0)
        attacked.found[:] = True
        return self.enter(points, attacked)

    def enter(self, points: Tensor, attacked: Attacked) -> Attacked:
        """Enter what an attack in the ball found into the ledger; return it without what the model does not confirm.

        It is asked in batches of the one size in which all verdicts are made.
        """
        found = attacked.found.clone()
        if bool(found.any()):
            found[attacked.found] = self.fooled(attacked.adversarials[found], self.labels[points[found]])
        kept = torch.where(found.view(-1, 1, 1, 1), attacked.adversarials, self.images[points])
        new = found & ~self.broken[points]
        self.broken[points[new]] = True
        self.adversarials[points[new]] = kept[new]
        self.broken_by[points[new].cpu().numpy()] = self.check
        return replace(attacked, found=found, adversarials=kept)

    def noise(self, points: Tensor, number: int, *, on_the_surface: bool = False) -> Tensor:
        """A random point of each example's ball and of the box.

        Uniform in the l_inf ball; uniform in direction and radius in the l_2 ball. On the surface: a corner, or
        uniform in direction.
        """
        keys = run_keys(self.seed, "noise", number, points.cpu()).to(self.device)
        drawn = noise_of(self.threat, keys, self.images)
        if self.threat.is_linf:
            away = drawn.sign() if on_the_surface else drawn
        else:
            length = 1.0 if on_the_surface else 0.5 + 0.5 * uniform_images(keys, (1, 1, 1))
            away = length * drawn / l2_norm(drawn)
        return (self.images[points] + self.threat.eps * away).clamp(0.0, 1.0)

    @cached_property
    def double(self) -> nn.Module | str:
        """The model in float64, or why there is none."""
        try:
            model = copy.deepcopy(self.model).double().requires_grad_(False)
            with torch.no_grad():
                logits = model(self.images[:1].double())
        except (RuntimeError, TypeError, ValueError) as error:
            return f"the model does not compute in float64 ({type(error).__name__}: {str(error).splitlines()[0]})"
        if logits.dtype != torch.float64:
            return f"the model answers in {str(logits.dtype).removeprefix('torch.')} when asked in float64"
        return model


def with_finite_gradient(model: Model, points: Tensor) -> Tensor:
    """The model's output; a gradient that is not finite counts as zero there, so that the attack goes on."""
    if points.requires_grad:
        points = points.view_as(points)
        points.register_hook(lambda gradient: gradient.nan_to_num(0.0, 0.0, 0.0))
    return model(points)


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool, the largest logit is another one than the label's and none is NaN."""
    return (logits.argmax(dim=1) != labels) & ~logits.isnan().any(dim=1)


def scaled_cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross-entropy, (N,), of logits divided by the gap between the largest two, where that is above 1.

    However confident the net, the softmax does not saturate ([GA20] scales logits in this way).
    """
    largest = logits.detach().topk(2, dim=1).values
    return cross_entropy(logits / (largest[:, :1] - largest[:, 1:]).clamp(min=1.0), labels)
