"""What experiments on a triplet measure with: the triplet, test examples, and PGD on any net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.catalogue import fitted
from adaptive_smoothing_zoo.attacks.losses import Loss, cross_entropy
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.attacks.views import pin_alpha
from adaptive_smoothing_zoo.data import Examples, load_data
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.experiments.experiment import Experiment, Measured, provenance
from adaptive_smoothing_zoo.machine.folding import prepare
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.threat import Norm, ThreatModel
from adaptive_smoothing_zoo.zoo.loading import load_model
from adaptive_smoothing_zoo.zoo.references import check_triplet
from adaptive_smoothing_zoo.zoo.triplet import Triplet

APGD, LOWERING = ("apgd-ce-mix", "apgd-t-mix"), ("apgd-ce-lowering", "apgd-t-lowering")
"""APGD on a mix as in AutoAttack, and what setting D adds to it [BAKS24 v1, section 4.2]."""
SHORT_TARGETS, SHORT_STARTS = 3, 1  # of APGD in its short form
PREPARED_ON = 8  # images that the faster copy of an attacked net is compared on

T = TypeVar("T")
PgdName = Literal["papers", "random-start"]
LINF_STEP, L2_STEP = 0.0027 / (8 / 255), 0.075 / 0.5
"""Length of the authors' steps as a share of the radius, whatever their number."""
TRAVEL = 2.5
"""Total length of the steps with a random start, in radii [MMSTV18]."""


@dataclass(frozen=True)
class Pgd:
    """PGD on the cross-entropy; the result is its last iterate.

    Attributes:
        steps: number of steps.
        name: "papers" starts at the image and takes steps of a fixed length; "random-start" starts at a random point of
            the ball and takes steps of ``TRAVEL`` radii in total.
    """

    steps: int
    name: PgdName = "papers"

    @property
    def random_start(self) -> bool:
        """Whether it starts at a random point of the ball."""
        return self.name == "random-start"

    def share(self, threat: ThreatModel) -> float:
        """Length of a step as a share of the radius."""
        papers = LINF_STEP if threat.is_linf else L2_STEP
        return TRAVEL / self.steps if self.random_start else papers

    def words(self, threat: ThreatModel, seed: int) -> str:
        """A description for the page."""
        share = self.share(threat)
        start = f"from one random start, seed {seed}" if self.random_start else "from the image, no random start"
        short = self.steps * share < 1 and not self.random_start
        reach = f", which reach {self.steps * share:.0%} of eps at most" if short else ""
        steps = f"{self.steps} steps of {share * threat.eps:.3g} ({share:.3g} eps){reach}"
        return f"PGD on the cross-entropy, {steps}, {start}"


