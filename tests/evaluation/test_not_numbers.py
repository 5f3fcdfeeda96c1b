"""A model that gives NaN or infinity at attacked images is refused; it never counts as robust there."""

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, evaluate
from adaptive_smoothing_zoo.attacks.autoattack.square import _margins_of
from adaptive_smoothing_zoo.attacks.losses import decisive_margin, margin, mislabelled
from adaptive_smoothing_zoo.attacks.margin_bounds import bounded_margins
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.errors import EvaluationError

NAN, INF = float("nan"), float("inf")
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")


class Broken(nn.Module):
    """A linear net of four classes; where the first pixel is not near 0.5, some logits become a given number."""

    def __init__(self, column, number, beyond=0.005):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.column, self.number, self.beyond = nn.Linear(16, 4), column, number, beyond

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        columns = torch.arange(4) == self.column if self.column is not None else torch.ones(4, dtype=torch.bool)
        moved = (images.flatten(1)[:, :1] - 0.5).abs() > self.beyond
        return torch.where(moved & columns, self.number, logits)


def images_of(label):
    """Images that the net classifies as ``label``, whose first pixel is where the net still works."""
    torch.manual_seed(1)
    images = torch.rand(256, 1, 4, 4)
    images[:, 0, 0, 0] = 0.5
    labels = Broken(None, NAN)(images).argmax(1)
    assert (labels == label).any()
    return images[labels == label][:8], labels[labels == label][:8]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("column", "number"), [(None, NAN), ("label", NAN), ("label", INF), ("other", NAN)])
@pytest.mark.parametrize("label", [1, 3])
def test_every_attack_stops_at_what_is_no_number(attack, column, number, label):
    images, labels = images_of(label)
    at = {None: None, "label": label, "other": (label + 1) % 4}[column]
    settings = AttackSettings(attacks=(attack,), batch_size=8).limited(iterations=10, queries=60)
    with pytest.raises(EvaluationError, match="gives NaN or infinity"):
        evaluate(Broken(at, number).eval(), images, labels, norm="Linf", eps=0.1, settings=settings)


def test_a_mix_whose_h_gives_nan_is_refused_by_square_s_bounds_as_well():
    images, labels = images_of(1)
    mix = MixedClassifier(Broken(0, 0.0, beyond=2.0), Broken(1, NAN), 0.8).eval()
    settings = AttackSettings(attacks=("square",), batch_size=8).limited(queries=60)
    with pytest.raises(EvaluationError, match="gives NaN or infinity"):
        evaluate(mix, images, labels, norm="Linf", eps=0.1, settings=settings)
    bounds = bounded_margins(mix)
    moved = images.clone()
    moved[:, 0, 0, 0] = 0.6
    assert bounds(moved, labels, torch.ones(len(labels))).eq(-INF).all()
    assert bounds(images, labels, torch.full((len(labels),), INF)).isfinite().all()


def test_finite_logits_are_judged_as_ever_and_masked_classes_too():
    logits = torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [-INF, 1.0, -INF], [NAN, 1.0, 2.0], [INF, 1.0, 2.0]])
    labels = torch.tensor([1, 1, 1, 0, 0])
    assert mislabelled(logits, labels).tolist() == [False, True, False, True, True]
    assert decisive_margin(logits, labels).tolist() == [1.0, -1.0, INF, -INF, -INF]
    assert decisive_margin(logits, labels)[:3].equal(margin(logits, labels)[:3])
    ask = _margins_of(lambda points: points.flatten(1))
    assert ask(logits, labels, labels).equal(decisive_margin(logits, labels))
