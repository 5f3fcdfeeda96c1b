"""Whether a search in lower precision finds what one in float32 finds; float32 decides in both."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.catalogue import fitted
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings, Precision
from adaptive_smoothing_zoo.validation.check import Outcome, allowed, check, not_applicable
from adaptive_smoothing_zoo.validation.subject import Subject

GROUP = "precision"


@check(
    what="APGD in TF32, in which searches on CUDA compute by default, and in float32, with two seeds.",
    rule="The two precisions disagree on no more points than the two seeds do (or on 1 %, or one).",
)
def tf32_finds_as_much(subject: Subject) -> Outcome:
    if subject.device.type != "cuda":
        return not_applicable("on a CPU searches are in float32")
    return agreement(subject, "tf32")


def agreement(subject: Subject, precision: Precision) -> Outcome:
    """On how many correctly classified points the verdicts of two precisions differ, and those of two seeds."""
    low = _broken(subject, precision, subject.seed)
    high, other = (_broken(subject, "float32", subject.seed + more) for more in (0, 1))
    n, apart, seeds = len(low), int((low != high).sum()), int((high != other).sum())
    measured = {
        "points": n,
        "broken": int(low.sum()),
        "broken_in_float32": int(high.sum()),
        "precisions_differ": apart,
        "seeds_differ": seeds,
    }
    found = f"Of {n} verdicts, {apart} depend on the precision and {seeds} on the seed."
    return Outcome(apart <= max(seeds, allowed(n, 0.01)), found, measured)


def _broken(subject: Subject, precision: Precision, seed: int) -> Tensor:
    """Which of the correctly classified points a short search breaks, (P,) bool on the CPU."""
    points = subject.correct
    images, labels = subject.images[points], subject.labels[points]
    classes = subject.logits(images[:1]).shape[1]
    settings = AttackSettings(
        attacks=("apgd-ce", "apgd-t"),  # type: ignore[arg-type]
        seed=seed,
        search_precision=precision,
        batch_size=subject.batch_size,
    )
    settings = fitted(settings, classes).limited(iterations=subject.budget.steps)
    search = Search(subject.model, subject.threat, settings, num_classes=classes, device=subject.device)
    broken = torch.zeros(len(points), dtype=torch.bool)
    for verdict in search.run(images, labels, points):
        broken[verdict.points] |= verdict.broken
    subject.spend(search.spent())
    return broken
