"""The standard protocol: AutoAttack on each point, the model as judge, every adversarial example verified."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import sha256
from operator import index
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.reference import ReferenceEngine, check_square
from adaptive_smoothing_zoo.attacks.catalogue import complete, fitted
from adaptive_smoothing_zoo.attacks.settings import AttackSettings, SettingsWords, settings_of
from adaptive_smoothing_zoo.attacks.verify import count_classes
from adaptive_smoothing_zoo.backbones.asking import own_copy
from adaptive_smoothing_zoo.errors import EvaluationError, ResultsError, shown
from adaptive_smoothing_zoo.evaluation.attack_run import ENGINES, Progress, Run, Task
from adaptive_smoothing_zoo.evaluation.evaluation_state import (
    CHUNK,
    Binding,
    binding_of,
    chunk_entry,
    chunk_of,
    read_chunks,
)
from adaptive_smoothing_zoo.evaluation.gathered import Batches, gathered
from adaptive_smoothing_zoo.evaluation.ledger import Chunk, Ledger
from adaptive_smoothing_zoo.machine.batch_size import brisk_batch_size, largest_batch_size
from adaptive_smoothing_zoo.machine.devices import pick_device
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.storage.bound_state import BINDING, BoundState
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel, threat_of

FLUSH_SECONDS = 10.0
RUNS = 9  # runs per point, in the attacks with most runs


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of attacks and how they ran.

    Attributes:
        robust: (N,) bool, classified correctly after all attacks.
        broken_by: (N,) str, the attack that succeeded at the point; "" if none did or none was needed.
        adversarials: (N, channels, H, W) float32, a verified adversarial example for each point where an attack
            succeeded; the unchanged image for the others.
        accuracy_after: accuracy after each attack, in order, preceded by the initial accuracy; fractions.
        seconds: wall time of each attack.
        threat, settings: of the attacks, with all numbers and the batch size used.
        engine: name and version of the engine.
        device: device of the attacks.

    A point counts as robust if these attacks failed on it. This is not a certificate: a stronger attack may succeed.
    """

    robust: np.ndarray
    broken_by: np.ndarray
    adversarials: np.ndarray
    accuracy_after: dict[str, float]
    seconds: dict[str, float]
    threat: ThreatModel
    settings: AttackSettings
    engine: str
    device: str

    def __len__(self) -> int:
        return len(self.robust)

    @property
    def robust_accuracy(self) -> float:
        """Share of robust points, in [0, 1]."""
        return float(self.robust.mean())

    @property
    def norm(self) -> str:
        """Of the threat model."""
        return self.threat.norm

    @property
    def eps(self) -> float:
        """Of the threat model."""
        return self.threat.eps

    @property
    def seed(self) -> int:
        """Of the settings."""
        return self.settings.seed

    @property
    def batch_size(self) -> int:
        """Of the settings."""
        return self.settings.batch_size or 0

    @property
    def tf32(self) -> bool:
        """Of the settings."""
        return self.settings.tf32

    @property
    def channels_last(self) -> bool:
        """Of the settings."""
        return self.settings.channels_last


