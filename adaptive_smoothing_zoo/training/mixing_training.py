"""Training of the mixing network on clean and attacked images, g and h frozen (000, sections 4 and 5.2; 003, B).

The constants' defaults are the papers' where they agree, and else those of the authors' configuration files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import rank_classes
from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.attacks.randomized import (
    Randomization,
    every_randomized_apgd,
    randomized_apgd,
    randomized_pgd,
)
from adaptive_smoothing_zoo.attacks.views import GrayBox, WithAlphaLoss
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, with_mixing_network
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.formula import BaseOutputs
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import check_norm
from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss
from adaptive_smoothing_zoo.training.draws import augment, derived_seed, permutation
from adaptive_smoothing_zoo.training.frozen import faster_copy, frozen
from adaptive_smoothing_zoo.training.keeping import CHECKPOINT_SECONDS, Keeper, fingerprint
from adaptive_smoothing_zoo.training.loop import OnProgress, Optimization, fit
from adaptive_smoothing_zoo.training.single_net import autocast, batch_of_round, check_batch
from adaptive_smoothing_zoo.training.workers import Workers, find_workers


@dataclass(frozen=True, kw_only=True)
class TrainingAttack:
    """The attack that gives the attacked half of the images (000, section 4.2).

    Attributes:
        setting: "A", PGD without the gradient of the mixing network (gray box); "B", PGD with it (white box); "C",
            APGD with it, on the cross-entropy and on the targeted DLR loss.
        eps, norm: nominal radius, in pixel units, and "Linf" or "L2".
        randomization: what is drawn for each example. The authors have 20 steps for A and B and 75 for C. In A alpha
            has no gradient, so nothing pulls it down.
        targets: of C, wrong classes to attack toward; fewer if there are not so many.
        every_run: of C, whether every run gives an image to train on (1 + ``targets`` of them, as the authors have it)
            or only the first that fools the mix, which costs less.

    Raises:
        ValueError: an unknown setting or norm, or numbers that make no attack.
    """

    setting: Literal["A", "B", "C"] = "B"
    eps: float
    norm: Literal["Linf", "L2"] = "Linf"
    randomization: Randomization = field(default_factory=lambda: Randomization(steps=20))
    targets: int = 9
    every_run: bool = True

    def __post_init__(self) -> None:
        if self.setting not in ("A", "B", "C"):
            raise ValueError(f"the setting of an attack is 'A', 'B' or 'C', got {self.setting!r}")
        check_norm(self.norm)
        if not 0.0 < self.eps < float("inf"):
            raise ValueError(f"eps of the training attack must be positive, got {self.eps}")
        if self.targets < 0:
            raise ValueError(f"targets must not be negative, got {self.targets}")

    def runs(self, num_classes: int) -> int:
        """How many attacked images each image gives."""
        return 1 + min(self.targets, num_classes - 1) if self.setting == "C" and self.every_run else 1


@dataclass(frozen=True, kw_only=True)
class MixingTraining:
    """Everything that decides how a mixing network is trained.

    Attributes:
        epochs, batch_size: an epoch leaves out what does not fill a batch, other examples each time.
        attack, loss: see their classes.
        learning_rate, weight_decay: of AdamW, with :func:`adaptive_smoothing_zoo.training.schedule.cosine`. The authors
            have 1e-4, and 5e-5 for their largest triplets.
        gradient_clip, ema_decay: as in :class:`adaptive_smoothing_zoo.training.loop.Optimization`.
        steps: optimizer steps on the images of a batch, clean and attacked in equal number. The authors have 1 for one
            run per image, and 5 for ten.
        accumulation: passes (per process) in a step, whose gradients are added up; each has its own batch statistics.
        logit_scale, logit_bias: of alpha_logit in training and its attacks, where alpha has the range (0, 1).
        clamp: limit of the raw network output in training, in batch standard deviations around the batch mean.
        padding, flip: augmentation, as in :class:`adaptive_smoothing_zoo.training.single_net.NetTraining`.
        seed: of shuffling, augmentation and attack; of the weights only in a recipe.
        bfloat16: compute the attacks' gradients and the mixing network under bfloat16 autocast, in channels_last. What
            fools the mix, and the features and probabilities of g and h that the network learns from, stay float32.
            (In float32, too, gradients go through copies of g and h that differ by rounding, and the mix is the judge.)
        channels_last: that memory format also without bfloat16.
    """

    epochs: int
    batch_size: int = 128
    attack: TrainingAttack
    loss: CompositeLoss = field(default_factory=CompositeLoss)
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    gradient_clip: float | None = 10.0
    ema_decay: float = 0.0
    steps: int = 1
    accumulation: int = 1
    logit_scale: float = 2.0
    logit_bias: float = 0.4
    clamp: float | None = 0.6
    padding: int = 0
    flip: bool = False
    seed: int = 0
    bfloat16: bool = False
    channels_last: bool = False

    @property
    def optimization(self) -> Optimization:
        return Optimization(
            optimizer="adamw",
            learning_rate=self.learning_rate,
            schedule="cosine",
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            ema_decay=self.ema_decay,
        )


@own_surroundings()
def train_mixing_network(
    model: MixedClassifier,
    images: Tensor,
    labels: Tensor,
    settings: MixingTraining,
    *,
    workers: Workers | None = None,
    folder: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_progress: OnProgress | None = None,
) -> MixedClassifier:
    """Train the mixing network of ``model`` in place; g, h and the range, scale and bias of alpha stay as they are.

    Args:
        model: with an :class:`AdaptiveAlpha`.
        images: (N, channels, H, W) in [0, 1].
        labels: (N,).
        workers: the processes that do it and their device; this process, on the images' device, if None.
        folder: where checkpoints and a log are kept. A training that was interrupted resumes from there.
        checkpoint_seconds: time between two checkpoints.
        on_progress: told of every finished round.

    Returns:
        The model: alpha in eval mode and frozen, g and h with the modes and requires_grad that they had; call
        ``eval()`` if theirs is not.

    Raises:
        ValueError: the model has a constant alpha, the batch cannot be split as asked or is larger than the data, or
            setting C meets fewer than 4 classes.
        ResultsError: the folder belongs to another training.
        TrainingError: the loss is not finite.
    """
    workers = workers or find_workers(images.device)
    model.check_mixes("train_mixing_network")
    with_mixing_network(model.alpha)
    model.to(workers.device)
    keeper = None
    if folder is not None:
        binding = {
            "settings": asdict(settings),
            "data": fingerprint(images, labels),
            "std_model": fingerprint(model.std_model),
            "rob_model": fingerprint(model.rob_model),
            "initial_weights": fingerprint(model.alpha),
            "taps": [model.alpha.std_taps, model.alpha.rob_taps],
            "maps": [repr(model.std_map), repr(model.rob_map)],
        }
        keeper = Keeper(folder, binding, checkpoint_seconds)
    with frozen(model.std_model, model.rob_model, model.std_map, model.rob_map):
        model.alpha.eval().requires_grad_(True)
        if settings.bfloat16 or settings.channels_last:
            model.to(memory_format=torch.channels_last)
        task = MixingTask(model, images, labels, settings, workers)
        try:
            fit(task, settings.optimization, workers=workers, keeper=keeper, on_progress=on_progress)
        finally:
            model.to(memory_format=torch.contiguous_format)
            model.alpha.eval().requires_grad_(False)
    return model


@dataclass
class MixingPart:
    """Clean and attacked images in equal number, as g and h see them; labels and pseudo-labels (N,)."""

    outputs: BaseOutputs
    labels: Tensor
    use_rob: Tensor


class MixingTask:
    """See :class:`adaptive_smoothing_zoo.training.loop.Task`.

    A round takes a batch of images, attacks them, and lets g and h look at every clean and attacked image once. In
    training and in its attacks alpha has the range (0, 1), so that an attack can use all of the network.
    """

    learner: AdaptiveAlpha

    def __init__(
        self, model: MixedClassifier, images: Tensor, labels: Tensor, settings: MixingTraining, workers: Workers
    ) -> None:
        own = with_mixing_network(model.alpha)
        self.images, self.labels, self.settings, self.workers = images, labels, settings, workers
        # The network with its batch norm is the model's own; scale, bias, range and clamp around it are training's.
        self.learner = _alpha_in_training(own, settings, clamp=settings.clamp)
        attacked_alpha = _alpha_in_training(own, settings, clamp=None)
        self.model = MixedClassifier(
            model.std_model, model.rob_model, attacked_alpha, std_map=model.std_map, rob_map=model.rob_map
        )
        self.model.eval()
        self.attacked = self._faster_model(images[:2].to(workers.device))
        with torch.no_grad():
            classes = self.model(images[:1].to(workers.device)).shape[1]
        if settings.attack.setting == "C" and classes < 4:
            raise ValueError(f"setting C needs the targeted DLR loss, and that at least 4 classes; there are {classes}")
        self.runs = settings.attack.runs(classes)
        check_batch(len(labels), settings.batch_size, workers.size)
        share = settings.batch_size // workers.size
        if self.runs * share % (settings.steps * settings.accumulation):
            raise ValueError(
                f"{self.runs * share} attacked images per process cannot be split into {settings.steps} steps of "
                f"{settings.accumulation} equal passes; change batch_size, steps or accumulation"
            )
        self.seed, self.steps = settings.seed, settings.steps
        self.rounds = settings.epochs * (len(labels) // settings.batch_size)

    def round(self, number: int) -> tuple[list[list[MixingPart]], dict[str, Tensor]]:
        seed = derived_seed(self.seed, "round", number)
        chosen = self.workers.share(batch_of_round(self.seed, number, len(self.labels), self.settings.batch_size))
        images, labels = self._batch(chosen, seed)
        clean = self._outputs(images)
        self.learner.eval()
        attacked = self._outputs(self._attack(images, labels, clean, chosen, seed))
        measured = self._measure(clean, attacked, labels)
        if self.runs > 1:
            count = (self.runs - 1) * self.settings.batch_size
            others = permutation(seed, "more clean images", 0, max(len(self.labels), count)) % len(self.labels)
            more_images, more_labels = self._batch(self.workers.share(others[:count]), seed)
            clean = BaseOutputs.join([clean, self._outputs(more_images)])
            clean_labels, attacked_labels = torch.cat([labels, more_labels]), labels.repeat(self.runs)
        else:
            clean_labels = attacked_labels = labels
        parts = [
            _part(clean.rows(some), clean_labels[some], attacked.rows(others), attacked_labels[others])
            for some, others in zip(self._split(seed, "clean"), self._split(seed, "attacked"), strict=True)
        ]
        each = self.settings.accumulation
        return [parts[i : i + each] for i in range(0, len(parts), each)], measured

    def losses(self, learner: nn.Module, part: MixingPart) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = part.outputs
        with autocast(self.workers.device, self.settings.bfloat16):
            alpha_logit = learner(outputs.std_maps, outputs.rob_maps)
        log_mix = self._mix(outputs, alpha_logit)
        losses = self.settings.loss(log_mix, alpha_logit, part.labels, part.use_rob)
        half = len(losses) // 2
        alpha = alpha_logit.detach().sigmoid()
        return losses, {"alpha_clean": alpha[:half].mean(), "alpha_attacked": alpha[half:].mean()}

    def _batch(self, chosen: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Augmented images and labels, on the device."""
        images = self.images[chosen].to(self.workers.device)
        keys = run_keys(seed, "augment", 0, chosen)
        images = augment(images, self.settings.padding, self.settings.flip, keys)
        return images, self.labels[chosen].to(self.workers.device)

    @torch.no_grad()
    def _outputs(self, images: Tensor) -> BaseOutputs:
        """Of g and h, in float32; so many images at a time as are attacked at a time."""
        size = self.settings.batch_size // self.workers.size
        return BaseOutputs.join([self.model.base_outputs(self._laid_out(batch)) for batch in images.split(size)])

    def _faster_model(self, images: Tensor) -> MixedClassifier:
        """What the attacks' gradients go through: the model, with copies of g and h that are faster."""
        model, alpha = self.model, self.learner
        std_model = faster_copy(model.std_model, images, alpha.std_taps)
        rob_model = faster_copy(model.rob_model, images, alpha.rob_taps)
        if self.settings.bfloat16 or self.settings.channels_last:
            for net in (std_model, rob_model):
                net.to(memory_format=torch.channels_last)
        attacked = MixedClassifier(std_model, rob_model, model.alpha, std_map=model.std_map, rob_map=model.rob_map)
        return attacked.eval()

    def _attack(self, images: Tensor, labels: Tensor, clean: BaseOutputs, indices: Tensor, seed: int) -> Tensor:
        """(runs * N, channels, H, W), run after run."""
        attack, randomization = self.settings.attack, self.settings.attack.randomization
        if attack.setting == "A":
            randomization = replace(randomization, alpha_weight=None)
        view: GrayBox | WithAlphaLoss | MixedClassifier = GrayBox(self.attacked)
        if attack.setting != "A":
            view = self.attacked if randomization.alpha_weight is None else WithAlphaLoss(self.attacked)

        def run(batch: Tensor) -> Tensor:
            with autocast(self.workers.device, self.settings.bfloat16):
                return view(self._laid_out(batch)).float()  # type: ignore[no-any-return]

        options: dict[str, Any] = {"eps": attack.eps, "norm": attack.norm, "seed": seed, "indices": indices}
        options["settings"] = randomization
        if attack.setting != "C":
            return randomized_pgd(run, images, labels, **options)
        with torch.no_grad():
            ranking = rank_classes(self._mix(clean, self._alpha_logit(clean)), labels)

        def judge(batch: Tensor) -> Tensor:
            return self.model(self._laid_out(batch))  # type: ignore[no-any-return]

        options |= {"targets": attack.targets, "ranking": ranking, "judge": judge}
        if attack.every_run:
            return every_randomized_apgd(run, images, labels, **options).flatten(0, 1)
        return randomized_apgd(run, images, labels, **options)

    @torch.no_grad()
    def _measure(self, clean: BaseOutputs, attacked: BaseOutputs, labels: Tensor) -> dict[str, Tensor]:
        """Accuracies of the mix as the attack saw it, in float32."""
        right = self._mix(clean, self._alpha_logit(clean)).argmax(dim=1) == labels
        stands = self._mix(attacked, self._alpha_logit(attacked)).argmax(dim=1).view(-1, len(labels)) == labels
        return {"accuracy_clean": right.float().mean(), "accuracy_attacked": stands.all(dim=0).float().mean()}

    def _alpha_logit(self, outputs: BaseOutputs) -> Tensor:
        return self.model.alpha.alpha_logit(outputs)

    def _mix(self, outputs: BaseOutputs, alpha_logit: Tensor) -> Tensor:
        return outputs.mixed(self.learner.log_weights_at(alpha_logit.unsqueeze(1)))

    def _split(self, seed: int, what: str) -> tuple[Tensor, ...]:
        """Which rows go into which part; of several runs in random order, so that no part has one image's alone."""
        count = self.runs * self.settings.batch_size // self.workers.size
        order = torch.arange(count)
        if self.runs > 1:
            order = permutation(seed, f"{what} rows of worker {self.workers.rank}", 0, count)
        parts = self.settings.steps * self.settings.accumulation
        return tuple(order[i::parts].to(self.workers.device) for i in range(parts))

    def _laid_out(self, images: Tensor) -> Tensor:
        if self.settings.bfloat16 or self.settings.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images


def _part(clean: BaseOutputs, clean_labels: Tensor, attacked: BaseOutputs, attacked_labels: Tensor) -> MixingPart:
    use_rob = torch.cat([torch.zeros_like(clean.log_std[:, 0]), torch.ones_like(attacked.log_std[:, 0])])
    return MixingPart(BaseOutputs.join([clean, attacked]), torch.cat([clean_labels, attacked_labels]), use_rob)


def _alpha_in_training(alpha: AdaptiveAlpha, settings: MixingTraining, *, clamp: float | None) -> AdaptiveAlpha:
    """The same network and batch norm with training's scale, bias and range."""
    scale, bias = settings.logit_scale, settings.logit_bias
    return alpha.with_numbers(alpha_min=0.0, alpha_max=1.0, logit_scale=scale, logit_bias=bias, clamp=clamp)
