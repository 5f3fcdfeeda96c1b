"""Training of the mixing network on clean and attacked images, g and h frozen [BAKS24 v1, sections 4, 5.2; supp. B].

Defaults are the papers' values where these agree, else those of the authors' configuration files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import Model, rank_classes
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, with_mixing_network
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.formula import BaseOutputs
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss
from adaptive_smoothing_zoo.training.draws import permutation
from adaptive_smoothing_zoo.training.frozen import check_learns, faster_copy, frozen
from adaptive_smoothing_zoo.training.loop import TrainingOptions, fit
from adaptive_smoothing_zoo.training.task import Batch, Task, Training
from adaptive_smoothing_zoo.training.training_attack import Attackable, Attacked, TrainingAttack
from adaptive_smoothing_zoo.training.workers import Workers, find_workers


@dataclass(frozen=True, kw_only=True)
class MixingTraining(Training):
    """Settings of a mixing network's training; see also ``Training``.

    Attributes:
        attack: makes the attacked images.
        loss: of alpha and the mix.
        learning_rate, weight_decay: of AdamW, with :func:`adaptive_smoothing_zoo.training.optimization.cosine`. The
            authors use 1e-4, and 5e-5 for their largest triplets.
        steps: optimizer steps per round. They share the round's images, clean and attacked in equal number. The authors
            use 1 where an image is attacked once, and 5 where it is attacked ten times.
        pseudo_labels: pseudo-labels of attacked images; clean images have 0 (use g). "attacked": 1 (use h). "attack":
            ``Attacked.use_rob``, which differs from 1 in settings T and BT only. "better": 0 where g is right and h is
            wrong on the attacked image, else 1.
        logit_scale, logit_bias: of alpha_logit in training and its attacks, where alpha has the range (0, 1).
        clamp: limit of the raw network output in training, in batch standard deviations around the batch mean, > 0;
            None for no limit.
        bfloat16: compute the attacks' gradients and the mixing network under bfloat16 autocast, in channels_last.
            Verdicts on the mix, and the feature maps and probabilities of g and h in the loss, stay float32.
        channels_last: use that memory format even without bfloat16.

    Raises:
        ValueError: other pseudo-labels, or a number out of range.
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
    pseudo_labels: Literal["attacked", "attack", "better"] = "attacked"

    optimizer, schedule = "adamw", "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.clamp is not None and not self.clamp > 0.0:
            raise ValueError(f"clamp must be positive or None, got {self.clamp}")
        if self.pseudo_labels not in ("attacked", "attack", "better"):
            raise ValueError(f"pseudo_labels must be 'attacked', 'attack' or 'better', got {self.pseudo_labels!r}")


@own_surroundings()
def train_mixing_network(
    model: MixedClassifier, images: Tensor, labels: Tensor, settings: MixingTraining, **options: Unpack[TrainingOptions]
) -> MixedClassifier:
    """Train the mixing network of ``model`` in place; g, h and the range, scale and bias of alpha are not changed.

    Args:
        model: with an :class:`AdaptiveAlpha`.
        images, labels: (N, channels, H, W) floating-point in [0, 1] and (N,) int64.
        options: see :class:`adaptive_smoothing_zoo.training.loop.TrainingOptions`.

    Returns:
        The model, on the workers' device and in contiguous memory: alpha in eval mode and frozen, g and h with their
        previous modes and requires_grad.

    Raises:
        TypeError, ValueError: invalid images or labels; the model has a constant alpha or was built in inference mode;
            the batch cannot be split as asked or is larger than the data; or the attack needs more classes.
        ResultsError, TrainingError: as ``fit``.
    """
    model.check_mixes("train_mixing_network")
    alpha = with_mixing_network(model.alpha)
    check_learns(alpha)
    workers = options.get("workers") or find_workers(images.device)
    model.to(workers.device)

    def models() -> dict[str, Any]:
        return {
            "std_model": identity_of(model.std_model, images.shape[1:]).sha256,
            "rob_model": identity_of(model.rob_model, images.shape[1:]).sha256,
            "initial_weights": identity_of(alpha).sha256,
            "taps": [alpha.std_taps, alpha.rob_taps],
            "maps": [repr(model.std_map), repr(model.rob_map)],
        }

    with frozen(model.std_model, model.rob_model, model.std_map, model.rob_map):
        alpha.eval().requires_grad_(True)
        if settings.bfloat16 or settings.channels_last:
            model.to(memory_format=torch.channels_last)
        try:
            fit(MixingTask(model, images, labels, settings, workers), models, **options)
        finally:
            model.to(memory_format=torch.contiguous_format)
            alpha.eval().requires_grad_(False)
    return model


