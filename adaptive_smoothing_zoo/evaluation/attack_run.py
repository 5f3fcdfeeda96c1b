"""The run of one evaluation: stage by stage, chunk by chunk, with the model as judge."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.reference import ReferenceEngine
from adaptive_smoothing_zoo.attacks.catalogue import entry_of
from adaptive_smoothing_zoo.attacks.contract import batches
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.attacks.verify import (
    check_adversarials,
    count_classes,
    gives_probabilities,
    heeds_company,
    on_the_border,
    predict,
)
from adaptive_smoothing_zoo.backbones.asking import original, run_base_net
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import EvaluationError, ResultsError
from adaptive_smoothing_zoo.evaluation.evaluation_state import CHUNK, chunk_entry, snapshot_of
from adaptive_smoothing_zoo.evaluation.ledger import CLEAN, VERIFIED, Chunk, Ledger, joined
from adaptive_smoothing_zoo.machine.devices import is_out_of_memory
from adaptive_smoothing_zoo.method.classifier import is_mix
from adaptive_smoothing_zoo.storage.bound_state import BoundState
from adaptive_smoothing_zoo.storage.pace import Keeper
from adaptive_smoothing_zoo.threat import ThreatModel

T = TypeVar("T")

_CLEAN_PASSES = 5  # forward-equivalents that the stage before the attacks spends on a point

HEEDS_COMPANY = (
    "The outputs for an image depend on the other images in its batch, so the verdicts hold in these batches alone; "
    "make the model treat each image by itself"
)

ENGINES: dict[str, type[ReferenceEngine] | type[Search]] = {"reference": ReferenceEngine, "fast": Search}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a run.

    Attributes:
        attack: the running attack, "clean" before and "verified" after all attacks.
        done, total: finished points of this attack, and all its points.
        robust: points of the whole run that are robust so far.
        passes_done, passes_left: forward-equivalents spent, and remaining if every robust point stays robust.
        passes_before: forward-equivalents spent before this process started, to be excluded from its speed.
        is_standard: whether the protocol is RobustBench's.
        warnings: warnings of the checks of the model, AutoAttack's and ours, once they have run.
    """

    attack: str
    done: int
    total: int
    robust: int
    passes_done: int
    passes_left: int
    passes_before: int
    is_standard: bool = True
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """The task of an evaluation.

    Attributes:
        images, labels: all data, on the CPU.
        threat: the ball.
        settings: complete, with a batch size.
        device: where to compute.
        robust: (N,) bool, verdicts to start from, which the model must confirm; if None, clean accuracy is measured.
        surrogate: prepared like the model, for attacks through it.
    """

    images: Tensor
    labels: Tensor
    threat: ThreatModel
    settings: AttackSettings
    device: torch.device
    robust: Tensor | None = None
    surrogate: nn.Module | None = None


