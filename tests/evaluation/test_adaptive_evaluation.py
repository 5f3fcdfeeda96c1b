"""Setting D: what it starts from, what it finds, and that nothing it says is better than the standard run."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from linear_mixes import EPS, a_linear_mix, a_lured_mix, distance
from short_attacks import shorten
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks.adaptive import ADAPTIVE_ATTACKS, NET_ATTACKS, RAW_ATTACKS, SURROGATE_ATTACKS
from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.attacks.verify import check_adversarials
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import EvaluationError, ResultsError
from adaptive_smoothing_zoo.evaluation import evaluate, merge
from adaptive_smoothing_zoo.evaluation.adapt import attacks_on, evaluate_adaptive
from adaptive_smoothing_zoo.method.logit_maps import HardMax, Scale
from adaptive_smoothing_zoo.threat import ThreatModel

IMAGES = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
GRAY = 0.5 + 0.01 * torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(3))
EVERYWHERE = np.ones(6, dtype=bool)


def test_what_the_standard_run_broke_stays_broken_and_the_closed_form_holds_for_the_rest(monkeypatch):
    shorten(monkeypatch, iterations=15, restarts=2, queries=200)
    model = a_linear_mix(classes=4)
    labels = model(IMAGES).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    exact = distance(model, IMAGES, labels, "Linf")
    eps = float(exact[1:].median())
    standard = evaluate(model, IMAGES, labels, eps=eps, engine="fast")
    assert 0 < standard.robust.sum() < 11
    found = evaluate_adaptive(model, IMAGES, labels, standard, eps=eps)
    assert not found.robust[~standard.robust].any()
    clear = (exact - eps).abs() > 1e-3
    np.testing.assert_array_equal(found.robust[clear], (exact > eps)[clear].numpy())
    assert list(found.accuracy_after) == ["standard", *ADAPTIVE_ATTACKS]
    assert found.standard_accuracy == standard.robust_accuracy
    assert found.robust_accuracy == found.accuracy_after[ADAPTIVE_ATTACKS[-1]] == found.robust.mean()
    # A standard run that missed what it should have broken is put right.
    lax = replace(standard, robust=standard.clean_correct)
    again = evaluate_adaptive(model, IMAGES, labels, lax, eps=eps, attacks=["apgd-t-pinned"])
    np.testing.assert_array_equal(again.robust[clear], (exact > eps)[clear].numpy())
    np.testing.assert_array_equal(again.broken_by != "", standard.clean_correct & ~again.robust)
    assert set(found.seconds) == set(ADAPTIVE_ATTACKS)


@pytest.mark.parametrize(("classes", "attacks"), [(4, NET_ATTACKS), (2, ("apgd-ce-mix", "apgd-gap-mix", "apgd-p-mix"))])
def test_a_net_that_is_no_mix_is_attacked_without_alpha_and_the_closed_form_holds(classes, attacks, monkeypatch):
    shorten(monkeypatch, iterations=20, restarts=2)
    torch.manual_seed(classes)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, classes))
    weight, bias = net[1].weight.detach().double(), net[1].bias.detach().double()
    logits = IMAGES.flatten(1).double() @ weight.T + bias
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = (weight[labels][:, None] - weight[None]).abs().sum(2)
    exact = (gaps / slopes).masked_fill(slopes == 0, float("inf")).amin(1)  # l_inf distance; pixels stay in [0, 1]
    eps = min(float(exact.median()), 0.19)
    found = evaluate_adaptive(net, IMAGES, labels, np.ones(12, dtype=bool), eps=eps)
    assert list(found.accuracy_after) == ["standard", *attacks]
    clear = (exact - eps).abs() > 1e-3
    np.testing.assert_array_equal(found.robust[clear], (exact > eps)[clear].numpy())
    assert 0 < found.robust.sum() < 12


@pytest.mark.parametrize("around", [nn.DataParallel, lambda mix: nn.Sequential(nn.Identity(), mix), torch.compile])
def test_a_module_around_a_mix_is_refused_since_its_alpha_would_be_left_alone(around):
    with pytest.raises(TypeError, match="need the MixedClassifier itself"):
        evaluate_adaptive(around(a_linear_mix()), IMAGES, torch.zeros(12).long(), np.ones(12, dtype=bool), eps=0.1)


def test_points_that_a_plain_attack_leaves_fall_to_the_adaptive_ones_with_verified_examples(monkeypatch):
    shorten(monkeypatch, iterations=20, restarts=2)
    model, labels = a_lured_mix(), torch.zeros(6, dtype=torch.int64)
    seen = []
    plain = evaluate_adaptive(model, GRAY, labels, EVERYWHERE, eps=EPS, attacks=["apgd-ce-mix", "apgd-ce-rob"])
    assert plain.robust.all()
    mask = plain.robust.copy()
    mask[2] = False
    found = evaluate_adaptive(model, GRAY, labels, mask, eps=EPS, batch_size=3, on_progress=seen.append)
    assert not found.robust.any()
    assert found.broken_by.tolist() == ["apgd-ce-lowering"] * 2 + [""] + ["apgd-ce-lowering"] * 3
    adversarials = torch.from_numpy(found.adversarials)
    check_adversarials(GRAY, adversarials, torch.arange(6), ThreatModel("Linf", EPS))
    assert ((model(adversarials).argmax(1) != 0).numpy() == mask).all()
    assert torch.equal(adversarials[2], GRAY[2])
    assert found.accuracy_after == {"standard": 5 / 6} | dict.fromkeys(ADAPTIVE_ATTACKS, 0.0)
    attacked = [(progress.done, progress.total) for progress in seen if progress.attack == "apgd-ce-lowering"]
    assert attacked == sorted(attacked)
    assert {total for _, total in attacked} == {5}
    assert (seen[0].attack, seen[-1].attack, seen[-1].robust) == ("clean", "verified", 0)
    assert seen[-1].passes_left == 0
    assert all(b.passes_done >= a.passes_done for a, b in pairwise(seen))
    assert mask[0]  # what was given is left alone


def test_the_same_seed_gives_the_same_result_whatever_the_batch_size_and_the_model_is_put_back():
    model, labels = a_lured_mix().requires_grad_(True).train(), torch.zeros(6, dtype=torch.int64)
    modes = [module.training for module in model.modules()]
    runs = [
        evaluate_adaptive(model, GRAY, labels, EVERYWHERE, eps=EPS, batch_size=size, seed=seed)
        for size, seed in ((2, 0), (6, 0), (6, 1))
    ]
    np.testing.assert_allclose(runs[0].adversarials, runs[1].adversarials, rtol=0, atol=1e-6)
    assert not np.array_equal(runs[1].adversarials, runs[2].adversarials)
    assert [module.training for module in model.modules()] == modes
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_surrogate_is_attacked_through_where_there_is_one():
    model, labels = a_lured_mix(), torch.zeros(6, dtype=torch.int64)
    options = {"eps": EPS, "surrogate": model.std_model}
    found = evaluate_adaptive(model, GRAY, labels, EVERYWHERE, **options)
    assert list(found.accuracy_after) == ["standard", *ADAPTIVE_ATTACKS, *SURROGATE_ATTACKS]
    alone = evaluate_adaptive(model, GRAY, labels, EVERYWHERE, attacks=["apgd-t-surrogate"], **options)
    assert (alone.broken_by == "apgd-t-surrogate").all()


def _half(rows, gap, slope):
    """A linear net: label 0 leads label 1 by ``gap`` at mid-gray, and by ``slope`` more per brightness of some rows."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    weight = torch.zeros(4, 1, 6, 6)
    weight[0, :, rows] = slope / 18
    net[1].weight.data, net[1].bias.data = weight.flatten(1), torch.tensor([gap - slope / 2, 0.0, -20.0, -20.0])
    return net


