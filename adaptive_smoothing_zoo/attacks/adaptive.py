"""Attacks adapted to a mix, beside AutoAttack's: setting D of the paper, and what its gradients may hide (000, 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.attacks.apgd import APGD, APGDState
from adaptive_smoothing_zoo.attacks.losses import TargetedLoss, cross_entropy, margin, targeted_dlr
from adaptive_smoothing_zoo.attacks.objectives import lowering_alpha, probability_margin
from adaptive_smoothing_zoo.attacks.prepare import prepare, rounding
from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform_images
from adaptive_smoothing_zoo.attacks.verify import predict
from adaptive_smoothing_zoo.attacks.views import VIEWS, WithAlphaLoss
from adaptive_smoothing_zoo.classifier import MixedClassifier

VERSION = 2  # changes when the same seed no longer gives the same candidates

ADAPTIVE_ATTACKS = (
    "apgd-ce-lowering",
    "apgd-t-lowering",
    "apgd-ce-pinned",
    "apgd-t-pinned",
    "apgd-ce-gray_box",
    "apgd-t-gray_box",
    "apgd-p-nudging",
    "apgd-t-nudging",
    "apgd-p-lowering",
    "apgd-p-mix",
)
"""Three losses through five views: the mix with a large or a small part that pulls alpha down, alpha pinned at
alpha_min, alpha detached, and the mix itself. The small part with the margin of probabilities is the strongest."""

SURROGATE_ATTACKS = ("apgd-ce-surrogate", "apgd-t-surrogate")
"""What is added where a triplet names a surrogate to attack through."""

ALPHA_WEIGHTS = {"lowering": 0.5, "nudging": 0.1}  # w of the part that pulls alpha down

_THE_MIX_S_LOGITS = ("mix", "gray_box", *ALPHA_WEIGHTS)  # views that differ from the mix in gradients alone


def _probability_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The margin of probabilities, (N,); the targets are not used."""
    return probability_margin(logits, labels)


_LOSSES: dict[str, TargetedLoss] = {"apgd-ce": cross_entropy, "apgd-t": targeted_dlr, "apgd-p": _probability_margin}


