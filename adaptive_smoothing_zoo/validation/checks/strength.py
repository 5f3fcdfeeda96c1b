"""Whether the attacks were strong enough: other losses, more steps, and boundaries that are known to be there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import rank_classes
from adaptive_smoothing_zoo.threat import l2_norm
from adaptive_smoothing_zoo.validation.check import Outcome, allowed, check, not_applicable
from adaptive_smoothing_zoo.validation.subject import TARGETS, Run, Subject

GROUP = "strength"
INNER = 0.5  # radius of the inner ball, in radii of the ball
AGREEMENT = 0.015  # of accuracy: what other losses may find that other starts of one loss do not
# Of accuracy: how far the cross-entropy may lag behind that of scaled logits. One start more or less makes a difference
# of up to 0.02 on a hundred points, either way; a softmax that has saturated costs the cross-entropy nearly everything.
# Behind the best loss it lags by 0.02 to 0.07 in published evaluations of honest nets, which proves nothing.
SATURATION = 0.05
CANDIDATES = 100  # likeliest wrong classes whose boundaries' distances are compared


@check(
    what="APGD on cross-entropy, DLR, margin, margin of probabilities and cross-entropy of scaled logits, each from "
    "several starts, and toward each of the likeliest classes; together they are the white box of the other checks.",
    rule="At equal effort the loss makes no difference: the best one from all its starts is within 1.5 % (or one "
    "point) of one start of each loss together. And the cross-entropy is within 5 % of that of scaled logits: a gap "
    "there is the mark of a saturated softmax.",
)
def losses_agree(subject: Subject) -> Outcome:
    n = len(subject)
    accuracies = {name: subject.accuracy(attacked.found) for name, attacked in subject.white_box.items()}
    singles = {name: subject.accuracy(attacked.found) for name, attacked in subject.single_runs.items()}
    each_once = subject.accuracy(torch.stack([attacked.found for attacked in subject.single_runs.values()]).any(dim=0))
    gap, lag = min(accuracies[name] for name in singles) - each_once, accuracies["ce"] - accuracies["scaled-ce"]
    passed = round(gap * n) <= allowed(n, AGREEMENT) and round(lag * n) <= allowed(n, SATURATION)
    measured = {
        **accuracies,
        **{f"{name}_from_one_start": value for name, value in singles.items()},
        "each_loss_from_one_start": each_once,
        "union": subject.accuracy(subject.white_box_found),
    }
    found = (
        f"the best loss leaves {100 * min(accuracies.values()):.1f} %, one start of each together "
        f"{100 * each_once:.1f} %, everything together {100 * measured['union']:.1f} %; the cross-entropy lags "
        f"{100 * lag:.1f} % behind that of scaled logits."
    )
    return Outcome(passed, found, measured)


@check(
    what="The loss of the white box (margin) at the points it did not break, step by step.",
    rule="It rises at 95 % of them (or at all but one), and the last fifth of the steps adds at most 10 % of the rise.",
)
def loss_curves_are_flat(subject: Subject) -> Outcome:
    for name, attacked in subject.white_box.items():
        left = attacked.history[~subject.white_box_found].T.double()
        usable = left[:, torch.isfinite(left).all(dim=0)]
        if usable.shape[1]:
            subject.series[f"loss_{name}"] = (tuple(usable.mean(dim=1).tolist()),)
    history = subject.white_box["cw"].history[~subject.white_box_found].T.double()
    history = history[:, torch.isfinite(history).all(dim=0)]
    n = history.shape[1]
    if n == 0:
        return not_applicable("the white box broke every point, or its loss was not finite")
    rise = history[-1] - history[0]
    still = int((rise <= 0).sum())
    late = history[-1] - history[(4 * len(history)) // 5]
    share = float(late.sum() / rise.sum().clamp(min=1e-30))
    passed = still <= allowed(n, 0.05) and share <= 0.1
    measured = {"points": n, "without_rise": still, "share_of_the_last_fifth": share}
    found = f"the loss rose at all but {still} of {n} points, {100 * share:.1f} % of it in the last fifth of the steps."
    return Outcome(passed, found, measured)


@check(
    what="The points with the smallest margins among those that neither the white box nor the recorded run, if there "
    "is one, has broken, attacked with more steps: on the margin of logits and of probabilities, from as "
    "many new starts, and toward each of the likeliest classes.",
    rule="At most 0.2 % of the points (or one) fall.",
)
def survivors_withstand_more(subject: Subject) -> Outcome:
    chosen = _closest(subject)
    if len(chosen) == 0:
        return not_applicable("no point is left robust")
    steps, restarts = subject.budget.long_steps, subject.budget.restarts
    runs = (
        Run(f"survivors {name}", subject.losses[name], steps=steps, restart=restart)
        for name in ("cw", "probability")
        for restart in range(restarts)
    )
    left = chosen[subject.in_turn(chosen, runs).left]
    left = left[subject.targeted(left, "survivors", steps).left]
    broken = len(chosen) - len(left)
    measured = {"attacked": len(chosen), "broken": broken, "steps": steps, "restarts": restarts}
    return Outcome(
        broken <= allowed(len(subject), 0.002), f"{broken} of the {len(chosen)} closest survivors fell.", measured
    )


@check(
    what="Where there are more wrong classes than a targeted attack tries: APGD toward those whose boundaries are the "
    "closest by linear extrapolation, instead of the likeliest (MALT [MYS24]).",
    rule="It breaks at most 0.1 % of the points, or one, not broken before.",
)
def closest_targets(subject: Subject) -> Outcome:
    wrong = subject.num_classes - 1
    if wrong <= TARGETS:
        return not_applicable(f"targeted attacks try all {wrong} wrong classes")
    left = subject.left
    if len(left) == 0:
        return not_applicable("no point is left robust")
    broken = int(subject.toward(left, _closest_classes(subject, left), "closest").found.sum())
    return Outcome(
        broken <= allowed(len(subject), 0.001),
        f"{broken} of the {len(left)} points fell that the white box and the recorded run (if any) had left.",
        {"attacked": len(left), "broken": broken},
    )


@check(
    what="A boundary planted inside the ball: a linear readout of the logits that separates random points of the ball "
    "of half the radius from a point on the surface, found by random search (after [ZBTC22], who read "
    "out features and take any point); attacked with APGD on the readout from several starts.",
    rule="At least 95 % of the planted boundaries are found (or all but one); what random points of the ball find, as "
    "many as APGD has steps, says how hard it was.",
)
def planted_boundaries_are_found(subject: Subject) -> Outcome:
    points = subject.correct[: subject.budget.planted]
    if len(points) == 0:
        return not_applicable("no image is classified correctly")
    readout = _plant(subject, points)
    points = points[readout.planted]
    n = len(points)
    if n < 2:
        return not_applicable("the logits do not separate a point on the surface from the inner ball")
    readout = Readout(*(part[readout.planted] for part in (readout.planted, readout.weights, readout.offsets)))

    rows = torch.arange(n, device=subject.device)
    row_of, by_chance = torch.zeros_like(subject.labels), torch.zeros(n, dtype=torch.bool, device=subject.device)
    row_of[points] = rows
    run = Run(
        "planted",
        lambda output, labels, chosen: readout.score(output, chosen),
        judge=lambda asked, said, examples: readout.score(said, row_of[examples]) > 0,
        targets=rows,
    )
    left = subject.in_turn(points, (replace(run, restart=i) for i in range(subject.budget.restarts))).left
    for number in range(subject.budget.steps):
        drawn = subject.noise(points, -2 - number, on_the_surface=number % 2 == 1)
        by_chance |= readout.score(subject.logits(drawn), rows) > 0
    missed = len(left)
    measured = {"planted": n, "found": n - missed, "found_by_chance": int(by_chance.sum())}
    found = f"{n - missed} of {n} planted boundaries were found, {int(by_chance.sum())} by random points."
    return Outcome(missed <= allowed(n, 0.05), found, measured)


@dataclass(frozen=True)
class Readout:
    """One linear function of the logits for each point, positive beyond the planted boundary.

    Attributes:
        planted: (N,) bool, the readout separates.
        weights: (N, C) float64.
        offsets: (N,) float64.
    """

    planted: Tensor
    weights: Tensor
    offsets: Tensor

    def score(self, logits: Tensor, rows: Tensor) -> Tensor:
        return ((logits.double() * self.weights[rows]).sum(dim=1) - self.offsets[rows]).to(logits.dtype)


def _plant(subject: Subject, points: Tensor) -> Readout:
    """Fisher's discriminant between the inner points and the one on the surface; the boundary is near the latter."""
    images = subject.images[points]
    inner = [subject.clean_logits[points]]
    for number in range(subject.budget.inner):
        drawn = subject.noise(points, 1000 + number, on_the_surface=number % 2 == 1)
        inner.append(subject.logits(images + INNER * (drawn - images)))
    inside = torch.stack(inner, dim=1).double()  # (N, K, C)
    surface = subject.noise(points, -1, on_the_surface=True)
    planted = subject.logits(surface).double()
    centre = inside.mean(dim=1)
    away = inside - centre[:, None]
    spread = away.transpose(1, 2) @ away / inside.shape[1]
    size = spread.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
    ridge = 1e-2 * size[:, None, None] * torch.eye(inside.shape[2], dtype=torch.float64, device=subject.device)
    direction = torch.linalg.solve(spread + ridge, planted - centre)
    highest = (inside * direction[:, None]).sum(dim=2).amax(dim=1)
    reached = _search(subject, points, surface, direction, (planted * direction).sum(dim=1))
    gap = reached - highest
    separates = torch.isfinite(gap) & (gap > 1e-9 * (1.0 + highest.abs()))
    scale = torch.where(separates, gap, 1.0)
    return Readout(separates, direction / scale[:, None], (highest + 0.9 * gap) / scale)


