"""The front against brute force: every alpha of a fine grid, the mix as the model computes it."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale, Scale
from adaptive_smoothing_zoo.tuning.best_mix import PUBLISHED, choose_mix
from adaptive_smoothing_zoo.tuning.forms import FORMS
from adaptive_smoothing_zoo.tuning.front import (
    Steps,
    alpha_curve,
    pareto_front,
    right_interval,
    scored,
    steps_of,
    undominated,
)
from adaptive_smoothing_zoo.tuning.published_search import published_front, published_search
from adaptive_smoothing_zoo.tuning.tables import Tables
from adaptive_smoothing_zoo.tuning.tune import Target

MAPS = [
    (Scale(), Scale()),
    (Scale(2.0), Scale(0.3)),
    (HardMax(), NormClampPowerScale(scale=1.0, power=3.0, clamp_bias=-0.5)),
]


def tables_of(seed, n=40, classes=4, attacks=2):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    right = 2.0 * nn.functional.one_hot(labels, classes)
    std, rob = (torch.randn(n, classes, generator=generator) * 1.5 + k * right for k in (2.0, 1.0))
    attacked = rob - 0.7 * right + 0.3 * torch.randn(attacks, n, classes, generator=generator)
    return Tables(labels=labels, std=std, rob=rob, attacked=attacked)


@pytest.mark.parametrize("form", ["best", "mixednuts"])
def test_where_h_is_never_robust_the_curve_of_the_published_search_alone_is_missing(form, monkeypatch):
    monkeypatch.setitem(FORMS, form, lambda: iter(MAPS))
    whole = tables_of(1)
    tables = replace(whole, attacked=whole.attacked - 50.0 * nn.functional.one_hot(whole.labels, 4))
    target = Target(clean=0.5)
    fronts, chosen, _ = choose_mix(tables, target, form, "exact")
    assert PUBLISHED in choose_mix(whole, target, form, "exact")[0]
    assert PUBLISHED not in fronts
    assert chosen.clean >= 0.5
    with pytest.raises(ValueError, match="the robust net is not robust on any"):
        choose_mix(tables, target, "mixednuts", "published")


class Constant(nn.Module):
    """Gives the rows of a table, whatever the images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits[images.flatten(1)[:, 0].long()]


def mixed(tables, std_map, rob_map, alpha, rob=None):
    """The mix's labels, as the package's own classifier gives them."""
    rob = tables.rob if rob is None else rob
    model = MixedClassifier(
        Constant(tables.std.double()), Constant(rob.double()), alpha, std_map=std_map, rob_map=rob_map
    )
    places = torch.arange(len(tables), dtype=torch.float64).view(-1, 1, 1, 1)
    return model.eval()(places).argmax(dim=1)


@pytest.mark.parametrize("maps", MAPS, ids=["constant", "scaled", "mixednuts"])
@given(seed=st.integers(0, 1000), alpha=st.floats(0.02, 0.98))
def test_the_clean_accuracy_is_the_classifier_s(maps, seed, alpha):
    tables = tables_of(seed)
    right = mixed(tables, *maps, alpha) == tables.labels
    assert math.isclose(scored(tables, maps, alpha).clean, float(right.double().mean()), abs_tol=1e-9)


