"""Whether what was found holds: inside the ball, in float64, in 8 bits, and next to a recorded run."""

from __future__ import annotations

import torch

from adaptive_smoothing_zoo.attacks.verify import check_adversarials
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.validation.check import Outcome, allowed, check, not_applicable
from adaptive_smoothing_zoo.validation.subject import Subject, misclassified

GROUP = "examples"


@check(
    what="Every adversarial example of any check against the threat model.",
    rule="All pixels are finite and in [0, 1], and none leaves the ball by more than 1e-6.",
)
def ball_and_box(subject: Subject) -> Outcome:
    broken = _broken(subject)
    if len(broken) == 0:
        return not_applicable("no attack found an adversarial example")
    examples = subject.adversarials[broken]
    distance = subject.threat.distance(subject.images[broken], examples)
    measured = {"examples": len(broken), "largest_distance": float(distance.max())}
    try:
        check_adversarials(subject.images[broken], examples, broken, subject.threat)
    except EvaluationError as error:
        return Outcome(False, f"{error}.", measured)
    return Outcome(True, f"all {len(broken)} adversarial examples obey.", measured)


@check(
    what="The images and every adversarial example classified in float64 by the same weights.",
    rule="At most 0.05 % of the verdicts differ (or one).",
)
def float64_verdicts(subject: Subject) -> Outcome:
    exact = subject.double
    if isinstance(exact, str):
        return not_applicable(exact)
    broken = _broken(subject)
    images = torch.cat([subject.images, subject.adversarials[broken]])
    labels = torch.cat([subject.labels, subject.labels[broken]])
    single = subject.fooled(images, labels)
    with torch.no_grad():
        logits = torch.cat([exact(batch.double()) for batch in images.split(subject.batch_size)])
    subject.spend(len(images))
    flips = int((misclassified(logits, labels) != single).sum())
    measured = {"verdicts": len(images), "differ": flips}
    return Outcome(flips <= allowed(len(images), 0.0005), f"{flips} of {len(images)} verdicts differ.", measured)


@check(
    what="Every adversarial example rounded to 8 bits per channel, as an image file would hold it.",
    rule="At most 10 % of them (or one) become harmless: the model is not broken by fractions of a gray level alone.",
)
def eight_bits(subject: Subject) -> Outcome:
    broken = _broken(subject)
    if len(broken) == 0:
        return not_applicable("no attack found an adversarial example")
    rounded = (subject.adversarials[broken] * 255.0).round() / 255.0
    undone = len(broken) - int(subject.fooled(rounded, subject.labels[broken]).sum())
    n = len(subject)
    measured = {
        "examples": len(broken),
        "harmless": undone,
        "accuracy": len(subject.standing) / n,
        "accuracy_in_8_bits": (len(subject.standing) + undone) / n,
    }
    return Outcome(
        undone <= allowed(len(broken), 0.1),
        f"{undone} of {len(broken)} adversarial examples become harmless.",
        measured,
    )


@check(
    what="The points that the recorded attacks, AutoAttack and then the adaptive ones if they are recorded, left "
    "standing, against those that some check broke.",
    rule="At most 0.3 % of the points (or one) were newly broken; else the recorded figure is too high, and the union "
    "is the best known one.",
)
def recorded_run(subject: Subject) -> Outcome:
    recorded = subject.recorded
    if recorded is None:
        return not_applicable("no recorded run of these weights at this radius on these points")
    _ = subject.white_box
    n, broken = len(subject), subject.broken
    robust, standing = (torch.from_numpy(points).to(subject.device) for points in (recorded.robust, recorded.standing))
    new, beyond_autoattack = int((standing[:n] & broken).sum()), int((robust[:n] & broken).sum())
    missed = int((~standing[:n] & ~broken)[subject.correct].sum())
    measured = {
        "recorded_points": len(robust),
        "autoattack_accuracy": float(robust.double().mean()),
        "recorded_accuracy": float(standing.double().mean()),
        "union_accuracy": (int(standing.sum()) - new) / len(robust),
        "newly_broken": new,
        "broken_that_autoattack_left": beyond_autoattack,
        "not_broken_here": missed,
    }
    found = (
        f"{new} of the {int(standing[:n].sum())} points still standing were broken, {beyond_autoattack} of the "
        f"{int(robust[:n].sum())} that AutoAttack had left."
    )
    return Outcome(new <= allowed(n, 0.003), found, measured)


def _broken(subject: Subject) -> torch.Tensor:
    """Indices of the points that some check broke; the white box is made if no check has asked for it."""
    _ = subject.white_box
    return subject.broken.nonzero().squeeze(1)
