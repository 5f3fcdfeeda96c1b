"""The randomized attacks: what is drawn, for whom, and that they are the attacks they claim to be."""

import pytest
import torch
from linear_mixes import a_linear_mix, a_lured_mix, distance
from scipy import stats

from adaptive_smoothing_zoo.attacks.objectives import alpha_loss
from adaptive_smoothing_zoo.attacks.randomized import Randomization, randomized_apgd, randomized_pgd
from adaptive_smoothing_zoo.attacks.views import GrayBox, WithAlphaLoss

IMAGES = torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
ATTACKS = [randomized_pgd, randomized_apgd]
SHORT = Randomization(steps=30, budget=0.5)
LOGITS = Randomization(steps=30, alpha_weight=None)  # of a model without alpha's loss
FIXED = Randomization(steps=40, radius_factor=(1.0, 1.0), momentum=(0.5, 0.5), alpha_weight=None)
NORMS = ["Linf", "L2"]


def lengths(found, images, norm):
    away = (found - images).flatten(1)
    return away.abs().amax(1) if norm == "Linf" else away.norm(dim=1)


def test_steps_follow_the_chi_square_distribution_and_the_budget_scales_them():
    settings = Randomization()
    drawn = [settings.draw_steps(seed) for seed in range(400)]
    assert stats.kstest(drawn, stats.chi2(75).cdf).pvalue > 0.01
    fewer = [Randomization(budget=0.2).draw_steps(seed) for seed in range(400)]
    assert all(abs(a - 0.2 * b) <= 0.61 for a, b in zip(fewer, drawn, strict=True))
    assert Randomization(budget=1e-9).draw_steps(0) == 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_radii_are_uniform_between_their_bounds_and_balls_and_box_are_kept(attack, norm):
    model = a_linear_mix()
    images = IMAGES[:1].repeat(300, 1, 1, 1)
    images[:, :, :2] = images[:, :, :2].round()  # pixels at 0 and 1
    labels = model(images).argmax(1)
    settings = Randomization(steps=6, alpha_weight=None)
    found = attack(model, images, labels, eps=0.1, seed=3, norm=norm, settings=settings)
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= 1
    radii = lengths(found.double(), images.double(), norm) / 0.1
    assert radii.max() <= 1.1 + 1e-5
    if norm == "Linf":  # in l_2 the box shortens what reaches the ball
        assert stats.kstest(radii.numpy(), stats.uniform(0.4, 0.7).cdf).pvalue > 0.01


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_on_a_linear_net_the_verdict_is_the_closed_form_s(attack, norm):
    model = a_linear_mix(classes=5)
    labels = model(IMAGES).argmax(1)
    exact = distance(model, IMAGES, labels, norm)
    eps = float(exact.median())
    found = attack(model, IMAGES, labels, eps=eps, seed=1, norm=norm, settings=FIXED)
    broken = model(found).argmax(1) != labels
    assert (lengths(found.double(), IMAGES.double(), norm) <= eps + 1e-6).all()
    assert broken.any()
    clear = (exact - eps).abs() > 0.02 * eps
    assert not (broken & clear & (exact > eps)).any()
    if attack is randomized_apgd:  # which tries every class
        assert broken[clear & (exact < eps)].all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_batch_order_and_company_change_nothing_and_seed_and_index_do(attack, norm):
    model = a_linear_mix()
    view = WithAlphaLoss(model)
    labels, indices = model(IMAGES).argmax(1), torch.arange(70, 80)
    eps = float(distance(model, IMAGES, labels, norm).median())
    settings = {"eps": eps, "norm": norm, "settings": SHORT}
    together = attack(view, IMAGES, labels, seed=5, indices=indices, **settings)
    order = torch.randperm(10)
    shuffled = attack(view, IMAGES[order], labels[order], seed=5, indices=indices[order], **settings)
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-5)
    alone = attack(view, IMAGES[3:4], labels[3:4], seed=5, indices=indices[3:4], **settings)
    torch.testing.assert_close(alone, together[3:4], rtol=0, atol=1e-5)
    for other in ({"seed": 6, "indices": indices}, {"seed": 5, "indices": indices + 100}):
        changed = attack(view, IMAGES, labels, **other, **settings)
        assert ((changed - together).abs().flatten(1).amax(1) > 1e-3).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_part_that_pulls_alpha_down_does(attack):
    model, labels = a_lured_mix(), torch.zeros(10, dtype=torch.int64)
    images = 0.5 + 0.01 * torch.randn(10, 1, 6, 6)
    options = {"eps": 0.1, "seed": 1} | ({"targets": 0} if attack is randomized_apgd else {})
    pulled = Randomization(steps=30, radius_factor=(1.0, 1.0), alpha_weight=(0.5, 0.5))
    plain = Randomization(steps=30, radius_factor=(1.0, 1.0), alpha_weight=(0.0, 0.0))
    view = WithAlphaLoss(model)
    low = attack(view, images, labels, settings=pulled, **options)
    high = attack(view, images, labels, settings=plain, **options)
    assert (alpha_loss(view(low)) > alpha_loss(view(images))).all()
    assert (alpha_loss(view(high)) < alpha_loss(view(images))).all()
    assert (model(low).argmax(1) != 0).all()
    assert (model(high).argmax(1) == 0).all()
    gray = attack(GrayBox(model), images, labels, settings=LOGITS, **options)  # a view of logits alone will do
    assert gray.shape == images.shape


def test_where_no_run_fools_the_model_the_cross_entropy_has_its_highest_loss():
    model = a_linear_mix(classes=5)
    labels = model(IMAGES).argmax(1)
    eps = 0.2 * float(distance(model, IMAGES, labels, "Linf").min())
    found = randomized_apgd(model, IMAGES, labels, eps=eps, seed=1, settings=FIXED)
    alone = randomized_apgd(model, IMAGES, labels, eps=eps, seed=1, settings=FIXED, targets=0)
    assert torch.equal(found, alone)
    assert (model(found).gather(1, labels[:, None]) < model(IMAGES).gather(1, labels[:, None])).all()


def test_each_example_is_attacked_toward_other_classes_only_while_it_stands():
    model = a_linear_mix(classes=5)
    labels = model(IMAGES).argmax(1)
    eps = float(distance(model, IMAGES, labels, "Linf").median())
    sizes = []

    def counted(images):
        sizes.append(len(images))
        return model(images)

    one, nine = (
        randomized_apgd(counted, IMAGES, labels, eps=eps, seed=1, settings=FIXED, targets=targets) for targets in (1, 9)
    )
    broken = model(one).argmax(1) != labels
    assert torch.equal(nine[broken], one[broken])
    assert sorted(set(sizes))[0] < 10


def test_an_unknown_norm_is_refused():
    labels = torch.zeros(10, dtype=torch.int64)
    for attack in ATTACKS:
        with pytest.raises(ValueError, match="norm must be"):
            attack(a_linear_mix(), IMAGES, labels, eps=0.1, seed=0, norm="L1", settings=LOGITS)