class OtherScale(Scale):
    """A scale by its class, and not by what it computes."""

    def forward(self, logits):
        return logits.detach()


def test_a_subclass_of_a_scale_may_hide_gradients_too():
    assert attacks_on(MixedClassifier(nn.Flatten(), nn.Flatten(), 0.6)) == ADAPTIVE_ATTACKS
    hiding = MixedClassifier(nn.Flatten(), nn.Flatten(), 0.6, std_map=OtherScale())
    assert attacks_on(hiding) == (*ADAPTIVE_ATTACKS, *RAW_ATTACKS)


def test_where_a_map_hides_g_the_raw_logits_lead_to_it(monkeypatch):
    shorten(monkeypatch, iterations=10)
    g, h = _half(slice(3), 0.9 * EPS, 1.0), _half(slice(3, 6), 2.0, 1.0 / EPS)
    mix = MixedClassifier(g, h, 0.6, std_map=HardMax()).eval().requires_grad_(False)
    images, labels, everywhere = torch.full((2, 1, 6, 6), 0.5), torch.zeros(2, dtype=torch.int64), EVERYWHERE[:2]
    assert evaluate_adaptive(mix, images, labels, everywhere, eps=EPS, attacks=ADAPTIVE_ATTACKS).robust.all()
    found = evaluate_adaptive(mix, images, labels, everywhere, eps=EPS)
    assert list(found.accuracy_after) == ["standard", *ADAPTIVE_ATTACKS, *RAW_ATTACKS]
    assert set(found.broken_by) == {"apgd-ce-raw"}


