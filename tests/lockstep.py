"""The attacks on the reference's own random numbers, batch by batch: how their faithfulness is shown.

pyautoattack seeds one stream for each attack and batch and draws from it for all examples that are left, so an
example's noise depends on its neighbours. Here the same numbers go to the same examples, and the iterates are the
reference's up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD
from adaptive_smoothing_zoo.attacks.autoattack.fab import FAB
from adaptive_smoothing_zoo.attacks.autoattack.square import Square, SquareState
from adaptive_smoothing_zoo.attacks.autoattack.square_draws import (
    QUERIES,
    Changes,
    square_size,
    stripes,
    tile_grid,
    tiles,
)
from adaptive_smoothing_zoo.attacks.contract import Attack, State
from adaptive_smoothing_zoo.attacks.losses import Model, cross_entropy, dlr, targeted_dlr
from adaptive_smoothing_zoo.threat import ThreatModel

_LOSSES = {"apgd-ce": cross_entropy, "apgd-dlr": dlr, "apgd-t": targeted_dlr}
Watch = Callable[[State], None]  # sees the state after every step


class Lockstep:
    """The attacks of AutoAttack on one batch at a time.

    Args:
        model: images in [0, 1] to logits (N, C).
        norm, eps: the ball.
        seed: of pyautoattack.
        num_targets: wrong classes that the targeted attacks try.
        queries: of the Square attack.
        restarts: of the untargeted attacks.
        eot: passes that APGD's gradients are the mean of.
        watch: called with the state after every step.
    """

    def __init__(
        self,
        model: Model,
        *,
        norm: str,
        eps: float,
        seed: int,
        num_targets: int = 9,
        queries: int = QUERIES,
        restarts: int = 1,
        eot: int = 1,
        watch: Watch | None = None,
    ) -> None:
        self.model, self.threat, self.seed = model, ThreatModel(norm, eps), seed
        self.num_targets, self.queries, self.restarts, self.eot = num_targets, queries, restarts, eot
        self._watch = watch or (lambda state: None)

    def attack(self, name: str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Attack one batch of correctly classified images.

        Returns:
            (N,) bool, misclassified; and (N, channels, H, W), the points that are, or the images themselves.
        """
        stream = torch.Generator().manual_seed(self.seed)
        broken = torch.zeros_like(labels, dtype=torch.bool)
        adversarials = images.clone()
        with torch.no_grad():
            ranking = self.model(images).argsort(dim=1, descending=True)
        for rank in range(1, 1 + (self.num_targets if name.endswith("-t") else self.restarts)):
            left = (~broken).nonzero().squeeze(1)
            if len(left) == 0:
                break
            targets = ranking[left, min(rank, ranking.shape[1] - 1)]
            attack, state = self._start(name, (images[left], labels[left], targets), rank, stream)
            self._run(attack, state)
            found = left[state.found]
            broken[found], adversarials[found] = True, state.adversarials[state.found]
        return broken, adversarials

    def _start(
        self, name: str, examples: tuple[Tensor, Tensor, Tensor], rank: int, stream: torch.Generator
    ) -> tuple[Attack[Any], State]:
        images, labels, _ = examples
        if name in _LOSSES:
            apgd = APGD(name, self.threat, _LOSSES[name], eot=self.eot)
            return apgd, apgd.start_at(*examples, self._noise(images, stream))
        if name == "fab":
            fab = FAB(self.threat, targeted=False)
            noise = torch.zeros_like(images) if rank == 1 else self._noise(images, stream)
            return fab, fab.start_at(*examples, noise)
        if name == "fab-t":
            fab = FAB(self.threat)
            return fab, fab.start(*examples, torch.zeros_like(labels))
        square = Square(self.threat, _ReplayedSquares(stream, images, self.threat), queries=self.queries)
        return square, square.start(*examples, torch.zeros_like(labels))

    def _noise(self, images: Tensor, stream: torch.Generator) -> Tensor:
        draw = torch.rand if self.threat.is_linf else torch.randn
        noise = draw(images.shape, generator=stream).to(images.device)
        return 2 * noise - 1 if self.threat.is_linf else noise

    def _run(self, attack: Attack[Any], state: State) -> None:
        while not bool((state.found | state.exhausted).all()):
            attack.step(state, self.model)
            self._watch(state)


class _ReplayedSquares:
    """The numbers of a Square run as pyautoattack draws them for one batch."""

    def __init__(self, stream: torch.Generator, images: Tensor, threat: ThreatModel) -> None:
        self.stream, self.threat, self.device = stream, threat, images.device
        self.n, self.channels, self.height, self.width = images.shape

    def start(self, keys: Tensor) -> Tensor:
        if self.threat.is_linf:
            return stripes(self._signs(self.n, self.channels, self.width).to(self.device), self.height)
        _, _, rows, columns = tile_grid(self.height, self.width)
        transposed, signs = (
            torch.zeros(rows, columns, dtype=torch.bool),
            torch.zeros(self.n, self.channels, rows, columns),
        )
        for row in range(rows):
            for column in range(columns):
                transposed[row, column] = self._transposed()
                signs[:, :, row, column] = self._signs(self.n, self.channels)
        return tiles(signs.to(self.device), transposed, self.height, self.width)

    def __call__(self, state: SquareState, rows: Tensor, numbers: Tensor) -> Changes:
        # In lockstep all runs are at the same query, but for those that are over and stay behind.
        if int(state.iteration.max()) == 0:  # the first query changes nothing
            places = dict.fromkeys(("top", "left", "top_2", "left_2"), 0)
            return self._changes(torch.ones(self.n, self.channels), {"size": 1, "transposed": False} | places)
        size = square_size(int(numbers.max()), self.height, self.width, self.threat)
        places = {"size": size, "top": self._place(self.height - size), "left": self._place(self.width - size)}
        signs = torch.ones(self.n, self.channels)
        if self.threat.is_linf:
            places |= {"top_2": 0, "left_2": 0, "transposed": False}
            signs[:] = self._signs(self.channels)
        else:
            places |= {"top_2": self._place(self.height - size), "left_2": self._place(self.width - size)}
            places["transposed"] = self._transposed()
            left = (state.best_margin > 0).cpu()
            signs[left] = self._signs(int(left.sum()), self.channels)
        return self._changes(signs, places)

    def _changes(self, signs: Tensor, places: dict[str, int]) -> Changes:
        filled = {name: torch.full((self.n,), value, device=self.device) for name, value in places.items()}
        return Changes(signs=signs.to(self.device), **filled)

    def _place(self, extent: int) -> int:
        return int(extent * torch.rand([1], generator=self.stream))

    def _signs(self, *shape: int) -> Tensor:
        return (2 * torch.rand(shape, generator=self.stream) - 1).sign()

    def _transposed(self) -> bool:
        return bool(torch.rand([1], generator=self.stream) > 0.5)