class AdaptiveEngine:
    """APGD through views of a mix; every iterate is judged by the mix itself.

    An attack is named by its loss and its view, ``apgd-ce-pinned``: ``apgd-ce`` is the cross-entropy and ``apgd-p`` the
    margin of probabilities, both from several random starts, and ``apgd-t`` the targeted DLR loss toward up to 9 wrong
    classes, from the likeliest on; a view is one of ``views.VIEWS``, ``lowering`` or ``nudging`` (the white box, with
    the loss ``(1 - w) loss + w BCE(alpha_logit, 1)`` for w = 0.5 or 0.1), or ``surrogate``. With a constant alpha,
    all but the surrogate are the mix itself, attacked once more with other random numbers: the same effort as against
    a mix whose alpha adapts.

    Random numbers depend on the seed, the attack, the target's rank or the start's number, and the example's index
    alone.

    Args:
        model: in eval mode and frozen, on ``device``.
        norm: "Linf" or "L2".
        eps: radius of the ball.
        seed: of the random numbers.
        batch_size: most points in one pass, and the size of the batches in which candidates are verified.
        device: where the model is.
        surrogate: what the triplet's authors attack in its place; needed for attacks of that name.

    Attributes:
        iterations: of a run; the protocol's 100. Other numbers are for tests and for choosing alpha.
        targets: the most wrong classes that are tried; the protocol's 9. Likewise.
        starts: random starts of an untargeted attack.
    """

    def __init__(
        self,
        model: MixedClassifier,
        *,
        norm: str,
        eps: float,
        seed: int,
        batch_size: int,
        device: torch.device,
        surrogate: nn.Module | None = None,
    ) -> None:
        model.check_mixes("AdaptiveEngine")
        self.name = f"adaptive {VERSION}"
        self.model, self.norm, self.eps, self.seed = model, norm, eps, seed
        self.batch_size, self.device, self.surrogate = batch_size, device, surrogate
        self.iterations, self.targets, self.starts = 100, 9, 5

    def attack(self, name: str, images: Tensor, labels: Tensor, indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Attack correctly classified points; yield (positions, candidates) batch by batch.

        A candidate is an adversarial example of the mix, or the image itself.

        Args:
            name: loss and view, as ``ADAPTIVE_ATTACKS`` has them.
            images: (N, channels, H, W) in [0, 1].
            labels: (N,).
            indices: (N,) of the points in the dataset.

        Raises:
            ValueError: an attack that does not exist, or a surrogate's where there is none.
        """
        loss, view = self._loss_and_view(name)
        prepared = prepare(view.to(self.device).eval(), images[:8].to(self.device))
        attack = APGD(name, norm=self.norm, eps=self.eps, loss=loss, steps=self.iterations)
        for positions in torch.arange(len(labels)).split(self.batch_size):
            x, y = images[positions].to(self.device).contiguous(), labels[positions].to(self.device)
            yield positions, self._perturb(attack, prepared, x, y, indices[positions]).to(images.device)

    def _loss_and_view(self, name: str) -> tuple[TargetedLoss, nn.Module]:
        loss_name, _, view_name = name.rpartition("-")
        views: dict[str, Callable[[MixedClassifier], nn.Module]] = dict(VIEWS)
        if self.surrogate is not None:
            surrogate = self.surrogate
            views["surrogate"] = lambda model: surrogate
        if loss_name not in _LOSSES or view_name not in (*views, *ALPHA_WEIGHTS):
            raise ValueError(
                f"no attack {name!r}; it must be one of {', '.join(_LOSSES)}, a hyphen, and one of "
                f"{', '.join((*ALPHA_WEIGHTS, *views))}"
            )
        loss = _LOSSES[loss_name]
        if view_name in views:
            return loss, views[view_name](self.model)
        if isinstance(self.model.alpha, AdaptiveAlpha):
            return lowering_alpha(loss, ALPHA_WEIGHTS[view_name]), WithAlphaLoss(self.model)
        return loss, self.model

    def _perturb(self, attack: APGD, view: nn.Module, images: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """One batch: one run after the other, each on the points that still stand."""
        candidates = images.clone()
        left = torch.arange(len(labels), device=self.device)
        for targets in self._targets(attack.name, images, labels):
            if len(left) == 0:
                break
            rank, classes = targets
            keys = run_keys(self.seed, attack.name, rank, indices[left.cpu()]).to(self.device)
            noise = (uniform_images if self.norm == "Linf" else normal_images)(keys, images.shape[1:])
            state = attack.start(images[left], labels[left], classes[left], noise)
            left = self._run(attack, view, state, left, candidates)
        return candidates

    def _run(self, attack: APGD, view: nn.Module, state: APGDState, left: Tensor, candidates: Tensor) -> Tensor:
        """One run per point; puts what it finds into ``candidates`` and returns the points that still stand."""
        heard: list[Tensor] = []  # what the view said last

        def overheard(points: Tensor) -> Tensor:
            heard[:] = [view(points)]
            return heard[0]

        speaks_for_mix = attack.name.rpartition("-")[2] in _THE_MIX_S_LOGITS
        for _ in range(attack.steps + 1):
            asked = state.points
            attack.step(state, overheard)
            doubtful = _doubtful(heard[0].detach(), state.labels) if speaks_for_mix else torch.ones_like(left).bool()
            broken = self._broken(asked, state.labels, doubtful)
            if bool(broken.any()):
                candidates[left[broken]] = asked[broken]
                standing = (~broken).nonzero().squeeze(1)
                left, state = left[standing], state.select(standing)
                if len(left) == 0:
                    break
        return left

    @torch.no_grad()
    def _broken(self, points: Tensor, labels: Tensor, doubtful: Tensor) -> Tensor:
        """Whether the mix gives another label, also in batches of the one size in which verdicts are made.

        It is asked about the doubtful points; the others are known to be right.
        """
        wrong = doubtful.clone()
        if bool(wrong.any()):
            wrong[doubtful] = self.model(points[doubtful]).argmax(dim=1) != labels[doubtful]
        if bool(wrong.any()):
            wrong[wrong.clone()] = predict(self.model, points[wrong], self.batch_size, self.device) != labels[wrong]
        return wrong

    @torch.no_grad()
    def _targets(self, name: str, images: Tensor, labels: Tensor) -> list[tuple[int, Tensor]]:
        """Rank and classes (N,) of each run; the label itself for an untargeted attack, which does not read it."""
        if not name.startswith("apgd-t-"):
            return [(start, labels) for start in range(self.starts)]
        order = self.model(images).argsort(dim=1, descending=True)
        wrong = order[order != labels[:, None]].view(len(labels), -1)
        return [(rank, wrong[:, rank]) for rank in range(min(self.targets, wrong.shape[1]))]


def _doubtful(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the mix might give another label, (N,) bool, by its logits up to a prepared copy's rounding (or NaN)."""
    return ~(margin(logits, labels) > 2.0 * rounding(logits))
