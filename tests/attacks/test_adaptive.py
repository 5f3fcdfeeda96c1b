"""The attacks adapted to a mix: verdicts known in closed form, and a mix that only they can break."""

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from linear_mixes import EPS, SHAPE, a_linear_mix, a_lured_mix, distance
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.attacks import adaptive, search
from adaptive_smoothing_zoo.attacks.adaptive import ADAPTIVE_ATTACKS, NET_ATTACKS
from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD
from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.attacks.verify import check_adversarials
from adaptive_smoothing_zoo.threat import ThreatModel

IMAGES = torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
GRAY = 0.5 + 0.01 * torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(3))
CPU = torch.device("cpu")


def an_engine(model, name, norm="Linf", eps=EPS, batch_size=5, seed=4, surrogate=None):
    settings = AttackSettings(attacks=(name,), seed=seed, batch_size=batch_size)
    shorter = complete(settings).limited(iterations=10, restarts=2)  # enough for these mixes
    classes = model(IMAGES[:1]).shape[1]
    return Search(model, ThreatModel(norm, eps), shorter, num_classes=classes, device=CPU, surrogate=surrogate)


def candidates(engine, name, images, labels, indices=None):
    """One candidate per image."""
    indices = torch.arange(len(labels)) if indices is None else indices
    found = torch.full_like(images, torch.nan)
    for positions, points in engine.attack(name, images, labels, indices):
        assert found[positions].isnan().all()
        found[positions] = points
    return found


NAMES = [*ADAPTIVE_ATTACKS, "apgd-ce-rob", "apgd-t-std", "apgd-p-pinned", "apgd-ce-surrogate"]
PULLS_ALPHA = ("lowering", "nudging")


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    ("name", "constant"), [*((name, None) for name in NAMES), ("apgd-ce-lowering", 0.7), ("apgd-t-pinned", 0.7)]
)
def test_verdicts_on_a_linear_mix_are_the_closed_form_s(name, constant, norm):
    model = a_linear_mix(constant=constant)
    labels = model(IMAGES).argmax(1)
    exact = distance(model, IMAGES, labels, norm)
    eps = float(exact.median())  # the box is out of reach
    found = candidates(an_engine(model, name, norm, eps, surrogate=model.std_model), name, IMAGES, labels)
    check_adversarials(IMAGES, found, torch.arange(12), ThreatModel(norm, eps))
    broken = model(found).argmax(1) != labels
    assert torch.equal(broken, (found != IMAGES).flatten(1).any(1))  # a candidate is adversarial or the image itself
    if name.startswith("apgd-t-") and not name.endswith(PULLS_ALPHA):  # others may climb toward another class, or alpha
        clear = (exact - eps).abs() > 0.01 * eps
        assert torch.equal(broken[clear], (exact < eps)[clear])
    else:
        assert not broken[exact > eps].any()
        assert broken.any()


def changed(found, images):
    return (found != images).flatten(1).any(1)


@pytest.mark.parametrize("name", ADAPTIVE_ATTACKS)
def test_batch_size_order_and_company_change_nothing(name):
    model = a_linear_mix()
    labels, indices = model(IMAGES).argmax(1), torch.arange(100, 112)
    eps = float(distance(model, IMAGES, labels, "Linf").quantile(0.7))
    expected = candidates(an_engine(model, name, eps=eps, batch_size=12), name, IMAGES, labels, indices)
    shuffled = torch.randperm(12)
    for batch_size, chosen in ((3, torch.arange(12)), (12, shuffled), (5, shuffled[:7])):
        engine = an_engine(model, name, eps=eps, batch_size=batch_size)
        found = candidates(engine, name, IMAGES[chosen], labels[chosen], indices[chosen])
        # With slots free, another run may be the first to break a point.
        assert torch.equal(changed(found, IMAGES[chosen]), changed(expected, IMAGES)[chosen])
        assert torch.equal(model(found).argmax(1) != labels[chosen], changed(found, IMAGES[chosen]))
    other = candidates(an_engine(model, name, eps=eps, batch_size=12, seed=5), name, IMAGES, labels, indices)
    assert changed(expected, IMAGES).any()
    assert not torch.equal(other, expected)


