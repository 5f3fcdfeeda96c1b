"""What the parts of a mix may hide: alpha's gradient, and g and h on their own."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import lowering_alpha, margin
from adaptive_smoothing_zoo.attacks.surrogates import MixedNUTSSurrogate
from adaptive_smoothing_zoo.attacks.views import GrayBox, RawLogits, WithAlphaLoss, pin_alpha
from adaptive_smoothing_zoo.backbones.asking import original
from adaptive_smoothing_zoo.method.alpha import log_weights_of
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.formula import mix
from adaptive_smoothing_zoo.validation.check import Outcome, allowed, check, not_applicable
from adaptive_smoothing_zoo.validation.subject import Run, Subject, misclassified

GROUP = "mixture"
SATURATED = 1e-4  # derivative of the sigmoid
SLACK = 1e-5  # rounding of probabilities in float32
TRANSFERRED = ("probability", "cw", "ce")
ALPHA_RULE = "It breaks at most 0.3 % of the points, or one, not broken before; else the union is the figure."


@check(
    needs="adaptive",
    what="The derivative of alpha's sigmoid at the clean images and at the adversarial examples found so far.",
    rule=f"It is below {SATURATED:g} for at most 1 % of them: an attack can move alpha.",
)
def alpha_not_saturated(subject: Subject) -> Outcome:
    model = _mix(subject)
    _ = subject.white_box  # whose adversarial examples are looked at
    clean = _alpha_logits(subject, model, subject.images)
    attacked = _alpha_logits(subject, model, subject.adversarials[subject.broken])
    subject.series["alpha"] = tuple(
        tuple(round(float(value), 6) for value in model.alpha.alpha(logits)) for logits in (clean, attacked)
    )
    both = torch.cat([clean, attacked]).double()
    flat = int((torch.sigmoid(both) * torch.sigmoid(-both) < SATURATED).sum())
    measured = {
        "saturated": flat,
        "points": len(both),
        "alpha_logit_min": float(both.min()),
        "alpha_logit_max": float(both.max()),
    }
    return Outcome(flat <= allowed(len(both), 0.01), f"alpha is saturated at {flat} of {len(both)} points.", measured)


@check(
    needs="adaptive",
    what="APGD on both margins and the cross-entropy of the mix with alpha held at its minimum, where g counts most; "
    "the verdict is the true model's.",
    rule=ALPHA_RULE,
)
def alpha_pinned(subject: Subject) -> Outcome:
    view = pin_alpha(_mix(subject))
    return _gain(subject, [Run(f"pinned {name}", subject.losses[name], view) for name in TRANSFERRED], 0.003)


@check(
    needs="adaptive",
    what="APGD on both margins and the cross-entropy without the gradient through the mixing network.",
    rule=ALPHA_RULE,
)
def alpha_detached(subject: Subject) -> Outcome:
    view = GrayBox(_mix(subject))
    return _gain(subject, [Run(f"detached {name}", subject.losses[name], view) for name in TRANSFERRED], 0.003)


@check(
    needs="adaptive",
    what="APGD on (1 - w) times one of the margins or the cross-entropy, + w BCE(alpha_logit, 1), for w = 0.1 and 0.5; "
    "this pulls alpha down.",
    rule=ALPHA_RULE,
)
def alpha_lowered(subject: Subject) -> Outcome:
    view = WithAlphaLoss(_mix(subject))
    runs = [
        Run(f"lowered {name} {w}", lowering_alpha(subject.losses[name], w), view)
        for name in TRANSFERRED
        for w in (0.1, 0.5)
    ]
    return _gain(subject, runs, 0.003)


@check(
    needs="mix",
    what="APGD on each loss of h alone, from several starts. Where h puts another class ahead by more than "
    "(1 - alpha_min) / alpha_min the mix must be wrong, and where it puts the label ahead by more it must be right, "
    "whatever g says. Looked at: every point on the way, and every adversarial example of any check.",
    rule="No exception to either: one would be a bug. And at most 1 % of the points (or one) that h alone still "
    "protects after this attack have been broken by another: more would show that the attack on h was weak.",
)
def margin_bound(subject: Subject) -> Outcome:
    model = _mix(subject)
    alpha_min = model.alpha.alpha_min
    if alpha_min <= 0.5:
        return not_applicable(f"the bound says nothing about alpha_min = {alpha_min:g}, which is not above 1/2")
    bound = (1.0 - alpha_min) / alpha_min
    h, labels, exceptions = pin_alpha(model, 1.0), subject.labels, 0
    lowest = torch.full((len(subject),), torch.inf, device=subject.device)

    def look(points: Tensor, log_rob: Tensor, examples: Tensor) -> Tensor:
        nonlocal exceptions
        with torch.no_grad():
            wrong = misclassified(model(points), labels[examples])
        subject.spend(len(points))
        lead = margin(log_rob.exp(), labels[examples])
        lowest[examples] = torch.minimum(lowest[examples], lead)
        exceptions += int(((lead < -bound - SLACK) & ~wrong).sum() + ((lead > bound + SLACK) & wrong).sum())
        return wrong

    fell = torch.zeros(len(subject), dtype=torch.bool, device=subject.device)
    for restart, (name, loss) in product(range(subject.budget.restarts), subject.losses.items()):
        left = subject.correct[lowest[subject.correct] > bound]
        attacked = subject.attack(left, Run(f"h alone {name}", loss, h, look, restart=restart, stop=False))
        fell[left] |= subject.enter(left, attacked).found
    broken = subject.broken.nonzero().squeeze(1)
    if len(broken):
        lead = margin(subject.logits(subject.adversarials[broken], h).exp(), subject.labels[broken])
        exceptions += int((lead > bound + SLACK).sum())
    weak = int(((lowest > bound) & subject.broken).sum())
    measured = {
        "bound": bound,
        "exceptions": exceptions,
        "accuracy": subject.accuracy(fell[subject.correct]),
        "certainly_broken": int((lowest < -bound).sum()),
        "protected_by_h": int((lowest[subject.correct] > bound).sum()),
        "protected_by_h_yet_broken": weak,
    }
    return Outcome(
        exceptions == 0 and weak <= allowed(len(subject), 0.01),
        f"{exceptions} exceptions to the bound; {weak} points broken that h still protected after this attack.",
        measured,
    )


@check(
    needs="mix",
    what="APGD on g alone and on h alone (both margins and the cross-entropy), each with its own verdict, next to the "
    "mix with its own (one start of each loss).",
    rule="The mix is at most 0.5 % (or one point) more robust than h: mixing adds accuracy, and only what hides "
    "gradients adds robustness.",
)
def base_nets_alone(subject: Subject) -> Outcome:
    accuracies = {net: _alone(subject, net, pin_alpha(_mix(subject), alpha)) for net, alpha in (("g", 0.0), ("h", 1.0))}
    runs = [subject.single_runs[name].found for name in TRANSFERRED]
    accuracies["mix"] = subject.accuracy(torch.stack(runs).any(dim=0))
    more, n = accuracies["mix"] - accuracies["h"], len(subject)
    found = ", ".join(f"{net} {100 * accuracy:.1f} %" for net, accuracy in accuracies.items())
    return Outcome(round(more * n) <= allowed(n, 0.005), f"under attack: {found}.", accuracies)


@check(
    needs="mix",
    what="APGD on g alone and on h alone (both margins and the cross-entropy), carried over to the mix.",
    rule="They break at most 0.4 % of the points, or one, not broken before.",
)
def base_nets_transferred(subject: Subject) -> Outcome:
    model = _mix(subject)
    runs = [
        Run(f"{net} {name}", subject.losses[name], pin_alpha(model, alpha))
        for net, alpha in (("g", 0.0), ("h", 1.0))
        for name in TRANSFERRED
    ]
    return _gain(subject, runs, 0.004)


@check(
    needs="mix",
    what="APGD on the margin through surrogates, carried over to the mix: the weighted sum of raw logits, the mix with "
    "all logits times 0.1 and times 10, and MixedNUTS's blend of h with and without its map.",
    rule="They break at most 0.4 % of the points, or one, not broken before.",
)
def surrogates_transferred(subject: Subject) -> Outcome:
    model, loss = _mix(subject), subject.losses["cw"]
    alpha = model.alpha.alpha_min
    surrogates: dict[str, nn.Module] = {
        "raw logits": RawLogits(model),
        "times 0.1": Tempered(model, alpha, 0.1),
        "times 10": Tempered(model, alpha, 10.0),
        "blend": MixedNUTSSurrogate(model, alpha),
    }
    return _gain(subject, [Run(name, loss, surrogate) for name, surrogate in surrogates.items()], 0.004)


class Tempered(nn.Module):
    """The mix with a constant alpha and both nets' mapped logits times a factor."""

    def __init__(self, model: MixedClassifier, alpha: float, factor: float) -> None:
        super().__init__()
        self.model, self.alpha, self.factor = model, alpha, factor

    def forward(self, images: Tensor) -> Tensor:
        model = self.model
        std, rob = model.std_map(model.std_model(images)), model.rob_map(model.rob_model(images))
        log_std, log_rob = (F.log_softmax(self.factor * logits, dim=1) for logits in (std, rob))
        return mix(log_std, log_rob, *log_weights_of(self.alpha))


