"""PGD on the cross-entropy as experiments run it: the papers' form, and a stronger one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

PgdName = Literal["papers", "random-start"]
PGD_NAMES: tuple[PgdName, ...] = get_args(PgdName)
PAPERS_STEP = {"Linf": 0.0027 / (8 / 255), "L2": 0.075 / 0.5}
"""The authors' steps as shares of the radius: 0.0027 of 8/255 in l_inf, 0.075 of 0.5 in l_2, at any number of steps."""
TRAVEL = 2.5
"""How far all steps of the other form reach together, as a share of the radius (Madry et al. 2018)."""


@dataclass(frozen=True, kw_only=True)
class Pgd:
    """PGD on the cross-entropy, its last iterate.

    Attributes:
        name: "papers": from the image, in steps of a fixed length (``PAPERS_STEP``). "random-start": from a random
            point of the ball, in steps that reach ``TRAVEL`` radii together.
        steps: how many.
        norm, eps: of the ball.
    """

    name: PgdName
    steps: int
    norm: str
    eps: float

    @property
    def random_start(self) -> bool:
        """Whether it starts at a random point of the ball."""
        return self.name == "random-start"

    @property
    def share(self) -> float:
        """Length of a step as a share of the radius."""
        return TRAVEL / self.steps if self.random_start else PAPERS_STEP[self.norm]

    @property
    def step_size(self) -> float:
        """Length of a step, in the units of eps."""
        return self.share * self.eps

    def words(self, seed: int) -> str:
        """Exactly what is run."""
        start = f"from one random start, seed {seed}" if self.random_start else "from the image, no random start"
        travel = self.steps * self.share
        reach = f", which reach {travel:.0%} of eps at most" if travel < 1 and not self.random_start else ""
        steps = f"{self.steps} steps of {self.step_size:.3g} ({self.share:.3g} eps){reach}"
        return f"PGD on the cross-entropy, {steps}, {start}"
