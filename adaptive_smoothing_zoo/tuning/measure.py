"""The tables of two nets: both on clean images, h also under attacks on its gap. The outputs of g under attack are not
needed: where h's gap exceeds (1 - alpha) / alpha, g cannot change the label [BAS24, Lemma 2]."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD
from adaptive_smoothing_zoo.attacks.contract import batches
from adaptive_smoothing_zoo.attacks.losses import Model, TargetedLoss, margin, rank_classes, target_gap
from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.attacks.search import advance
from adaptive_smoothing_zoo.attacks.verify import count_classes, gives_probabilities
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation.evaluate import data_sha256
from adaptive_smoothing_zoo.machine.batch_size import brisk_batch_size, largest_batch_size
from adaptive_smoothing_zoo.machine.devices import pick_device
from adaptive_smoothing_zoo.machine.folding import prepare
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.storage.bound_state import BoundState
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel, threat_of
from adaptive_smoothing_zoo.tuning.tables import Tables


@dataclass(frozen=True, kw_only=True)
class GapAttack:
    """The attack on h.

    Attributes:
        iterations: gradient steps of a run.
        targets: number of likeliest wrong classes, one run each, that minimizes h's gap to the class; a last run
            minimizes the standardized gap to the nearest class, which is invariant to scaling the logits.
        seed: of the random starts, which are drawn per image.

    Raises:
        ValueError: a number below 1.
    """

    iterations: int = 50
    targets: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.iterations, self.targets) < 1:
            raise ValueError(f"iterations and targets must be at least 1, got {self.iterations} and {self.targets}")


@own_surroundings()
def measure_tables(
    std_model: nn.Module,
    rob_model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    attack: GapAttack | None = None,
    device: str | torch.device | None = None,
    state: Path | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> Tables:
    """Run g and h on images, and attack h there.

    Args:
        std_model, rob_model: any modules from images in [0, 1] to logits (N, C), of the same classes.
        images: (N, channels, H, W) float32 in [0, 1], which neither net was trained on.
        labels: (N,) int64.
        threat: the ball around each image.
        attack: settings of the attack; 50 steps toward 3 classes if None.
        device: where to compute; if None "cuda" when available, else "cpu".
        state: a folder for finished batches, from which the same call resumes.
        on_progress: called after each batch and on resuming, with the number of finished images.

    Raises:
        ValueError: images or labels that do not fit, nets of different classes, or one that returns probabilities.
        ResultsError: the state belongs to other nets, images or settings, or is in use.
    """
    check_examples(images, labels)
    threat = threat_of(threat, None, None)  # refuses what is none
    attack, chosen = attack or GapAttack(), pick_device(device)
    with ExitStack() as stack:
        std = stack.enter_context(ready(std_model, chosen))
        rob = stack.enter_context(ready(rob_model, chosen))
        classes = [count_classes(net, images, chosen) for net in (std, rob)]
        if classes[0] != classes[1]:
            raise ValueError(f"g gives {classes[0]} classes and h {classes[1]}; mix nets with the same classes")
        check_examples(images, labels, classes[0])
        for name, net in (("std_model", std), ("rob_model", rob)):
            if gives_probabilities(net, images, chosen):
                raise ValueError(
                    f"{name} returns probabilities, where a mix takes logits; let it return their logarithm"
                )
        size = largest_batch_size(rob, images, chosen)
        size = min(size, brisk_batch_size(rob, images)) if chosen.type == "cpu" else size
        kept = None
        if state is not None:
            binding = {
                "std_model": identity_of(std_model, images.shape[1:]),
                "rob_model": identity_of(rob_model, images.shape[1:]),
                "examples": len(labels),
                "data_sha256": data_sha256(images, labels),
                "threat": asdict(threat),
                "attack": asdict(attack),
            }
            kept = BoundState(state, binding)
            stack.enter_context(kept.locked())
        return _measured(_Asked(std, rob, threat, attack, chosen), images, labels, size, kept, on_progress)


def _measured(
    asked: _Asked,
    images: Tensor,
    labels: Tensor,
    size: int,
    kept: BoundState | None,
    on_progress: Callable[[int], object] | None,
) -> Tables:
    parts: list[dict[str, Tensor]] = [] if kept is None else kept.entries("batch", lambda tensors, about: tensors)
    done = torch.zeros(len(labels), dtype=torch.bool)
    for part in parts:
        if bool(done[part["indices"]].any()):
            raise ResultsError("the state contains an image twice; delete it to start again")
        done[part["indices"]] = True
    if on_progress is not None and parts:
        on_progress(int(done.sum()))
    for indices in batches((~done).nonzero().squeeze(1), size):
        part = {"indices": indices, **asked.tables(images[indices], labels[indices], indices)}
        parts.append(part)
        if kept is not None:
            kept.append("batch", part, None)
        done[indices] = True
        if on_progress is not None:
            on_progress(int(done.sum()))
    order = torch.cat([part["indices"] for part in parts]).argsort()
    std, rob = (torch.cat([part[name] for part in parts])[order] for name in ("std", "rob"))
    attacked = torch.cat([part["attacked"] for part in parts], dim=1)[:, order]
    return Tables(labels=labels, std=std, rob=rob, attacked=attacked)


@dataclass(frozen=True)
class _Asked:
    std: nn.Module
    rob: nn.Module
    threat: ThreatModel
    attack: GapAttack
    device: torch.device

    def tables(self, images: Tensor, labels: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """The rows of one batch of images."""
        images, labels = images.to(self.device), labels.to(self.device)
        with torch.no_grad():
            std, rob = self.std(images), self.rob(images)
        lowest = _Lowest(rob, labels)
        self._close_gaps(prepare(self.rob, images[:8]), images, labels, indices, lowest)
        return {"std": std.cpu(), "rob": rob.cpu(), "attacked": lowest.logits.cpu()}

    def _close_gaps(self, model: nn.Module, images: Tensor, labels: Tensor, indices: Tensor, lowest: _Lowest) -> None:
        ranked = rank_classes(lowest.logits[0], labels)
        runs: list[TargetedLoss] = [target_gap] * min(self.attack.targets, ranked.shape[1])
        left = (lowest.logits[0].argmax(dim=1) == labels).nonzero().squeeze(1)
        for rank, loss in enumerate([*runs, _standardized_gap]):
            if len(left) == 0:
                return
            goal = labels[left] if loss is _standardized_gap else ranked[left, rank]
            keys = run_keys(self.attack.seed, "gap", rank, indices[left.cpu()]).to(self.device)
            attack = APGD("gap", self.threat, loss, steps=self.attack.iterations)
            left = left[~_listened(attack, model, (images[left], labels[left], goal, keys), left, lowest)]


def _listened(
    attack: APGD, model: Model, runs: tuple[Tensor, Tensor, Tensor, Tensor], rows: Tensor, lowest: _Lowest
) -> Tensor:
    """Run an attack until its end or until h is wrong, recording every output; (M,) bool, where h was wrong."""
    answers: list[Tensor] = []

    def listening(points: Tensor) -> Tensor:
        logits = model(points)
        answers.append(logits.detach())
        return logits

    def note(some: Tensor, state: object) -> None:
        lowest.offer(rows[some], answers.pop())

    return advance(attack, attack.start(*runs), listening, watch=note).found


class _Lowest:
    """For each image, h's logits with the lowest logit gap, probability gap and standardized gap so far.

    Attributes:
        logits: (3, N, C).
    """

    def __init__(self, clean: Tensor, labels: Tensor) -> None:
        self.labels, self.logits = labels, clean.expand(3, *clean.shape).clone()
        self._gaps = torch.stack(_three_gaps(clean, labels))

    def offer(self, rows: Tensor, logits: Tensor) -> None:
        """Logits (M, C) of the images of some rows (M,)."""
        for table, best, gap in zip(self.logits, self._gaps, _three_gaps(logits, self.labels[rows]), strict=True):
            lower = gap < best[rows]
            best[rows[lower]], table[rows[lower]] = gap[lower], logits[lower]


def _three_gaps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return margin(logits, labels), margin(logits.softmax(dim=1), labels), -_standardized_gap(logits, labels, labels)


def _standardized_gap(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """(Largest wrong logit - label's logit) / standard deviation of the logits, (N,); targets are not used."""
    return -margin(logits, labels) / (logits.std(dim=1) + 1e-12)
