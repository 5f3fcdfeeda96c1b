"""Training of a base net, standard or adversarial, and the code shared with nets for Gaussian smoothing.

Adversarial training is that of [MMSTV18]: with one step from a random point FGSM-RS [WRK20]; with one step from more
noise, not projected, N-FGSM [JBV22]. TRADES is [ZYJ19].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform_images
from adaptive_smoothing_zoo.backbones.asking import run_base_net
from adaptive_smoothing_zoo.machine.ready import refusals_named
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import LINF, Norm, ThreatModel
from adaptive_smoothing_zoo.training.frozen import check_learns, frozen, frozen_parts, to_train_mode
from adaptive_smoothing_zoo.training.keeping import fingerprint
from adaptive_smoothing_zoo.training.loop import TrainingOptions, fit
from adaptive_smoothing_zoo.training.optimization import Momentum
from adaptive_smoothing_zoo.training.task import Batch, Part, Settings, Task, Training, check_classes
from adaptive_smoothing_zoo.training.workers import Workers, find_workers

TRADES_NOISE = 1e-3  # standard deviation of the noise from which TRADES' attack starts, in pixel units


@dataclass(frozen=True, kw_only=True)
class NetTraining(Training):
    """Settings of a training by SGD; see :class:`adaptive_smoothing_zoo.training.task.Training`."""

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: Momentum = "nesterov"
    schedule: str = "triangle"
    weight_decay: float = 5e-4
    padding: int = 0
    flip: bool = False
    accumulation: int = 1
    gradient_clip: float | None = None
    ema_decay: float = 0.0
    seed: int = 0
    bfloat16: bool = False


class NetTask(Task[Settings, Part], Generic[Settings, Part]):
    """The training of one net; a round is one step on one batch."""

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, settings: Settings, workers: Workers) -> None:
        super().__init__(net, images, labels, settings, workers, shares=workers.size * settings.accumulation)
        self._classes: int | None = None  # known after the first pass

    def run(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits (N, C), in float32 even under bfloat16.

        Raises:
            EvaluationError: the net fails on such images.
            ValueError: a label is none of its classes.
        """
        if self.settings.bfloat16:
            images = images.contiguous(memory_format=torch.channels_last)
        with refusals_named(images), self.autocast():
            logits = run_base_net(net, images, None)[0]
        if self._classes is None:
            self._classes = logits.shape[1]
            check_classes(self.labels, self._classes)
        return logits.float() if self.settings.bfloat16 else logits


def train_net(
    make_task: Callable[[nn.Module, Tensor, Tensor, Settings, Workers], Task[Settings, Any]],
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    **options: Unpack[TrainingOptions],
) -> nn.Module:
    """Train ``net`` in place and return it in eval mode.

    The same inputs, settings and machine give the same net. Parts whose parameters are all frozen are not changed. The
    net stays on the workers' device, and with ``bfloat16`` in channels_last.

    Args:
        net: images to logits (N, C), or to an output that contains them.
        images, labels: (N, channels, H, W) floating-point in [0, 1] and (N,) int64.
        options: see :class:`TrainingOptions`.

    Raises:
        TypeError, ValueError: no logits in the net's output; invalid images or labels; a batch size that does not split
            or exceeds the data; a net built in inference mode.
        ResultsError, TrainingError: as ``fit``.
    """
    check_learns(net)
    workers = options.get("workers") or find_workers(images.device)
    net.to(workers.device)
    if settings.bfloat16:
        net.to(memory_format=torch.channels_last)
    task = make_task(net, images, labels, settings, workers)
    with frozen(*frozen_parts(net)):
        fit(task, lambda: {"initial_weights": fingerprint(net)}, **options)
    net.eval()  # not chained: a foreign net's eval() may not return the net
    return net


