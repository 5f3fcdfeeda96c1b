"""The standard protocol: AutoAttack on each point, the model as judge, every adversarial example verified."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.fast import FastEngine
from adaptive_smoothing_zoo.attacks.reference import PASSES, STANDARD_ATTACKS, ReferenceEngine, collect_warnings
from adaptive_smoothing_zoo.attacks.verify import check_adversarials, predict
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.evaluation.precision import float32_precision

CLEAN = "clean"  # what "broke" a point that was misclassified without any attack
ENGINES: dict[str, Callable[..., Engine]] = {"reference": ReferenceEngine, "fast": FastEngine}


class Engine(Protocol):
    """What carries out the attacks. It proposes; ``evaluate`` decides."""

    name: str

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Look for reasons to distrust attacks on this model; warn of them."""

    def attack(self, name: str, images: Tensor, labels: Tensor, indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Attack all points; yield (positions among them, candidates) as they are finished, each position once.

        ``indices`` are the points' places in the whole data set, for random numbers that are to belong to a point.
        """

    def check_square(self, accuracy_after: dict[str, float]) -> None:
        """Compare the black-box attack with the others; warn if it was the better one."""


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


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "Linf",
    eps: float,
    seed: int = 0,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    engine: str = "reference",
    tf32: bool = False,
    channels_last: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Run AutoAttack "standard" (APGD-CE, APGD-T, FAB-T, Square), each attack on the points that are still robust.

    The model is used in eval mode, with its weights frozen, in float32; all of that is put back afterwards.

    Args:
        model: images in [0, 1] to logits (N, C), differentiable, with at least 4 classes (a loss of the protocol
            needs them; with fewer than 10, all wrong classes are targets instead of the standard's 9).
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        norm: "Linf" or "L2".
        eps: radius of the ball, >= 0, in units of pixels in [0, 1].
        seed: of the attacks.
        batch_size: points per batch. The random numbers of an attack depend on it.
        device: where to compute; "cuda" if there is one and else "cpu" if None.
        engine: "reference", pyautoattack itself; or "fast", the same attacks organized for throughput, in which the
            random numbers depend on the example alone and not on the batch size.
        tf32: let CUDA round float32 products to TF32. Off, whatever torch's global setting is, unless asked for.
        channels_last: keep convolution weights in that memory format during the run. The same function up to rounding,
            and up to twice as fast for wide nets on CPUs.
        on_progress: called after each batch.

    Raises:
        ValueError: images, labels or settings that cannot be evaluated.
        EvaluationError: a weight is not float32, the model gives NaN or has a gradient that is not finite, or an
            adversarial example does not hold what it must.
    """
    check_examples(images, labels)
    chosen_device = pick_device(device)
    _check_settings(norm, eps, batch_size, engine)
    batch_size = min(batch_size, len(labels))
    with _ready(model, chosen_device, tf32, channels_last), collect_warnings() as warnings:
        run = _Run(model, images, labels, norm, eps, seed, batch_size, chosen_device, engine, on_progress)
        run.classify()
        for attack in STANDARD_ATTACKS:
            run.attack(attack)
        run.engine.check_square(run.accuracy_after)
        run.verify()
    return Evaluation(
        clean_correct=run.clean_correct.numpy(),
        robust=run.robust.numpy(),
        broken_by=run.broken_by,
        adversarials=run.adversarials.numpy(),
        accuracy_after=run.accuracy_after,
        warnings=tuple(warnings),
        deterministic=run.deterministic,
        seconds=run.seconds,
        engine=run.engine.name,
        norm=norm,
        eps=eps,
        seed=seed,
        batch_size=batch_size,
        device=str(chosen_device),
        tf32=tf32 and chosen_device.type == "cuda",
        channels_last=channels_last,
    )


class _Run:
    """The state of one evaluation: which points still stand, and what broke the others."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        norm: str,
        eps: float,
        seed: int,
        batch_size: int,
        device: torch.device,
        engine: str,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.batch_size, self.device = model, batch_size, device
        self.images, self.labels = images.detach().cpu().contiguous(), labels.detach().cpu()
        self.norm, self.eps = norm, eps
        self.engine: Engine = ENGINES[engine](
            model,
            norm=norm,
            eps=eps,
            seed=seed,
            batch_size=batch_size,
            num_classes=self._count_classes(),
            device=device,
        )
        self.on_progress = on_progress or (lambda progress: None)
        self.adversarials = self.images.clone()
        self.accuracy_after: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.deterministic = False
        self.passes_done = 0

    def classify(self) -> None:
        """Clean accuracy, and whether the model answers the same twice."""
        self.clean_correct = self._predict(self.images) == self.labels
        self.deterministic = self._is_deterministic()
        self.robust = self.clean_correct.clone()
        self.broken_by = np.where(self.clean_correct.numpy(), "", CLEAN).astype("<U8")
        self._finish(CLEAN)
        self._check_gradients()
        self.engine.check(self.images, self.labels)

    def attack(self, name: str) -> None:
        """One attack on the points that are still robust; the model decides which candidates broke theirs."""
        points = self.robust.nonzero().squeeze(1)
        start, done = time.perf_counter(), 0
        # A ball of radius zero holds nothing but the image itself.
        if len(points) and self.eps > 0:
            for positions, candidates in self.engine.attack(name, self.images[points], self.labels[points], points):
                self._judge(name, points[positions], candidates)
                done += len(positions)
                self.passes_done += PASSES[name] * len(positions)
                self._report(name, done, len(points))
        self.seconds[name] = time.perf_counter() - start
        self._finish(name)

    def verify(self) -> None:
        """Check every adversarial example once more, all of them together, from what will be stored."""
        broken = (self.clean_correct & ~self.robust).nonzero().squeeze(1)
        if len(broken) == 0:
            return
        check_adversarials(self.images[broken], self.adversarials[broken], broken, self.norm, self.eps)
        held = self._predict(self.adversarials[broken]) == self.labels[broken]
        if bool(held.any()):
            index = int(broken[held][0])
            raise EvaluationError(
                f"the adversarial example for image {index} no longer changes its label when it is classified again; "
                "the model does not answer the same twice, and its robust accuracy would not be a number"
            )

    def _judge(self, name: str, indices: Tensor, candidates: Tensor) -> None:
        lost = ~torch.isfinite(candidates).flatten(1).all(dim=1)
        if bool(lost.any()):
            raise EvaluationError(
                f"{name} ended at a point that is not finite for image {int(indices[lost][0])}: the model's gradient "
                "or output overflows there, and AutoAttack would count the image as robust; make the head stable"
            )
        fooled = self._predict(candidates) != self.labels[indices]
        winners = indices[fooled]
        check_adversarials(self.images[winners], candidates[fooled], winners, self.norm, self.eps)
        self.adversarials[winners] = candidates[fooled]
        self.robust[winners] = False
        self.broken_by[winners.numpy()] = name

    def _predict(self, images: Tensor) -> Tensor:
        return predict(self.model, images, self.batch_size, self.device)

    @torch.no_grad()
    def _count_classes(self) -> int:
        logits = self.model(self.images[:1].to(self.device))
        if logits.ndim != 2:
            raise EvaluationError(f"the model's output must have shape (N, classes), got {tuple(logits.shape)}")
        if logits.shape[1] < 4:
            raise EvaluationError(f"AutoAttack's targeted loss needs at least 4 classes, got {logits.shape[1]}")
        check_examples(self.images, self.labels, logits.shape[1])
        return int(logits.shape[1])

    def _check_gradients(self) -> None:
        """Refuse a model whose gradient overflows: AutoAttack would stand still there and call the points robust."""
        for indices in self.clean_correct.nonzero().squeeze(1).split(self.batch_size):
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
    def _is_deterministic(self) -> bool:
        batches = (batch.to(self.device) for batch in self.images.split(self.batch_size))
        return all(torch.equal(self.model(batch), self.model(batch)) for batch in batches)

    def _finish(self, stage: str) -> None:
        self.accuracy_after[stage] = float(self.robust.double().mean())
        self._report(stage, 0, 0)

    def _report(self, stage: str, done: int, total: int) -> None:
        robust = int(self.robust.sum())
        later = [attack for attack in STANDARD_ATTACKS if attack not in self.accuracy_after and attack != stage]
        passes_left = robust * sum(PASSES[attack] for attack in later)
        if stage in PASSES:
            passes_left += PASSES[stage] * (total - done)
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


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; for None or "auto", CUDA if there is one and the CPU if not.

    Raises:
        ValueError: not a device, or CUDA where there is none.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; use auto, cpu or cuda") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but this machine has no usable CUDA device; use cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {device!r}; this machine has {torch.cuda.device_count()} CUDA devices")
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported; use auto, cpu or cuda")
    return chosen


def _check_settings(norm: str, eps: float, batch_size: int, engine: str) -> None:
    if norm not in ("Linf", "L2"):
        raise ValueError(f"the norm must be 'Linf' or 'L2', got {norm!r}")
    if not 0.0 <= eps < float("inf"):
        raise ValueError(f"eps must be a finite number >= 0, got {eps}")
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; known: {', '.join(sorted(ENGINES))}")


@contextmanager
def _ready(model: nn.Module, device: torch.device, tf32: bool, channels_last: bool) -> Iterator[None]:
    """The model on the device, in eval mode, frozen, in the precision asked for; all but the device is put back.

    Raises:
        EvaluationError: a weight is not float32.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise EvaluationError(
                f"evaluation is in float32, but the weight {name} is {parameter.dtype}; load the model in float32 "
                "(model.float() keeps what rounding has done to the weights)"
            )
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.to(device).eval().requires_grad_(False)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        with float32_precision(tf32):
            yield
    finally:
        if channels_last:
            model.to(memory_format=torch.contiguous_format)
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)
