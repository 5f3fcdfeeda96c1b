import pytest
import torch

from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss

LOSSES = [CompositeLoss(), CompositeLoss(c_ce=0.5, c_bce=1.0, c_prod=0.1, clean_weight=2.0)]


def reference(loss, log_mix, alpha_logit, label, attacked):
    """[BAKS24 v1, eq. (6)] for one example, by its words, and its derivative with respect to alpha_logit."""
    alpha = 1 / (1 + (-alpha_logit).exp())
    ce = -log_mix[label]
    bce = -alpha.log() if attacked else -(1 - alpha).log()
    factor = 1.0 if attacked else loss.clean_weight
    value = factor * (loss.c_ce * ce + loss.c_bce * bce + loss.c_prod * ce * bce)
    slope = factor * (loss.c_bce + loss.c_prod * ce) * (alpha - attacked)  # ce does not depend on alpha here
    return value, slope


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_the_formula_s_in_float64(loss):
    generator = torch.Generator().manual_seed(0)
    log_mix = torch.randn(6, 3, dtype=torch.float64, generator=generator).log_softmax(1)
    alpha_logit = (3 * torch.randn(6, dtype=torch.float64, generator=generator)).requires_grad_()
    labels, use_rob = torch.tensor([0, 1, 2, 1, 0, 2]), torch.tensor([0.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    losses = loss(log_mix, alpha_logit, labels, use_rob)
    (slopes,) = torch.autograd.grad(losses.sum(), alpha_logit)
    for i in range(6):
        value, slope = reference(loss, log_mix[i], alpha_logit[i].detach(), labels[i], int(use_rob[i]))
        assert losses[i].item() == pytest.approx(value.item(), rel=1e-12)
        assert slopes[i].item() == pytest.approx(slope.item(), rel=1e-10)


def test_a_confident_wrong_alpha_has_a_finite_loss_and_a_gradient():
    alpha_logit = torch.tensor([200.0, -200.0], requires_grad=True)
    losses = CompositeLoss()(
        torch.full((2, 3), -1.1), alpha_logit, torch.zeros(2, dtype=torch.long), torch.tensor([0.0, 1])
    )
    losses.sum().backward()
    assert losses.isfinite().all()
    assert (alpha_logit.grad * torch.tensor([1.0, -1.0]) > 1).all()


@pytest.mark.parametrize("name", ["c_ce", "c_bce", "c_prod", "clean_weight"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_weights_are_finite_and_not_negative(name, value):
    with pytest.raises(ValueError, match=name):
        CompositeLoss(**{name: value})
