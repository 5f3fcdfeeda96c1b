"""The losses against their formulas, computed row by row with NumPy."""

import numpy as np
import pytest
import torch

from adaptive_smoothing_zoo.attacks.losses import LOSSES, alpha_loss, append_alpha_loss, lowering_alpha

LABELS = torch.tensor([0, 3, 1, 2, 3, 0])


def logits(n=6, classes=4):
    return 3 * torch.randn(n, classes, dtype=torch.float64)


def by_hand(name, row, label):
    wrong = np.delete(row, label)
    probabilities = np.exp(row) / np.exp(row).sum()
    if name == "ce":
        return -np.log(probabilities[label])
    if name == "probability":
        return np.delete(probabilities, label).max() - probabilities[label]
    margin = wrong.max() - row[label]
    if name == "cw":
        return margin
    first, _, third = sorted(row, reverse=True)[:3]
    return margin / (first - third)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_formula_and_rises_where_the_label_s_logit_falls(name):
    x = logits()
    found = LOSSES[name](x, LABELS)
    expected = [by_hand(name, row, label) for row, label in zip(x.numpy(), LABELS.tolist(), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    x.scatter_add_(1, LABELS[:, None], torch.full((6, 1), -0.01, dtype=torch.float64))
    if name != "dlr":  # whose scale changes, too
        assert (LOSSES[name](x, LABELS) > found).all()


@pytest.mark.parametrize("name", ["dlr", "cw", "probability"])
def test_a_margin_is_positive_exactly_where_the_label_is_wrong(name):
    x = logits(2000)
    labels = torch.randint(0, 4, (2000,))
    wrong = x.argmax(1) != labels
    assert 0 < wrong.sum() < 2000
    assert torch.equal(LOSSES[name](x, labels) > 0, wrong)


def test_dlr_changes_with_neither_shift_nor_scale():
    x = logits()
    torch.testing.assert_close(LOSSES["dlr"](7 * x - 100, LABELS), LOSSES["dlr"](x, LABELS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alphas_loss_rides_behind_the_logits_and_never_wins(dtype):
    x = logits().log_softmax(1).to(dtype)
    alpha_logit = torch.tensor([-300.0, -5.0, -0.1, 0.3, 5.0, 300.0], dtype=dtype)
    output = append_alpha_loss(x, alpha_logit)
    assert output.shape == (6, 5)
    assert torch.equal(output[:, :-1], x)
    assert torch.equal(output.argmax(1), x.argmax(1))
    expected = torch.log1p(torch.exp(-alpha_logit.double())).clamp(max=300)  # -log(sigmoid); 300 where exp is inf
    torch.testing.assert_close(alpha_loss(output).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_lowering_loss_is_the_weighted_sum_and_has_its_gradient(weight):
    x, alpha_logit = logits().requires_grad_(), torch.randn(6, dtype=torch.float64, requires_grad=True)
    weights = torch.full((6,), weight, dtype=torch.float64)
    found = lowering_alpha(LOSSES["ce"], weights)(append_alpha_loss(x, alpha_logit), LABELS)
    alpha = torch.sigmoid(alpha_logit)
    cross_entropy = -x.log_softmax(1).gather(1, LABELS[:, None]).squeeze(1)
    expected = (1 - weight) * cross_entropy - weight * alpha.log()
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.sum(), [x, alpha_logit])
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.sum(), [x, alpha_logit]))


def test_a_lowering_loss_takes_targets_as_its_loss_does():
    x, alpha_logit, targets = logits(), torch.zeros(6, dtype=torch.float64), torch.tensor([1, 0, 0, 0, 0, 2])
    loss = lowering_alpha(lambda logits, labels, targets: logits.gather(1, targets[:, None]).squeeze(1), 0.5)
    found = loss(append_alpha_loss(x, alpha_logit), LABELS, targets)
    torch.testing.assert_close(found, 0.5 * x[torch.arange(6), targets] + 0.5 * np.log(2.0))