class Run:
    """Runs an evaluation from the results in its ledger to the end.

    Args:
        model: on the device, in eval mode, frozen.
        task: data, threat model and settings.
        ledger: results so far; extended during the run.
        state: where finished chunks are stored; None to store nothing.
        flush_seconds: time between two writes of chunks.
        on_progress: called after each batch, and twice a second inside one.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        ledger: Ledger,
        state: BoundState | None,
        *,
        flush_seconds: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.task, self.ledger, self.state = model, task, ledger, state
        self.images, self.labels, self.threat = task.images, task.labels, task.threat
        self.settings, self.device = task.settings, task.device
        self.on_progress = on_progress or (lambda progress: None)
        self.remarks: list[str] = []
        self.num_classes = self._count_classes()
        self.engine = self._make_engine()
        self._stage = CLEAN
        self._found: list[Chunk] = []  # results of the stage that are not yet written
        self._keeper = Keeper(write=self._keep, report=self._report, kept=self._what_is_kept, seconds=flush_seconds)
        self._since = time.perf_counter()  # start of the time not yet recorded in a chunk
        self._owed = False  # the engine has yielded points that are not recorded yet
        self._before = sum(self._passes(stage) * int(done.sum()) for stage, done in ledger.done.items())
        self._spent = 0  # forward-equivalents in this process, without those of the engine

    @property
    def batch_size(self) -> int:
        """Maximal number of points per batch, after reductions for lack of memory."""
        return self.settings.batch_size or 1

    def _passes(self, stage: str) -> int:
        """Forward-equivalents that a stage spends on a point that stays robust."""
        if stage == VERIFIED:
            return 0
        if stage == CLEAN:
            return _CLEAN_PASSES
        return entry_of(stage).passes(self.settings.plan(stage), self.num_classes)

    def go(self) -> None:
        """Run all unfinished stages."""
        for stage in self.ledger.stages:
            self._stage, self._since = stage, time.perf_counter()
            # A ball of radius zero contains only the image.
            if len(self._left()) and not (self._attacks_now and self.threat.eps == 0):
                self._keeper.report()
                clean = self._classify if self.task.robust is None else self._confirm
                work = {CLEAN: clean, VERIFIED: self._verify}.get(stage, self._attack)
                with self._keeper.at_work():
                    self._smaller_until_it_fits(work)
        self._keeper.report()

    @property
    def _attacks_now(self) -> bool:
        return self._stage not in (CLEAN, VERIFIED)

    @property
    def _running(self) -> str:
        """Name of the state's file with the progress of the running attack."""
        return f"running-{self._stage}"

    def _confirm(self) -> None:
        """Check that the model is right at the points that the initial verdicts call robust."""
        assert self.task.robust is not None
        for indices in batches(self._left(), self.batch_size):
            held = self.task.robust[indices]
            points = indices[held]
            wrong = self._predict(self.images[points]) != self.labels[points]
            if bool(wrong.any()):
                raise EvaluationError(
                    f"the model misclassifies image {int(points[wrong][0])} without an attack, but the standard "
                    "evaluation calls it robust; the evaluation belongs to another model or to other examples"
                )
            self._spend(len(points))
            self._note(indices, held)
            self._keeper.beat()
        self._flush()

    def _classify(self) -> None:
        """Measure clean accuracy, whether outputs are deterministic, and run AutoAttack's own checks and ours."""
        for indices in batches(left := self._left(), self.batch_size):
            held = self._predict(self.images[indices]) == self.labels[indices]
            self._spend(len(indices))
            deterministic = self._is_deterministic(indices)
            self._spend(2 * len(indices))
            self._check_gradients(indices[held])
            self._spend((_CLEAN_PASSES - 3) * len(indices))
            self._note(indices[indices != left[-1]], held[indices != left[-1]], deterministic=deterministic)
            self._keeper.beat()
        self._flush()
        # The checks use the first images of all data, so every shard gets the same result. They are recorded with the
        # last point, so the stage is not complete without them.
        warnings = self.engine.check(self.images, self.labels, self._keeper.pulse)
        if heeds_company(self.model, self.images[: self.batch_size], self.device):
            warnings = (*warnings, HEEDS_COMPANY)
        warnings = (*warnings, *self._softmaxes())
        self._note(left[-1:], held[-1:], deterministic=deterministic, warnings=warnings)
        self._flush()

    def _softmaxes(self) -> list[str]:
        """A warning for each net of a mix that gives probabilities, which the mix would put through a softmax again."""
        model = original(self.model)
        nets = {"std_model": model.std_model, "rob_model": model.rob_model} if is_mix(model) else {}
        return [
            f"{name} returns probabilities, where a mix takes logits; let it return their logarithm"
            for name, net in nets.items()
            if gives_probabilities(partial(_logits_of, net), self.images, self.device)
        ]

    def _spend(self, passes: int) -> None:
        self._spent += passes
        self._keeper.pulse()

    def _attack(self) -> None:
        """Run one attack on the robust points; the model decides which candidates are adversarial."""
        known = None if self.state is None else self.state.read(self._running, snapshot_of)
        if known is not None:
            self._resume(*known)
        if len(self._left()):
            self._carry_out(self._begin())
        if left := len(self._left()):
            raise EvaluationError(f"the engine left {left} points without {self._stage}; they would count as robust")
        if self.state is not None:
            self.state.drop(self._running)

    def _resume(self, snapshot: dict[str, Tensor], seconds: float) -> None:
        """Resume the attack from its snapshot; start it again if the snapshot does not fit."""
        assert self.state is not None
        try:
            attack = self._begin(snapshot)
        except ResultsError as error:
            self.state.drop(self._running, error)
            return
        self._since -= seconds
        self._before += int(self._passes(self._stage) * self.engine.underway())
        self._carry_out(attack)

    def _begin(self, snapshot: dict[str, Tensor] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        points = self._points()
        images, labels, done = self.images[points], self.labels[points], self.ledger.done[self._stage][points]
        return self.engine.attack(self._stage, images, labels, points, done, snapshot=snapshot, beat=self._keeper.beat)

    def _carry_out(self, attack: Iterator[tuple[Tensor, Tensor]]) -> None:
        points, done = self._points(), self.ledger.done[self._stage]
        for positions, candidates in attack:
            self._owed = True
            new = ~done[points[positions]]
            if bool(new.any()):
                self._judge(points[positions[new]], candidates[new])
            self._owed = False
            self._keeper.report()
            self._keeper.beat()
        self._flush()

    def _verify(self) -> None:
        """Check every adversarial example again, as it will be stored."""
        todo = self._left()
        fell = (self.ledger.correct & ~self.ledger.standing())[todo]
        for indices in batches(todo[fell], self.batch_size):
            adversarials = self.ledger.adversarials[indices]
            check_adversarials(self.images[indices], adversarials, indices, self.threat)
            held = self._predict(adversarials) == self.labels[indices]
            if bool(held.any()) and not self.settings.averages:  # otherwise one pass has decided
                self._check_flips(indices[held], adversarials[held])
            self._note(indices, torch.ones_like(held))
            self._keeper.beat()
        self._note(todo[~fell], torch.ones(int((~fell).sum()), dtype=torch.bool))
        self._flush()

    def _check_flips(self, indices: Tensor, adversarials: Tensor) -> None:
        """Check that these adversarial examples, now classified correctly, flip only with the batch's size.

        Kernels for another size round differently. Where that decides, the point stays misclassified.
        """
        near = on_the_border(self.model, adversarials, self.labels[indices], self.batch_size, self.device)
        first = indices[near.int().argmin()]  # one that is not near, if any
        if self.ledger.deterministic and bool(near.all()):
            return
        raise EvaluationError(
            f"the adversarial example for image {int(first)} no longer changes its label when it is classified again; "
            "the model's outputs vary from pass to pass, or with the other images of the batch, so its robust accuracy "
            "would not be a valid number; for a randomized net use AttackSettings.version('rand') (asz eval --version "
            "rand)"
        )

    def _points(self) -> Tensor:
        """The points of the stage."""
        return self.ledger.points_of(self._stage)

    def _left(self) -> Tensor:
        """The unfinished points of the stage."""
        return self.ledger.left(self._stage)

    def _note(self, indices: Tensor, held: Tensor, adversarials: Tensor | None = None, **about: Any) -> None:
        """Record that the stage has finished these points."""
        flat = sorted(set(indices.tolist()) & self.engine.flat.get(self._stage, set()))
        self._found.append(
            Chunk(
                stage=self._stage,
                indices=indices,
                held=held,
                adversarials=self.images[:0] if adversarials is None else adversarials,
                flat=torch.tensor(flat, dtype=torch.int64),
                batch_size=self.batch_size if self._stage == VERIFIED else 0,
                **about,
            )
        )

    def _keep(self) -> bool:
        """Write finished points first, then the attack's snapshot, so that an interruption in between loses nothing."""
        self._flush()
        if not self._attacks_now:
            return True
        snapshot = None if self._owed else self.engine.snapshot()
        if self.state is not None and snapshot is not None:
            self.state.replace(self._running, snapshot, {"seconds": time.perf_counter() - self._since})
        return snapshot is not None

    def _flush(self) -> None:
        """Add new results to the ledger and to the state."""
        if not self._found:
            return
        chunk = replace(joined(self._found), remarks=tuple(self.remarks))
        now = time.perf_counter()
        if self._attacks_now:
            chunk = replace(chunk, seconds=now - self._since, warnings=self.engine.warnings(self._stage))
        if self.state is not None:
            self.state.append(CHUNK, *chunk_entry(chunk))
        self.ledger.add(chunk)
        self._found, self._since = [], now

    def _what_is_kept(self, lost: float) -> str:
        if self.state is None:
            return ""
        points = self._points()
        done, total = int(self.ledger.done[self._stage][points].sum()), len(points)
        decided = f"{self._stage}: {done} of {total} points are finished"
        if self._attacks_now and not self.engine.resumes_inside:
            return (
                f"{decided} and saved; {self.engine.name} cannot resume inside a batch, so {lost:.0f} s of work on the "
                "current batch are lost"
            )
        return f"{decided}; all work is saved except for the last {lost:.1f} s"

    def _judge(self, indices: Tensor, candidates: Tensor) -> None:
        """Classify the candidates and record which points are robust."""
        lost = ~torch.isfinite(candidates).flatten(1).all(dim=1)
        if bool(lost.any()):
            raise EvaluationError(
                f"{self._stage} ended at a point that is not finite for image {int(indices[lost][0])}: the model's "
                "gradient or output overflows there, and AutoAttack would count the image as robust; make the head "
                "stable"
            )
        candidates = self.threat.without_rounding(self.images[indices], candidates)
        held = self._predict(candidates) == self.labels[indices]
        check_adversarials(self.images[indices[~held]], candidates[~held], indices[~held], self.threat)
        self._note(indices, held, candidates[~held])
        if not self.engine.resumes_inside:
            self._keeper.safe_until = time.perf_counter()  # written at the end at the latest

    def _smaller_until_it_fits(self, work: Callable[[], T]) -> T:
        """Do some work; if memory runs out, halve the batch size, with a remark, and try again."""
        while True:
            try:
                return work()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.batch_size == 1:
                    raise
            self._keeper.write()
            self.settings = replace(self.settings, batch_size=self.batch_size // 2)
            self.remarks.append(f"memory ran out; the batch size was halved to {self.batch_size}")
            self._spent += self.engine.spent()
            self.engine = self._make_engine()
            gc.collect()  # runs and engine refer to each other and would keep the memory of the failed attempt
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _make_engine(self) -> ReferenceEngine | Search:
        return ENGINES[self.settings.engine](
            self.model,
            self.threat,
            self.settings,
            num_classes=self.num_classes,
            device=self.device,
            surrogate=self.task.surrogate,
        )

    def _predict(self, images: Tensor) -> Tensor:
        return predict(self.model, images, self.batch_size, self.device)

    def _count_classes(self) -> int:
        classes = count_classes(self.model, self.images, self.device)
        check_examples(self.images, self.labels, classes)
        return classes

    def _check_gradients(self, correct: Tensor) -> None:
        """Reject a model whose gradient overflows: AutoAttack would not move and would call the points robust."""
        for indices in batches(correct, self.batch_size):
            points = self.images[indices].to(self.device).requires_grad_()
            loss = F.cross_entropy(self.model(points), self.labels[indices].to(self.device), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, points)
            lost = ~torch.isfinite(gradient).flatten(1).all(dim=1).cpu()
            if bool(lost.any()):
                raise EvaluationError(
                    f"the gradient of the cross-entropy is not finite at image {int(indices[lost][0])}; attacks that "
                    "use it would fail there, and the image would wrongly count as robust; make the "
                    "model's head stable"
                )

    @torch.no_grad()
    def _is_deterministic(self, points: Tensor) -> bool:
        images = self.images[points].to(self.device)
        return torch.equal(self.model(images), self.model(images))

    def _report(self) -> None:
        stage, points, pending = self._stage, self._points(), sum(len(chunk.indices) for chunk in self._found)
        hopeful = self.ledger.standing() | ~self.ledger.done[CLEAN]
        robust = int(hopeful[self.ledger.points].sum())
        done = int(self.ledger.done[stage][points].sum()) + pending
        left = max(0.0, len(points) - done - self.engine.underway())
        later = self.ledger.stages[self.ledger.stages.index(stage) + 1 :]
        attacked = self.ledger.correct | ~self.ledger.done[CLEAN] if self.settings.individual else hopeful
        to_come = int(attacked[self.ledger.points].sum())
        self.on_progress(
            Progress(
                attack=stage,
                done=done,
                total=len(points),
                robust=robust,
                passes_done=self._before + self._spent + self.engine.spent(),
                passes_left=int(self._passes(stage) * left) + to_come * sum(map(self._passes, later)),
                passes_before=self._before,
                is_standard=self.settings.is_standard or self.task.robust is not None,
                warnings=self.ledger.said(CLEAN),
            )
        )


def _logits_of(net: nn.Module, images: Tensor) -> Tensor:
    return run_base_net(net, images, None)[0]