def test_radius_zero_breaks_nothing():
    model, labels = a_lured_mix(), torch.zeros(6, dtype=torch.int64)
    found = evaluate_adaptive(model, GRAY, labels, EVERYWHERE, eps=0.0)
    assert found.robust.all()
    assert np.array_equal(found.adversarials, GRAY.numpy())


@pytest.mark.parametrize(
    ("robust", "options", "message"),
    [
        (np.ones(5, dtype=bool), {}, "6 examples need a verdict each"),
        (np.ones(6), {}, "6 examples need a verdict each"),
        (EVERYWHERE, {"norm": "L1"}, "norm must be"),
        (EVERYWHERE, {"eps": float("nan")}, "finite number"),
        (EVERYWHERE, {"batch_size": 0}, "batch size must be at least 1"),
        (EVERYWHERE, {"attacks": ["apgd-ce-surrogate"]}, "through a surrogate needs one"),
        (EVERYWHERE, {"settings": AttackSettings(seed=1)}, "settings name the standard attacks; add attacks="),
    ],
)
def test_what_does_not_fit_together_is_refused(robust, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_adaptive(a_lured_mix(), GRAY, torch.zeros(6, dtype=torch.int64), robust, **({"eps": EPS} | options))


def test_verdicts_of_another_model_or_another_radius_are_refused():
    model, labels = a_lured_mix(), torch.ones(6, dtype=torch.int64)
    with pytest.raises(EvaluationError, match="misclassifies image 0 without an attack"):
        evaluate_adaptive(model, GRAY, labels, EVERYWHERE, eps=EPS)
    standard = evaluate(model, GRAY, labels, eps=0.01, engine="fast")
    with pytest.raises(ValueError, match=r"used Linf 0\.01, not Linf 0\.1"):
        evaluate_adaptive(model, GRAY, labels, standard, eps=EPS)


class Stop(BaseException):
    """What interrupts a run."""


class Interrupting:
    """An attack's steps, of which some numbers come with an exception, before or after the work."""

    def __init__(self, monkeypatch, moments):
        self.step, self.moments, self.count = APGD.step, moments, 0
        monkeypatch.setattr(APGD, "step", lambda attack, state, model: self(attack, state, model))

    def __call__(self, attack, state, model):
        self.count += 1
        if self.count in self.moments and self.count % 2:
            raise Stop
        asked = self.step(attack, state, model)
        if self.count in self.moments:
            raise Stop
        return asked


@pytest.mark.parametrize("flush_seconds", [0.0, 1e9])
def test_wherever_a_run_is_interrupted_it_goes_on_from_the_last_step_and_gives_the_same(
    tmp_path, monkeypatch, flush_seconds
):
    model = a_linear_mix(classes=4)
    labels = model(IMAGES).argmax(1)
    exact = distance(model, IMAGES, labels, "Linf")
    options = {"eps": float(exact.median()), "batch_size": 4, "attacks": ["apgd-t-pinned", "apgd-ce-lowering"]}
    shorten(monkeypatch, iterations=15, restarts=2)
    robust, state = np.ones(12, dtype=bool), tmp_path / "state"
    with monkeypatch.context() as patch:
        counter = Interrupting(patch, ())
        whole = evaluate_adaptive(model, IMAGES, labels, robust, **options)
    moments = set(random.Random(0).sample(range(4, counter.count), 6)) | {1, 2, 3}
    interrupting, notes = Interrupting(monkeypatch, moments), []
    for _ in range(len(moments) + 1):
        try:
            again = evaluate_adaptive(
                model, IMAGES, labels, robust, state=state, flush_seconds=flush_seconds, **options
            )
            break
        except Stop as stop:
            notes += stop.__notes__
    assert len(notes) == len(moments) == interrupting.count - counter.count  # nothing but the interrupted steps is lost
    assert all("points are finished; all work is saved except for the last" in note for note in notes)
    for name in ("robust", "broken_by", "adversarials"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert again.accuracy_after == whole.accuracy_after
    assert all(seconds > 0 for seconds in again.seconds.values())


def a_state(folder, **changes):
    model, labels = a_lured_mix(), torch.zeros(6, dtype=torch.int64)
    options = {"eps": EPS, "state": folder / "state", "attacks": ["apgd-ce-lowering", "apgd-p-mix"]} | changes
    return evaluate_adaptive(model, GRAY, labels, EVERYWHERE, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "made with settings.seed 0, this run has settings.seed 1"),
        ({"eps": 0.2}, r"made with threat\.eps 0\.1, this run has threat\.eps 0\.2"),
        ({"attacks": ["apgd-p-mix"]}, "made with settings.attacks"),
        ({"surrogate": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4))}, "made with no surrogate"),
    ],
)
def test_a_state_of_another_evaluation_is_refused(tmp_path, changes, message):
    a_state(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    with pytest.raises(ResultsError, match=message):
        a_state(tmp_path, **changes)
    assert {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()} == before


def test_a_state_of_adaptive_attacks_is_no_evaluation_to_merge(tmp_path):
    labels = torch.zeros(6, dtype=torch.int64)
    evaluate_adaptive(a_lured_mix(), GRAY, labels, EVERYWHERE, eps=0.0, state=tmp_path / "state")
    with pytest.raises(ResultsError, match="state holds adaptive attacks, which have no shards"):
        merge([tmp_path / "state"], GRAY, labels)


def test_a_state_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "state").write_bytes(b"one file")
    with pytest.raises(ResultsError, match="is a file; name a folder, which need not exist"):
        a_state(tmp_path)


def test_a_shipped_triplet_goes_through(monkeypatch):
    shorten(monkeypatch, iterations=20, restarts=1)
    model, examples = load_model("Demo2026Adaptive", dataset="digits"), load_data("digits").first(8)
    robust = (model(examples.images).argmax(1) == examples.labels).numpy()
    attacks = ["apgd-ce-lowering"]
    found = evaluate_adaptive(model, examples.images, examples.labels, robust, eps=0.2, attacks=attacks)
    assert found.robust_accuracy < found.standard_accuracy
    assert found.engine.startswith("adaptive")