@pytest.mark.parametrize("maps", MAPS, ids=["constant", "scaled", "mixednuts"])
@given(seed=st.integers(0, 1000), alpha=st.floats(0.5, 0.98))
def test_a_robust_point_is_right_whatever_g_says(maps, seed, alpha):
    """Against a g that puts all probability on h's runner-up, at each attacked point: the least that must hold."""
    tables = tables_of(seed)
    standing = torch.ones(len(tables), dtype=torch.bool)
    for rob in tables.everywhere:
        others = maps[1](rob.double()).scatter(1, tables.labels[:, None], -torch.inf)
        worst = torch.full_like(rob, -1e4).scatter(1, others.argmax(dim=1)[:, None], 0.0)
        against = Tables(labels=tables.labels, std=worst, rob=rob, attacked=tables.attacked)
        standing &= mixed(against, Scale(), maps[1], alpha, rob) == tables.labels
    assert math.isclose(scored(tables, maps, alpha).robust, float(standing.double().mean()), abs_tol=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_between_two_steps_nothing_changes(seed):
    tables = tables_of(seed, n=12)
    alphas, clean, robust, _ = alpha_curve(steps_of(tables, *MAPS[1]))
    assert (alphas[1:] > alphas[:-1]).all()
    known = set(zip(clean.tolist(), robust.tolist(), strict=True))
    for alpha in torch.linspace(0.0007, 0.9991, 97, dtype=torch.float64).tolist():
        one = scored(tables, MAPS[1], alpha)
        assert (one.clean, one.robust) in known


def test_the_ends_of_the_interval_in_closed_form():
    std = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.6, 0.4]], dtype=torch.float64)
    rob = torch.tensor([[0.4, 0.6], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4]], dtype=torch.float64)
    low, high = right_interval(std, rob, torch.zeros(4, dtype=torch.int64))
    assert high[0] == pytest.approx(0.8)  # 0.8 (1 - a) = 0.2 a
    assert low[0] < 0
    assert low[1] == pytest.approx(2 / 3)  # 0.8 (1 - a) = 0.4 a
    assert high[1] > 1
    assert low[2] == high[2] == torch.inf
    assert low[3] < 0 < 1 < high[3]


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_front_holds_all_that_nothing_beats(form):
    tables = tables_of(3)
    maps = list(FORMS[form]())[::37]
    front = pareto_front(tables, maps)
    clean, robust = ([getattr(c, name) for c in front.candidates] for name in ("clean", "robust"))
    assert clean == sorted(clean, reverse=True)
    assert robust == sorted(robust)
    assert len(set(clean)) == len(clean)
    for pair in maps:
        for alpha in (0.3, 0.5, 0.6, 0.75, 0.9, 0.97):
            one = scored(tables, pair, alpha)
            assert any(c.clean >= one.clean and c.robust >= one.robust for c in front.candidates)
    for candidate in front.candidates:
        again = scored(tables, (candidate.std_map, candidate.rob_map), candidate.alpha)
        assert (again.clean, again.robust) == (candidate.clean, candidate.robust)


def test_of_equal_points_the_widest_is_taken():
    one = torch.tensor([0.9, 0.9, 0.8, 0.8]), torch.tensor([0.1, 0.1, 0.5, 0.4]), torch.tensor([0.1, 0.7, 0.9, 2.0])
    assert undominated(*one).tolist() == [1, 2]


def test_alphas_between_steps_that_float32_cannot_tell_apart_are_left_out():
    """All gaps are nearly 1, so every step of robustness lies at 0.5 within rounding; alpha must stand clear of it."""
    labels = torch.zeros(6, dtype=torch.int64)
    rob = 30.0 * nn.functional.one_hot(labels, 3) + torch.arange(6.0)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    tables = Tables(labels=labels, std=-rob, rob=rob, attacked=rob[None])
    (chosen,) = pareto_front(tables, [(Scale(), Scale())]).candidates
    assert chosen.robust == chosen.clean == 1.0
    assert chosen.alpha > 0.6


def test_a_target_is_met_or_refused_with_the_nearest():
    front = pareto_front(tables_of(3), FORMS["scaled"]())
    chosen = front.with_clean(0.8)
    assert chosen.clean >= 0.8
    assert chosen.robust == max(c.robust for c in front.candidates if c.clean >= 0.8)
    assert front.with_robust(chosen.robust).clean == chosen.clean
    with pytest.raises(ValueError, match=r"100\.10%; the best is"):
        front.with_clean(1.001)
    with pytest.raises(ValueError, match="robust share"):
        front.with_robust(1.0)


