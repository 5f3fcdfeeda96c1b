"""Several radii in one run: robust accuracy as a function of the radius."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.evaluation.attack_run import Progress
from adaptive_smoothing_zoo.evaluation.evaluate import EvaluateWords, Evaluation, evaluate
from adaptive_smoothing_zoo.evaluation.gathered import Batches, gathered
from adaptive_smoothing_zoo.threat import ThreatModel


def evaluate_radii(
    model: nn.Module,
    images: Tensor | Batches,
    labels: Tensor | None = None,
    *,
    threats: Sequence[ThreatModel],
    settings: AttackSettings | None = None,
    device: str | torch.device | None = None,
    state: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **words: Unpack[EvaluateWords],
) -> Iterator[Evaluation]:
    """Evaluate a model at several radii of one norm, from the smallest to the largest.

    An adversarial example at one radius is valid at each larger one, so its point is not attacked again. Results at all
    but the smallest radius are therefore not of the standard protocol, but bounds that are at least as tight;
    ``settings.begun_at`` gives the radius they started from.

    Args:
        threats: of one norm, in any order.
        state: a folder, in which each radius has its own; repeat the call after any interruption.
        model, images, labels, settings, device, on_progress, words: as for ``evaluate``.

    Returns:
        The evaluations, each as soon as it is finished.

    Raises:
        ValueError: no radii, a repeated radius, several norms, or individual attacks; and as in ``evaluate``.
    """
    if any(not isinstance(threat, ThreatModel) for threat in threats):
        raise TypeError("threats must be ThreatModels, as [ThreatModel('Linf', eps) for eps in ('2/255', '4/255')]")
    ordered = sorted(threats, key=lambda threat: threat.eps)
    radii = [threat.eps for threat in ordered]
    if not radii or len(set(radii)) < len(radii) or len({threat.norm for threat in ordered}) > 1:
        told = ", ".join(map(str, threats)) or "none"
        raise ValueError(f"give one or more different radii of one norm, got {told}")
    if settings is not None and settings.individual:
        raise ValueError("individual attacks meet all points at each radius; run one radius at a time")
    examples = gathered(images, labels, resumes=state is not None)

    def one_after_the_other() -> Iterator[Evaluation]:
        smaller: Evaluation | None = None
        for threat in ordered:
            where = None if state is None else Path(state) / f"{threat.norm}-{threat.eps!r}"
            about = {"threat": threat, "settings": settings, "device": device, "state": where, "smaller": smaller}
            smaller = evaluate(model, *examples, on_progress=on_progress, **about, **words)  # type: ignore[arg-type]
            yield smaller

    return one_after_the_other()
