"""Whether attacks grow with what they are given: no room, all the room, more room, more steps, a gradient."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.validation.check import Outcome, allowed, check, not_applicable
from adaptive_smoothing_zoo.validation.subject import Run, Subject, with_finite_gradient

GROUP = "radii"
GRID = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the radius
RISE = 0.002  # of accuracy: where a weaker attack may be luckier


@check(
    what="APGD on the margin at radius 0.",
    rule="It breaks nothing: accuracy is clean accuracy, exactly.",
)
def zero_radius(subject: Subject) -> Outcome:
    found = subject.attack(subject.correct, Run("zero", subject.losses["cw"], eps=0.0, steps=3)).found
    broken = int(found.sum())
    measured = {"clean": len(subject.correct) / len(subject), "accuracy": subject.accuracy(found)}
    return Outcome(broken == 0, f"{broken} points were broken by no change at all.", measured)


@check(
    what="APGD on the margin, on the cross-entropy and on the scaled cross-entropy where half the range of every pixel "
    "may change (l_2: as far as that reaches).",
    rule="Accuracy falls to 0.1 %, or to one point: with that much room any image can be made gray.",
)
def unbounded_radius(subject: Subject) -> Outcome:
    pixels = math.prod(subject.images.shape[1:])
    eps = 0.5 if subject.threat.is_linf else 0.5 * math.sqrt(pixels)
    runs = (
        Run(f"unbounded {name}", subject.losses[name], eps=max(eps, subject.threat.eps))
        for name in ("cw", "ce", "scaled-ce")
    )
    left, n = len(subject.in_turn(subject.correct, runs).left), len(subject)
    measured = {"eps": eps, "accuracy": left / n}
    return Outcome(left <= allowed(n, 0.001), f"{left} of {n} points still stand.", measured)


@check(
    what=f"APGD on the margin at {', '.join(f'{factor:g}' for factor in GRID)} times the radius.",
    rule="Accuracy never rises by more than 0.2 % or one point, and falls over the whole grid.",
)
def monotone_accuracy(subject: Subject) -> Outcome:
    radii = [factor * subject.threat.eps for factor in GRID]
    runs = [Run("grid", subject.losses["cw"], eps=eps, steps=subject.budget.grid_steps) for eps in radii]
    found = [subject.attack(subject.correct, run).found for run in runs]
    curve = [len(subject.correct) / len(subject), *map(subject.accuracy, found)]
    subject.series["accuracy_against_eps"] = ((0.0, *radii), tuple(curve))
    rise = max(b - a for a, b in pairwise(curve))
    n = len(subject)
    measured = {f"at_{factor:g}": value for factor, value in zip((0.0, *GRID), curve, strict=True)}
    passed = round(rise * n) <= allowed(n, RISE) and curve[-1] < curve[0]
    text = f"the largest rise from one radius to the next is {100 * max(rise, 0.0):.1f} %."
    return Outcome(passed, text, measured | {"largest_rise": rise})


@check(
    what="Random points of the ball, half of them on its surface, against the white box (APGD on each loss).",
    rule="They break no point that the white box does not. (How many they break is a matter of the radius.)",
)
def noise_is_weaker(subject: Subject) -> Outcome:
    points, draws = subject.correct, subject.budget.noises
    attacked = subject.white_box_found
    broken = [
        subject.candidates(points, subject.noise(points, number + 1, on_the_surface=number % 2 == 1)).found
        for number in range(draws)
    ]
    wrong = torch.stack(broken).any(dim=0)
    missed = int((wrong & ~attacked).sum())
    inside, on_the_surface = (
        sum(subject.accuracy(found) for found in some) / len(some) for some in (broken[::2], broken[1::2])
    )
    measured = {
        "accuracy_inside": inside,
        "accuracy_on_the_surface": on_the_surface,
        "accuracy_under_all_noise": subject.accuracy(wrong),
        "accuracy_under_attack": subject.accuracy(attacked),
        "missed_by_the_white_box": missed,
    }
    found = (
        f"one random point leaves {100 * inside:.1f} %, all {draws} leave {100 * subject.accuracy(wrong):.1f} %, the "
        f"white box {100 * subject.accuracy(attacked):.1f} %; it missed {missed} points that noise broke."
    )
    return Outcome(missed == 0, found, measured)


@check(
    what="One step of the sign of the gradient (l_2: of the gradient), PGD with 10 and with 100 steps, all on the "
    "margin, and the white box.",
    rule="Each leaves no higher accuracy than the one before it, but for 0.2 % or one point.",
)
def more_steps_are_stronger(subject: Subject) -> Outcome:
    broken = [_pgd(subject, steps) for steps in (1, 10, 100)]
    curve = [subject.accuracy(points) for points in (*broken, subject.white_box_found)]
    measured = dict(zip(("one_step", "pgd_10", "pgd_100", "white_box"), curve, strict=True))
    rise = max(b - a for a, b in pairwise(curve))
    passed = round(rise * len(subject)) <= allowed(len(subject), RISE)
    found = f"accuracies of {', '.join(f'{100 * value:.1f} %' for value in curve)}, in this order."
    return Outcome(passed, found, measured)


@check(
    what="The Square attack, which sees no gradient, on the points that the white box did not break.",
    rule="It breaks at most 0.2 % of the points, or one, that the white box could not.",
)
def black_box_is_weaker(subject: Subject) -> Outcome:
    left = subject.correct[~subject.white_box_found]
    if len(left) == 0:
        return not_applicable("the white box broke every point")
    broken = int(subject.square(left).found.sum())
    n = len(subject)
    measured = {"queries": subject.budget.queries, "broken": broken, "accuracy_before": len(left) / n}
    return Outcome(
        broken <= allowed(n, 0.002),
        f"Square broke {broken} of the {len(left)} points that the white box left.",
        measured,
    )


def _pgd(subject: Subject, steps: int) -> Tensor:
    """Which points of ``correct`` plain PGD breaks with its last iterate; no random start."""
    points, eps = subject.correct, subject.threat.eps
    ends = [
        pgd(
            lambda batch: with_finite_gradient(subject.model, batch),
            subject.images[chosen],
            subject.labels[chosen],
            eps=eps,
            step_size=eps * max(2.5 / steps, 1 / 4) if steps > 1 else eps,
            steps=steps,
            norm=subject.threat.norm,
            loss=subject.losses["cw"],
        )
        for chosen in points.split(subject.batch_size)
    ]
    subject.spend(2 * steps * len(points))
    return subject.candidates(points, torch.cat(ends)).found if ends else points.bool()