@dataclass(frozen=True, kw_only=True)
class Table(Measured):
    """What an experiment on a triplet measured.

    Attributes:
        model, threat_model, eps, steps, seed: further settings that decide the rows.
        identity: of the model, see ``identity_of``.
        pgd: form of PGD. Older tables lack this field; they were measured from random starts.
    """

    model: str
    threat_model: str
    eps: str
    steps: int
    seed: int
    identity: Identity
    pgd: PgdName = "random-start"

    def __post_init__(self) -> None:
        if min(self.n, self.steps) < 1:
            raise ValueError(f"n and steps must be at least 1, got {self.n} and {self.steps}")
        _ = self.threat  # raises for an invalid norm or radius

    @property
    def threat(self) -> ThreatModel:
        """Norm and radius of the attacks."""
        return ThreatModel(self.threat_model, self.eps)  # type: ignore[arg-type]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.dataset} {self.threat_model} {self.eps}"

    def how(self) -> str:
        return Pgd(self.steps, self.pgd).words(self.threat, self.seed)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``asz experiment``, whose help explains them; each bench takes what it needs."""

    model: str
    dataset: str
    threat_model: str
    model_dir: str | None
    n: int
    data_dir: str | None
    train_data_dir: str | None
    steps: int | None
    pgd: PgdName
    seed: int
    batch_size: int
    device: torch.device
    recipe: str
    changes: tuple[str, ...]
    apgd_steps: int
    norm: Norm | None = None
    eps: str | None = None
    clean: float | None = None
    long_c: bool = False
    results: Path | None = None
    recipes: Path | None
    samples: int
    logs: Path | None = None

    @cached_property
    def triplet(self) -> Triplet:
        """Loaded once for all experiments."""
        check_triplet(self.model, "asz experiment")
        return load_model(self.model, self.model_dir, self.dataset, self.threat_model, device=self.device)

    def examples(self) -> Examples:
        """The test examples."""
        entry = self.triplet.entry
        return load_data(entry.dataset, data_dir=self.data_dir, n=self.n or None, preprocessing=entry.preprocessing)

    def threat(self) -> ThreatModel:
        """Norm and radius of the attacks: the triplet's, unless options give others.

        Raises:
            ConfigError: a norm other than the triplet's without a radius.
        """
        entry = self.triplet.entry
        if self.norm not in (None, entry.threat_model) and self.eps is None:
            raise ConfigError(
                f"{entry.key} has a radius in {entry.threat_model} alone ({entry.eps}); add --eps for {self.norm}"
            )
        return ThreatModel(self.norm or entry.threat_model, self.eps or entry.eps)  # type: ignore[arg-type]


OnStage = Callable[[str], None]  # called with a description after each round of long work


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A triplet, test examples, and PGD on the cross-entropy, the attack of the papers' figures.

    Attributes:
        model: in eval mode and frozen, on ``device``.
        examples: on the CPU.
        threat, pgd: norm, radius and form of the attack.
        seed: of random starts, which depend on the example and not on the batch.
        batch_size: examples per pass.
        on_stage: called with a description of each stage of long work.
    """

    model: Triplet
    examples: Examples
    threat: ThreatModel
    pgd: Pgd
    seed: int = 0
    batch_size: int = 128
    device: torch.device
    on_stage: OnStage = lambda what: None
    _made: dict[str, Any] = field(default_factory=dict, repr=False)  # what several rows need, by name

    @classmethod
    def of(cls, options: Options, steps: int, on_stage: OnStage) -> Self:
        """The bench for the options of a command line; ``steps`` is the paper's number of PGD steps."""
        return cls(**cls._arguments(options, steps), on_stage=on_stage)

    @classmethod
    def _arguments(cls, options: Options, steps: int) -> dict[str, Any]:
        return {
            "model": options.triplet,
            "examples": options.examples(),
            "threat": options.threat(),
            "pgd": Pgd(options.steps or steps, options.pgd),
            "seed": options.seed,
            "batch_size": options.batch_size,
            "device": options.device,
        }

    @property
    def images(self) -> Tensor:
        return self.examples.images

    @property
    def labels(self) -> Tensor:
        return self.examples.labels

    @property
    def key(self) -> str:
        """The triplet's key, followed by norm and radius if they are not the triplet's own."""
        key = self.model.entry.key
        return key if self._is_own_ball else f"{key}-under-{self.threat.norm}-{self.threat.eps:g}"

    @property
    def _is_own_ball(self) -> bool:
        entry = self.model.entry
        return self.threat == ThreatModel(entry.threat_model, entry.eps_value)

    def ready(self) -> AbstractContextManager[nn.Module]:
        return ready(self.model, self.device)

    def table(self, experiment: str) -> Table:
        return Table(**self._about(experiment))

    def _about(self, experiment: str) -> dict[str, Any]:
        """The fields of the table."""
        entry = self.model.entry
        return provenance(self.examples, self.device) | {
            "experiment": experiment,
            "model": entry.name,
            "dataset": entry.dataset,
            "threat_model": self.threat.norm,
            "eps": entry.eps if self._is_own_ball else repr(self.threat.eps),
            "steps": self.pgd.steps,
            "pgd": self.pgd.name,
            "seed": self.seed,
            "identity": identity_of(self.model, self.images.shape[1:]),
        }

    def mix(self, alpha: float) -> MixedClassifier:
        """g and h with a constant alpha."""
        return pin_alpha(self.model, alpha)

    def faster(self, net: nn.Module) -> nn.Module:
        """A faster copy of a net for attacks, see ``prepare``; the net itself decides about their points."""
        return prepare(net, self.images[:PREPARED_ON].to(self.device))

    def attack(self, target: nn.Module, loss: Loss = cross_entropy) -> Tensor:
        """The examples after PGD on ``target``: (N, channels, H, W), on the CPU.

        Args:
            loss: of the target's output and the labels, (N,); the attack increases it.
        """
        eps, found = self.threat.eps, []
        fast = self.faster(target)
        for rows in torch.arange(len(self.labels)).split(self.batch_size):
            points = pgd(
                fast,
                self.images[rows].to(self.device),
                self.labels[rows].to(self.device),
                eps=eps,
                step_size=self.pgd.share(self.threat) * eps,
                steps=self.pgd.steps,
                norm=self.threat.norm,
                random_start=self.pgd.random_start,
                loss=loss,
                seed=self.seed,
                indices=rows,
            )
            found.append(points.cpu())
        return torch.cat(found)

    def searched(
        self, model: nn.Module, attacks: tuple[str, ...], standing: Tensor, limits: Mapping[str, int] | None = None
    ) -> Tensor:
        """(N,) bool: which of the standing examples withstand attacks of the catalogue, too; the model judges.

        Args:
            attacks: their names in the catalogue.
            standing: (N,) bool, the examples to attack.
            limits: iterations, targets and restarts, where they shall be fewer than the attacks' own.
        """
        classes = self.model.entry.num_classes
        settings = AttackSettings(attacks=attacks, seed=self.seed, batch_size=self.batch_size)  # type: ignore[arg-type]
        settings = fitted(settings, classes).on(self.device.type)
        if limits is not None:
            settings = settings.limited(**limits)
        standing, left = standing.clone(), standing.nonzero().squeeze(1)
        search = Search(model, self.threat, settings, num_classes=classes, device=self.device)
        for verdict in search.run(self.images[left], self.labels[left], left):
            standing[left[verdict.points[verdict.broken]]] = False
        return standing

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        """A net's output on all images, (N, C), on the CPU."""
        with torch.no_grad():
            return torch.cat([net(batch.to(self.device)).cpu() for batch in images.split(self.batch_size)])

    def correct(self, net: nn.Module, images: Tensor) -> Tensor:
        """(N,) bool: which images a net classifies correctly."""
        return self.logits(net, images).argmax(dim=1) == self.labels

    def accuracy(self, net: nn.Module, images: Tensor) -> float:
        """The share of images that a net classifies correctly."""
        return share(self.correct(net, images))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` returned at the first call with this name."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]  # type: ignore[no-any-return]


def share(right: Tensor) -> float:
    """The share of True in (N,) bool."""
    return float(right.double().mean())


def check_apart(examples: Examples, images: Tensor) -> None:
    """Refuse test images that are also training images: a file with one split serves as every split.

    Raises:
        ResultsError: more than 5 % of the different test images are among the training examples.
    """
    tested, known = ({sha256(x.numpy().tobytes()).digest() for x in each} for each in (images, examples.images))
    if len(tested & known) > 0.05 * len(tested):  # data sets have a few duplicates
        raise ResultsError(
            f"{len(tested & known)} of the {len(tested)} different test images are among the training examples "
            f"({examples.source}); give a folder with both splits, or --train-data-dir"
        )


class TripletExperiment(Experiment[Bench, Table]):
    """An experiment on a triplet, without training."""

    bench, table = Bench, Table
