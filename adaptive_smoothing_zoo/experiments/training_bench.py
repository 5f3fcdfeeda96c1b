"""What experiments that train measure with: mixing networks for a triplet's g and h, at equal clean accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError, TrainingError
from adaptive_smoothing_zoo.evaluation.evaluate import evaluate
from adaptive_smoothing_zoo.experiments.bench import (
    APGD,
    LOWERING,
    SHORT_STARTS,
    SHORT_TARGETS,
    Bench,
    Options,
    Table,
    check_apart,
    share,
)
from adaptive_smoothing_zoo.experiments.experiment import Experiment, MisfitError
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.storage.provenance import tensors_sha256
from adaptive_smoothing_zoo.training.choose_alpha import Candidate, Choice, Chosen, choose_alpha
from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss
from adaptive_smoothing_zoo.training.keeping import CHECKPOINT_SECONDS
from adaptive_smoothing_zoo.training.mixing_training import MixingTraining, train_mixing_network
from adaptive_smoothing_zoo.training.recipe import TripletRecipe, read_recipe
from adaptive_smoothing_zoo.training.runs import training_examples
from adaptive_smoothing_zoo.training.training_attack import TrainingAttack
from adaptive_smoothing_zoo.training.workers import Workers
from adaptive_smoothing_zoo.zoo.entry import AdaptiveAlphaConfig
from adaptive_smoothing_zoo.zoo.triplet import Triplet

FINER = 50  # steps of the fine search for a shift of alpha in one step of the coarse one
REACH, FARTHEST = 20.0, 1280.0  # largest bias of alpha_logit in the first search, and in the last
PUBLISHED_PGD_STEPS, PUBLISHED_APGD_STEPS = 20, 75  # of the papers' attacks in training


@dataclass(frozen=True, kw_only=True)
class TrainingTable(Table):
    """What an experiment on trained mixing networks measured.

    Attributes:
        training: of all networks; the case of a row may replace its attack, loss or pseudo-labels.
        alpha: the networks' architecture and taps.
        apgd_steps: of APGD, the short form of settings C and D; None for AutoAttack itself.
        clean_share: the clean accuracy of all mixes on held-out examples, from h's (0) to g's (1); None if
            ``clean_target`` was given.
        clean_target: that accuracy.
        training_data, held_out, training_data_sha256: what the networks learned from and what alpha was shifted on,
            and their hash.
        long_c: whether networks of setting C were trained on attacks of the papers' length.
    """

    training: MixingTraining
    alpha: AdaptiveAlphaConfig
    apgd_steps: int | None
    clean_share: float | None
    clean_target: float
    training_data: str
    held_out: str
    training_data_sha256: str
    long_c: bool = False

    @property
    def is_short(self) -> bool:
        """Whether an attack, in training or after it, is shorter than the authors'."""
        drawn = self.training.attack.randomization
        return self.apgd_steps is not None or drawn.steps * drawn.budget < PUBLISHED_PGD_STEPS

    def how(self) -> str:
        """How mixes were attacked, networks trained, and clean accuracies made equal."""
        training, drawn = self.training, self.training.attack.randomization
        way = "as asked for"
        if self.clean_share is not None:
            way = f"{'half' if self.clean_share == 0.5 else f'{self.clean_share:.0%} of the'} way from h's to g's"
        return (
            f"{super().how()}. This is the {'short' if self.is_short else 'long'} form: each mixing network is trained "
            f"for {training.epochs} epochs of {self.training_data}, in batches of {training.batch_size}, seed "
            f"{training.seed}, with {drawn.steps * drawn.budget:g} attack steps on average (the papers: "
            f"{PUBLISHED_PGD_STEPS} in A and B, {PUBLISHED_APGD_STEPS} in C) and, in C, {self._in_c()}up to "
            f"{1 + self._c.targets} attacked images per image (the papers: 10). {self._attack_words()} "
            f"{self._shift_words()} with at least {self.clean_target:.2%} clean accuracy on held-out examples "
            f"({self.held_out}), {way}; no test example is used for this"
        )

    def _shift_words(self) -> str:
        if any("width" in row.case for row in self.rows):
            return (
                "alpha has a range of the width in the table. After training, its lower end (if the range ends at 1, "
                "the bias of alpha_logit; without a network, the constant alpha) is the largest"
            )
        return (
            "alpha has the range (0, 1). After training, the bias of alpha_logit (without a network, the constant "
            "alpha) is the largest"
        )

    @property
    def _c(self) -> TrainingAttack:
        """The attack of a training in setting C."""
        return _long(self.training.attack) if self.long_c else self.training.attack

    def _in_c(self) -> str:
        drawn = self._c.randomization
        return f"{drawn.steps * drawn.budget:g} steps on average and " if self.long_c else ""

    def _attack_words(self) -> str:
        if self.apgd_steps is None:
            return (
                f"C is AutoAttack itself, seed {self.seed}; APGD that lowers alpha, which D adds, has two losses, 100 "
                "steps, 9 targets and 5 starts."
            )
        return (
            "C is AutoAttack's APGD alone, on the cross-entropy and on the targeted DLR loss, with "
            f"{self.apgd_steps} steps, {SHORT_TARGETS} targets and {SHORT_STARTS} start, seed {self.seed}; APGD that "
            "lowers alpha, which D adds, is as short."
        )


