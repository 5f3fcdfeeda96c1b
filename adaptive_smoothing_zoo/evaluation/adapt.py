"""Setting D, adaptive AutoAttack: what attacks that know of the mix break beyond the standard protocol (000, 4.2)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from operator import index
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.adaptive import ADAPTIVE_ATTACKS, SURROGATE_ATTACKS, AdaptiveEngine
from adaptive_smoothing_zoo.attacks.verify import check_adversarials, count_classes, predict
from adaptive_smoothing_zoo.backbones.asking import own_copy
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import EvaluationError, ResultsError
from adaptive_smoothing_zoo.evaluation.adaptive_state import AdaptiveBinding, AdaptiveState, Found
from adaptive_smoothing_zoo.evaluation.attack_run import Progress
from adaptive_smoothing_zoo.evaluation.evaluate import FLUSH_SECONDS, Evaluation, data_sha256
from adaptive_smoothing_zoo.machine.batch_size import brisk_batch_size
from adaptive_smoothing_zoo.machine.devices import pick_device
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.pace import Keeper
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel, threat_of

logger = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 256
STANDARD = "standard"  # the stage before the adaptive attacks, in ``accuracy_after``


@dataclass(frozen=True, kw_only=True)
class AdaptiveEvaluation:
    """What the adaptive attacks left of a standard evaluation.

    Attributes:
        robust: (N,) bool, robust in the standard evaluation and broken by no adaptive attack either.
        broken_by: (N,) str, the adaptive attack that broke the point; "" if none did, or none had to.
        adversarials: (N, channels, H, W) float32, a verified adversarial example for each point that an adaptive
            attack broke; the unchanged image for the others.
        accuracy_after: accuracy after each attack, in order, "standard" first; fractions of all N points.
        seconds: wall time of each attack.
        engine, norm, eps, seed, batch_size, device, tf32, channels_last: how it was measured.

    A point counts as robust if all attacks, the standard ones and these, failed on it. That is no certificate.
    """

    robust: np.ndarray
    broken_by: np.ndarray
    adversarials: np.ndarray
    accuracy_after: dict[str, float]
    seconds: dict[str, float]
    engine: str
    norm: str
    eps: float
    seed: int
    batch_size: int
    device: str
    tf32: bool
    channels_last: bool

    def __len__(self) -> int:
        return len(self.robust)

    @property
    def standard_accuracy(self) -> float:
        """Share of points that the standard evaluation left standing, in [0, 1]."""
        return self.accuracy_after[STANDARD]

    @property
    def robust_accuracy(self) -> float:
        """Share of points that no attack broke, in [0, 1]."""
        return float(self.robust.mean())


@own_surroundings()
def evaluate_adaptive(
    model: MixedClassifier,
    images: Tensor,
    labels: Tensor,
    standard: Evaluation | np.ndarray,
    *,
    threat: ThreatModel | None = None,
    norm: str = "Linf",
    eps: float | str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    surrogate: nn.Module | None = None,
    attacks: Sequence[str] | None = None,
    tf32: bool = False,
    channels_last: bool = False,
    state: str | Path | None = None,
    flush_seconds: float = FLUSH_SECONDS,
    on_progress: Callable[[Progress], None] | None = None,
) -> AdaptiveEvaluation:
    """Attack what a standard evaluation left standing once more, with attacks adapted to the mix.

    The model is used in eval mode, with its weights frozen, in float32; all of that is put back afterwards.

    Args:
        model: the mix that the standard evaluation was about.
        images: (N, channels, H, W) float32 in [0, 1], the same examples in the same order.
        labels: (N,) int64.
        standard: the finished evaluation, or its ``robust``, (N,) bool.
        threat: that of the standard evaluation; or norm and eps, as in ``evaluate``.
        seed: of the attacks; their random numbers do not depend on the batch size.
        batch_size: most points per batch; 256 if None, or on CPUs as many as make a step within seconds.
        device: where to compute; "cuda" if there is one and else "cpu" if None.
        surrogate: what the triplet's authors attack in its place, as ``Triplet.surrogate`` gives it; any module that
            ``evaluate`` takes, and given back like the model.
        attacks: which, in order, as :class:`AdaptiveEngine` names them; ``ADAPTIVE_ATTACKS`` if None, and
            ``SURROGATE_ATTACKS`` after them if there is a surrogate.
        tf32, channels_last: as in ``evaluate``.
        state: a file in which what is found is kept, so that the same call after an interruption of any kind goes on
            there. It stays when all is done; whoever has the results may delete it.
        flush_seconds: how often the state is written, also inside a batch, unless writing would take more than a
            twentieth of the time.
        on_progress: called after each batch, and twice a second inside one.

    Raises:
        ValueError: images, labels, verdicts, surrogate or settings that do not fit together.
        EvaluationError: the model misclassifies a point that the standard evaluation found robust, or an adversarial
            example does not hold what it must.
        ResultsError: the state belongs to another evaluation, is in use, or cannot be written.
    """
    if not isinstance(model, MixedClassifier):
        raise TypeError(f"adaptive attacks are about a MixedClassifier, got {type(model).__name__}; use evaluate")
    check_examples(images, labels)
    threat = threat_of(threat, norm, eps)
    robust = _verdicts(standard, len(labels))
    if isinstance(standard, Evaluation) and (standard.norm, standard.eps) != (threat.norm, threat.eps):
        raise ValueError(f"the standard evaluation was about {standard.norm} {standard.eps:g}, not {threat}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    if attacks is None:
        attacks = ADAPTIVE_ATTACKS + (SURROGATE_ATTACKS if surrogate is not None else ())
    chosen, attacks = pick_device(device), tuple(attacks)
    images, labels = own_copy(images), own_copy(labels)
    with ExitStack() as stack:
        net = stack.enter_context(ready(model, chosen, tf32=tf32, channels_last=channels_last))
        if batch_size is None:
            batch_size = brisk_batch_size(net, images) if chosen.type == "cpu" else DEFAULT_BATCH_SIZE
        shape, through, classes = images.shape[1:], None, count_classes(net, images, chosen)
        if surrogate is not None:
            through = stack.enter_context(ready(surrogate, chosen, tf32=tf32, channels_last=channels_last))
            _check_surrogate(count_classes(through, images, chosen), classes)
        engine = AdaptiveEngine(
            model, threat=threat, seed=seed, batch_size=batch_size, device=chosen, surrogate=through
        )
        engine.targets = min(engine.targets, classes - 1)
        binding = AdaptiveBinding(
            model=identity_of(model, shape),
            surrogate=None if surrogate is None else identity_of(surrogate, shape),
            examples=len(labels),
            data_sha256=data_sha256(images, labels),
            robust_sha256=sha256(robust.numpy().tobytes()).hexdigest(),
            attacks=attacks,
            norm=threat.norm,
            eps=threat.eps,
            seed=index(seed),
            engine=engine.name,
            tf32=tf32 and chosen.type == "cuda",
            channels_last=channels_last,
            device=chosen.type,
        )
        kept = AdaptiveState(Path(state), binding) if state is not None else None
        if kept is not None:
            stack.enter_context(kept.locked())
        run = _Run(engine, images, labels, robust, attacks, kept, flush_seconds, on_progress)
        for number in range(len(attacks)):
            run.attack(number)
        run.verify()
    found = run.found
    return AdaptiveEvaluation(
        robust=run.standing().numpy(),
        broken_by=np.array(["", *attacks], dtype="<U32")[found.fallen_to.numpy() + 1],
        adversarials=found.adversarials.numpy(),
        accuracy_after=run.accuracy_after(),
        seconds=dict(zip(attacks, found.seconds.tolist(), strict=True)),
        engine=binding.engine,
        norm=threat.norm,
        eps=threat.eps,
        seed=seed,
        batch_size=batch_size,
        device=str(chosen),
        tf32=binding.tf32,
        channels_last=channels_last,
    )


class _Run:
    """Which points still stand, and what broke the others."""

    def __init__(
        self,
        engine: AdaptiveEngine,
        images: Tensor,
        labels: Tensor,
        robust: Tensor,
        attacks: tuple[str, ...],
        kept: AdaptiveState | None,
        flush_seconds: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.engine, self.images, self.labels, self.robust = engine, images, labels, robust
        self.attacks, self.kept = attacks, kept
        self.on_progress = on_progress or (lambda progress: None)
        self._keeper = Keeper(write=self._keep, report=self._report, kept=self._what_is_kept, seconds=flush_seconds)
        # The attack, and when the time began that is not counted yet.
        self._number, self._since = 0, time.perf_counter()
        self._owed = False  # the engine has yielded points that are not judged yet
        self.found, self._batch = (Found.nothing(images, len(attacks)), {}) if kept is None else kept.read(images)
        self._before = sum(engine.passes(name) * int((self.found.finished > i).sum()) for i, name in enumerate(attacks))
        points = robust.nonzero().squeeze(1)
        wrong = self._predict(images[points]) != labels[points] if len(points) else points
        if bool(wrong.any()):
            raise EvaluationError(
                f"the model misclassifies image {int(points[wrong][0])} without an attack, but the standard evaluation "
                "calls it robust; the evaluation belongs to another model or to other examples"
            )

    def standing(self, attacks: int | None = None) -> Tensor:
        """(N,) bool: robust, and broken by none of the first ``attacks`` attacks (of all if None)."""
        fallen_to = self.found.fallen_to
        return self.robust & ((fallen_to < 0) | (fallen_to >= (len(self.attacks) if attacks is None else attacks)))

    def accuracy_after(self) -> dict[str, float]:
        """Share of points that stand after each attack, in order, "standard" first."""
        names = (STANDARD, *self.attacks)
        return {name: float(self.standing(number).double().mean()) for number, name in enumerate(names)}

    def attack(self, number: int) -> None:
        """One attack on the points that still stand; the model decides which candidates broke theirs."""
        found = self.found
        points = (self.standing(number) & (found.finished <= number)).nonzero().squeeze(1)
        # A ball of radius zero holds nothing but the image itself.
        if len(points) == 0 or self.engine.threat.eps == 0:
            return
        self._number, self._since = number, time.perf_counter()
        points, batch = self._first_the_batch(points)
        with self._keeper.at_work():
            for positions, candidates in self._begin(points, batch):
                self._owed = True
                self._judge(number, points[positions], candidates)
                found.finished[points[positions]] = number + 1
                self._owed = False
                self._keeper.write()
                self._keeper.report()

    def _first_the_batch(self, points: Tensor) -> tuple[Tensor, dict[str, Tensor] | None]:
        """The points, those of an interrupted batch first, and where it stands; None if there is no such batch here."""
        batch, self._batch = self._batch, {}
        indices = batch.get("indices", torch.empty(0, dtype=torch.int64))
        if len(indices) == 0 or not set(indices.tolist()) <= set(points.tolist()):
            return points, None
        return torch.cat([indices, points[~torch.isin(points, indices)]]), batch

    def _begin(self, points: Tensor, batch: dict[str, Tensor] | None) -> Iterator[tuple[Tensor, Tensor]]:
        arguments = self.attacks[self._number], self.images[points], self.labels[points], points
        try:
            attack = self.engine.attack(*arguments, snapshot=batch, beat=self._keeper.beat)
        except ResultsError as error:
            logger.warning("a batch is attacked from its beginning again: %s", error)
            return self.engine.attack(*arguments, beat=self._keeper.beat)
        self._before += int(self.engine.passes(arguments[0]) * self.engine.underway())
        return attack

    def _keep(self) -> bool:
        if self._owed:
            return False
        now = time.perf_counter()
        self.found.seconds[self._number] += now - self._since
        self._since = now
        if self.kept is not None:
            self.kept.write(self.found, self.engine.snapshot())
        return True

    def _what_is_kept(self, lost: float) -> str:
        now = self._progress()
        told = f"{now.attack}: {now.done} of {now.total} points are decided; all work is kept but the last {lost:.1f} s"
        return "" if self.kept is None else told

    def _report(self) -> None:
        self.on_progress(self._progress())

    def _progress(self) -> Progress:
        number, engine = self._number, self.engine
        standing, robust = self.standing(number), int(self.standing().sum())
        done, total = int((standing & (self.found.finished > number)).sum()), int(standing.sum())
        left = total - done - engine.underway()
        return Progress(
            attack=self.attacks[number],
            done=done,
            total=total,
            robust=robust,
            passes_done=self._before + engine.spent(),
            passes_left=int(engine.passes(self.attacks[number]) * max(0.0, left))
            + robust * sum(engine.passes(later) for later in self.attacks[number + 1 :]),
            passes_before=self._before,
        )

    def verify(self) -> None:
        """Check every adversarial example once more, all of them together, from what will be stored."""
        broken = (self.found.fallen_to >= 0).nonzero().squeeze(1)
        if len(broken) == 0:
            return
        adversarials = self.found.adversarials[broken]
        check_adversarials(self.images[broken], adversarials, broken, self.engine.threat)
        held = self._predict(adversarials) == self.labels[broken]
        if bool(held.any()):
            raise EvaluationError(
                f"the adversarial example for image {int(broken[held][0])} no longer changes its label when it is "
                "classified again; the model does not answer the same twice"
            )

    def _judge(self, number: int, indices: Tensor, candidates: Tensor) -> None:
        candidates = self.engine.threat.without_rounding(self.images[indices], candidates)
        fooled = self._predict(candidates) != self.labels[indices]
        winners = indices[fooled]
        check_adversarials(self.images[winners], candidates[fooled], winners, self.engine.threat)
        self.found.adversarials[winners] = candidates[fooled]
        self.found.fallen_to[winners] = number

    def _predict(self, images: Tensor) -> Tensor:
        return predict(self.engine.judge, images, self.engine.batch_size, self.engine.device)


def _check_surrogate(classes: int, of_the_model: int) -> None:
    if classes != of_the_model:
        raise ValueError(f"the surrogate has {classes} classes and the model {of_the_model}; both need the same ones")


def _verdicts(standard: Evaluation | np.ndarray, n: int) -> Tensor:
    robust = standard.robust if isinstance(standard, Evaluation) else standard
    if robust.shape != (n,) or robust.dtype != np.bool_:
        raise ValueError(f"{n} examples need a verdict each, bool ({n},); got {robust.dtype} {robust.shape}")
    return torch.from_numpy(robust.copy())
