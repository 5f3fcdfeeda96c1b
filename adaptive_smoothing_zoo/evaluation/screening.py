"""Quick screening of a model: a few steps of the strongest attack of the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.settings import AttackSettings, Plan
from adaptive_smoothing_zoo.evaluation.attack_run import Progress
from adaptive_smoothing_zoo.evaluation.evaluate import evaluate

SCREENING = (Plan("apgd-t", targets=3, iterations=20),)  # instead of the protocol's 9 and 100


@dataclass(frozen=True, kw_only=True)
class Screening:
    """The result of a screening.

    Attributes:
        clean_correct, standing: (N,) bool, classified correctly; and also after the attack.
        passes: forward-equivalents that were spent (a pass forward and backward counts as two).
        warnings: as in ``Evaluation``.

    The standard protocol is stronger, so its robust accuracy is at most ``upper_bound`` up to the randomness of its
    attacks. This number never enters a leaderboard.
    """

    clean_correct: np.ndarray
    standing: np.ndarray
    passes: int
    warnings: tuple[str, ...] = ()

    @property
    def clean_accuracy(self) -> float:
        """Share of points classified correctly, in [0, 1]."""
        return float(self.clean_correct.mean())

    @property
    def upper_bound(self) -> float:
        """Share of points robust to the attack, in [0, 1]; an upper bound on the robust accuracy."""
        return float(self.standing.mean())


def screen(model: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0, **words: Any) -> Screening:
    """Attack every correctly classified point by APGD-T with 3 targets of 20 steps; the model judges.

    Args:
        model, images, labels, seed: as for ``evaluate``.
        words: ``threat`` or ``norm`` and ``eps``, ``device``, ``batch_size``, ``channels_last``, ``on_progress``, as
            for ``evaluate``.

    Raises:
        ValueError: invalid images, labels or settings.
        EvaluationError: as in ``evaluate``.
    """
    seen: list[Progress] = []
    told = words.pop("on_progress", None) or (lambda progress: None)

    def note(progress: Progress) -> None:
        seen[:] = [progress]
        told(progress)

    names = ("batch_size", "channels_last")
    settings = AttackSettings(
        attacks=SCREENING, seed=seed, **{name: words.pop(name) for name in names if name in words}
    )
    found = evaluate(model, images, labels, settings=settings, on_progress=note, **words)
    return Screening(
        clean_correct=found.clean_correct,
        standing=found.robust,
        passes=seen[-1].passes_done,
        warnings=found.warnings,
    )
