"""The parts of checks that compute something, against oracles; and what a validation keeps and promises."""

import dataclasses
import math

import nets
import numpy as np
import pytest
import torch
from test_traps import SMALL, run
from torch import nn

from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.validation import CHECKS, RecordedRun, validate
from adaptive_smoothing_zoo.validation.attacked import Attacked
from adaptive_smoothing_zoo.validation.check import allowed
from adaptive_smoothing_zoo.validation.checks import oracles, strength
from adaptive_smoothing_zoo.validation.subject import Subject, scaled_cross_entropy


def subject_of(model, images, labels, *, norm="Linf", eps=nets.EPS, budget=SMALL, recorded=None):
    threat, settings, cpu = ThreatModel(norm, eps), AttackSettings(batch_size=8), torch.device("cpu")
    return Subject(model.eval().requires_grad_(False), images, labels, threat, settings, cpu, budget, recorded)


def outcome(name, subject):
    return CHECKS[name].function(subject)


class Linear(nn.Module):
    """Logits linear in the pixels."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        return (images - 0.5).flatten(1) @ self.weight.T


def linear_subject(classes=6, n=5, **settings):
    generator = torch.Generator().manual_seed(3)
    net = Linear(torch.randn(classes, 16, generator=generator))
    images = 0.4 + 0.2 * torch.rand(n, 1, 4, 4, generator=generator)
    return subject_of(net, images, net(images).argmax(1), **settings)


@pytest.mark.parametrize(("n", "share", "expected"), [(100, 0.001, 1), (1000, 0.003, 3), (99, 0.05, 4), (1, 0.5, 1)])
def test_a_rule_that_allows_a_share_allows_one_point_at_least(n, share, expected):
    assert allowed(n, share) == expected


# The oracles themselves


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_distances_of_the_linear_net_are_those_at_which_labels_change(norm):
    net, images, labels, threat, robust = oracles.linear_problem(5, norm, torch.device("cpu"))
    distances = net.distances(images, labels, is_linf=threat.is_linf)
    weight = net.weight.detach()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        # The steepest way to each other class, just short of the distance and just beyond it.
        away = weight - weight[label]
        step = away.sign() if norm == "Linf" else away / away.norm(dim=1, keepdim=True).clamp(min=1e-9)
        for factor, same in ((0.999, True), (1.001, False)):
            points = image.flatten() + factor * distances[i].float() * step
            assert bool((net(points.view(-1, 1, 6, 6)).argmax(1) == label).all()) is same
        assert bool(robust[i]) is bool(distances[i] > threat.eps)
    assert 0 < robust.sum() < len(robust)


# Gradients


class Scaled(torch.autograd.Function):
    """The identity with a gradient that is a little too long."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.factor * gradient, None


class Misjudged(nets.Around):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, images):
        return self.net(Scaled.apply(images, self.factor))


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.0002, True), (1.003, False), (-1.0, False)])
def test_finite_differences_tell_a_gradient_that_is_a_thousandth_wrong(factor, passed):
    found = outcome("finite_differences", subject_of(Misjudged(factor), *nets.examples(6)))
    assert found.passed is passed
    if passed:
        assert found.measured["median_error"] == pytest.approx(abs(factor - 1.0), abs=2e-5)


class MisjudgedInFloat32(Misjudged):
    def forward(self, images):
        return super().forward(images) if images.dtype == torch.float32 else self.net(images)


@pytest.mark.parametrize(("factor", "passed"), [(1.01, True), (1.03, False)])
def test_float32_may_round_a_few_relus_to_the_other_side_but_not_give_another_gradient(factor, passed):
    found = outcome("finite_differences", subject_of(MisjudgedInFloat32(factor), *nets.examples(6)))
    assert found.passed is passed
    assert found.measured["close"] == 1.0
    assert found.measured["median_distance_of_float32"] == pytest.approx(factor - 1.0, abs=2e-5)


def test_clipped_pixels_that_tie_in_max_pooling_are_no_wrong_gradient():
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5))
    images = torch.zeros(8, 1, 8, 8)
    with torch.no_grad():
        pooled[0].bias.fill_(0.1)
        labels = pooled(images).argmax(1)
    assert outcome("finite_differences", subject_of(pooled, images, labels, eps=0.05)).passed


# Losses


def test_cross_entropy_of_scaled_logits():
    logits = torch.tensor([[3.0, 1.0, -4.0], [0.3, 0.1, 0.2], [1e6, -1e6, 0.0]])
    labels = torch.tensor([0, 2, 0])
    expected = []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        first, second = sorted(row)[:0:-1][:2]
        scaled = [value / max(first - second, 1.0) for value in row]
        expected.append(math.log(sum(math.exp(value - scaled[label]) for value in scaled)))
    torch.testing.assert_close(scaled_cross_entropy(logits, labels), torch.tensor(expected))


def attacked(found):
    made = Attacked.nothing(torch.zeros(len(found), 1, 4, 4), 2)
    made.found[:] = torch.tensor(found, dtype=torch.bool)
    return made


