"""One evaluation at work: stage after stage, chunk after chunk, the model as judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.fast import FastEngine
from adaptive_smoothing_zoo.attacks.reference import (
    PASSES,
    STANDARD_ATTACKS,
    ReferenceEngine,
    collect_warnings,
)
from adaptive_smoothing_zoo.attacks.verify import check_adversarials, count_classes, predict
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.devices import is_out_of_memory
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.evaluation.ledger import CLEAN, VERIFIED, Chunk, Ledger
from adaptive_smoothing_zoo.evaluation.state import RunState, empty_images

T = TypeVar("T")

ENGINES: dict[str, type[ReferenceEngine] | type[FastEngine]] = {"reference": ReferenceEngine, "fast": FastEngine}


class Engine(Protocol):
    """What carries out the attacks. It proposes; the run decides.

    Attributes:
        name: with its version, for the record.
        flat: by attack, indices of points at which it began with a gradient of zero.
    """

    name: str
    flat: dict[str, set[int]]

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Look for reasons to distrust attacks on this model; warn of them."""

    def attack(
        self, name: str, images: Tensor, labels: Tensor, indices: Tensor, done: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Attack the points that are not ``done``; yield (positions among all, candidates) as they are finished.

        ``indices`` are the points' places in the whole data set, for random numbers that are to belong to a point.
        ``done`` points are given because the company of a point may decide its random numbers, too.
        """


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands.

    Attributes:
        attack: the attack that runs, or "clean".
        done, total: points of this attack that are finished, and all of them.
        robust: points of the whole run that nothing has broken so far.
        passes_done, passes_left: forward-equivalents spent, and still to spend if every robust point stays so.
    """

    attack: str
    done: int
    total: int
    robust: int
    passes_done: int
    passes_left: int


class Run:
    """Carries an evaluation from what its ledger knows to its end.

    Args:
        model: ready: on the device, in eval mode, frozen.
        images, labels: all the data, on the CPU.
        ledger: what is known; it grows.
        state: where finished chunks are kept; nowhere if None.
        flush_seconds: a chunk is written when this much time has passed since the last one.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        norm: str,
        eps: float,
        seed: int,
        batch_size: int,
        device: torch.device,
        engine: str,
        ledger: Ledger,
        state: RunState | None,
        flush_seconds: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.images, self.labels = model, images, labels
        self.norm, self.eps, self.seed, self.batch_size, self.device = norm, eps, seed, batch_size, device
        self.ledger, self.state, self.flush_seconds = ledger, state, flush_seconds
        self.on_progress = on_progress or (lambda progress: None)
        self.remarks: list[str] = []
        self.num_classes = self._count_classes()
        self._engine_name = engine
        self.engine = self._make_engine()
        self.passes_done = sum(PASSES[attack] * int(ledger.done[attack].sum()) for attack in STANDARD_ATTACKS)

    def go(self) -> None:
        """All stages that are not done."""
        if not self.ledger.done[CLEAN][self.ledger.points].all():
            self._smaller_until_it_fits(self._classify)
        self._report(CLEAN)
        for attack in STANDARD_ATTACKS:
            self._smaller_until_it_fits(lambda attack=attack: self._attack(attack))  # type: ignore[misc]
            self._report(attack)
        if not self.ledger.is_finished():
            self._smaller_until_it_fits(self._verify)

    def _classify(self) -> None:
        """Clean accuracy, whether the model answers the same twice, and AutoAttack's own checks."""
        points = self.ledger.points
        with collect_warnings() as warnings:
            held = self._predict(self.images[points]) == self.labels[points]
            deterministic = self._is_deterministic(points)
            self._check_gradients(points[held])
            # On the first images of all the data, so that every shard says the same.
            self.engine.check(self.images, self.labels)
        self._add(
            Chunk(
                stage=CLEAN,
                indices=points,
                held=held,
                adversarials=empty_images(self.images),
                deterministic=deterministic,
                warnings=tuple(warnings),
                remarks=tuple(self.remarks),
            )
        )

    def _attack(self, name: str) -> None:
        """One attack on the points that stand; the model decides which candidates broke theirs."""
        points = self.ledger.points[self.ledger.standing(name)[self.ledger.points]]
        done = self.ledger.done[name][points]
        # A ball of radius zero holds nothing but the image itself.
        if len(points) == 0 or self.eps == 0 or bool(done.all()):
            return
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        begin = time.perf_counter()
        with collect_warnings() as warnings:

            def flush() -> None:
                nonlocal begin
                if found:
                    self._add(self._chunk(name, found, warnings, time.perf_counter() - begin))
                    found.clear()
                begin = time.perf_counter()

            try:
                attacks = self.engine.attack(name, self.images[points], self.labels[points], points, done)
                for positions, candidates in attacks:
                    found.append(self._judge(name, points[positions], candidates))
                    self.passes_done += PASSES[name] * len(positions)
                    if time.perf_counter() - begin >= self.flush_seconds:
                        flush()
                    self._report(name, len(points), sum(len(indices) for indices, _, _ in found))
            finally:
                flush()
        if left := int((~self.ledger.done[name][points]).sum()):
            raise EvaluationError(f"the engine left {left} points without {name}; they would count as robust")

    def _chunk(
        self, name: str, found: list[tuple[Tensor, Tensor, Tensor]], warnings: list[str], seconds: float
    ) -> Chunk:
        indices, held, adversarials = (torch.cat(parts) for parts in zip(*found, strict=True))
        flat = sorted(set(indices.tolist()) & self.engine.flat.get(name, set()))
        return Chunk(
            stage=name,
            indices=indices,
            held=held,
            adversarials=adversarials,
            flat=torch.tensor(flat, dtype=torch.int64),
            seconds=seconds,
            warnings=tuple(warnings),
            remarks=tuple(self.remarks),
        )

    def _verify(self) -> None:
        """Check every adversarial example once more, all of them together, from what will be stored."""
        points = self.ledger.points
        fallen = points[(self.ledger.correct & ~self.ledger.standing())[points]]
        if len(fallen):
            adversarials = self.ledger.adversarials[fallen]
            check_adversarials(self.images[fallen], adversarials, fallen, self.norm, self.eps)
            held = self._predict(adversarials) == self.labels[fallen]
            if bool(held.any()):
                raise EvaluationError(
                    f"the adversarial example for image {int(fallen[held][0])} no longer changes its label when it is "
                    "classified again; the model does not answer the same twice, and its robust accuracy would not be "
                    "a number"
                )
        self._add(
            Chunk(
                stage=VERIFIED,
                indices=points,
                held=torch.ones(len(points), dtype=torch.bool),
                adversarials=empty_images(self.images),
                batch_size=self.batch_size,
                remarks=tuple(self.remarks),
            )
        )

    def _judge(self, name: str, indices: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The points, which of them held, and the adversarial examples of those that did not."""
        lost = ~torch.isfinite(candidates).flatten(1).all(dim=1)
        if bool(lost.any()):
            raise EvaluationError(
                f"{name} ended at a point that is not finite for image {int(indices[lost][0])}: the model's gradient "
                "or output overflows there, and AutoAttack would count the image as robust; make the head stable"
            )
        held = self._predict(candidates) == self.labels[indices]
        check_adversarials(self.images[indices[~held]], candidates[~held], indices[~held], self.norm, self.eps)
        return indices, held, candidates[~held]

    def _add(self, chunk: Chunk) -> None:
        if self.state is not None:
            self.state.add(chunk)
        self.ledger.add(chunk)

    def _smaller_until_it_fits(self, work: Callable[[], T]) -> T:
        """Do some work; where memory runs out, with batches of half the size, which is remarked."""
        while True:
            try:
                return work()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.batch_size == 1:
                    raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.batch_size //= 2
            self.remarks.append(f"memory ran out; the batch size was halved to {self.batch_size}")
            self.engine = self._make_engine()

    def _make_engine(self) -> Engine:
        return ENGINES[self._engine_name](
            self.model,
            norm=self.norm,
            eps=self.eps,
            seed=self.seed,
            batch_size=self.batch_size,
            num_classes=self.num_classes,
            device=self.device,
        )

    def _predict(self, images: Tensor) -> Tensor:
        return predict(self.model, images, self.batch_size, self.device)

    def _count_classes(self) -> int:
        classes = count_classes(self.model, self.images, self.device)
        if classes < 4:
            raise EvaluationError(f"AutoAttack's targeted loss needs at least 4 classes, got {classes}")
        check_examples(self.images, self.labels, classes)
        return classes

    def _check_gradients(self, correct: Tensor) -> None:
        """Refuse a model whose gradient overflows: AutoAttack would stand still there and call the points robust."""
        for indices in correct.split(self.batch_size):
            points = self.images[indices].to(self.device).requires_grad_()
            loss = F.cross_entropy(self.model(points), self.labels[indices].to(self.device), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, points)
            lost = ~torch.isfinite(gradient).flatten(1).all(dim=1).cpu()
            if bool(lost.any()):
                raise EvaluationError(
                    f"the gradient of the cross-entropy is not finite at image {int(indices[lost][0])}; attacks that "
                    "use it would fail there for no good reason, and the image would count as robust; make the "
                    "model's head stable"
                )

    @torch.no_grad()
    def _is_deterministic(self, points: Tensor) -> bool:
        batches = (self.images[indices].to(self.device) for indices in points.split(self.batch_size))
        return all(torch.equal(self.model(batch), self.model(batch)) for batch in batches)

    def _report(self, stage: str, total: int = 0, pending: int = 0) -> None:
        """``pending`` points of this attack are finished and not yet in the ledger."""
        robust = int(self.ledger.standing()[self.ledger.points].sum())
        later = STANDARD_ATTACKS if stage == CLEAN else STANDARD_ATTACKS[STANDARD_ATTACKS.index(stage) + 1 :]
        passes_left = robust * sum(PASSES[attack] for attack in later)
        done = 0
        if total:
            done = int(self.ledger.done[stage][self.ledger.points].sum()) + pending
            passes_left += PASSES[stage] * max(0, total - done)
        self.on_progress(
            Progress(
                attack=stage,
                done=done,
                total=total,
                robust=robust,
                passes_done=self.passes_done,
                passes_left=passes_left,
            )
        )
