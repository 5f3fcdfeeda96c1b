"""The attacks that a mixing network is trained against: their settings, and the kinds of attacks by name.

A new kind is a function that registers itself, in a file of this folder, and a line in ``KIND_FILES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import ClassVar

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import Model
from adaptive_smoothing_zoo.attacks.randomized import Randomization
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.threat import LINF, Norm, ThreatModel
from adaptive_smoothing_zoo.training.task import Batch

KIND_FILES = ("attack_kinds",)  # a line for each file of this folder that registers kinds


@dataclass(frozen=True, kw_only=True)
class TrainingAttack:
    """The attack that makes the attacked half of the training images [BAKS24 v1, section 4.2].

    Attributes:
        setting: the name of a kind. "A": PGD without the gradient of the mixing network (gray box). "B": PGD with it
            (white box). "C": APGD with it, on the cross-entropy and on the targeted DLR loss. "T": PGD on the mix with
            a constant alpha_t, drawn for each image. "BT": B or T, drawn for each image.
        eps, norm: nominal radius, > 0, in pixel units, and "Linf" or "L2".
        randomization: distributions of what is drawn per example. A and T ignore ``alpha_weight``. The authors use 20
            steps for A and B, and 75 for C.
        targets: of C, the number of wrong classes to attack toward, at most all.
        every_run: of C, whether every run gives an image to train on (1 + ``targets`` of them, as the authors do), or
            only the first that fools the mix, which costs less.
        alpha_t_logits: of T, the range of logit(alpha_t), drawn uniformly; default: that of [BAKS24 v1, Fig. 2].
        rob_until: of T, the largest logit(alpha_t) at which h is still more accurate than g after the attack; 5.72 in
            [BAKS24 v1, Fig. 2], 9.9 in the authors' configuration for a TRADES h. ``asz experiment attack-target``
            measures it for other nets.

    Raises:
        ValueError: an unknown setting or norm, or a number out of range.
    """

    setting: str = "B"
    eps: float
    norm: Norm = LINF
    randomization: Randomization = field(default_factory=lambda: Randomization(steps=20))
    targets: int = 9
    every_run: bool = True
    alpha_t_logits: tuple[float, float] = (-8.0, 16.0)
    rob_until: float = 5.72

    def __post_init__(self) -> None:
        _ = self.kind  # raises if there is none
        if not self.threat.eps > 0.0:
            raise ValueError(f"eps of the training attack must be positive, got {self.eps}")
        if self.targets < 0:
            raise ValueError(f"targets must not be negative, got {self.targets}")
        low, high = self.alpha_t_logits
        if not -float("inf") < low <= high < float("inf"):
            raise ValueError(f"alpha_t_logits must be a finite range, got {self.alpha_t_logits}")

    @property
    def kind(self) -> AttackKind:
        """The kind that ``setting`` names."""
        return find_kind(self.setting)

    @cached_property
    def threat(self) -> ThreatModel:
        """The nominal ball."""
        return ThreatModel(self.norm, self.eps)

    def runs(self, num_classes: int) -> int:
        """Number of attacked images made from each image."""
        return self.kind.runs(self, num_classes)


@dataclass(frozen=True, kw_only=True)
class Attackable:
    """What a round of training attacks.

    Attributes:
        attack: the settings.
        mix: g, h and the mixing network, with alpha in (0, 1). g and h may be faster copies.
        judge: the mix itself, in float32; it decides what is misclassified.
        passes: turns ``mix``, or a view of it, into a function from images to logits in the training's precision.
        ranking: computes (N, C - 1), the wrong classes of each clean image from likeliest to unlikeliest.
    """

    attack: TrainingAttack
    mix: MixedClassifier
    judge: Model
    passes: Callable[[nn.Module], Model]
    ranking: Callable[[], Tensor]


@dataclass(frozen=True)
class Attacked:
    """Attacked images, run after run.

    Attributes:
        images: (runs * N, channels, H, W), in [0, 1] and in the ball of the drawn radius.
        use_rob: (runs * N,), 1.0 where h is the net to trust after such an attack, 0.0 where g is.
    """

    images: Tensor
    use_rob: Tensor

    @classmethod
    def of_the_mix(cls, images: Tensor) -> Attacked:
        """Images from an attack on the mix: h is the net to trust."""
        return cls(images, torch.ones(len(images), device=images.device))


MakeAttacked = Callable[[Attackable, Batch], Attacked]


@dataclass(frozen=True, kw_only=True)
class AttackKind:
    """A kind of attack.

    Attributes:
        make: attacks a batch.
        runs: from the settings and the number of classes to the number of attacked images made from each image.
        least_classes: the number of classes that its losses need.
        known: all kinds, by name.
    """

    make: MakeAttacked
    runs: Callable[[TrainingAttack, int], int]
    least_classes: int

    known: ClassVar[dict[str, AttackKind]] = {}


def register_kind(
    name: str, *, runs: Callable[[TrainingAttack, int], int] = lambda attack, classes: 1, least_classes: int = 2
) -> Callable[[MakeAttacked], MakeAttacked]:
    """Decorator that registers a function as a kind of attack. See :class:`AttackKind`.

    Raises:
        ValueError: another function has the name.
    """

    def entered(make: MakeAttacked) -> MakeAttacked:
        known = AttackKind.known.get(name)
        if known is not None and (known.make.__module__, known.make.__qualname__) != (
            make.__module__,
            make.__qualname__,
        ):
            raise ValueError(
                f"there is already a training attack {name!r}, in {known.make.__module__}; choose another name"
            )
        AttackKind.known[name] = AttackKind(make=make, runs=runs, least_classes=least_classes)
        return make

    return entered


def find_kind(name: str) -> AttackKind:
    """The kind of attack of that name.

    Raises:
        ValueError: unknown name.
    """
    for file in KIND_FILES:
        import_module(f"adaptive_smoothing_zoo.training.{file}")
    if name not in AttackKind.known:
        raise ValueError(f"unknown training attack {name!r}; known: {', '.join(sorted(AttackKind.known))}")
    return AttackKind.known[name]
