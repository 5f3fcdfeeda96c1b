"""The net under validation, the attacks that checks make on it, and what these have broken."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD
from adaptive_smoothing_zoo.attacks.autoattack.square import Square
from adaptive_smoothing_zoo.attacks.autoattack.square_draws import KeyedSquares
from adaptive_smoothing_zoo.attacks.contract import State
from adaptive_smoothing_zoo.attacks.losses import (
    LOSSES,
    Loss,
    Model,
    TargetedLoss,
    cross_entropy,
    margin,
    rank_classes,
    target_gap,
)
from adaptive_smoothing_zoo.attacks.random_streams import noise_of, run_keys, uniform_images
from adaptive_smoothing_zoo.threat import ThreatModel, l2_norm
from adaptive_smoothing_zoo.validation.validation_journal import BatchOutcome, Journal

# Points asked about, what the differentiated model said, and their rows among the points attacked -> found (N,).
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


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What an attack did to some points.

    Attributes:
        found: (N,) bool.
        adversarials: (N, channels, H, W), the first point found, or the image itself.
        history: (steps + 1, N) the highest loss so far; a run that ended stays at its last. Empty for Square.
        margins: (N,) the lowest margin of the model's output met on the way.
    """

    found: Tensor
    adversarials: Tensor
    history: Tensor
    margins: Tensor

    def joined_by(self, other: Attacked, rows: Tensor) -> Attacked:
        """This attack and then another one on some rows; the history stays this one's."""
        found, adversarials, margins = self.found.clone(), self.adversarials.clone(), self.margins.clone()
        found[rows] |= other.found
        adversarials[rows[other.found]] = other.adversarials[other.found]
        margins[rows] = torch.minimum(margins[rows], other.margins)
        return Attacked(found=found, adversarials=adversarials, history=self.history, margins=margins)