@dataclass(frozen=True, kw_only=True)
class Evaluation(Outcome):
    """The result of an evaluation; ``broken_by`` is "clean" for points misclassified without an attack.

    Attributes:
        clean_correct: (N,) bool, classified correctly without an attack.
        accuracy_alone: accuracy under each attack alone, fractions, with ``AttackSettings.individual``; else empty.
            ``accuracy_after`` refers to the union of the attacks so far.
        warnings: warnings of AutoAttack's own checks, and one if the outputs for an image depend on the other images in
            its batch, as a few images tell (``asz validate`` looks closer).
        deterministic: whether two passes over the clean images gave the same logits, bit for bit.
        remarks: notable events, such as a smaller batch size after memory ran out.
        points: (N,) int64, indices of these examples in the data; all examples unless this is a shard.
    """

    clean_correct: np.ndarray
    accuracy_alone: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...]
    deterministic: bool
    remarks: tuple[str, ...]
    points: np.ndarray

    @property
    def clean_accuracy(self) -> float:
        """Share of points classified correctly, in [0, 1]."""
        return float(self.clean_correct.mean())

    def for_larger(self, threat: ThreatModel, settings: AttackSettings) -> tuple[Chunk, ...]:
        """Starting point for a run with a larger radius: the successful attacks and adversarial examples found here.

        Raises:
            ValueError: another norm, a radius that is not larger, or individual attacks.
        """
        if threat.norm != self.norm or threat.eps <= self.eps:
            raise ValueError(f"the radius of {self.threat} must be smaller than that of {threat}, in the same norm")
        if self.settings.individual or settings.individual:
            raise ValueError("individual attacks meet all points at each radius; run one radius at a time")
        names = self.settings.names
        order = np.array([names.index(name) if name in names else -1 for name in self.broken_by.tolist()])
        return tuple(self._chunk_for_larger(stage, order >= i, order > i) for i, stage in enumerate(names))

    def _chunk_for_larger(self, stage: str, met: np.ndarray, held: np.ndarray) -> Chunk:
        adversarials = torch.from_numpy(self.adversarials[met & ~held])
        indices = torch.from_numpy(self.points[met])
        return Chunk(stage=stage, indices=indices, held=torch.from_numpy(held[met]), adversarials=adversarials)


class CallWords(SettingsWords, total=False):
    """Threat model and settings of an evaluation as single keywords, and the options of its state."""

    norm: str
    eps: float | str | None
    flush_seconds: float


class EvaluateWords(CallWords, total=False):
    """Keywords of ``evaluate`` that have a default."""

    shard: tuple[int, int]
    smaller: Evaluation | None


