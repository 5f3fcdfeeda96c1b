"""Attacks adapted to a mix, beside AutoAttack's: setting D of the paper, and what its gradients may hide (000, 4.2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD, APGDState
from adaptive_smoothing_zoo.attacks.losses import TargetedLoss, cross_entropy, margin, targeted_dlr
from adaptive_smoothing_zoo.attacks.objectives import lowering_alpha, probability_margin
from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform_images
from adaptive_smoothing_zoo.attacks.state import batches, from_tensors, to_tensors
from adaptive_smoothing_zoo.attacks.verify import predict
from adaptive_smoothing_zoo.attacks.views import VIEWS, WithAlphaLoss
from adaptive_smoothing_zoo.backbones.asking import Asked, asked, is_own
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.machine.folding import prepare, rounding
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.threat import ThreatModel

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
        model: in eval mode and frozen, on ``device``; also a subclass of somebody else's.
        threat: the ball.
        seed: of the random numbers.
        batch_size: most points in one pass, and the size of the batches in which candidates are verified.
        device: where the model is.
        surrogate: what the triplet's authors attack in its place, ready like the model; needed for attacks of that
            name.

    Attributes:
        judge: the model in the form that gives verdicts.
        iterations: of a run; the protocol's 100. Other numbers are for tests and for choosing alpha.
        targets: the most wrong classes that are tried; the protocol's 9. Likewise.
        starts: random starts of an untargeted attack.
    """

    def __init__(
        self,
        model: MixedClassifier,
        *,
        threat: ThreatModel,
        seed: int,
        batch_size: int,
        device: torch.device,
        surrogate: nn.Module | None = None,
    ) -> None:
        model.check_mixes("AdaptiveEngine")
        self.name = f"adaptive {VERSION}"
        self.model, self.judge, self.threat, self.seed = model, asked(model), threat, seed
        self.batch_size, self.device, self.surrogate = batch_size, device, surrogate
        self.iterations, self.targets, self.starts = 100, 9, 5
        self._batch: _Batch | None = None  # under way
        self._spent = 0

    def passes(self, name: str) -> int:
        """Forward-equivalents of an attack on a point that stands, without those in which the mix judges."""
        return 2 * (self.iterations + 1) * (self.targets if name.startswith("apgd-t-") else self.starts)

    def spent(self) -> int:
        """The same, of all attacks since this engine was made."""
        return self._spent

    def underway(self) -> float:
        """How much is done for the points of the batch under way, in points."""
        return 0.0 if self._batch is None else self._batch.done()

    def snapshot(self) -> dict[str, Tensor] | None:
        """Where the batch under way stands, in terms of the dataset; None if there is none."""
        return None if self._batch is None else self._batch.snapshot()

    def attack(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        *,
        snapshot: dict[str, Tensor] | None = None,
        beat: Callable[[], object] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Attack correctly classified points; yield (positions, candidates) batch by batch.

        A candidate is an adversarial example of the mix, or the image itself.

        Args:
            name: loss and view, as ``ADAPTIVE_ATTACKS`` has them.
            images: (N, channels, H, W) in [0, 1].
            labels: (N,).
            indices: (N,) of the points in the dataset.
            snapshot: go on from there. It must be of the first of these points, no more than fit into a batch.
            beat: called between steps.

        Raises:
            ValueError: an attack that does not exist, or a surrogate's where there is none.
            ResultsError: a snapshot that does not fit.
        """
        loss, view = self._loss_and_view(name)
        prepared = prepare(view, images[:8].to(self.device))
        attack = APGD(name, norm=self.threat.norm, eps=self.threat.eps, loss=loss, steps=self.iterations)
        first = self.batch_size if snapshot is None else len(snapshot.get("indices", ()))
        if not 0 < first <= self.batch_size:
            raise ResultsError(f"a snapshot of {first} points, for batches of {self.batch_size}")
        everything = torch.arange(len(labels))
        parts = [everything[:first], *batches(everything[first:], self.batch_size)]

        def made(positions: Tensor, snapshot: dict[str, Tensor] | None = None) -> _Batch:
            x, y = images[positions].to(self.device).contiguous(), labels[positions].to(self.device)
            return _Batch(self, attack, prepared, x, y, indices[positions], snapshot)

        self._batch = made(parts[0], snapshot)
        return self._candidates(made, parts, beat or (lambda: None), images.device)

    def _candidates(
        self, made: Callable[[Tensor], _Batch], parts: list[Tensor], beat: Callable[[], object], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for positions in parts:
            batch = self._batch = self._batch or made(positions)
            while batch.step():
                self._spent += 2 * len(positions)
                beat()
            self._batch = None
            yield positions, batch.candidates.to(device)

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
            view = views[view_name](self.model)
        elif self.model.alpha.varies:
            loss, view = lowering_alpha(loss, ALPHA_WEIGHTS[view_name]), WithAlphaLoss(self.model)
        else:
            view = self.model
        return loss, view if is_own(self.model) else Asked(view)  # many a view calls the model as it is

    @torch.no_grad()
    def broken(self, points: Tensor, labels: Tensor, doubtful: Tensor) -> Tensor:
        """Whether the mix gives another label, also in batches of the one size in which verdicts are made.

        It is asked about the doubtful points; the others are known to be right.
        """
        wrong = doubtful.clone()
        if bool(wrong.any()):
            wrong[doubtful] = self.judge(points[doubtful]).argmax(dim=1) != labels[doubtful]
        if bool(wrong.any()):
            wrong[wrong.clone()] = predict(self.judge, points[wrong], self.batch_size, self.device) != labels[wrong]
        return wrong

    @torch.no_grad()
    def targets_of(self, name: str, images: Tensor, labels: Tensor) -> list[tuple[int, Tensor]]:
        """Rank and classes (N,) of each run; the label itself for an untargeted attack, which does not read it."""
        if not name.startswith("apgd-t-"):
            return [(start, labels) for start in range(self.starts)]
        order = self.judge(images).argsort(dim=1, descending=True)
        wrong = order[order != labels[:, None]].view(len(labels), -1)
        return [(rank, wrong[:, rank]) for rank in range(min(self.targets, wrong.shape[1]))]


class _Batch:
    """An attack on one batch: one run after the other, each on the points that still stand.

    Args:
        engine, attack, view: who judges, what a step does, and to which model.
        images, labels: (N, channels, H, W) and (N,), on the device.
        indices: (N,) of the points in the dataset.
        snapshot: where it was when it was interrupted; it begins if None.

    Attributes:
        candidates: the images, and in their place the adversarial examples that were found.

    Raises:
        ResultsError: the snapshot does not fit.
    """

    def __init__(
        self,
        engine: AdaptiveEngine,
        attack: APGD,
        view: nn.Module,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        snapshot: dict[str, Tensor] | None,
    ) -> None:
        self.engine, self.attack, self.view = engine, attack, view
        self.images, self.labels, self.indices = images, labels, indices
        self.runs = engine.targets_of(attack.name, images, labels)
        self.candidates = images.clone()
        # The number of the run, the rows of the points that stand, and the state of their runs, None before the first
        # step: exchanged together, so that they fit each other whenever an exception comes.
        self.now: tuple[int, Tensor, APGDState | None] = 0, torch.arange(len(labels), device=images.device), None
        if snapshot is not None:
            self._restore(snapshot)

    def step(self) -> bool:
        """One step of the run under way, judged by the mix; False if no point or no run is left."""
        number, left, state = self.now
        if number == len(self.runs) or len(left) == 0:
            return False
        moved = self._start(number, left) if state is None else copy.copy(state)
        asked, heard = moved.points, []

        def overheard(points: Tensor) -> Tensor:
            heard.append(self.view(points))
            return heard[0]  # type: ignore[no-any-return]

        self.attack.step(moved, overheard)
        speaks_for_mix = self.attack.name.rpartition("-")[2] in _THE_MIX_S_LOGITS
        doubtful = _doubtful(heard[0].detach(), moved.labels) if speaks_for_mix else torch.ones_like(left).bool()
        broken = self.engine.broken(asked, moved.labels, doubtful)
        if bool(broken.any()):
            self.candidates[left[broken]] = asked[broken]
            standing = (~broken).nonzero().squeeze(1)
            left, moved = left[standing], moved.select(standing)
        over = len(left) > 0 and bool(moved.exhausted.all())
        self.now = (number + 1, left, None) if over else (number, left, moved)
        return True

    def done(self) -> float:
        """How much is done, in points."""
        number, left, state = self.now
        share = 0.0 if state is None or len(left) == 0 else float(self.attack.spent(state)[0])
        return len(self.labels) - len(left) * (1.0 - (number + share) / len(self.runs))

    def snapshot(self) -> dict[str, Tensor]:
        """Where it stands."""
        number, left, state = self.now
        kept = {"indices": self.indices, "candidates": self.candidates.clone(), "left": left}
        kept["run"] = torch.tensor([number])
        return kept if state is None else kept | to_tensors(state, "state")

    def _start(self, number: int, left: Tensor) -> APGDState:
        rank, classes = self.runs[number]
        keys = run_keys(self.engine.seed, self.attack.name, rank, self.indices[left.cpu()]).to(left.device)
        noise = (uniform_images if self.engine.threat.norm == "Linf" else normal_images)(keys, self.images.shape[1:])
        return self.attack.start(self.images[left], self.labels[left], classes[left], noise)

    def _restore(self, kept: dict[str, Tensor]) -> None:
        try:
            self.candidates, self.now = self._read(kept)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ResultsError(f"no batch has stood like this: {error}") from error

    def _read(self, kept: dict[str, Tensor]) -> tuple[Tensor, tuple[int, Tensor, APGDState | None]]:
        number, left, candidates = int(kept["run"]), kept["left"], kept["candidates"]
        fits = (
            torch.equal(kept["indices"], self.indices),
            candidates.shape == self.images.shape and candidates.dtype == self.images.dtype,
            0 <= number <= len(self.runs) and left.ndim == 1 and left.dtype == torch.int64,
            sorted(set(left.tolist()) & set(range(len(self.labels)))) == left.tolist(),
        )
        if not all(fits):
            raise ValueError("it is another one")
        device, state = self.images.device, None
        if "state.points" in kept:
            state = from_tensors(kept, "state", self._start(0, torch.tensor([0], device=device)), len(left))
        return candidates.to(device, copy=True), (number, left.to(device), state)


def _doubtful(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the mix might give another label, (N,) bool, by its logits up to a prepared copy's rounding (or NaN)."""
    return ~(margin(logits, labels) > 2.0 * rounding(logits))
