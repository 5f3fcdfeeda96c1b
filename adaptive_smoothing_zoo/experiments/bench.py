"""What experiments are made of: one mix, some examples, and a PGD attack on any net in the mix's place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.views import pin_alpha
from adaptive_smoothing_zoo.experiments.papers_pgd import Pgd, PgdName
from adaptive_smoothing_zoo.method.classifier import MixedClassifier

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A mix under experiment, and PGD on the cross-entropy, with which the papers' figures attack.

    Attributes:
        model: in eval mode and frozen, on ``device``; experiments use its g, h and logit maps, and put constants in the
            place of its alpha.
        images, labels: (N, channels, H, W) float32 in [0, 1] and (N,) int64, on the CPU.
        norm, eps: the ball.
        steps: of PGD.
        pgd: which form of it, see :class:`Pgd`.
        seed: of random starts, which belong to examples.
        batch_size, device: how it is computed.
        on_batch: called with the number of examples of each batch that is done.
    """

    model: MixedClassifier
    images: Tensor
    labels: Tensor
    norm: str
    eps: float
    steps: int
    seed: int
    batch_size: int
    device: torch.device
    pgd: PgdName = "papers"
    on_batch: Callable[[int], None] = lambda count: None
    _made: dict[str, Any] = field(default_factory=dict, repr=False)  # what several rows need, by name

    def settings(self) -> dict[str, Any]:
        """What decides the rows beyond that, as fields of the experiment's table."""
        return {}

    def mix(self, alpha: float) -> MixedClassifier:
        """g and h with a constant alpha."""
        return pin_alpha(self.model, alpha)

    def attack(self, target: nn.Module) -> Tensor:
        """The examples after PGD on ``target``: (N, channels, H, W), on the CPU."""
        form = Pgd(name=self.pgd, steps=self.steps, norm=self.norm, eps=self.eps)
        found = []
        for indices in torch.arange(len(self.labels)).split(self.batch_size):
            points = pgd(
                target,
                self.images[indices].to(self.device),
                self.labels[indices].to(self.device),
                eps=self.eps,
                step_size=form.step_size,
                steps=form.steps,
                norm=self.norm,
                random_start=form.random_start,
                seed=self.seed,
                indices=indices,
            )
            found.append(points.cpu())
            self.on_batch(len(indices))
        return torch.cat(found)

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        """A net's output at all images, (N, C), on the CPU."""
        with torch.no_grad():
            return torch.cat([net(batch.to(self.device)).cpu() for batch in images.split(self.batch_size)])

    def correct(self, net: nn.Module, images: Tensor) -> Tensor:
        """(N,) bool: which images a net classifies correctly."""
        return self.logits(net, images).argmax(dim=1) == self.labels

    def accuracy(self, net: nn.Module, images: Tensor) -> float:
        """The share of images that a net classifies correctly."""
        return float(self.correct(net, images).double().mean())

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gave when this name was asked for the first time."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]  # type: ignore[no-any-return]
