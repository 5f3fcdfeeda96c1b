"""Whether the model is one function: of the image alone, the same for the attack as for the verdict."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.verify import SHIFT, relative_shift
from adaptive_smoothing_zoo.validation.check import Outcome, check
from adaptive_smoothing_zoo.validation.subject import Subject

GROUP = "function"


@check(
    what="The clean images classified twice, in the same batches.",
    rule="The logits are the same, bit for bit.",
)
def repeated_forward(subject: Subject) -> Outcome:
    once, again = _batches(subject), _batches(subject)
    return _compared(once, again, "between two passes")


@check(
    what="The clean images classified with and without the graph that a gradient needs, in the same batches.",
    rule="The logits are the same, bit for bit: the attack sees the function that is judged.",
)
def forward_with_gradient(subject: Subject) -> Outcome:
    return _compared(_batches(subject), _batches(subject, with_gradient=True), "with and without a gradient")


@check(
    what="The clean images classified in reverse order, in a shuffled order and in batches of half the size.",
    rule=f"No label changes, and no logit by more than {SHIFT:g} of the image's largest: rounding moves them by less.",
)
def batch_company(subject: Subject) -> Outcome:
    n, alone = len(subject), subject.clean_logits
    shuffled = torch.randperm(n, generator=_generator(subject.seed)).to(subject.device)
    changed = torch.zeros(n, dtype=torch.bool, device=subject.device)
    shift = torch.zeros(n, device=subject.device)

    def compare(order: Tensor, logits: Tensor) -> None:
        changed[order] |= logits.argmax(dim=1) != alone[order].argmax(dim=1)
        shift[order] = torch.maximum(shift[order], relative_shift(alone[order], logits))

    for order in (torch.arange(n, device=subject.device).flip(0), shuffled):
        compare(order, subject.logits(subject.images[order]))
    with torch.no_grad():
        halves = subject.images.split(max(1, min(n, subject.batch_size) // 2))
        compare(torch.arange(n, device=subject.device), torch.cat([subject.model(half) for half in halves]))
    subject.spend(n)
    count, moved = int(changed.sum()), int((shift > SHIFT).sum())
    found = f"{count} of {n} labels changed." + (
        f" The logits of {moved} images depend on the others." if moved else ""
    )
    return Outcome(count + moved == 0, found, {"changed": count, "largest_shift": float(shift.max())})


def _generator(seed: int) -> torch.Generator:
    """A generator of any seed; PyTorch's own take 64 bits, of which negative ones begin at -(2^63)."""
    return torch.Generator().manual_seed(seed if -(2**63) <= seed < 2**64 else seed % 2**64)


def _batches(subject: Subject, *, with_gradient: bool = False) -> Tensor:
    outputs = []
    for batch in subject.images.split(subject.batch_size):
        with torch.set_grad_enabled(with_gradient):
            points = batch.detach().clone().requires_grad_(with_gradient)
            outputs.append(subject.model(points).detach())
    subject.spend(len(subject))
    return torch.cat(outputs)


def _compared(a: Tensor, b: Tensor, when: str) -> Outcome:
    same = ((a == b) | (a.isnan() & b.isnan())).all(dim=1)
    changed = int((~same).sum())
    relabelled = int((a.argmax(dim=1) != b.argmax(dim=1)).sum())
    gap = (a - b).abs().nan_to_num(nan=0.0, posinf=0.0)
    measured = {"changed": changed, "labels_changed": relabelled, "largest_difference": float(gap.max())}
    return Outcome(changed == 0, f"{changed} of {len(a)} images have other logits {when}.", measured)
