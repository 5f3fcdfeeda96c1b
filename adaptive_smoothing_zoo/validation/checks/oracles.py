"""Whether the attacks themselves work: nets whose robust accuracy is known exactly."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform_images
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.evaluation.evaluate import evaluate
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.validation.check import Outcome, check, not_applicable
from adaptive_smoothing_zoo.validation.subject import Subject

POINTS, SHAPE, CLASSES = 24, (1, 6, 6), 5
CLEAR = 1e-3  # relative distance to the radius at which a point may go either way
GROUP = "oracles"


class LinearNet(nn.Module):
    """Logits linear in the pixels, so that the distance to every boundary is known."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        keys = run_keys(seed, "linear net", 0, torch.arange(CLASSES))
        self.weight = nn.Parameter(normal_images(keys, SHAPE).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T

    def distances(self, images: Tensor, labels: Tensor, *, is_linf: bool) -> Tensor:
        """(N,) to the nearest boundary, box aside: the logits' gap over the dual norm of the weights' difference."""
        logits = self(images).double()
        gaps = logits.gather(1, labels[:, None]) - logits
        difference = (self.weight[labels][:, None] - self.weight[None]).double()
        size = difference.abs().sum(dim=2) if is_linf else difference.norm(dim=2)
        return torch.where(size > 0, gaps / size, torch.inf).amin(dim=1)


class BrightnessNet(nn.Module):
    """Four classes, two of them by mean brightness, with logits so large that a softmax in float32 is 0 or 1."""

    def __init__(self, scale: float = 1e4) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        bright = self.scale * (images.mean(dim=(1, 2, 3)) - 0.5)
        far = torch.full_like(bright, -3 * self.scale)
        return torch.stack([bright, -bright, far, far], dim=1)


def linear_problem(seed: int, norm: str, device: torch.device) -> tuple[LinearNet, Tensor, Tensor, ThreatModel, Tensor]:
    """A linear net, images whose ball does not touch the box, their labels, that ball, and what is robust there."""
    net = LinearNet(seed).to(device).requires_grad_(False)
    keys = run_keys(seed, "linear images", 0, torch.arange(POINTS))
    images = (0.5 + 0.2 * uniform_images(keys, SHAPE)).to(device)
    labels = net(images).argmax(dim=1)
    threat = ThreatModel(norm, 0.25)
    distances = net.distances(images, labels, is_linf=threat.is_linf)
    # About half of the points are robust; every pixel has room for the radius.
    reach = distances.sort().values
    threat = ThreatModel(norm, min(float(reach[POINTS // 2 - 1 : POINTS // 2 + 1].mean()), 0.25))
    clear = (distances / threat.eps - 1.0).abs() > CLEAR
    return net, images[clear], labels[clear], threat, (distances > threat.eps)[clear]


@check(
    what="APGD on each loss against a linear net, whose robust accuracy is known in closed form.",
    rule="The union of the losses gives the exact verdict on every point.",
)
def linear_net(subject: Subject) -> Outcome:
    net, images, labels, threat, robust = linear_problem(subject.seed, subject.threat.norm, subject.device)
    return _compared(~_toy(subject, net, images, labels, threat).white_box_found, robust)


@check(
    what="The same losses against a net so confident that its softmax is 0 or 1 in float32; every point can be broken.",
    rule="The margin breaks every point, and so does the cross-entropy of scaled logits.",
)
def confident_net(subject: Subject) -> Outcome:
    keys = run_keys(subject.seed, "confident images", 0, torch.arange(POINTS))
    spread = torch.linspace(-0.05, 0.05, POINTS).view(-1, 1, 1, 1)
    images = (0.5 + spread + 0.01 * uniform_images(keys, SHAPE)).to(subject.device)
    net = BrightnessNet().to(subject.device)
    labels = net(images).argmax(dim=1)
    # In l_2 the brightness changes by eps / sqrt(pixels).
    threat = replace(subject.threat, eps=0.1 if subject.threat.is_linf else 0.6)
    toy = _toy(subject, net, images, labels, threat)
    found = {name: int(attacked.found.sum()) for name, attacked in toy.white_box.items()}
    measured: dict[str, float] = {"points": len(labels), **{f"{name}_broken": count for name, count in found.items()}}
    passed = found["cw"] == found["scaled-ce"] == len(labels)
    return Outcome(passed, f"the margin broke {found['cw']} of {len(labels)} points.", measured)


@check(
    what="AutoAttack standard (the fast engine) against the linear net.",
    rule="It gives the exact verdict on every point.",
)
def autoattack_on_linear_net(subject: Subject) -> Outcome:
    net, images, labels, threat, robust = linear_problem(subject.seed, subject.threat.norm, subject.device)
    settings = AttackSettings(seed=subject.seed, batch_size=len(labels), search_precision="float32")
    try:
        evaluation = evaluate(net, images, labels, threat=threat, settings=settings, device=subject.device)
    except ModuleNotFoundError as error:
        return not_applicable(str(error))
    return _compared(torch.from_numpy(evaluation.robust), robust)


def _compared(verdicts: Tensor, robust: Tensor) -> Outcome:
    wrong, n = int((verdicts.cpu() != robust.cpu()).sum()), len(robust)
    measured = {"points": n, "robust": int(robust.sum()), "wrong_verdicts": wrong}
    return Outcome(wrong == 0, f"{wrong} of {n} verdicts are wrong.", measured)


def _toy(subject: Subject, net: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Subject:
    """A subject of its own, with the same attacks; its passes are not counted, they cost next to nothing."""
    settings = replace(subject.settings, batch_size=len(labels))
    return Subject(net, images, labels, threat, settings, subject.device, subject.budget)