@pytest.mark.parametrize(
    ("singles", "restarted", "passed"),
    [
        # One start of each loss breaks all four points, and each loss alone one: the losses do not agree.
        (["1000", "0100", "0010", "0001", "0000"], ["1000", "0100", "0010", "0001", "0000"], False),
        # The same single runs, but with more starts one loss alone does it: chance, not the loss, made the difference.
        (["1000", "0100", "0010", "0001", "0000"], ["1111", "0100", "1111", "0001", "1111"], True),
        # The cross-entropy finds nothing where that of scaled logits finds all: saturated.
        (["0000", "1111", "1111", "1111", "1111"], ["0000", "1111", "1111", "1111", "1111"], False),
        # It lags behind the others together with that of scaled logits: no saturation.
        (["0000", "1111", "1111", "1111", "0000"], ["0000", "1111", "1111", "1111", "0000"], True),
    ],
)
def test_losses_agree_compares_them_at_equal_effort(singles, restarted, passed):
    subject = linear_subject(n=4)
    names = list(subject.losses)
    assert names == ["ce", "dlr", "cw", "probability", "scaled-ce"]
    as_found = lambda bits: attacked([bit == "1" for bit in bits])  # noqa: E731
    subject.single_runs = {name: as_found(bits) for name, bits in zip(names, singles, strict=True)}
    subject.white_box = {name: as_found(bits) for name, bits in zip(names, restarted, strict=True)}
    subject.white_box["targeted"] = as_found("0000")
    found = outcome("losses_agree", subject)
    assert found.passed is passed
    assert found.measured["each_loss_from_one_start"] == (0.0 if "1111" in singles or "1000" in singles else 1.0)


def test_restarts_go_on_where_the_starts_before_failed():
    subject = subject_of(nets.honest_net(), *nets.examples(12), budget=dataclasses.replace(SMALL, steps=3, restarts=4))
    for name, attack in subject.white_box.items():
        if name != "targeted":
            assert bool((attack.found >= subject.single_runs[name].found).all())
            assert bool((attack.margins <= subject.single_runs[name].margins).all())
        wrong = subject.model(attack.adversarials).argmax(1) != subject.labels[subject.correct]
        assert bool(wrong[attack.found].all())
    assert int(subject.white_box_found.sum()) == int(subject.broken.sum()) > 0


# Planted boundaries


def test_a_planted_boundary_leaves_the_inner_ball_out_and_is_within_reach():
    subject = linear_subject(eps=0.1, budget=dataclasses.replace(SMALL, inner=40, search=80))
    points = subject.correct
    readout = strength._plant(subject, points)
    rows = torch.arange(len(points))[readout.planted]
    assert len(rows) >= 3
    # Nothing of the inner ball is beyond it, not even points that were not looked at ...
    for number in range(200):
        drawn = subject.noise(points, 5000 + number, on_the_surface=number % 2 == 1)
        inside = subject.images[points] + strength.INNER * (drawn - subject.images[points])
        assert bool((readout.score(subject.logits(inside), torch.arange(len(points)))[rows] < 0.2).all())
    # ... and by the closed form for a linear readout of a linear net the ball's highest score is.
    slope = readout.weights @ subject.model.weight.detach().double()
    at_image = readout.score(subject.logits(subject.images[points]), torch.arange(len(points))).double()
    highest = at_image + subject.threat.eps * slope.abs().sum(dim=1)
    assert bool((at_image[rows] < 0).all())
    assert bool((highest[rows] > 0).all())
    assert outcome("planted_boundaries_are_found", subject).passed


def test_planted_boundaries_are_missed_by_an_attack_that_goes_the_wrong_way():
    found = outcome("planted_boundaries_are_found", subject_of(Misjudged(-1.0), *nets.examples(8)))
    assert found.passed is False
    assert found.measured["found"] < 0.5 * found.measured["planted"]


# Targets


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_closest_classes_of_a_linear_net_are_those_of_the_closed_form(norm):
    subject = linear_subject(classes=14, norm=norm)
    chosen = strength._closest_classes(subject, subject.correct)
    weight, order = subject.model.weight.detach().double(), 1 if norm == "Linf" else 2
    for row, point in zip(chosen, subject.correct, strict=True):
        label = int(subject.labels[point])
        logits = subject.model(subject.images[point : point + 1]).double().squeeze(0)
        distance = {
            other: float(
                (logits[label] - logits[other]) / torch.linalg.vector_norm(weight[label] - weight[other], order)
            )
            for other in range(14)
            if other != label
        }
        assert row.tolist() == sorted(distance, key=distance.__getitem__)[:9]


# Mixes


def test_the_margin_bound_holds_for_every_mix_and_any_point():
    for alpha in (0.55, 0.7, 0.9):
        model = nets.triplet("Demo2026Constant")
        mix = type(nets.pin_alpha(model))(model.rob_model, model.std_model, alpha)  # the wrong way round: a weak h
        found = outcome("margin_bound", subject_of(mix, *nets.examples(8)))
        assert found.measured["exceptions"] == 0
        assert found.measured["bound"] == pytest.approx((1 - alpha) / alpha)
    mix = type(nets.pin_alpha(model))(model.std_model, model.rob_model, 0.5)
    assert outcome("margin_bound", subject_of(mix, *nets.examples(8))).passed is None


