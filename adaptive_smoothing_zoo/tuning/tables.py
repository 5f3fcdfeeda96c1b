"""The inputs of tuning: both nets' logits on held-out images, and the robust net's logits under attack."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The outputs of two nets for N held-out images.

    Attributes:
        labels: (N,) int64.
        std, rob: (N, C) logits of g and h on the clean images.
        attacked: (K, N, C) logits of h at K points of the ball around each image, found by attacks on h's gap: of all
            that they visited, those where its logits, its probabilities and its standardized logits have least of it.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 classes, or logits that are not finite.
    """

    labels: Tensor
    std: Tensor
    rob: Tensor
    attacked: Tensor

    def __post_init__(self) -> None:
        n, classes = self.rob.shape
        if self.std.shape != (n, classes):
            raise ValueError(f"g gives logits {tuple(self.std.shape)}, h {n, classes}; mix nets with the same classes")
        if self.attacked.ndim != 3 or self.attacked.shape[1:] != (n, classes) or self.labels.shape != (n,):
            raise ValueError(f"{n} images need {n} labels and attacked logits (K, {n}, {classes})")
        if n == 0 or classes < 2:
            raise ValueError(f"tuning needs images and at least 2 classes, got {n} images and {classes} classes")
        if not all(bool(getattr(self, f.name).isfinite().all()) for f in fields(self) if f.name != "labels"):
            raise ValueError("a net gives NaN or infinity for some image; tuning needs finite logits")

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: Tensor) -> Tables:
        """Those of some images, (n,) int64."""
        clean = {name: getattr(self, name)[chosen] for name in ("labels", "std", "rob")}
        return Tables(**clean, attacked=self.attacked[:, chosen])

    @property
    def std_accuracy(self) -> float:
        """Share of the clean images that g classifies correctly, in [0, 1]."""
        return float((self.std.argmax(dim=1) == self.labels).double().mean())

    @property
    def rob_accuracy(self) -> float:
        """The same for h."""
        return float((self.rob.argmax(dim=1) == self.labels).double().mean())

    @property
    def rob_robust(self) -> float:
        """Share of the images that h classifies correctly, clean and at every attacked point."""
        return float(self.standing.double().mean())

    @property
    def standing(self) -> Tensor:
        """(N,) bool: h is right at the clean image and at every attacked point."""
        return (self.everywhere.argmax(dim=2) == self.labels).all(dim=0)

    @property
    def everywhere(self) -> Tensor:
        """(1 + K, N, C): h's logits on the clean images and at the attacked points."""
        return torch.cat([self.rob[None], self.attacked])


def gaps(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The label's probability minus the largest other one, (..., N), from (..., N, C)."""
    index = labels.expand(probabilities.shape[:-1])[..., None]
    others = probabilities.scatter(-1, index, -torch.inf).amax(dim=-1)
    return probabilities.gather(-1, index).squeeze(-1) - others