def _search(subject: Subject, points: Tensor, surface: Tensor, direction: Tensor, reached: Tensor) -> Tensor:
    """The highest readout that random changes of a tenth of the pixels lead to, (N,); no gradient is asked for.

    What random points do not reach is a test of the gradient.
    """
    best, images = surface, subject.images[points]
    for number in range(subject.budget.search):
        changed = subject.noise(points, 2000 + 2 * number, on_the_surface=True)
        chosen = subject.noise(points, 2001 + 2 * number) - images
        few = chosen.abs().flatten(1).quantile(0.9, dim=1).view(-1, 1, 1, 1)
        moved = torch.where(chosen.abs() >= few, changed, best)
        if not subject.threat.is_linf:
            away = moved - images
            moved = (images + away * subject.threat.eps / l2_norm(away).clamp(min=1e-12)).clamp(0.0, 1.0)
        score = (subject.logits(moved).double() * direction).sum(dim=1)
        better = score > reached
        reached = torch.where(better, score, reached)
        best = torch.where(better.view(-1, 1, 1, 1), moved, best)
    return reached


def _closest_classes(subject: Subject, points: Tensor) -> Tensor:
    """(N, TARGETS), of the likeliest wrong classes those with the closest boundaries, the closest first.

    The distance is that of a linear net: the gap between the logits over the dual norm of its gradient.
    """
    parts = []
    for chosen in points.split(subject.batch_size):
        images, labels = subject.images[chosen].requires_grad_(), subject.labels[chosen]
        with torch.enable_grad():
            logits = subject.model(images)
            likely = rank_classes(logits.detach(), labels)[:, :CANDIDATES]
            gaps = logits.gather(1, labels[:, None]) - logits.gather(1, likely)
        slopes = [torch.autograd.grad(gap.sum(), images, retain_graph=True)[0].flatten(1) for gap in gaps.unbind(dim=1)]
        order_of_dual = 1 if subject.threat.is_linf else 2
        sizes = torch.stack([torch.linalg.vector_norm(slope, ord=order_of_dual, dim=1) for slope in slopes], dim=1)
        parts.append(likely.gather(1, (gaps.detach() / sizes).argsort(dim=1)[:, :TARGETS]))
        subject.spend(len(chosen) * (1 + likely.shape[1]))
    return torch.cat(parts)


def _closest(subject: Subject) -> Tensor:
    """Indices of the points still left with the smallest margins met by the white box."""
    margins = torch.full((len(subject),), torch.inf, device=subject.device)
    margins[subject.correct] = torch.stack([attacked.margins for attacked in subject.white_box.values()]).amin(dim=0)
    left = subject.left
    return left[margins[left].argsort(stable=True)[: subject.budget.survivors]]