def test_adaptive_attacks_break_what_the_gradient_of_the_mix_leads_away_from():
    model, labels = a_lured_mix(), torch.zeros(5, dtype=torch.int64)
    assert (model(GRAY).argmax(1) == 0).all()
    lured = "apgd-ce-mix", "apgd-ce-rob", "apgd-p-mix", "apgd-p-nudging"  # the last one pulls too little here
    for name in {*lured, *ADAPTIVE_ATTACKS}:
        found = candidates(an_engine(model, name), name, GRAY, labels)
        assert ((found != GRAY).flatten(1).any(1) == (name not in lured)).all()
        if name.endswith("lowering"):
            assert (model.alpha_of(found) < 0.1).all()
            assert (model.alpha_of(GRAY) > 0.7).all()


@pytest.mark.parametrize("name", NAMES)
def test_to_ask_the_mix_only_where_there_is_doubt_finds_the_same(name, monkeypatch):
    model = a_linear_mix()
    labels = model(IMAGES).argmax(1)
    eps = float(distance(model, IMAGES, labels, "Linf").median())
    asked, judged_by = [], adaptive.judged_by

    def counting(setup, *, alike):
        def ask(points):
            asked[-1] += len(points)
            return setup.judge(points)

        return judged_by(replace(setup, judge=ask), alike=alike)

    def found():
        asked.append(0)
        engine = an_engine(model, name, eps=eps, batch_size=12, surrogate=model.std_model)
        return candidates(engine, name, IMAGES, labels)

    monkeypatch.setattr(adaptive, "judged_by", counting)
    sparing = found()
    monkeypatch.setattr(adaptive, "doubtful", lambda logits, labels: torch.ones_like(labels).bool())
    assert torch.equal(sparing, found())
    assert 0 < asked[0] < asked[1]


def test_the_copy_of_a_view_goes_with_its_attack(monkeypatch):
    copies, prepare = [], search.prepare

    def noting(net, images):
        copies.append(weakref.ref(made := prepare(net, images)))
        return made

    monkeypatch.setattr(search, "prepare", noting)
    model = a_linear_mix()
    labels = model(IMAGES).argmax(1)
    engine = an_engine(model, "apgd-ce-pinned")
    gc.disable()
    try:
        for _ in range(3):
            candidates(engine, "apgd-ce-pinned", IMAGES, labels)
        gone = [copy() is None for copy in copies]
    finally:
        gc.enable()
    assert gone == [False, True, True, True]  # the mix's own stays


@pytest.mark.parametrize(("precision", "deterministic"), [("bfloat16", True), ("float32", False)])
def test_a_copy_that_cannot_be_trusted_is_not_asked(precision, deterministic):
    model, asked = a_linear_mix(), []

    def judge(points):
        asked.append(len(points))
        return model(points)

    setup = SimpleNamespace(judge=judge, prepared=None, precision=precision, deterministic=deterministic)
    no, labels = torch.zeros(len(IMAGES), dtype=torch.bool), model(IMAGES).argmax(1)
    state = SimpleNamespace(found=no, exhausted=no, labels=labels)
    assert not adaptive.judged_by(setup, alike=False)(IMAGES, torch.zeros(len(IMAGES), 3), state).any()
    assert asked == [len(IMAGES)]


def test_what_the_view_does_not_know_to_rounding_the_mix_is_asked():
    labels = torch.zeros(4, dtype=torch.int64)
    logits = torch.tensor([[0.0, -50.0, -1e-3], [0.0, -50.0, -2e-2], [-1.0, 0.0, -50.0], [torch.nan, 0.0, 0.0]])
    assert adaptive.doubtful(logits[:3], labels[:3]).tolist() == [True, False, True]  # 2 * 50 * 1e-4 = 0.01
    assert adaptive.doubtful(logits, labels).all()


