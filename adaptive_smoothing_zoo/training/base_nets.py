"""Training of a base net: standard, or adversarial.

Adversarial training is Madry et al. 2018 (arXiv:1706.06083); with one step from a random point it is FGSM-RS (Wong et
al. 2020, arXiv:2001.03994), with more noise and no projection N-FGSM (de Jorge et al. 2022, arXiv:2202.01181). TRADES
is Zhang et al. 2019 (arXiv:1901.08573).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform_images
from adaptive_smoothing_zoo.training.draws import augment, derived_seed, permutation
from adaptive_smoothing_zoo.training.keeping import Keeper, fingerprint
from adaptive_smoothing_zoo.training.loop import OnProgress, Optimization, fit
from adaptive_smoothing_zoo.training.workers import Workers, find_workers

TRADES_NOISE = 0.001  # standard deviation of what TRADES starts its attack with, in pixel units


@dataclass(frozen=True, kw_only=True)
class BaseNetTraining:
    """Everything that decides how a base net is trained.

    Attributes:
        epochs, batch_size: an epoch leaves out what does not fill a batch, other examples each time.
        learning_rate, weight_decay: SGD with Nesterov momentum 0.9; the rate rises linearly over the first 30 % of the
            steps and falls linearly to zero.
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
        padding: images are padded by this many pixels and cropped at random.
        flip: images are mirrored with probability 1/2.
        accumulation: passes (per process) into which a batch is split, whose gradients are added up.
        gradient_clip, ema_decay: as in :class:`adaptive_smoothing_zoo.training.loop.Optimization`.
        seed: of shuffling, augmentation and attack; of the weights only in a recipe.
        bfloat16: run the net under bfloat16 autocast, in channels_last (for large nets on recent CPUs and on GPUs).

    Raises:
        ValueError: settings that contradict each other.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    eps: float = 0.0
    norm: Literal["Linf", "L2"] = "Linf"
    attack_steps: int = 1
    attack_step_size: float = 0.0
    attack_mode: Literal["train", "eval"] = "train"
    noise_factor: float = 0.0
    trades_beta: float = 0.0
    padding: int = 0
    flip: bool = False
    accumulation: int = 1
    gradient_clip: float | None = None
    ema_decay: float = 0.0
    seed: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.eps == 0.0 and (self.noise_factor or self.trades_beta):
            raise ValueError("N-FGSM and TRADES need a radius, eps > 0")
        if self.noise_factor and (self.trades_beta or self.norm != "Linf" or self.attack_steps != 1):
            raise ValueError("N-FGSM is one step in l_inf that increases the cross-entropy")
        if self.attack_mode not in ("train", "eval"):
            raise ValueError(f"attack_mode must be 'train' or 'eval', got {self.attack_mode!r}")

    @property
    def optimization(self) -> Optimization:
        return Optimization(
            optimizer="sgd",
            learning_rate=self.learning_rate,
            schedule="triangle",
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            ema_decay=self.ema_decay,
        )


def train_base_net(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: BaseNetTraining,
    *,
    workers: Workers | None = None,
    folder: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_progress: OnProgress | None = None,
) -> nn.Module:
    """Train ``net`` in place on images (N, channels, H, W) in [0, 1] and labels (N,); returned in eval mode.

    The same inputs, settings and machine give the same net.

    Args:
        workers: the processes that do it and their device; this process, on the images' device, if None.
        folder: where checkpoints and a log are kept. A training that was interrupted goes on from there.
        checkpoint_seconds: time between two checkpoints.
        on_progress: told of every finished step.

    Raises:
        ValueError: the batch cannot be split as asked, or is larger than the data.
        ResultsError: the folder belongs to another training.
        TrainingError: the loss is not finite.
    """
    workers = workers or find_workers(images.device)
    net.to(workers.device)
    if settings.bfloat16:
        net.to(memory_format=torch.channels_last)
    task = BaseNetTask(net, images, labels, settings, workers)
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


@dataclass
class BaseNetPart:
    """Clean images (N, channels, H, W), the same attacked (or not), and labels (N,)."""

    clean: Tensor
    attacked: Tensor
    labels: Tensor


class BaseNetTask:
    """See :class:`adaptive_smoothing_zoo.training.loop.Task`; a round is one step on one batch."""

    steps = 1

    def __init__(
        self, net: nn.Module, images: Tensor, labels: Tensor, settings: BaseNetTraining, workers: Workers
    ) -> None:
        check_batch(len(labels), settings.batch_size, workers.size * settings.accumulation)
        self.learner, self.settings, self.workers = net, settings, workers
        self.images, self.labels = images, labels
        self.seed = settings.seed
        self.rounds_per_epoch = len(labels) // settings.batch_size
        self.rounds = settings.epochs * self.rounds_per_epoch

    def round(self, number: int) -> tuple[list[list[BaseNetPart]], dict[str, Tensor]]:
        settings = self.settings
        chosen = self.workers.share(batch_of_round(self.seed, number, len(self.labels), settings.batch_size))
        seed = derived_seed(self.seed, "round", number)
        clean = self.images[chosen].to(self.workers.device)
        clean = augment(clean, settings.padding, settings.flip, run_keys(seed, "augment", 0, chosen))
        labels = self.labels[chosen].to(self.workers.device)
        attacked = clean if settings.eps == 0.0 else self._attack(clean, labels, chosen, seed)
        slices = [slice(i, None, settings.accumulation) for i in range(settings.accumulation)]
        return [[BaseNetPart(clean[part], attacked[part], labels[part]) for part in slices]], {}

    def losses(self, learner: nn.Module, part: BaseNetPart) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        attacked = self._run(learner, part.attacked)
        accuracy = {"accuracy": (attacked.argmax(dim=1) == part.labels).float().mean()}
        if not settings.trades_beta:
            smoothing = settings.label_smoothing
            return F.cross_entropy(attacked, part.labels, label_smoothing=smoothing, reduction="none"), accuracy
        clean = self._run(learner, part.clean)
        natural = F.cross_entropy(clean, part.labels, label_smoothing=settings.label_smoothing, reduction="none")
        return natural + settings.trades_beta * divergence(clean, attacked), accuracy

    def _run(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits (N, C), float32."""
        with autocast(self.workers.device, self.settings.bfloat16):
            if self.settings.bfloat16:
                images = images.contiguous(memory_format=torch.channels_last)
            return net(images).float()  # type: ignore[no-any-return]

    def _attack(self, images: Tensor, labels: Tensor, indices: Tensor, seed: int) -> Tensor:
        settings = self.settings
        self.learner.train(settings.attack_mode == "train")

        def run(batch: Tensor) -> Tensor:
            return self._run(self.learner, batch)

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


def batch_of_round(seed: int, number: int, count: int, batch_size: int) -> Tensor:
    """The examples of a round, (batch_size,): every epoch is a permutation of its own, cut into whole batches."""
    epoch, place = divmod(number, count // batch_size)
    order = permutation(seed, "order", epoch, count)
    return order[place * batch_size : (place + 1) * batch_size]


def check_batch(count: int, batch_size: int, shares: int) -> None:
    """Raise ValueError unless ``count`` examples fill a batch and a batch can be split into equal shares."""
    if not 0 < batch_size <= count:
        raise ValueError(f"a batch of {batch_size} must have between 1 and all {count} examples")
    if batch_size % shares:
        raise ValueError(
            f"a batch of {batch_size} cannot be split into {shares} equal shares (processes times passes); choose a "
            "multiple"
        )


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[None]:
    """bfloat16 where it does no harm, if enabled."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