@dataclass(frozen=True, kw_only=True)
class BaseNetTraining(NetTraining):
    """Settings of a base net's training, in addition to those of ``NetTraining``.

    Attributes:
        label_smoothing: of the cross-entropy, in [0, 1].
        norm, eps: of the attack on each batch, "Linf" or "L2", in pixel units; eps 0 trains on clean images.
        attack_steps, attack_step_size: number and length of that attack's steps, from a random point of the ball; the
            length is in pixel units and must be given if eps > 0.
        attack_mode: "train" attacks the net in train mode: batch norms use the batch, and their running statistics
            include the attack's passes. "eval" uses running statistics, as TRADES does.
        noise_factor: 0, or k for N-FGSM: one step of ``attack_step_size`` from a random point of the l_inf ball of
            radius k * eps, not projected to the ball of radius eps.
        trades_beta: 0, or TRADES' beta: the loss is the clean cross-entropy plus beta times KL(clean || attacked) of
            the predictions, and the attack maximizes this divergence.

    Raises:
        ValueError: a number out of range, or settings that contradict each other.
    """

    label_smoothing: float = 0.0
    eps: float = 0.0
    norm: Norm = LINF
    attack_steps: int = 1
    attack_step_size: float = 0.0
    attack_mode: Literal["train", "eval"] = "train"
    noise_factor: float = 0.0
    trades_beta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("label_smoothing", 1.0), ("noise_factor", math.inf), ("trades_beta", math.inf)):
            if not (0.0 <= (value := getattr(self, name)) <= most and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number in [0, {most:g}], got {value}")
        if self.threat.eps == 0.0 and (self.noise_factor or self.trades_beta):
            raise ValueError("N-FGSM and TRADES need a radius, eps > 0")
        if self.noise_factor and (self.trades_beta or self.norm != LINF or self.attack_steps != 1):
            raise ValueError(
                "N-FGSM is one step in l_inf that increases the cross-entropy; with noise_factor, use norm Linf, one "
                "step and no trades_beta"
            )
        if self.threat.eps > 0.0 and not (self.attack_steps >= 1 and 0.0 < self.attack_step_size < math.inf):
            raise ValueError(
                "an attack needs attack_steps of at least 1 and a positive attack_step_size, got "
                f"{self.attack_steps} and {self.attack_step_size}"
            )
        if self.attack_mode not in ("train", "eval"):
            raise ValueError(f"attack_mode must be 'train' or 'eval', got {self.attack_mode!r}")

    @cached_property
    def threat(self) -> ThreatModel:
        """The threat model of the attack on each batch."""
        return ThreatModel(self.norm, self.eps)

    @property
    def method(self) -> str:
        """The method's name: "standard", "FGSM-RS", "PGD-k" with k steps, "N-FGSM" or "TRADES"."""
        if self.eps == 0.0:
            return "standard"
        if self.noise_factor:
            return "N-FGSM"
        if self.trades_beta:
            return "TRADES"
        return "FGSM-RS" if self.attack_steps == 1 else f"PGD-{self.attack_steps}"


@own_surroundings()
def train_base_net(
    net: nn.Module, images: Tensor, labels: Tensor, settings: BaseNetTraining, **options: Unpack[TrainingOptions]
) -> nn.Module:
    """Train ``net`` in place; see :func:`adaptive_smoothing_zoo.training.base_nets.train_net`."""
    return train_net(BaseNetTask, net, images, labels, settings, **options)


@dataclass
class BaseNetPart:
    """Images (N, channels, H, W), clean and attacked (the same tensor without an attack), and labels (N,)."""

    clean: Tensor
    attacked: Tensor
    labels: Tensor


class BaseNetTask(NetTask[BaseNetTraining, BaseNetPart]):
    """The training of a base net on clean or attacked images."""

    def round(self, number: int) -> tuple[list[list[BaseNetPart]], dict[str, Tensor]]:
        batch, passes = self.batch(number), self.settings.accumulation
        attacked = batch.images if self.settings.eps == 0.0 else self._attack(batch)
        slices = [slice(i, None, passes) for i in range(passes)]
        return [[BaseNetPart(batch.images[part], attacked[part], batch.labels[part]) for part in slices]], {}

    def losses(self, learner: nn.Module, part: BaseNetPart) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        attacked = self.run(learner, part.attacked)
        accuracy = {"accuracy": (attacked.argmax(dim=1) == part.labels).float().mean()}
        learned = self.run(learner, part.clean) if settings.trades_beta else attacked
        losses = F.cross_entropy(learned, part.labels, label_smoothing=settings.label_smoothing, reduction="none")
        if settings.trades_beta:
            losses = losses + settings.trades_beta * divergence(learned, attacked)
        return losses, accuracy

    def _attack(self, batch: Batch) -> Tensor:
        settings, images, labels = self.settings, batch.images, batch.labels
        self.learner.eval()
        if settings.attack_mode == "train":
            to_train_mode(self.learner)

        def run(points: Tensor) -> Tensor:
            return self.run(self.learner, points)

        if settings.noise_factor:
            return n_fgsm(run, images, labels, run_keys(batch.seed, "n-fgsm", 0, batch.indices), settings)
        more: dict[str, Any] = {"random_start": True, "seed": batch.seed, "indices": batch.indices}
        if settings.trades_beta:
            with torch.no_grad():
                clean = run(images)
            noise = normal_images(run_keys(batch.seed, "trades", 0, batch.indices).to(images.device), images.shape[1:])
            more = {
                "start": TRADES_NOISE * noise.to(images.dtype),
                "loss": lambda attacked, _: divergence(clean, attacked),
            }
        more |= {"step_size": settings.attack_step_size, "steps": settings.attack_steps}
        return pgd(run, images, labels, norm=settings.threat.norm, eps=settings.threat.eps, **more)


def n_fgsm(
    run: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, keys: Tensor, settings: BaseNetTraining
) -> Tensor:
    """One signed gradient step from a random point of a larger ball, clipped to [0, 1] but not to a ball.

    Args:
        run: images (N, channels, H, W) to logits (N, C).
        images, labels: (N, channels, H, W) in [0, 1] and (N,).
        keys: (N,) from ``run_keys``, one per example.
    """
    noise = uniform_images(keys.to(images.device), images.shape[1:]).to(images.dtype)
    noisy = (images + settings.noise_factor * settings.eps * noise).requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(run(noisy), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, noisy)
    return (noisy.detach() + settings.attack_step_size * gradient.sign()).clamp(0, 1)


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(softmax(clean) || softmax(attacked)) of logits (N, C), per example (N,)."""
    expected = clean.log_softmax(dim=1)
    return F.kl_div(attacked.log_softmax(dim=1), expected, reduction="none", log_target=True).sum(dim=1)
