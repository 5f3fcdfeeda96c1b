"""Training of the mixing network on clean and attacked images, g and h frozen (000, section 4; 003, supplement)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_smoothing_zoo.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.attacks.pgd import cross_entropy, pgd
from adaptive_smoothing_zoo.classifier import MixedClassifier
from adaptive_smoothing_zoo.training.base_nets import augment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MixingTraining:
    """Everything that decides how a mixing network is trained.

    Attributes:
        epochs, batch_size, learning_rate, weight_decay, gradient_clip: AdamW, an exponential-free linear warm-up over
            the first 1/25 of the steps, cosine decay to zero.
        c_ce, c_bce, c_prod: the composite loss, c_ce CE + c_bce BCE + c_prod CE BCE per example. Table SM2 of 003
            finds (0, 1.5, 0.2) best.
        eps: nominal radius of the l_inf attack, in pixel units; each example's is eps times a factor drawn uniformly
            from ``radius_factor``.
        attack_steps, attack_step_size: white-box PGD from a random start; the step is relative to the radius.
        alpha_weight: upper end of the uniformly drawn weight w of the part of the attack that pulls alpha down:
            (1 - w) CE(mix) + w BCE(alpha, 1).
        clamp: limit of the raw network output, in batch standard deviations around the batch mean.
        padding, flip: augmentation, as in :class:`BaseNetTraining`.
        seed: of shuffling, augmentation and attack.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    gradient_clip: float = 10.0
    c_ce: float = 0.0
    c_bce: float = 1.5
    c_prod: float = 0.2
    eps: float
    radius_factor: tuple[float, float] = (0.4, 1.1)
    attack_steps: int = 10
    attack_step_size: float = 0.25
    alpha_weight: float = 0.4
    clamp: float = 0.6
    padding: int = 0
    flip: bool = False
    seed: int = 0


def train_mixing_network(
    model: MixedClassifier,
    images: Tensor,
    labels: Tensor,
    settings: MixingTraining,
    *,
    on_epoch: Callable[[int, float], None] | None = None,
) -> MixedClassifier:
    """Train the mixing network of ``model`` in place; g and h stay as they are.

    Half of each batch is attacked (pseudo-label 1: use h), half is clean (pseudo-label 0: use g). Training and its
    attacks use the range (0, 1) of alpha; the model's own range is put back at the end, and the model returned in
    eval mode.

    Raises:
        ValueError: the model has a constant alpha.
    """
    alpha = model.alpha
    if not isinstance(alpha, AdaptiveAlpha):
        raise ValueError("the model has a constant alpha; there is no mixing network to train")
    own_range = alpha.alpha_min, alpha.alpha_max
    alpha.set_range(0.0, 1.0)
    model.eval().requires_grad_(False)
    parameters = list(alpha.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    total = settings.epochs * -(-len(labels) // settings.batch_size)
    warm_up = max(1, total // 25)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1e-2, 1.0, warm_up),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, total - warm_up)),
        ],
        [warm_up],
    )
    generator = torch.Generator(device=images.device).manual_seed(settings.seed)
    for epoch in range(settings.epochs):
        losses = []
        for chosen in torch.randperm(len(labels), generator=generator, device=images.device).split(settings.batch_size):
            clean = augment(images[chosen], settings.padding, settings.flip, generator)
            attacked = _attack(model, clean, labels[chosen], settings, generator)
            batch, truth = torch.cat([clean, attacked]), labels[chosen].repeat(2)
            use_rob = torch.cat([torch.zeros(len(chosen)), torch.ones(len(chosen))]).to(images.device)
            alpha.train()
            alpha.clamp = settings.clamp
            loss = composite_loss(*_mix_and_alpha_logit(model, batch), truth, use_rob, settings).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
            optimizer.step()
            schedule.step()
            alpha.eval()
            alpha.clamp = None
            losses.append(loss.detach())
        mean_loss = float(torch.stack(losses).mean())
        logger.info("epoch %d of %d: loss %.4f", epoch + 1, settings.epochs, mean_loss)
        if on_epoch is not None:
            on_epoch(epoch, mean_loss)
    alpha.set_range(*own_range)
    return model.eval().requires_grad_(False)


def composite_loss(
    log_mix: Tensor, alpha_logit: Tensor, labels: Tensor, use_rob: Tensor, settings: MixingTraining
) -> Tensor:
    """c_ce CE + c_bce BCE + c_prod CE BCE for each example, (N,).

    Args:
        log_mix: (N, C) log-probabilities of the mix.
        alpha_logit: (N,).
        labels: (N,) classes.
        use_rob: (N,) pseudo-labels of alpha, 1 for attacked inputs, 0 for clean ones.
    """
    ce = F.cross_entropy(log_mix, labels, reduction="none")
    bce = F.binary_cross_entropy_with_logits(alpha_logit, use_rob, reduction="none")
    return settings.c_ce * ce + settings.c_bce * bce + settings.c_prod * ce * bce


def _attack(
    model: MixedClassifier, images: Tensor, labels: Tensor, settings: MixingTraining, generator: torch.Generator
) -> Tensor:
    """White-box PGD with a radius and a weight of the alpha-lowering part drawn for each example."""
    low, high = settings.radius_factor
    draws = torch.rand(2, len(labels), generator=generator, device=images.device)
    radius = settings.eps * (low + (high - low) * draws[0])
    weight = settings.alpha_weight * draws[1]

    def both(batch: Tensor) -> Tensor:
        log_mix, alpha_logit = _mix_and_alpha_logit(model, batch)
        return torch.cat([log_mix, alpha_logit.unsqueeze(1)], dim=1)

    def loss(output: Tensor, truth: Tensor) -> Tensor:
        log_mix, alpha_logit = output[:, :-1], output[:, -1]
        # BCE of alpha with label 1; increasing it lowers alpha, toward g.
        return (1 - weight) * cross_entropy(log_mix, truth) + weight * F.softplus(-alpha_logit)

    return pgd(
        both,
        images,
        labels,
        eps=radius,
        step_size=settings.attack_step_size * radius,
        steps=settings.attack_steps,
        random_start=True,
        loss=loss,
        generator=generator,
    )


def _mix_and_alpha_logit(model: MixedClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the mix and alpha_logit, from one pass."""
    features = model.forward_features(images)
    return model.forward_head(features), features[:, -1]