# Examples


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_ball_and_box_finds_every_kind_of_stray_example(norm):
    def broken_by(change):
        subject = subject_of(
            nets.honest_net(), *nets.examples(6), norm=norm, budget=dataclasses.replace(SMALL, steps=3)
        )
        subject.broken[subject.correct[0]] = True
        subject.white_box = {}
        point = subject.adversarials[subject.correct[0]]
        change(point)
        return outcome("ball_and_box", subject)

    assert broken_by(lambda point: None).passed is True
    assert broken_by(lambda point: point[0, 0, 0].fill_(float("nan"))).passed is False
    assert broken_by(lambda point: point[0, 0, 0].fill_(-1e-3)).passed is False
    assert broken_by(lambda point: point[0, 3].copy_((point[0, 3] - 0.5).abs().le(0.5) * 0.5)).passed is False


def test_a_recorded_run_counts_together_with_the_adaptive_attacks_after_it():
    recorded = RecordedRun(robust=np.array([True] * 30), fallen=(0, 2, 29))
    assert recorded.standing.sum() == 27
    subject = subject_of(nets.honest_net(), *nets.examples(20), recorded=recorded)
    subject.white_box = {"cw": attacked([False] * len(subject.correct))}
    assert set(subject.left.tolist()) == set(subject.correct.tolist()) - {0, 2}
    subject.broken[[0, 2, 3]] = True
    found = outcome("recorded_run", subject)
    assert found.measured["newly_broken"] == 1
    assert found.measured["broken_that_autoattack_left"] == 3
    assert found.measured["autoattack_accuracy"] == 1.0
    assert found.measured["recorded_accuracy"] == 0.9
    assert found.measured["union_accuracy"] == pytest.approx(26 / 30)
    assert found.passed is True
    subject.broken[[4, 5]] = True
    assert outcome("recorded_run", subject).passed is False


def test_what_the_model_does_not_confirm_is_not_entered():
    subject = subject_of(nets.honest_net(), *nets.examples(6))
    points = subject.correct
    kept = subject.candidates(points, subject.images[points])  # claimed, and every one of them classified correctly
    assert not kept.found.any()
    assert not subject.broken.any()
    assert (subject.broken_by == "").all()


# The whole


def test_verdicts_do_not_depend_on_the_batch_size_and_the_model_is_left_as_it_was():
    model = nets.honest_net().train()
    names = ("losses_agree", "noise_is_weaker", "black_box_is_weaker")
    model.requires_grad_(True)
    one, other = (run(model, *names, batch_size=size) for size in (12, 7))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert (one.broken == other.broken).all()
    assert (one.batch_size, other.batch_size) == (12, 7)
    assert [result.measured["union"] for result in (one.checks[0], other.checks[0])] == [one.accuracy] * 2


def test_an_honest_net_passes_in_l2():
    names = {name for name, check in CHECKS.items() if check.needs == "any"} - {"linear_net", "confident_net"}
    findings = run(nets.honest_net(), *(names - {"autoattack_on_linear_net"}), norm="L2", eps=0.6)
    assert findings.failed == ()
    assert 0 < findings.broken.sum() < len(findings.broken)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "L1"}, "must be 'Linf' or 'L2'"),
        ({"eps": 0.0}, "eps must be a finite number > 0"),
        ({"eps": float("nan")}, "eps must be a finite number >= 0"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"tf32": True}, "checks make their own attacks in float32"),
        ({"only": ("zero_radius", "luck")}, "unknown check 'luck'; known: linear_net"),
        ({"recorded": RecordedRun(robust=np.ones(3, dtype=bool))}, "3 verdicts for 6 points"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, message):
    images, labels = nets.examples(6)
    with pytest.raises(ValueError, match=message.replace("'", "['\"]")):
        validate(nets.honest_net(), images, labels, **{"eps": 0.2, "device": "cpu", **settings})


def test_an_output_that_is_not_one_number_per_class_is_refused():
    class Scalar(nn.Module):
        def forward(self, images):
            return images.flatten(1).sum(1)

    with pytest.raises(EvaluationError, match=r"shape \(N, classes\)"):
        validate(Scalar(), *nets.examples(2), eps=0.2, device="cpu")


def test_progress_tells_each_check_once_begun_and_the_passes_rise():
    seen = []
    findings = run(nets.honest_net(), "repeated_forward", "batch_company", "zero_radius", on_progress=seen.append)
    assert [name for name in dict.fromkeys(progress.check for progress in seen)] == [
        "repeated_forward",
        "batch_company",
        "zero_radius",
    ]
    passes = [progress.passes for progress in seen]
    assert passes == sorted(passes)
    assert passes[-1] == sum(result.passes for result in findings.checks)
    assert {(progress.done, progress.total) for progress in seen} == {(0, 3), (1, 3), (2, 3)}