def test_untargeted_attacks_begin_anew_from_other_points(monkeypatch):
    begun = []
    start = APGD.start_at

    def remember(attack, images, labels, targets, noise):
        begun.append((len(labels), noise))
        return start(attack, images, labels, targets, noise)

    monkeypatch.setattr(APGD, "start_at", remember)
    model = a_linear_mix()
    labels = model(IMAGES).argmax(1)
    eps = float(distance(model, IMAGES, labels, "Linf").median())
    engine = an_engine(model, "apgd-p-mix", eps=eps, batch_size=12)
    engine.settings = engine.settings.limited(restarts=3)
    found = candidates(engine, "apgd-p-mix", IMAGES, labels)
    standing = int((found == IMAGES).flatten(1).all(1).sum())
    assert begun[0][0] == 12
    assert 0 < 3 * standing <= sum(count for count, _ in begun) < 3 * 12  # what fell is left out
    noise = torch.cat([noise for _, noise in begun]).flatten(1)
    assert len(noise.unique(dim=0)) == len(noise)


def test_a_view_proposes_and_the_mix_decides():
    # Alpha cannot fall below 0.7, where h alone decides: nothing breaks the mix, though the pinned g would be broken.
    model, labels = a_lured_mix(alpha_min=0.7), torch.zeros(5, dtype=torch.int64)
    surrogate = MixedClassifier(model.std_model, model.rob_model, 0.0).eval()
    for name in (*ADAPTIVE_ATTACKS, "apgd-ce-surrogate", "apgd-t-std"):
        assert torch.equal(candidates(an_engine(model, name, surrogate=surrogate), name, GRAY, labels), GRAY)
    assert (
        (candidates(an_engine(surrogate, "apgd-ce-mix"), "apgd-ce-mix", GRAY, labels) != GRAY).flatten(1).any(1).all()
    )


def test_each_attack_differentiates_what_its_name_says():
    model, stand_in = a_linear_mix(), nn.Identity()
    seen = []
    for name in ("apgd-ce-lowering", "apgd-ce-pinned", "apgd-ce-gray_box", "apgd-ce-mix", "apgd-ce-surrogate"):
        seen.append(an_engine(model, name, surrogate=stand_in).made(name, IMAGES)[0].view)
    assert [type(view).__name__ for view in seen[:4]] == [
        "WithAlphaLoss",
        "MixedClassifier",
        "GrayBox",
        "MixedClassifier",
    ]
    assert seen[1].alpha.alpha_min == seen[1].alpha.alpha_max == 0.2
    assert seen[3] is model
    assert seen[4] is stand_in


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("apgd-cx", "unknown attack 'apgd-cx'"),
        ("fab-t-mix", "unknown attack 'fab-t-mix'"),
        ("apgd-ce-surrogate", "an attack through a surrogate needs one"),
        ("apgd-ce-gray", "unknown attack 'apgd-ce-gray'"),
    ],
)
def test_an_attack_that_does_not_exist_is_refused(name, said):
    with pytest.raises(ValueError, match=said):
        an_engine(a_linear_mix(), name).made(name, IMAGES)


def test_a_net_that_is_no_mix_has_the_attacks_that_need_no_alpha():
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    for name in NET_ATTACKS:
        assert an_engine(net, name).made(name, IMAGES)[0].view.model is net
    two = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))  # apgd-t needs four classes
    assert an_engine(two, "apgd-gap-mix").made("apgd-gap-mix", IMAGES)[0].view.model is two
    with pytest.raises(TypeError, match="needs a MixedClassifier, got Sequential"):
        an_engine(net, "apgd-ce-pinned").made("apgd-ce-pinned", IMAGES)


@pytest.mark.parametrize("name", ["apgd-ce-gray_box", "apgd-p-lowering", "apgd-ce-mix"])
def test_points_that_only_a_hook_of_the_mix_misclassifies_are_found(name):
    model, images = a_linear_mix(), IMAGES.clone()
    images[:, 0, 0, 0] = 0.5
    labels = model(images).argmax(1)
    eps = 0.01 * float(distance(model, images, labels, "Linf").min())  # the mix itself changes no label there
    model.register_forward_hook(
        lambda module, inputs, output: torch.where(inputs[0][:, :1, 0, 0] == 0.5, output, output.roll(1, 1))
    )
    assert torch.equal(model(images).argmax(1), labels)
    found = candidates(an_engine(model, name, eps=eps), name, images, labels)
    assert changed(found, images).all()
