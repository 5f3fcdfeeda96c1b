"""Training of a base net: standard, or adversarial.

Adversarial training is Madry et al. 2018; with one step from a random point it is FGSM-RS (Wong et al. 2020), and with
more noise and no projection N-FGSM (de Jorge et al. 2022).
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.files import write_with

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BaseNetTraining:
    """Everything that decides how a base net is trained.

    Attributes:
        epochs, batch_size, learning_rate, weight_decay: SGD with Nesterov momentum 0.9; the rate rises linearly over
            the first 30 % of the steps and falls linearly to zero.
        eps: radius of the l_inf attack on each batch, in pixel units; 0 trains on clean images.
        attack_steps, attack_step_size: of that attack, which starts at a random point of the ball.
        noise_factor: 0, or k for N-FGSM: one step of ``attack_step_size`` from a random point of the ball of radius
            k * eps, not projected back to the ball of radius eps.
        padding: images are padded by this many pixels and cropped at random.
        flip: images are mirrored with probability 1/2.
        seed: of initialization order, shuffling, augmentation and attack.
        bfloat16: run the net under bfloat16 autocast, in channels_last (for large nets on recent CPUs and on GPUs).
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    eps: float = 0.0
    attack_steps: int = 1
    attack_step_size: float = 0.0
    noise_factor: float = 0.0
    padding: int = 0
    flip: bool = False
    seed: int = 0
    bfloat16: bool = False


def train_base_net(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: BaseNetTraining,
    *,
    on_epoch: Callable[[int, float], None] | None = None,
    checkpoint: Path | None = None,
) -> nn.Module:
    """Train ``net`` in place on images (N, channels, H, W) in [0, 1] and labels (N,); returned in eval mode.

    ``on_epoch(epoch, mean loss)`` is called after each epoch. The same inputs, settings and machine give the same net.
    With ``checkpoint`` the state is kept there after each epoch, and a training that was interrupted goes on from it
    to the same net.

    Raises:
        ResultsError: the checkpoint belongs to other settings.
    """
    device = images.device
    generator = torch.Generator(device=device).manual_seed(settings.seed)
    net.to(device)
    if settings.bfloat16:
        net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=settings.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=settings.weight_decay,
    )
    steps_per_epoch = -(-len(labels) // settings.batch_size)
    total = settings.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.3 * total), (total - step) / (0.7 * total))
    )

    def run(batch: Tensor) -> Tensor:
        with _autocast(device, settings.bfloat16):
            if settings.bfloat16:
                batch = batch.contiguous(memory_format=torch.channels_last)
            return net(batch).float()  # type: ignore[no-any-return]

    net.train()
    first = 0
    if checkpoint is not None and checkpoint.is_file():
        first = _resume(checkpoint, settings, net, optimizer, schedule, generator)
    for epoch in range(first, settings.epochs):
        order = torch.randperm(len(labels), generator=generator, device=device)
        losses = []
        for chosen in order.split(settings.batch_size):
            batch = augment(images[chosen], settings.padding, settings.flip, generator)
            if settings.eps > 0:
                batch = _attack(run, batch, labels[chosen], settings, generator)
            loss = F.cross_entropy(run(batch), labels[chosen], label_smoothing=settings.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        mean_loss = float(torch.stack(losses).mean())
        logger.info("epoch %d of %d: loss %.4f", epoch + 1, settings.epochs, mean_loss)
        if checkpoint is not None:
            state = {
                "settings": asdict(settings),
                "epochs_done": epoch + 1,
                "net": net.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "generator": generator.get_state(),
            }
            write_with(checkpoint, lambda path, state=state: torch.save(state, path))  # type: ignore[misc]
        if on_epoch is not None:
            on_epoch(epoch, mean_loss)
    return net.eval()


def _attack(
    run: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    settings: BaseNetTraining,
    generator: torch.Generator,
) -> Tensor:
    if settings.noise_factor > 0:
        noise = torch.empty_like(images).uniform_(-1, 1, generator=generator)
        noisy = (images + settings.noise_factor * settings.eps * noise).requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(run(noisy), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, noisy)
        return (noisy.detach() + settings.attack_step_size * gradient.sign()).clamp(0, 1)
    return pgd(
        run,
        images,
        labels,
        eps=settings.eps,
        step_size=settings.attack_step_size,
        steps=settings.attack_steps,
        random_start=True,
        generator=generator,
    )


def _resume(
    checkpoint: Path,
    settings: BaseNetTraining,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
) -> int:
    """Put everything back as it was after the last finished epoch; returns how many epochs are done."""
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["settings"] != asdict(settings):
        raise ResultsError(
            f"the checkpoint {checkpoint} was made with the settings {state['settings']}, not {asdict(settings)}; "
            "delete it to start anew, or train with its settings"
        )
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    generator.set_state(state["generator"])
    logger.info("going on after epoch %d of %d", state["epochs_done"], settings.epochs)
    return int(state["epochs_done"])


def augment(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crops of zero-padded images and random mirroring, drawn per example."""
    n, _, height, width = images.shape
    device = images.device
    if flip:
        mirrored = torch.rand(n, generator=generator, device=device) < 0.5
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    if padding:
        padded = F.pad(images, (padding,) * 4)
        corner = torch.randint(0, 2 * padding + 1, (2, n), generator=generator, device=device)
        rows = corner[0].view(-1, 1) + torch.arange(height, device=device)  # (N, H)
        columns = corner[1].view(-1, 1) + torch.arange(width, device=device)  # (N, W)
        example = torch.arange(n, device=device).view(-1, 1, 1)
        # Indexing with three index arrays around a slice moves channels last.
        images = padded[example, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()
    return images


def _autocast(device: torch.device, enabled: bool) -> AbstractContextManager[None]:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