@dataclass
class MixingPart:
    """Outputs of g and h on as many clean as attacked images, clean first; their labels and pseudo-labels, (N,)."""

    outputs: BaseOutputs
    labels: Tensor
    use_rob: Tensor


class MixingTask(Task[MixingTraining, MixingPart]):
    """A round attacks a batch of images, then runs g and h once on every clean and attacked image.

    In training and its attacks alpha has the range (0, 1), so that attacks can move it freely.
    """

    learner: AdaptiveAlpha

    def __init__(
        self, model: MixedClassifier, images: Tensor, labels: Tensor, settings: MixingTraining, workers: Workers
    ) -> None:
        numbers = {"alpha_min": 0.0, "alpha_max": 1.0}
        numbers |= {"logit_scale": settings.logit_scale, "logit_bias": settings.logit_bias}
        # The network and its batch norm are the model's own; scale, bias, range and clamp are those of training.
        self.attacked_alpha = with_mixing_network(model.alpha).with_numbers(**numbers)
        learner = with_mixing_network(model.alpha).with_numbers(**numbers, clamp=settings.clamp)
        super().__init__(learner, images, labels, settings, workers, shares=workers.size)
        self.channels_last = settings.bfloat16 or settings.channels_last
        maps = {"std_map": model.std_map, "rob_map": model.rob_map}
        self.model = MixedClassifier(model.std_model, model.rob_model, self.attacked_alpha, **maps).eval()
        some = images[:2].to(workers.device)
        self.attacked = MixedClassifier(
            self._faster(model.std_model, some, learner.std_taps),
            self._faster(model.rob_model, some, learner.rob_taps),
            self.attacked_alpha,
            **maps,
        ).eval()  # the mix that attacks differentiate
        with torch.no_grad():
            classes = self.model(some[:1]).shape[1]
        if classes < (least := settings.attack.kind.least_classes):
            raise ValueError(
                f"the loss of setting {settings.attack.setting} needs at least {least} classes; there are {classes}; "
                "choose setting A or B"
            )
        self.runs, self.steps = settings.attack.runs(classes), settings.steps
        self.share = settings.batch_size // workers.size
        if self.runs * self.share % (settings.steps * settings.accumulation):
            raise ValueError(
                f"{self.runs * self.share} attacked images per process cannot be split into {settings.steps} steps of "
                f"{settings.accumulation} equal passes; change batch_size, steps or accumulation"
            )

    def round(self, number: int) -> tuple[list[list[MixingPart]], dict[str, Tensor]]:
        batch = self.batch(number)
        clean = self._outputs(batch.images)
        self.learner.eval()
        found = self._attack(batch, clean)
        attacked = self._outputs(found.images)
        measured = self._measure(clean, attacked, batch.labels)
        clean_labels, attacked_labels = batch.labels, batch.labels.repeat(self.runs)
        use_rob = self._use_rob(found, attacked, attacked_labels)
        if self.runs > 1:
            count = (self.runs - 1) * self.settings.batch_size
            others = permutation(batch.seed, "more clean images", 0, max(len(self.labels), count)) % len(self.labels)
            more_images, more_labels = self.take(self.workers.share(others[:count]), batch.seed)
            clean = BaseOutputs.join([clean, self._outputs(more_images)])
            clean_labels = torch.cat([clean_labels, more_labels])
        parts = [
            _part(clean.rows(some), clean_labels[some], attacked.rows(others), attacked_labels[others], use_rob[others])
            for some, others in zip(self._split(batch.seed, "clean"), self._split(batch.seed, "attacked"), strict=True)
        ]
        each = self.settings.accumulation
        return [parts[i : i + each] for i in range(0, len(parts), each)], measured

    def losses(self, learner: nn.Module, part: MixingPart) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = part.outputs
        with self.autocast():
            alpha_logit = learner(outputs.std_maps, outputs.rob_maps)
        log_mix = outputs.mixed(self.learner.log_weights_at(alpha_logit.unsqueeze(1)))
        half = len(part.labels) // 2
        is_clean = torch.arange(len(part.labels), device=part.labels.device) < half
        losses = self.settings.loss(log_mix, alpha_logit, part.labels, part.use_rob, is_clean)
        alpha = alpha_logit.detach().sigmoid()
        return losses, {"alpha_clean": alpha[:half].mean(), "alpha_attacked": alpha[half:].mean()}

    @torch.no_grad()
    def _outputs(self, images: Tensor) -> BaseOutputs:
        """Outputs of g and h in float32, computed in batches as large as the attacks'."""
        return BaseOutputs.join([self.model.base_outputs(self._laid_out(batch)) for batch in images.split(self.share)])

    def _faster(self, net: nn.Module, images: Tensor, taps: tuple[int, ...]) -> nn.Module:
        faster = faster_copy(net, images, taps)
        return faster.to(memory_format=torch.channels_last) if self.channels_last else faster

    def _attack(self, batch: Batch, clean: BaseOutputs) -> Attacked:
        """The attacked images of a batch, run after run."""

        def passes(view: nn.Module) -> Model:
            def run(points: Tensor) -> Tensor:
                with self.autocast():
                    return view(self._laid_out(points)).float()  # type: ignore[no-any-return]

            return run

        def judge(points: Tensor) -> Tensor:
            return self.model(self._laid_out(points))  # type: ignore[no-any-return]

        @torch.no_grad()
        def ranking() -> Tensor:
            return rank_classes(self._predicted(clean), batch.labels)

        attack = self.settings.attack
        given = Attackable(attack=attack, mix=self.attacked, judge=judge, passes=passes, ranking=ranking)
        return attack.kind.make(given, batch)

    def _use_rob(self, attacked: Attacked, outputs: BaseOutputs, labels: Tensor) -> Tensor:
        """Pseudo-labels of attacked images, (runs * N,)."""
        if self.settings.pseudo_labels == "attacked":
            return torch.ones_like(attacked.use_rob)
        if self.settings.pseudo_labels == "attack":
            return attacked.use_rob
        g_is_right, h_is_right = (log.argmax(dim=1) == labels for log in (outputs.log_std, outputs.log_rob))
        return (h_is_right | ~g_is_right).to(attacked.use_rob.dtype)

    @torch.no_grad()
    def _measure(self, clean: BaseOutputs, attacked: BaseOutputs, labels: Tensor) -> dict[str, Tensor]:
        """Accuracies, in float32, of the mix that was attacked."""
        right = self._predicted(clean).argmax(dim=1) == labels
        stands = self._predicted(attacked).argmax(dim=1).view(-1, len(labels)) == labels
        return {"accuracy_clean": right.float().mean(), "accuracy_attacked": stands.all(dim=0).float().mean()}

    def _predicted(self, outputs: BaseOutputs) -> Tensor:
        """Log-probabilities (N, C) of the mix that is attacked."""
        return outputs.mixed(self.attacked_alpha.log_weights(outputs))

    def _split(self, seed: int, what: str) -> tuple[Tensor, ...]:
        """The rows of each part; with several runs in random order, so that parts mix runs and images."""
        count = self.runs * self.share
        order = torch.arange(count)
        if self.runs > 1:
            order = permutation(seed, f"{what} rows of worker {self.workers.rank}", 0, count)
        parts = self.settings.steps * self.settings.accumulation
        return tuple(order[i::parts].to(self.workers.device) for i in range(parts))

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


def _part(
    clean: BaseOutputs, clean_labels: Tensor, attacked: BaseOutputs, attacked_labels: Tensor, attacked_use_rob: Tensor
) -> MixingPart:
    use_rob = torch.cat([torch.zeros_like(clean.log_std[:, 0]), attacked_use_rob.to(attacked.log_std.dtype)])
    return MixingPart(BaseOutputs.join([clean, attacked]), torch.cat([clean_labels, attacked_labels]), use_rob)