class Mixed(NamedTuple):
    """A mix whose alpha was shifted to a clean accuracy, in eval mode and frozen.

    Attributes:
        numbers: for the row: the accuracy on ``held_out`` examples, and what was chosen: a constant ``alpha``, the
            ``bias`` of alpha_logit, or the ``alpha_min`` of a range.
    """

    model: MixedClassifier
    numbers: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TrainingBench(Bench):
    """A triplet's g and h, and how mixing networks for them are trained.

    Attributes:
        training: of all networks; the bench replaces radius and norm of its attack by its own.
        alpha: the networks' architecture and taps.
        train, held_out: what the networks learn from, and what alpha is shifted on; no test examples.
        trained: folder of the networks and the states of AutoAttack; finished work in it is used again.
        apgd_steps, clean_share, long_c: see :class:`TrainingTable`.
        clean_goal: the clean accuracy on held-out examples, in place of ``clean_share``.
        checkpoint_seconds: time between two checkpoints of a training.

    Raises:
        ResultsError: test examples are among the training examples.
    """

    training: MixingTraining
    alpha: AdaptiveAlphaConfig
    train: Examples
    held_out: Examples
    trained: Path
    apgd_steps: int | None = 20
    clean_share: float = 0.5
    clean_goal: float | None = None
    long_c: bool = False
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def __post_init__(self) -> None:
        for examples in (self.train, self.held_out):
            check_apart(examples, self.images)

    @classmethod
    def _arguments(cls, options: Options, steps: int) -> dict[str, Any]:
        recipe, entry = read_recipe(options.recipe, options.changes), options.triplet.entry
        is_adaptive = isinstance(recipe, TripletRecipe) and isinstance(recipe.alpha, AdaptiveAlphaConfig)
        if not is_adaptive or recipe.training is None:
            raise ConfigError(
                f"{options.recipe} is not the recipe of a triplet with a mixing network; name one with --recipe"
            )
        if recipe.data.dataset != entry.dataset:
            raise MisfitError(
                f"recipe {options.recipe} is for {recipe.data.dataset}, the triplet for {entry.dataset}; name another "
                "--recipe"
            )
        train, held_out = training_examples(recipe.data, options.train_data_dir or options.data_dir)
        if held_out is None:
            raise ConfigError(f"{options.recipe} holds out no training examples; add --set data.hold_out_every=50")
        return super()._arguments(options, steps) | {
            "training": recipe.training,
            "alpha": recipe.alpha,  # type: ignore[union-attr]
            "train": train,
            "held_out": held_out,
            "trained": Path("runs") / "experiments" / entry.key,
            "apgd_steps": options.apgd_steps or None,
            "clean_goal": options.clean,
            "long_c": options.long_c,
        }

    def table(self, experiment: str) -> TrainingTable:
        return TrainingTable(
            **self._about(experiment),
            training=self.of_setting(),
            alpha=self.alpha,
            apgd_steps=self.apgd_steps,
            clean_share=self.clean_share if self.clean_goal is None else None,
            clean_target=self.clean_target,
            training_data=self.train.source,
            held_out=self.held_out.source,
            training_data_sha256=self._data_sha256(),
            long_c=self.long_c,
        )

    @property
    def clean_target(self) -> float:
        """The clean accuracy of all mixes on held-out examples.

        Raises:
            ConfigError: h alone has it, or g has less.
        """
        low, high = self.once("ends", lambda: (self._clean(self.mix(1.0)), self._clean(self.mix(0.0))))
        have = f"on {self.held_out.source} h alone has {low:.2%} and g {high:.2%}"
        if not low < high:
            raise ConfigError(f"there is no clean accuracy to trade: {have}; name a triplet whose g is more accurate")
        if self.clean_goal is None:
            return low + self.clean_share * (high - low)
        if not low < self.clean_goal <= high:
            raise ConfigError(f"mixes cannot have {self.clean_goal:.2%}: {have}; give a --clean between them")
        return self.clean_goal

    def of_setting(self, setting: str = "B", loss: CompositeLoss | None = None) -> MixingTraining:
        """The training with a kind of attack, by its name, and a loss; the recipe's loss if None.

        In C each image gives several attacked ones; there is an optimizer step for every two of them, as in the
        authors' code (5 for 10).
        """
        attack = replace(self.training.attack, setting=setting, eps=self.threat.eps, norm=self.threat.norm)  # type: ignore[arg-type]
        if setting == "C" and self.long_c:
            attack = _long(attack)
        steps = self.training.steps * max(1, attack.runs(self.model.entry.num_classes) // 2)
        return replace(self.training, attack=attack, steps=steps, loss=loss or self.training.loss)

    def network(self, training: MixingTraining) -> MixedClassifier:
        """The mix with the network of a training; read from disk, or trained on from its last checkpoint."""
        with torch.random.fork_rng([]):
            torch.manual_seed(training.seed)
            alpha = Triplet(replace(self.model.entry, alpha=self.alpha)).alpha
        model, name = self.model, self._name(training)
        mixed = MixedClassifier(model.std_model, model.rob_model, alpha, std_map=model.std_map, rob_map=model.rob_map)
        return train_mixing_network(
            mixed,
            self.train.images,
            self.train.labels,
            training,
            workers=Workers(self.device),
            folder=self.trained / name,
            checkpoint_seconds=self.checkpoint_seconds,
            on_progress=lambda done: self.on_stage(f"{name}: round {done.round} of {done.rounds}"),
        )

    def adaptive(self, training: MixingTraining, scale: float | None = None) -> Mixed:
        """The mix with the network of a training, its alpha in (0, 1) shifted to the clean accuracy by its bias.

        Args:
            scale: of alpha_logit; that of the training if None.

        Raises:
            TrainingError: no bias gives this clean accuracy.
        """
        varied = self._by_bias(training.logit_scale if scale is None else scale)
        key = f"{self._name(training)}, {varied}"
        return self.once(key, lambda: self._shifted(self.network(training), varied))

    def in_range(self, training: MixingTraining, width: float) -> Mixed:
        """The same with a range of alpha of that width, whose lower end is shifted [BAKS24, supp. B].

        Scale and bias of alpha_logit are the training's. If the range [1 - width, 1] is still accurate enough, the
        bias is shifted instead.
        """
        top = round(1.0 - width, 10)
        numbers = {"logit_scale": training.logit_scale, "logit_bias": training.logit_bias}
        varied = replace(self._by_bias(training.logit_scale), widths=(width,), alpha_mins=(top,))
        model = self.network(training)
        highest = Candidate(alpha_min=top, alpha_max=1.0, **numbers).applied_to(model)
        if top > 0.0 and self._clean(highest) < self.clean_target:
            bias = (training.logit_bias,)
            varied = replace(varied, vary="alpha_min", first=0.0, last=top, step=0.05, biases=bias)
        return self.once(f"{self._name(training)}, {varied}", lambda: self._shifted(model, varied))

    def _by_bias(self, scale: float) -> Choice:
        return Choice(
            rule="clean",
            target=self.clean_target,
            vary="logit_bias",
            first=-REACH,
            last=REACH,
            step=1.0,
            widths=(1.0,),
            scales=(scale,),
            alpha_mins=(0.0,),
            attacks=(),
        )

    def constant(self) -> Mixed:
        """The mix with the largest constant alpha of that clean accuracy."""
        varied = Choice(
            rule="clean", target=self.clean_target, vary="alpha_min", first=0.0, last=1.0, step=0.05, attacks=()
        )
        return self.once("constant", lambda: self._shifted(self.mix(0.5), varied))

    def standing(self, model: MixedClassifier) -> Tensor:
        """(N,) bool: which examples withstand setting C."""
        return self.once(f"standing {self._hash(model)}", lambda: self._autoattack(model))

    def standing_apgd(self, model: MixedClassifier, standing: Tensor) -> Tensor:
        """(N,) bool: which standing examples withstand AutoAttack's APGD, too."""
        return self._attacked(model, APGD, standing)

    def standing_lowered(self, model: MixedClassifier, standing: Tensor) -> Tensor:
        """(N,) bool: which standing examples withstand APGD that lowers alpha, too; after setting C this is D."""
        return self._attacked(model, LOWERING, standing)

    def _autoattack(self, model: MixedClassifier) -> Tensor:
        """(N,) bool: which examples withstand AutoAttack, or its APGD in the short form."""
        if self.apgd_steps is not None:
            return self.standing_apgd(model, self.correct(model, self.images))
        evaluation = evaluate(
            model,
            self.images,
            self.labels,
            threat=self.threat,
            settings=AttackSettings(seed=self.seed, batch_size=self.batch_size),
            device=self.device,
            state=self.trained / f"autoattack_{self._hash(model)}",
            on_progress=lambda done: self.on_stage(f"{done.attack}: {done.done} of {done.total}"),
        )
        return torch.from_numpy(evaluation.robust)

    def _attacked(self, model: MixedClassifier, attacks: tuple[str, ...], standing: Tensor) -> Tensor:
        """(N,) bool: which standing examples withstand these attacks, too, in their full or their short form."""
        if self.apgd_steps is None:
            return self.searched(model, attacks, standing)
        limits = {"iterations": self.apgd_steps, "targets": SHORT_TARGETS, "restarts": SHORT_STARTS}
        return self.searched(model, attacks, standing, limits)

    def _shifted(self, model: MixedClassifier, coarse: Choice) -> Mixed:
        """The model after a search in coarse steps, and one in fine steps from there.

        If the largest bias is chosen, the search goes on to twice that bias.

        Raises:
            TrainingError: even with the largest bias the mix is more accurate than it should be.
        """
        start = getattr(self._chosen(model, coarse).candidate, coarse.vary)
        while coarse.vary == "logit_bias" and start == coarse.last:
            if coarse.last >= FARTHEST:
                raise TrainingError(
                    f"with the largest bias of alpha_logit, {start:g}, the mix still has a clean accuracy of "
                    f"{coarse.target:.2%} or more; give a higher --clean"
                )
            coarse = replace(coarse, first=start, last=2 * coarse.last)
            start = getattr(self._chosen(model, coarse).candidate, coarse.vary)
        fine = replace(coarse, first=start, last=min(start + coarse.step, coarse.last), step=coarse.step / FINER)
        chosen = self._chosen(model, fine)
        name = "bias" if coarse.vary == "logit_bias" else "alpha_min" if model.alpha.varies else "alpha"
        shift = {name: getattr(chosen.candidate, coarse.vary)}
        return Mixed(model=chosen.candidate.applied_to(model), numbers={**shift, "held_out": chosen.clean})

    def _chosen(self, model: MixedClassifier, choice: Choice) -> Chosen:
        return choose_alpha(
            model,
            self.held_out.images,
            self.held_out.labels,
            choice,
            eps=self.threat.eps,
            norm=self.threat.norm,
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
        )

    def _clean(self, net: MixedClassifier) -> float:
        predicted = self.logits(net, self.held_out.images).argmax(dim=1)
        return share(predicted == self.held_out.labels)

    def _name(self, training: MixingTraining) -> str:
        """The name of a network's folder: readable, and different for every training."""
        loss, data = training.loss, self._data_sha256()
        digest = sha256(f"{training!r} {self.alpha!r} {data}".encode()).hexdigest()[:8]
        return f"{training.attack.setting}_{loss.c_ce:g}_{loss.c_bce:g}_{loss.c_prod:g}_{digest}"

    def _data_sha256(self) -> str:
        parts = {"train": self.train, "held_out": self.held_out}
        tensors = {f"{name}_{what}": getattr(d, what) for name, d in parts.items() for what in ("images", "labels")}
        return self.once("data", lambda: tensors_sha256(tensors))

    def _hash(self, model: MixedClassifier) -> str:
        """Hash of what decides an evaluation; the model's repr has range, scale and bias of alpha."""
        data = tensors_sha256({**model.state_dict(), "images": self.images, "labels": self.labels})
        digest = sha256(f"{model!r} {data} {self.threat.norm} {self.threat.eps} {self.seed}".encode())
        return digest.hexdigest()[:12]


class TrainingExperiment(Experiment[TrainingBench, TrainingTable]):
    """An experiment that trains mixing networks."""

    bench, table = TrainingBench, TrainingTable


def noise(table: Table, accuracies: Sequence[float]) -> str:
    """Which differences the number of examples can resolve, and how many of these accuracies are near the best."""
    best = max(accuracies)
    error = 2 * (2 * max(value * (1 - value) for value in accuracies) / table.n) ** 0.5
    near = sum(value >= best - error for value in accuracies) - 1  # without the best itself
    return (
        f"Differences below {100 * error:.1f} points are within two standard errors for {table.n} examples (a cautious "
        f"bound, as the examples are the same): {near} of the {len(accuracies) - 1} others are that close to the best. "
        "Each network was trained once."
    )


def _long(attack: TrainingAttack) -> TrainingAttack:
    """The attack of setting C at the papers' length: 75 steps on average, toward 9 classes."""
    drawn = replace(attack.randomization, steps=PUBLISHED_APGD_STEPS, budget=1.0)
    return replace(attack, randomization=drawn, targets=9, every_run=True)