class Subject:
    """A model with examples, and a ledger.

    Args:
        model: images to logits (N, C), in eval mode, frozen, on ``device``.
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        threat: the ball.
        seed: of everything drawn.
        batch_size: most points in one pass.
        device: where to compute.
        budget: see :class:`Budget`.
        recorded: a recorded evaluation of these points, if there is one.

    Attributes:
        journal: keeps what attacks find, and knows it again after an interruption; None for nothing.
        passes: forward-equivalents spent so far, counted in images; a gradient costs as much as a forward pass.
        recalled_seconds: what the attacks took that were made before an interruption.
        on_pass: called when passes are spent.
        check: name of the check that runs.
        broken: (N,) bool, an attack of some check found a misclassified point in the ball of radius eps.
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
        *,
        threat: ThreatModel,
        seed: int,
        batch_size: int,
        device: torch.device,
        budget: Budget,
        recorded: RecordedRun | None = None,
    ) -> None:
        self.model, self.threat, self.seed = model, threat, seed
        self.images, self.labels = images.to(device).contiguous(), labels.to(device)
        self.batch_size, self.device, self.budget, self.recorded = batch_size, device, budget, recorded
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

    @property
    def norm(self) -> str:
        return self.threat.norm

    @property
    def eps(self) -> float:
        return self.threat.eps

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
        return {name: self.apgd(self.correct, loss, name=name) for name, loss in self.losses.items()}

    @cached_property
    def white_box(self) -> dict[str, Attacked]:
        """The same from all starts, and targeted attacks; together the yardstick for other attacks."""
        attacks = {name: self._restarted(name, attacked) for name, attacked in self.single_runs.items()}
        return attacks | {"targeted": self.targeted(self.correct, name="targeted")}

    def _restarted(self, name: str, first: Attacked) -> Attacked:
        """A single run of a loss on the points of ``correct``, and its further starts on what each one left."""
        attacked = first
        for restart in range(1, self.budget.restarts):
            left = (~attacked.found).nonzero().squeeze(1)
            again = self.apgd(self.correct[left], self.losses[name], name=name, restart=restart)
            attacked = attacked.joined_by(again, left)
        return attacked

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

    def apgd(
        self,
        points: Tensor,
        loss: Loss | TargetedLoss,
        *,
        name: str,
        model: Model | None = None,
        judge: Judge | None = None,
        steps: int | None = None,
        eps: float | None = None,
        restart: int = 0,
        targets: Tensor | None = None,
        stop: bool = True,
    ) -> Attacked:
        """Auto-PGD from a random start; at the subject's eps, what it finds goes into the ledger.

        Args:
            points: (N,) indices of the examples to attack.
            loss: of an output and labels; of an output, labels and classes if ``targets`` are given.
            name: what the random start depends on, with the seed, ``restart`` and the indices.
            model: what to differentiate in place of the model.
            judge: what counts as found; the model's misclassification if not given.
            steps: the budget's if not given.
            eps: the subject's if not given.
            targets: (N,) classes.
            stop: end a run where it finds something.
        """
        steps, radius = steps or self.budget.steps, self.eps if eps is None else eps
        classes = self.labels[points] if targets is None else targets

        def row_loss(output: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
            return loss(output, labels) if targets is None else loss(output, labels, classes[rows])  # type: ignore[call-arg]

        attack = APGD(name, ThreatModel(self.norm, radius), row_loss, steps=steps)
        parts = []
        for rows in torch.arange(len(points), device=self.device).split(self.batch_size):
            chosen = points[rows]
            keys = run_keys(self.seed, name, restart, chosen.cpu()).to(self.device)
            state = attack.start(self.images[chosen], self.labels[chosen], rows, keys)
            parts.append(self._run(attack, state, steps + 1, model, judge, stop))
        attacked = _joined(parts, self.images[points], steps + 1)
        return self.enter(points, attacked) if judge is None and radius == self.eps else attacked

    def targeted(self, points: Tensor, *, name: str, steps: int | None = None) -> Attacked:
        """APGD toward the likeliest wrong classes, one after the other on the points that are left."""
        wrong = rank_classes(self.clean_logits[points], self.labels[points])
        return self.toward(points, wrong[:, :TARGETS], name=name, steps=steps)

    def toward(self, points: Tensor, classes: Tensor, *, name: str, steps: int | None = None) -> Attacked:
        """APGD on the gap to each of some wrong classes, (N, K), one after the other on the points that are left."""
        attacked = self.apgd(points, target_gap, name=f"{name} 0", steps=steps, targets=classes[:, 0])
        for rank in range(1, classes.shape[1]):
            left = (~attacked.found).nonzero().squeeze(1)
            run = self.apgd(points[left], target_gap, name=f"{name} {rank}", steps=steps, targets=classes[left, rank])
            attacked = attacked.joined_by(run, left)
        return attacked

    def square(self, points: Tensor) -> Attacked:
        """The Square attack; what it finds goes into the ledger."""
        queries, shape = self.budget.queries, tuple(self.images.shape[1:])
        squares = KeyedSquares(self.seed, "square", shape, self.threat, self.device, queries)  # type: ignore[arg-type]
        attack = Square(self.threat, squares, queries=queries)
        parts = []
        for rows in torch.arange(len(points), device=self.device).split(self.batch_size):
            chosen = points[rows]
            keys = run_keys(self.seed, "square", 0, chosen.cpu()).to(self.device)
            state = attack.start(self.images[chosen], self.labels[chosen], rows, keys)
            parts.append(self._run(attack, state, queries + 1, None, None, True))
        return self.enter(points, _joined(parts, self.images[points], queries + 1))

    def candidates(self, points: Tensor, images: Tensor) -> Attacked:
        """Given points of the ball, one for each example; those that are misclassified go into the ledger."""
        found = torch.ones(len(points), dtype=torch.bool, device=self.device)
        nothing = torch.empty(0, len(points), device=self.device)
        return self.enter(points, Attacked(found=found, adversarials=images, history=nothing, margins=found * 0.0))

    def _run(
        self, attack: Any, state: Any, rounds: int, model: Model | None, judge: Judge | None, stop: bool
    ) -> list[Tensor]:
        """Rows of one batch, and for each whether it was found, where, its history and its lowest margin."""

        def begin() -> BatchOutcome:
            start, passes = time.perf_counter(), self.passes
            found, adversarials, history, margins = self._attack(attack, state, rounds, model, judge, stop)
            return BatchOutcome(
                found=found,
                adversarials=adversarials[found],
                history=history,
                margins=margins,
                passes=self.passes - passes,
                seconds=time.perf_counter() - start,
            )

        if self.journal is None:
            outcome = begin()
        else:
            name = f"{self.check} {attack.name} {attack.eps} {rounds}"
            outcome, known = self.journal.recall(name, state, begin)
            if known:
                self.recalled_seconds += outcome.seconds
                self.spend(outcome.passes)
        found, adversarials = outcome.found.to(self.device), state.images.clone()
        adversarials[found] = outcome.adversarials.to(self.device)
        history, margins = outcome.history.to(self.device), outcome.margins.to(self.device)
        return [state.targets.clone(), found, adversarials, history, margins]

    def _attack(
        self, attack: Any, state: Any, rounds: int, model: Model | None, judge: Judge | None, stop: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Found (N,), where (N, channels, H, W), history (N, rounds) and lowest margins (N,) of one batch."""
        n = len(state)
        found = torch.zeros(n, dtype=torch.bool, device=self.device)
        adversarials, margins = state.images.clone(), torch.full((n,), torch.inf, device=self.device)
        history = torch.full((rounds, n), torch.nan, device=self.device)
        left, differentiates = torch.arange(n, device=self.device), isinstance(attack, APGD)
        said: list[Tensor] = []
        for i in range(rounds):
            asked = state.points if differentiates else state.best
            attack.step(state, lambda points: self._noted(model or self.model, points, said))
            self.spend(len(left) * (2 if differentiates else 1))
            if differentiates:
                hit, margin_here = self._judged(asked, said.pop(), state, model, judge)
                history[i:, left] = state.best_loss
            else:
                said.clear()
                asked, hit, margin_here = state.adversarials, state.found, state.best_margin
            margins[left] = torch.minimum(margins[left], margin_here)
            new = hit & ~found[left]
            adversarials[left[new]], found[left[new]] = asked[new], True
            if stop and bool(hit.any()):
                left, state = left[~hit], state.select(~hit)
                if len(left) == 0:
                    break
        return found, adversarials, history.T, margins

    def _judged(
        self, points: Tensor, said: Tensor, state: State, model: Model | None, judge: Judge | None
    ) -> tuple[Tensor, Tensor]:
        """What is found at the points just asked about, and the margin there."""
        output = said
        if judge is None and model is not None:
            with torch.no_grad():
                output = self.model(points)
            self.spend(len(points))
        found = misclassified(output, state.labels) if judge is None else judge(points, said, state.targets)
        return found, margin(output, state.labels).nan_to_num(nan=torch.inf)

    @staticmethod
    def _noted(model: Model, points: Tensor, said: list[Tensor]) -> Tensor:
        output = with_finite_gradient(model, points)
        said.append(output.detach())
        return output

    def enter(self, points: Tensor, attacked: Attacked) -> Attacked:
        """Enter what an attack in the ball found into the ledger; return it without what the model does not confirm.

        It is asked in batches of the one size in which all verdicts are made.
        """
        found = attacked.found.clone()
        held = self.fooled(attacked.adversarials[found], self.labels[points[found]]) if bool(found.any()) else found[:0]
        found[found.clone()] = held
        kept = torch.where(found.view(-1, 1, 1, 1), attacked.adversarials, self.images[points])
        new = found & ~self.broken[points]
        self.broken[points[new]] = True
        self.adversarials[points[new]] = kept[new]
        self.broken_by[points[new].cpu().numpy()] = self.check
        return Attacked(found=found, adversarials=kept, history=attacked.history, margins=attacked.margins)

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
        return (self.images[points] + self.eps * away).clamp(0.0, 1.0)

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


def scaled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, (N,), of logits divided by the gap between the largest two, where that is above 1.

    However confident the net, the softmax does not saturate (as Gupta and Ajanthan, arXiv:2003.13511, scale logits).
    """
    largest = logits.detach().topk(2, dim=1).values
    return cross_entropy(logits / (largest[:, :1] - largest[:, 1:]).clamp(min=1.0), labels)


def _joined(parts: list[list[Tensor]], images: Tensor, rounds: int) -> Attacked:
    """The batches of an attack, one after the other."""
    if not parts or len(images) == 0:
        none = torch.zeros(0, device=images.device)
        history = torch.zeros(rounds, 0, device=images.device)
        return Attacked(found=none.bool(), adversarials=images, history=history, margins=none)
    _, found, adversarials, history, margins = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Attacked(found=found, adversarials=adversarials, history=history.T, margins=margins)
