"""Training of nets that will be smoothed by Gaussian noise: one trainer, with any of the losses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform
from adaptive_smoothing_zoo.training.base_nets import autocast, batch_of_round, check_batch
from adaptive_smoothing_zoo.training.draws import augment, derived_seed
from adaptive_smoothing_zoo.training.keeping import Keeper, fingerprint
from adaptive_smoothing_zoo.training.loop import OnProgress, Optimization, fit
from adaptive_smoothing_zoo.training.schedule import SCHEDULES
from adaptive_smoothing_zoo.training.smoothed_losses import AnySmoothedLoss, GaussianLoss, NoisyBatch
from adaptive_smoothing_zoo.training.workers import Workers, find_workers


@dataclass(frozen=True, kw_only=True)
class SmoothedTraining:
    """Everything that decides how a net that will be smoothed is trained.

    Attributes:
        sigma: standard deviation of the noise, in pixel units.
        loss: which, and its constants.
        epochs, batch_size: as for base nets; images, not noisy copies of them, are counted. (The authors of 004 count
            copies: their batch of 256 is 64 images where m is 4.)
        learning_rate, weight_decay, schedule: of SGD with Nesterov momentum 0.9.
        padding, flip, accumulation, gradient_clip, ema_decay, seed, bfloat16: as in
            :class:`adaptive_smoothing_zoo.training.base_nets.BaseNetTraining`.

    Raises:
        ValueError: an unknown schedule, a sigma that is not positive, or a loss without noise or steps.
    """

    sigma: float
    loss: AnySmoothedLoss = field(default_factory=GaussianLoss)
    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    schedule: str = "thirds"
    padding: int = 0
    flip: bool = False
    accumulation: int = 1
    gradient_clip: float | None = None
    ema_decay: float = 0.0
    seed: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}; known: {', '.join(SCHEDULES)}")
        if not self.sigma > 0.0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if self.loss.noises < 1:
            raise ValueError(f"a loss needs at least one noise per image, got {self.loss.noises}")
        if getattr(self.loss, "steps", 1) < 1:
            raise ValueError("an attack needs at least one step")

    @property
    def optimization(self) -> Optimization:
        return Optimization(
            optimizer="sgd",
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            ema_decay=self.ema_decay,
        )


def train_smoothed_net(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: SmoothedTraining,
    *,
    workers: Workers | None = None,
    folder: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_progress: OnProgress | None = None,
) -> nn.Module:
    """Train ``net`` in place on images (N, channels, H, W) in [0, 1] and labels (N,); returned in eval mode.

    What is returned is the net that votes; ``backbones.gaussian_smoothed`` and ``certification.certify`` smooth it.
    Arguments and errors are those of :func:`adaptive_smoothing_zoo.training.base_nets.train_base_net`.
    """
    workers = workers or find_workers(images.device)
    net.to(workers.device)
    if settings.bfloat16:
        net.to(memory_format=torch.channels_last)
    task = SmoothedTask(net, images, labels, settings, workers)
    keeper = None
    if folder is not None:
        binding = {
            "settings": asdict(settings),
            "data": fingerprint(images, labels),
            "initial_weights": fingerprint(net),
        }
        keeper = Keeper(folder, binding, checkpoint_seconds)
    fit(task, settings.optimization, workers=workers, keeper=keeper, on_progress=on_progress)
    return net.eval()


class SmoothedTask:
    """See :class:`adaptive_smoothing_zoo.training.loop.Task`; a round is one step on one batch.

    An example's noise depends on the seed, the round and its index alone.
    """

    steps = 1

    def __init__(
        self, net: nn.Module, images: Tensor, labels: Tensor, settings: SmoothedTraining, workers: Workers
    ) -> None:
        check_batch(len(labels), settings.batch_size, workers.size * settings.accumulation)
        self.learner, self.settings, self.workers = net, settings, workers
        self.images, self.labels = images, labels
        self.seed = settings.seed
        self.rounds_per_epoch = len(labels) // settings.batch_size
        self.rounds = settings.epochs * self.rounds_per_epoch

    def round(self, number: int) -> tuple[list[list[NoisyBatch]], dict[str, Tensor]]:
        settings, device = self.settings, self.workers.device
        chosen = self.workers.share(batch_of_round(self.seed, number, len(self.labels), settings.batch_size))
        seed = derived_seed(self.seed, "round", number)
        images = self.images[chosen].to(device)
        images = augment(images, settings.padding, settings.flip, run_keys(seed, "augment", 0, chosen))
        whole = NoisyBatch(
            images=images,
            labels=self.labels[chosen].to(device),
            noise=settings.sigma * noises(seed, chosen, settings.loss.noises, images),
            mixing=0.5 * uniform(run_keys(seed, "mixing", 0, chosen), torch.tensor(0)).to(device),
            sigma=settings.sigma,
            strength=settings.loss.strength(number // self.rounds_per_epoch),
            start=images,
        )
        parts = [_every(whole, i, settings.accumulation) for i in range(settings.accumulation)]
        self.learner.eval()
        for part in parts:
            settings.loss.attack(lambda batch: self._run(self.learner, batch), part)
        return [parts], {}

    def losses(self, learner: nn.Module, part: NoisyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.settings.loss.losses(lambda batch: self._run(learner, batch), part), {}

    def _run(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        with autocast(self.workers.device, self.settings.bfloat16):
            if self.settings.bfloat16:
                images = images.contiguous(memory_format=torch.channels_last)
            logits: Tensor = net(images)
        return logits.float() if self.settings.bfloat16 else logits


def noises(seed: int, indices: Tensor, count: int, images: Tensor) -> Tensor:
    """Standard normal noise of ``count`` copies of each image (N, channels, H, W): (N, count, channels, H, W)."""
    keys = torch.stack([run_keys(seed, "noise", copy, indices) for copy in range(count)], dim=1)
    drawn = normal_images(keys.flatten().to(images.device), images.shape[1:]).to(images.dtype)
    return drawn.view(*keys.shape, *images.shape[1:])


def _every(batch: NoisyBatch, first: int, step: int) -> NoisyBatch:
    """Every ``step``-th example."""
    rows = slice(first, None, step)
    names = ("images", "labels", "noise", "mixing", "start")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names})
