"""Training of a base net: standard, or adversarial.

Adversarial training is Madry et al. 2018 (arXiv:1706.06083); with one step from a random point it is FGSM-RS (Wong et
al. 2020, arXiv:2001.03994), with more noise and no projection N-FGSM (de Jorge et al. 2022, arXiv:2202.01181). TRADES
is Zhang et al. 2019 (arXiv:1901.08573).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform_images
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.training.frozen import to_train_mode
from adaptive_smoothing_zoo.training.single_net import NetTask, NetTraining, TrainingOptions, train_net

TRADES_NOISE = 0.001  # standard deviation of what TRADES starts its attack with, in pixel units


@dataclass(frozen=True, kw_only=True)
class BaseNetTraining(NetTraining):
    """Everything that decides how a base net is trained, in addition to the settings of ``NetTraining``.

    Attributes:
        label_smoothing: of the cross-entropy that is minimized.
        eps: radius of the attack on each batch, in pixel units; 0 trains on clean images.
        norm: "Linf" or "L2", of the attack.
        attack_steps, attack_step_size: of that attack, which starts at a random point of the ball.
        attack_mode: "train" attacks the net as it is in training, with batch norms that see the batch (and whose
            running statistics see the attack), "eval" with its running statistics, as TRADES does.
        noise_factor: 0, or k for N-FGSM: one step of ``attack_step_size`` from a random point of the l_inf ball of
            radius k * eps, not projected back to the ball of radius eps.
        trades_beta: 0, or the weight of TRADES' second term: the loss is then the clean cross-entropy plus beta times
            the Kullback-Leibler divergence of the attacked from the clean prediction, which its attack increases.

    Raises:
        ValueError: settings that contradict each other.
    """

    label_smoothing: float = 0.0
    eps: float = 0.0
    norm: Literal["Linf", "L2"] = "Linf"
    attack_steps: int = 1
    attack_step_size: float = 0.0
    attack_mode: Literal["train", "eval"] = "train"
    noise_factor: float = 0.0
    trades_beta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps == 0.0 and (self.noise_factor or self.trades_beta):
            raise ValueError("N-FGSM and TRADES need a radius, eps > 0")
        if self.noise_factor and (self.trades_beta or self.norm != "Linf" or self.attack_steps != 1):
            raise ValueError("N-FGSM is one step in l_inf that increases the cross-entropy")
        if self.attack_mode not in ("train", "eval"):
            raise ValueError(f"attack_mode must be 'train' or 'eval', got {self.attack_mode!r}")

    @property
    def method(self) -> str:
        """What this training is called."""
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
    """Train ``net`` in place; see :func:`adaptive_smoothing_zoo.training.single_net.train_net`."""
    return train_net(BaseNetTask, net, images, labels, settings, **options)


@dataclass
class BaseNetPart:
    """Clean images (N, channels, H, W), the same attacked (or not), and labels (N,)."""

    clean: Tensor
    attacked: Tensor
    labels: Tensor


class BaseNetTask(NetTask[BaseNetTraining]):
    """See :class:`adaptive_smoothing_zoo.training.loop.Task`."""

    def round(self, number: int) -> tuple[list[list[BaseNetPart]], dict[str, Tensor]]:
        settings = self.settings
        clean, labels, chosen, seed = self.batch(number)
        attacked = clean if settings.eps == 0.0 else self._attack(clean, labels, chosen, seed)
        slices = [slice(i, None, settings.accumulation) for i in range(settings.accumulation)]
        return [[BaseNetPart(clean[part], attacked[part], labels[part]) for part in slices]], {}

    def losses(self, learner: nn.Module, part: BaseNetPart) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        attacked = self.run(learner, part.attacked)
        accuracy = {"accuracy": (attacked.argmax(dim=1) == part.labels).float().mean()}
        if not settings.trades_beta:
            smoothing = settings.label_smoothing
            return F.cross_entropy(attacked, part.labels, label_smoothing=smoothing, reduction="none"), accuracy
        clean = self.run(learner, part.clean)
        natural = F.cross_entropy(clean, part.labels, label_smoothing=settings.label_smoothing, reduction="none")
        return natural + settings.trades_beta * divergence(clean, attacked), accuracy

    def _attack(self, images: Tensor, labels: Tensor, indices: Tensor, seed: int) -> Tensor:
        settings = self.settings
        self.learner.eval()
        if settings.attack_mode == "train":
            to_train_mode(self.learner)

        def run(batch: Tensor) -> Tensor:
            return self.run(self.learner, batch)

        if settings.noise_factor:
            return n_fgsm(run, images, labels, run_keys(seed, "n-fgsm", 0, indices), settings)
        steps = {"eps": settings.eps, "step_size": settings.attack_step_size, "steps": settings.attack_steps}
        if not settings.trades_beta:
            random = {"random_start": True, "seed": seed, "indices": indices}
            return pgd(run, images, labels, norm=settings.norm, **steps, **random)  # type: ignore[arg-type]
        with torch.no_grad():
            clean = run(images)
        noise = normal_images(run_keys(seed, "trades", 0, indices).to(images.device), images.shape[1:])
        return pgd(
            run,
            images,
            labels,
            norm=settings.norm,
            start=TRADES_NOISE * noise,
            loss=lambda attacked, _: divergence(clean, attacked),
            **steps,  # type: ignore[arg-type]
        )


def n_fgsm(
    run: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, keys: Tensor, settings: BaseNetTraining
) -> Tensor:
    """One signed gradient step from a random point of a larger ball, into the box but not back to any ball."""
    noise = uniform_images(keys.to(images.device), images.shape[1:])
    noisy = (images + settings.noise_factor * settings.eps * noise).requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(run(noisy), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, noisy)
    return (noisy.detach() + settings.attack_step_size * gradient.sign()).clamp(0, 1)


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(softmax(clean) || softmax(attacked)) of logits (N, C), per example (N,)."""
    expected = clean.log_softmax(dim=1)
    return F.kl_div(attacked.log_softmax(dim=1), expected, reduction="none", log_target=True).sum(dim=1)