def _mix(subject: Subject) -> MixedClassifier:
    mix = original(subject.model)
    assert isinstance(mix, MixedClassifier)
    return mix


def _alone(subject: Subject, name: str, net: nn.Module) -> float:
    """A base net's accuracy under attacks on itself."""
    points = (~misclassified(subject.logits(subject.images, net), subject.labels)).nonzero().squeeze(1)

    def errs(asked: Tensor, said: Tensor, examples: Tensor) -> Tensor:
        return misclassified(said, subject.labels[examples])

    runs = (Run(f"{name} alone {loss}", subject.losses[loss], net, errs) for loss in TRANSFERRED)
    return len(subject.in_turn(points, runs).left) / len(subject)


def _gain(subject: Subject, runs: Iterable[Run], share: float) -> Outcome:
    """Attack the points still left, through other models; few of them may fall."""
    left = subject.left
    before = len(left)
    measured: dict[str, float] = {}
    for run in runs:
        attacked = subject.attack(left, run)
        left = left[attacked.left]
        measured[run.name] = int(attacked.found.sum())
    broken = before - len(left)
    return Outcome(
        broken <= allowed(len(subject), share),
        f"{broken} of the {before} points fell that the white box and the recorded run (if any) had left.",
        {"accuracy_before": before / len(subject), "broken": broken, **measured},
    )


@torch.no_grad()
def _alpha_logits(subject: Subject, model: MixedClassifier, images: Tensor) -> Tensor:
    subject.spend(len(images))
    parts = [model.alpha_logit_of(batch) for batch in images.split(subject.batch_size) if len(batch)]
    return torch.cat(parts) if parts else images.new_zeros(0)