@own_surroundings()
def evaluate(
    model: nn.Module,
    images: Tensor | Batches,
    labels: Tensor | None = None,
    *,
    threat: ThreatModel | None = None,
    settings: AttackSettings | None = None,
    device: str | torch.device | None = None,
    state: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **words: Unpack[EvaluateWords],
) -> Evaluation:
    """Run AutoAttack "standard" (APGD-CE, APGD-T, FAB-T, Square), each attack on the points that are still robust.

    The model runs in eval mode, with frozen weights, in float32; its own modes are restored afterwards. The caller's
    grad mode, default dtype and default device have no effect.

    Args:
        model: any differentiable module from images in [0, 1] to logits (N, C), or to an output with ``.logits``,
            ``["logits"]`` or logits as first element. With fewer than 10 classes, all wrong ones are targets instead of
            the standard's 9. With 2 or 3 classes, attacks whose loss needs more are replaced, which is not the standard
            protocol (see ``settings.aside`` of the result).
        images: (N, channels, H, W) float32 in [0, 1]; or, without ``labels``, a DataLoader or another iterable of
            batches (images, labels), read once. Examples keep its order. With a ``state`` it must not shuffle.
        labels: (N,) int64.
        threat: the threat model.
        settings: other attacks, other numbers, a seed, an engine; RobustBench's protocol if None. For a randomized net
            use ``AttackSettings.version("rand")``: it averages gradients over 20 passes, and one pass decides whether a
            point is robust, as in AutoAttack. The result then varies between runs.
        device: where to compute; if None "cuda" when available, else "cpu".
        state: a folder for checkpoints; the same call resumes from it after any interruption. It is not deleted at the
            end.
        on_progress: called after each batch, and twice a second inside one.
        norm, eps: the threat model as keywords: "Linf" or "L2", and a radius in units of pixels in [0, 1], as 0.5 or
            "8/255".
        seed, batch_size, engine, search_precision, channels_last: settings as keywords, see :class:`AttackSettings`;
            tf32=True or False is short for search_precision "tf32" or "float32". The default batch size is what memory
            holds, on CPUs at most what one step of the fast engine processes within seconds; it is halved if memory
            runs out.
        shard: (i, k), only every k-th example starting from the i-th, 0 <= i < k; ``merge`` combines the states of
            shards. Fast engine only: the reference's random numbers depend on the whole batch.
        smaller: an evaluation of the same model and examples at a smaller radius. Its adversarial examples are valid
            here too, so their points are not attacked again; see ``evaluate_radii``.
        flush_seconds: interval between writes of the state, also inside a batch, if writing takes at most 1/20 of the
            time; default 10.

    Raises:
        ValueError: invalid images, labels or settings.
        TypeError: the model is not a module, its output has no logits, or the examples are neither tensors nor batches.
        EvaluationError: a weight is not float32, the model gives NaN or a gradient that is not finite, or an
            adversarial example is invalid.
        ResultsError: the state belongs to another evaluation, is in use, or cannot be written.
    """
    images, labels = gathered(images, labels, resumes=state is not None)
    shard, smaller = _whole_pair(words.pop("shard", (0, 1))), words.pop("smaller", None)
    call = Call.of(threat, settings, words, device=device, state=state, on_progress=on_progress)
    _check_shard(shard, call.settings)
    known: tuple[Chunk, ...] = ()
    if smaller is not None:
        if not isinstance(smaller, Evaluation):
            raise TypeError(
                f"the smaller radius must be an Evaluation returned by evaluate, got {type(smaller).__name__}"
            )
        known = smaller.for_larger(call.threat, call.settings)
        call = replace(call, settings=replace(call.settings, begun_at=smaller.eps))
    points = torch.arange(len(labels))[shard[0] :: shard[1]]
    if len(points) == 0:
        raise ValueError(f"shard {shard[0]}/{shard[1]} of {len(labels)} examples is empty")
    ReferenceEngine.full_name()  # its checks are part of every evaluation: fail now if pyautoattack is missing
    engine = ENGINES[call.settings.engine].full_name()
    bound: dict[str, Any] = {"engine": engine, "shard": f"{shard[0]}/{shard[1]}"}
    ledger, binding = call.carry_out(model, images, labels, points, known=known, **bound)
    return _evaluation(ledger, binding, str(call.device))


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of a call, resolved: attacks, device and callbacks."""

    threat: ThreatModel
    settings: AttackSettings
    device: torch.device
    folder: Path | None
    flush_seconds: float
    on_progress: Callable[[Progress], None] | None

    @classmethod
    def of(
        cls,
        threat: ThreatModel | None,
        settings: AttackSettings | None,
        words: CallWords,
        *,
        device: str | torch.device | None,
        state: str | Path | None,
        on_progress: Callable[[Progress], None] | None,
        **base: Any,
    ) -> Call:
        """From ``threat`` and ``settings``, or from single keywords; ``base`` holds defaults for the keywords.

        Raises:
            ValueError: both forms are given, or they are invalid.
        """
        chosen, flush = pick_device(device), words.pop("flush_seconds", FLUSH_SECONDS)
        threat = threat_of(threat, words.pop("norm", None), words.pop("eps", None))
        settings = complete(settings_of(settings, words, **base)).on(chosen.type)
        return cls(
            threat=threat,
            settings=settings,
            device=chosen,
            folder=None if state is None else Path(state),
            flush_seconds=flush,
            on_progress=on_progress,
        )

    def carry_out(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        points: Tensor,
        *,
        known: Iterable[Chunk] = (),
        robust: Tensor | None = None,
        surrogate: nn.Module | None = None,
        **bound: Any,
    ) -> tuple[Ledger, Binding]:
        """Run all attacks on some points of the data; return the ledger and the binding of the state.

        Args:
            known: results for some points from before the attacks.
            bound: additional fields of the binding.
        """
        shape, kept = images.shape[1:], self.folder is not None
        with ExitStack() as stack:
            net, through = (None if m is None else self._ready(stack, m) for m in (model, surrogate))
            assert net is not None
            classes = count_classes(net, images, self.device)
            if through is not None:
                _check_surrogate(count_classes(through, images, self.device), classes)
            settings = replace(_fitted(self.settings, classes), batch_size=self._batch_size(net, images))
            ledger = Ledger(images, points, settings.names, individual=settings.individual)
            task = Task(images, labels, self.threat, settings, self.device, robust, through)
            binding = Binding(
                **({"protocol": settings.protocol} | bound),
                model=identity_of(model, shape) if kept else Identity(sha256=""),
                surrogate=identity_of(surrogate, shape) if kept and surrogate is not None else None,
                examples=len(labels),
                data_sha256=data_sha256(images, labels),
                threat=self.threat,
                settings=replace(settings, batch_size=None) if settings.engine == "fast" else settings,
                device=self.device.type,
            )
            state = self._state(stack, binding, ledger)
            for chunk in known:
                _take_over(chunk, ledger, state)
            Run(net, task, ledger, state, flush_seconds=self.flush_seconds, on_progress=self.on_progress).go()
        return ledger, binding

    def _ready(self, stack: ExitStack, model: nn.Module) -> nn.Module:
        return stack.enter_context(ready(model, self.device, channels_last=self.settings.channels_last))

    def _batch_size(self, net: nn.Module, images: Tensor) -> int:
        size, reference = self.settings.batch_size, self.settings.engine == "reference"
        if size is None and reference and self.folder is not None and (self.folder / BINDING).exists():
            size = binding_of(
                self.folder
            ).settings.batch_size  # verdicts depend on it, so it must not depend on free memory
        if size is None:
            size = largest_batch_size(net, images, self.device)
            if self.device.type == "cpu" and not reference:
                size = min(size, brisk_batch_size(net, images))
        # A point has several runs, and Square tries several changes at once: on a GPU wide batches cost no more.
        return min(size, len(images) * (RUNS if self.device.type == "cuda" and not reference else 1))

    def _state(self, stack: ExitStack, binding: Binding, ledger: Ledger) -> BoundState | None:
        """The state, locked until the stack ends; its results are added to the ledger."""
        if self.folder is None:
            return None
        state = BoundState(self.folder, binding)
        stack.enter_context(state.locked())
        for chunk in state.entries(CHUNK, chunk_of):
            ledger.add(chunk)
        return state


def _take_over(chunk: Chunk, ledger: Ledger, state: BoundState | None) -> None:
    """Add a chunk to ledger and state unless they have it."""
    done = ledger.done.get(chunk.stage)
    if done is None or not bool(done[chunk.indices].all()):
        ledger.add(chunk)
        if state is not None:
            state.append(CHUNK, *chunk_entry(chunk))


def _fitted(settings: AttackSettings, classes: int) -> AttackSettings:
    try:
        return fitted(settings, classes)
    except ValueError as error:
        raise EvaluationError(str(error)) from error


def _check_surrogate(classes: int, of_the_model: int) -> None:
    if classes != of_the_model:
        raise ValueError(
            f"the surrogate has {classes} classes and the model {of_the_model}; both need the same classes"
        )


def merge(
    states: Iterable[str | Path], images: Tensor, labels: Tensor, *, model: nn.Module | None = None
) -> Evaluation:
    """Merge the states of all shards into one evaluation, equal to that of a single process.

    Args:
        states: folders, one per shard.
        images, labels: the evaluated data.
        model: if given, the model that must have been evaluated.

    Raises:
        ResultsError: a shard is missing, unfinished, damaged, or belongs to another evaluation; or to other data, or to
            another model.
    """
    folders = [Path(state) for state in states]
    if not folders:
        raise ResultsError("no states to merge")
    bindings = [binding_of(folder) for folder in folders]
    for folder, binding in zip(folders, bindings, strict=True):
        if binding.robust_sha256 is not None:
            raise ResultsError(f"{folder} holds adaptive attacks, which have no shards; give states of asz eval")
        theirs, ours = _said(binding), _said(bindings[0])
        if name := next((name for name in ours if theirs[name] != ours[name]), None):
            raise ResultsError(
                f"{folder} does not belong to the evaluation of {folders[0]}: its {name} is {theirs[name]!r}, not "
                f"{ours[name]!r}"
            )
    if model is not None and (identity := identity_of(model, images.shape[1:])) != bindings[0].model:
        raise ResultsError(
            f"{folders[0]} belongs to the model {bindings[0].model}, got {identity}; give the evaluated weights"
        )
    _check_all_shards(folders, bindings)
    chunks = [chunk for folder in folders for chunk in read_chunks(folder)]
    return merge_chunks(chunks, bindings[0], images, labels, what=", ".join(map(str, folders)))


def merge_chunks(chunks: Iterable[Chunk], binding: Binding, images: Tensor, labels: Tensor, *, what: str) -> Evaluation:
    """The evaluation assembled from all these chunks; ``what`` names their source in messages."""
    images, labels = own_copy(images), own_copy(labels)
    if binding.examples != len(labels):
        raise ResultsError(f"{what}: {binding.examples} examples were evaluated, got {len(labels)}")
    if (found := data_sha256(images, labels)) != binding.data_sha256:
        raise ResultsError(f"{what}: data with SHA-256 {binding.data_sha256} were evaluated, got data with {found}")
    points, settings = torch.arange(len(labels)), binding.settings
    ledger = Ledger(images, points, settings.names, individual=settings.individual)
    for chunk in chunks:
        ledger.add(chunk)
    stages = [stage for stage in ledger.stages if binding.threat.eps > 0 or stage not in ledger.attacks]
    if missing := len({index for stage in stages for index in ledger.left(stage).tolist()}):
        raise ResultsError(f"{what}: {missing} of {len(labels)} examples are not finished; run their shards to the end")
    return _evaluation(ledger, binding, binding.device)


def _check_all_shards(folders: list[Path], bindings: list[Binding]) -> None:
    count = int(bindings[0].shard.split("/")[1])
    have = sorted(int(binding.shard.split("/")[0]) for binding in bindings)
    if {int(binding.shard.split("/")[1]) for binding in bindings} != {count} or have != list(range(count)):
        listed = ", ".join(f"{binding.shard} in {folder}" for folder, binding in zip(folders, bindings, strict=True))
        raise ResultsError(f"give each shard of one split exactly once, got {listed}")


def _said(binding: Binding) -> dict[str, Any]:
    """The fields that shards of one evaluation share, by name."""
    whole = vars(binding) | vars(binding.threat) | vars(binding.settings)
    return {name: value for name, value in whole.items() if name not in ("shard", "threat", "settings")}


def _evaluation(ledger: Ledger, binding: Binding, device: str) -> Evaluation:
    accuracy_after = ledger.accuracy_after()
    points = ledger.points.numpy()
    return Evaluation(
        clean_correct=ledger.correct.numpy()[points],
        robust=ledger.standing().numpy()[points],
        broken_by=ledger.broken_by()[points],
        adversarials=ledger.adversarials.numpy()[points],
        accuracy_after=accuracy_after,
        accuracy_alone=ledger.accuracy_alone() if binding.settings.individual else {},
        warnings=(*ledger.warnings(), *check_square(accuracy_after)),
        deterministic=ledger.deterministic,
        seconds=ledger.seconds,
        remarks=ledger.remarks(),
        points=points,
        threat=binding.threat,
        settings=replace(binding.settings, batch_size=ledger.batch_size),
        engine=binding.engine,
        device=device,
    )


def data_sha256(images: Tensor, labels: Tensor) -> str:
    """SHA-256 of the bytes of images and labels."""
    return sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()


def _whole_pair(shard: Any) -> tuple[int, int]:
    """A shard's two numbers as Python integers; ValueError for anything else."""
    try:
        place, count = map(index, shard)
    except (TypeError, ValueError):
        raise ValueError(f"a shard is a pair (i, k) of integers with 0 <= i < k, got {shown(shard)}") from None
    return place, count


def _check_shard(shard: tuple[int, int], settings: AttackSettings) -> None:
    """Raise ValueError for an invalid shard."""
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"a shard is i/k with 0 <= i < k, got {shard[0]}/{shard[1]}")
    if shard[1] > 1 and settings.engine == "reference":
        raise ValueError(
            "the random numbers of the reference engine depend on the batch; use the engine 'fast' for shards"
        )
