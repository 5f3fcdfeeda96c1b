"""The standard protocol: AutoAttack on each point, the model as judge, every adversarial example verified."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from operator import index
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.reference import STANDARD_ATTACKS, check_square
from adaptive_smoothing_zoo.backbones.asking import own_copy
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation.attack_run import ENGINES, Progress, Run
from adaptive_smoothing_zoo.evaluation.evaluation_state import Binding, RunState, locked, read_binding, read_chunks
from adaptive_smoothing_zoo.evaluation.ledger import STAGES, Chunk, Ledger, merged
from adaptive_smoothing_zoo.machine.batch_size import brisk_batch_size, largest_batch_size
from adaptive_smoothing_zoo.machine.devices import pick_device
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel, threat_of

PROTOCOL = "AutoAttack standard"
FLUSH_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Attributes:
        clean_correct: (N,) bool, classified correctly without an attack.
        robust: (N,) bool, and by no attack of the protocol made to be misclassified.
        broken_by: (N,) str, the attack that broke the point; "clean" if none was needed, "" if it is robust.
        adversarials: (N, channels, H, W) float32, a verified adversarial example for each point that an attack broke;
            the unchanged image for the others.
        accuracy_after: accuracy after each attack, in the protocol's order, "clean" first; fractions.
        warnings: what AutoAttack's own checks said.
        deterministic: whether two passes over the clean images gave the same logits, bit for bit.
        seconds: wall time of each attack.
        remarks: what happened that a reader should know, such as a smaller batch size after memory ran out.
        points: (N,) int64, which examples of the data these are; all of them unless it was one shard.
        engine, norm, eps, seed, batch_size, device, tf32, channels_last: how it was measured.

    A point counts as robust if these attacks failed on it. That is no certificate: a stronger attack may succeed.
    """

    clean_correct: np.ndarray
    robust: np.ndarray
    broken_by: np.ndarray
    adversarials: np.ndarray
    accuracy_after: dict[str, float]
    warnings: tuple[str, ...]
    deterministic: bool
    seconds: dict[str, float]
    remarks: tuple[str, ...]
    points: np.ndarray
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
    def clean_accuracy(self) -> float:
        """Share of points classified correctly, in [0, 1]."""
        return float(self.clean_correct.mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of points that no attack broke, in [0, 1]."""
        return float(self.robust.mean())


@own_surroundings()
def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel | None = None,
    norm: str = "Linf",
    eps: float | str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    engine: str = "fast",
    tf32: bool = False,
    channels_last: bool = False,
    state: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    flush_seconds: float = FLUSH_SECONDS,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Run AutoAttack "standard" (APGD-CE, APGD-T, FAB-T, Square), each attack on the points that are still robust.

    The model is used in eval mode, with its weights frozen, in float32; all of that is put back afterwards. In which
    grad mode, default dtype or default device it is called makes no difference.

    Args:
        model: any module from images in [0, 1] to logits (N, C), or to an output that has them as ``.logits``,
            ``["logits"]`` or first element; differentiable, with at least 4 classes (a loss of the protocol needs
            them; with fewer than 10, all wrong classes are targets instead of the standard's 9).
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        threat: what the attacker may do.
        norm, eps: the same in two words, "Linf" or "L2" and a radius in units of pixels in [0, 1], as 0.5 or "8/255".
        seed: of the attacks.
        batch_size: most points per batch; what the device's memory holds if None, and on CPUs no more than make a step
            of the fast engine within seconds. Halved where memory runs out. The reference engine's random numbers
            depend on it, the fast engine's do not.
        device: where to compute; "cuda" if there is one and else "cpu" if None.
        engine: "fast", AutoAttack's attacks organized for throughput, with random numbers that belong to each example;
            or "reference", pyautoattack itself.
        tf32: let CUDA round float32 products to TF32. Off, whatever torch's global setting is, unless asked for.
        channels_last: keep convolution weights in that memory format during the run. The same function up to rounding,
            and up to twice as fast for wide nets on CPUs.
        state: a folder in which what is finished is kept, so that the same call after an interruption of any kind goes
            on there. It stays when all is done; whoever has the results may delete it.
        shard: (i, k), only every k-th example beginning with the i-th, 0 <= i < k; ``merge`` puts states of shards
            together. With the fast engine only: the reference's random numbers depend on a point's company.
        flush_seconds: how often the state is written, also inside a batch, unless writing would take more than a
            twentieth of the time.
        on_progress: called after each batch, and twice a second inside one.

    Raises:
        ValueError: images, labels or settings that cannot be evaluated.
        TypeError: the model is no module, or its output holds no logits.
        EvaluationError: a weight is not float32, the model gives NaN or has a gradient that is not finite, or an
            adversarial example does not hold what it must.
        ResultsError: the state belongs to another evaluation, is in use, or cannot be written.
    """
    check_examples(images, labels)
    chosen_device = pick_device(device)
    threat, seed = threat_of(threat, norm, eps), index(seed)  # NumPy's numbers cannot be written to the state
    check_settings(batch_size, engine, shard)
    images, labels = own_copy(images), own_copy(labels)
    ledger = Ledger(images, torch.arange(len(labels))[shard[0] :: shard[1]])
    if len(ledger.points) == 0:
        raise ValueError(f"shard {shard[0]}/{shard[1]} of {len(labels)} examples is empty")
    with ExitStack() as stack:
        net = stack.enter_context(ready(model, chosen_device, tf32=tf32, channels_last=channels_last))
        identity = identity_of(model, images.shape[1:]) if state is not None else Identity(sha256="")
        if batch_size is None and engine == "reference" and state is not None:
            batch_size = _begun_with(Path(state))
        if batch_size is None:
            batch_size = largest_batch_size(net, images, chosen_device)
            if chosen_device.type == "cpu" and engine == "fast":  # whose random numbers do not depend on it
                batch_size = min(batch_size, brisk_batch_size(net, images))
        batch_size = min(batch_size, len(labels))
        binding = Binding(
            protocol=PROTOCOL,
            model=identity,
            examples=len(labels),
            data_sha256=data_sha256(images, labels),
            norm=threat.norm,
            eps=threat.eps,
            seed=seed,
            engine=ENGINES[engine].full_name(),
            batch_size=batch_size if engine == "reference" else None,
            tf32=tf32 and chosen_device.type == "cuda",
            channels_last=channels_last,
            device=chosen_device.type,
            shard=f"{shard[0]}/{shard[1]}",
        )
        kept = RunState(Path(state), binding) if state is not None else None
        if kept is not None:
            stack.enter_context(locked(kept.folder))
            for chunk in kept.chunks():
                ledger.add(chunk)
        run = Run(
            net,
            images,
            labels,
            threat=threat,
            seed=seed,
            batch_size=batch_size,
            device=chosen_device,
            engine=engine,
            ledger=ledger,
            state=kept,
            flush_seconds=flush_seconds,
            on_progress=on_progress,
        )
        run.go()
    return _evaluation(ledger, binding, str(chosen_device))


def _begun_with(state: Path) -> int | None:
    """The batch size of a state of the reference engine, whose verdicts depend on it, whatever memory is free now."""
    return read_binding(state).batch_size if (state / "binding.json").exists() else None


def merge(states: Iterable[str | Path], images: Tensor, labels: Tensor) -> Evaluation:
    """One evaluation of the states of all its shards; what one process would have found.

    Args:
        states: folders, of every shard one.
        images, labels: the data that was evaluated.

    Raises:
        ResultsError: a shard is missing, unfinished, damaged, or belongs to another evaluation; or to other data.
    """
    folders = [Path(state) for state in states]
    if not folders:
        raise ResultsError("there is nothing to merge")
    bindings = [read_binding(folder) for folder in folders]
    for folder, binding in zip(folders, bindings, strict=True):
        if (alike := replace(binding, shard=bindings[0].shard)) != bindings[0]:
            name = next(n for n in alike.__dataclass_fields__ if getattr(alike, n) != getattr(bindings[0], n))
            raise ResultsError(
                f"{folder} does not belong to the evaluation of {folders[0]}: its {name} is {getattr(alike, name)!r}, "
                f"not {getattr(bindings[0], name)!r}"
            )
    _check_shards(folders, bindings)
    chunks = [chunk for folder in folders for chunk in read_chunks(folder)]
    return merge_chunks(chunks, bindings[0], images, labels, what=", ".join(map(str, folders)))


def merge_chunks(chunks: Iterable[Chunk], binding: Binding, images: Tensor, labels: Tensor, *, what: str) -> Evaluation:
    """The evaluation that all these chunks make together; ``what`` names their source in messages."""
    images, labels = own_copy(images), own_copy(labels)
    if binding.examples != len(labels):
        raise ResultsError(f"{what}: evaluated were {binding.examples} examples, given are {len(labels)}")
    if (found := data_sha256(images, labels)) != binding.data_sha256:
        raise ResultsError(f"{what}: evaluated were data of SHA-256 {binding.data_sha256}, given are data of {found}")
    ledger = merged(images, chunks)
    stages = [stage for stage in STAGES if binding.eps > 0 or stage not in STANDARD_ATTACKS]
    if missing := len({index for stage in stages for index in ledger.left(stage).tolist()}):
        raise ResultsError(f"{what}: {missing} of {len(labels)} examples are not finished; run their shards to the end")
    return _evaluation(ledger, binding, binding.device)


def _check_shards(folders: list[Path], bindings: list[Binding]) -> None:
    count = int(bindings[0].shard.split("/")[1])
    have = sorted(int(binding.shard.split("/")[0]) for binding in bindings)
    if {int(binding.shard.split("/")[1]) for binding in bindings} != {count} or have != list(range(count)):
        listed = ", ".join(f"{binding.shard} in {folder}" for folder, binding in zip(folders, bindings, strict=True))
        raise ResultsError(f"these are not all shards of one split, each once: {listed}")


def _evaluation(ledger: Ledger, binding: Binding, device: str) -> Evaluation:
    accuracy_after = ledger.accuracy_after()
    points = ledger.points.numpy()
    return Evaluation(
        clean_correct=ledger.correct.numpy()[points],
        robust=ledger.standing().numpy()[points],
        broken_by=ledger.broken_by()[points],
        adversarials=ledger.adversarials.numpy()[points],
        accuracy_after=accuracy_after,
        warnings=(*ledger.warnings(), *check_square(accuracy_after)),
        deterministic=ledger.deterministic,
        seconds=ledger.seconds,
        remarks=ledger.remarks(),
        points=points,
        engine=binding.engine,
        norm=binding.norm,
        eps=binding.eps,
        seed=binding.seed,
        batch_size=ledger.batch_size,
        device=device,
        tf32=binding.tf32,
        channels_last=binding.channels_last,
    )


def data_sha256(images: Tensor, labels: Tensor) -> str:
    """Of their bytes."""
    return sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()


def check_settings(batch_size: int | None, engine: str = "fast", shard: tuple[int, int] = (0, 1)) -> None:
    """Raise ValueError for what no evaluation can be made with."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; known: {', '.join(sorted(ENGINES))}")
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"a shard is i/k with 0 <= i < k, got {shard[0]}/{shard[1]}")
    if shard[1] > 1 and engine == "reference":
        raise ValueError("the reference's random numbers depend on a point's batch; take the engine 'fast' for shards")
