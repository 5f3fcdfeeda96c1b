"""The randomized attacks: what is drawn, for whom, and that they are the attacks they claim to be."""

from dataclasses import replace

import pytest
import torch
from linear_mixes import a_linear_mix, a_lured_mix, distance
from scipy import stats

from adaptive_smoothing_zoo.attacks.losses import alpha_loss, rank_classes, targeted_dlr
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.randomized import (
    Randomization,
    every_randomized_apgd,
    randomized_apgd,
    randomized_pgd,
)
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


def test_an_unknown_keyword_is_refused():
    for attack in (randomized_apgd, every_randomized_apgd):
        with pytest.raises(TypeError, match="unexpected keyword argument 'target'"):
            attack(a_linear_mix(), IMAGES, torch.zeros(10, dtype=torch.int64), eps=0.1, seed=0, target=3)


def test_an_unknown_norm_is_refused():
    labels = torch.zeros(10, dtype=torch.int64)
    for attack in ATTACKS:
        with pytest.raises(ValueError, match="norm must be"):
            attack(a_linear_mix(), IMAGES, labels, eps=0.1, seed=0, norm="L1", settings=LOGITS)


@pytest.mark.parametrize("norm", NORMS)
def test_every_run_goes_toward_its_own_class_with_its_own_settings(norm):
    model = a_linear_mix(classes=5)
    images = IMAGES[:1].repeat(200, 1, 1, 1)
    labels = model(images).argmax(1)
    steps = []

    def counted(points):
        steps.append(len(points))
        return model(points)

    settings = Randomization(steps=10, alpha_weight=None)
    runs = every_randomized_apgd(counted, images, labels, eps=0.05, seed=3, norm=norm, settings=settings, targets=9)
    assert runs.shape == (5, 200, 1, 6, 6)  # the cross-entropy and four wrong classes
    assert len(steps) == 1 + sum(settings.draw_steps(3, rank) + 2 for rank in range(5))
    assert len({settings.draw_steps(3, rank) for rank in range(5)}) > 1
    radii = torch.stack([lengths(run.double(), images.double(), norm) for run in runs]) / 0.05
    assert radii.max() <= 1.1 + 1e-5
    for one in radii:
        assert stats.kstest(one.numpy(), stats.uniform(0.4, 0.7).cdf).pvalue > 0.001
    assert abs(float(torch.corrcoef(radii)[0, 1])) < 0.2
    order = model(images[:1]).argsort(dim=1, descending=True)[0, 1:]
    logits = model(runs.flatten(0, 1))
    for rank in range(4):  # a run toward a class raises that class's loss more than any other run does
        toward = targeted_dlr(logits, labels.repeat(5), order[rank].expand(1000)).view(5, 200).mean(dim=1)
        assert toward.argmax() == rank + 1


def test_every_run_belongs_to_the_example():
    model = a_linear_mix(classes=5)
    labels, indices = model(IMAGES).argmax(1), torch.arange(70, 80)
    options = {"eps": 0.05, "seed": 5, "settings": SHORT}
    together = every_randomized_apgd(WithAlphaLoss(model), IMAGES, labels, indices=indices, **options)
    alone = every_randomized_apgd(WithAlphaLoss(model), IMAGES[3:4], labels[3:4], indices=indices[3:4], **options)
    torch.testing.assert_close(alone, together[:, 3:4], rtol=0, atol=1e-5)


def test_the_judge_has_the_last_word():
    """A stand-in that takes every point for misclassified does not keep the attack from going on."""
    model = a_linear_mix(classes=5)
    images = IMAGES[:1].repeat(6, 1, 1, 1)
    labels = model(images).argmax(1)
    eps = 0.3 * float(distance(model, images, labels, "Linf").min())
    sizes = []

    def gullible(points):
        sizes.append(len(points))
        return model(points) - 100.0 * torch.nn.functional.one_hot(labels[0], 5)

    options = {"eps": eps, "seed": 1, "settings": FIXED, "ranking": rank_classes(model(images), labels)}
    randomized_apgd(gullible, images, labels, **options)
    steps = FIXED.draw_steps(1)
    assert sizes == [6] * (steps + 2)  # the last one asks about the points of highest loss
    sizes.clear()
    randomized_apgd(gullible, images, labels, judge=model, **options)
    assert sizes == [6] * 5 * (steps + 1)


@pytest.mark.parametrize("attack", [randomized_apgd, every_randomized_apgd])
def test_the_model_as_its_own_judge_changes_nothing(attack):
    model = a_linear_mix(classes=5)
    labels = model(IMAGES).argmax(1)
    options = {"eps": float(distance(model, IMAGES, labels, "Linf").median()), "seed": 1, "settings": FIXED}
    judged = attack(model, IMAGES, labels, judge=model, **options)
    assert torch.equal(judged, attack(model, IMAGES, labels, **options))
    known = rank_classes(model(IMAGES), labels)
    assert torch.equal(judged, attack(model, IMAGES, labels, ranking=known, **options))


@pytest.mark.parametrize(
    "wrong",
    [
        {"radius_factor": (1.1, 0.4)},
        {"radius_factor": (-0.1, 0.4)},
        {"momentum": (0.0, 1.5)},
        {"alpha_weight": (0.0, 2.0)},
        {"steps": 0},
        {"budget": 0.0},
        {"reach": float("inf")},
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} of a randomized attack"):
        Randomization(**wrong)


def test_steps_of_pgd_together_are_as_long_as_its_reach():
    """On a linear net without momentum every sign step goes the same way, up to the ball."""
    model = a_linear_mix()
    labels = model(IMAGES).argmax(1)
    settings = Randomization(steps=10, reach=0.5, radius_factor=(1.0, 1.0), momentum=(0.0, 0.0), alpha_weight=None)
    long = replace(settings, reach=5.0)
    short_, long_ = (
        randomized_pgd(model, IMAGES, labels, eps=0.1, seed=2, settings=chosen, indices=torch.arange(10)) - IMAGES
        for chosen in (settings, long)
    )
    start = pgd(model, IMAGES, labels, eps=0.1, step_size=0.0, steps=1, random_start=True, seed=2) - IMAGES
    moved = (short_ - start).abs()
    free = short_.abs() < 0.0999
    assert free.any()
    torch.testing.assert_close(moved[free], torch.full_like(moved[free], 0.05), rtol=0, atol=1e-5)
    assert (long_.abs() > 0.0999).float().mean() > 0.9