def test_halves_in_turn_count_images_that_did_not_choose():
    tables, maps = tables_of(4, n=60), list(FORMS["scaled"]())[::7]
    clean, robust = Steps.of(tables, maps).halves_in_turn(lambda front, rows: front.with_clean(0.8))
    found = []
    for mine, others in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        chosen = pareto_front(part(tables, mine), maps).with_clean(0.8)
        counted = scored(part(tables, others), (chosen.std_map, chosen.rob_map), chosen.alpha)
        found.append((counted.clean, counted.robust))
    assert clean == pytest.approx((found[0][0] + found[1][0]) / 2)
    assert robust == pytest.approx((found[0][1] + found[1][1]) / 2)


def part(tables, rows):
    rest = {"labels": tables.labels[rows], "attacked": tables.attacked[:, rows]}
    return Tables(std=tables.std[rows], rob=tables.rob[rows], **rest)


class TestPublishedSearch:
    def test_it_keeps_beta_of_h_s_robust_points_and_exceeds_the_margin_least_often(self):
        tables = tables_of(5, n=200)
        maps = list(FORMS["mixednuts"]())[::29]
        found = published_search(tables, Steps.of(tables, maps), 0.9)
        kept = found.robust * len(tables) / float(tables.standing.sum())
        assert kept == pytest.approx(0.9, abs=0.02)
        wrong = tables.rob.argmax(dim=1) != tables.labels

        def exceeding(rob_map, margin):
            top = rob_map(tables.rob[wrong].double()).softmax(-1).topk(2).values
            return float((top[:, 0] - top[:, 1] >= margin).double().mean())

        best = exceeding(found.rob_map, 1.0 / found.alpha - 1.0 - 1e-12)
        for _, rob_map in maps:
            table = rob_map(tables.everywhere[:, tables.standing].double()).softmax(-1)
            y = tables.labels[tables.standing]
            own = table.gather(-1, y.expand(3, -1)[..., None])
            lead = own.squeeze(-1) - table.scatter(-1, y.expand(3, -1)[..., None], -1.0).amax(-1)
            margin = float(lead.amin(0).quantile(0.1))
            assert margin <= 0 or exceeding(rob_map, margin) >= best

    @pytest.mark.parametrize("beta", [0.0, 1.0, -1.0])
    def test_a_share_out_of_range(self, beta):
        with pytest.raises(ValueError, match="beta"):
            published_search(tables_of(1), Steps.of(tables_of(1), MAPS), beta)

    def test_the_front_holds_what_is_found_for_each_share(self):
        tables, maps, betas = tables_of(6, n=150), list(FORMS["mixednuts"]())[::101], (0.5, 0.8, 0.9)
        front = published_front(tables, Steps.of(tables, maps), betas)
        alone = [published_search(tables, Steps.of(tables, maps), beta) for beta in betas]
        assert front.looked_at == 3 * len(maps)
        assert {(c.alpha, c.clean, c.robust) for c in front.candidates} <= {(c.alpha, c.clean, c.robust) for c in alone}
        assert max(c.robust for c in front.candidates) == max(c.robust for c in alone)
        assert max(c.clean for c in front.candidates) == max(c.clean for c in alone)


def test_on_the_same_tables_ours_is_never_beaten_by_the_published_search():
    tables = tables_of(9, n=300)
    maps = list(FORMS["mixednuts"]())[::17]
    front = pareto_front(tables, maps)
    for beta in (0.7, 0.8, 0.9, 0.95):
        theirs = published_search(tables, Steps.of(tables, maps), beta)
        assert front.with_robust(theirs.robust).clean >= theirs.clean


@pytest.mark.parametrize(
    "harm",
    [
        {"std": torch.zeros(3, 5)},
        {"labels": torch.zeros(2, dtype=torch.int64)},
        {"attacked": torch.zeros(1, 3, 5)},
        {"rob": torch.full((3, 4), torch.nan)},
    ],
)
def test_tables_that_do_not_fit_are_refused(harm):
    good = {
        "labels": torch.zeros(3, dtype=torch.int64),
        "std": torch.zeros(3, 4),
        "rob": torch.zeros(3, 4),
        "attacked": torch.zeros(1, 3, 4),
    }
    Tables(**good)
    with pytest.raises(ValueError, match=r"mix nets|need|NaN|labels"):
        Tables(**good | harm)
