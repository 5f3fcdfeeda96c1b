import itertools
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quadrants import IMAGES, LABELS, a_mix, a_net
from torch import nn

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier
from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.errors import EvaluationError, ResultsError, TrainingError
from adaptive_smoothing_zoo.machine.precision import float32_precision, tf32_allowed
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.training import choose_alpha as choose
from adaptive_smoothing_zoo.training.choose_alpha import Candidate, Choice, choose_alpha


class Probabilities(nn.Module):
    """A net that reads its probabilities off the first pixels, and feature maps off all."""

    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, images):
        return self.forward_head(images)

    def forward_intermediates(self, images, indices):
        return images, [images for _ in indices]

    def forward_head(self, images):
        return images.flatten(1)[:, self.offset : self.offset + 2].clamp(1e-6, 1).log()


class OnePixel(nn.Module):
    def forward(self, std_maps, rob_maps):
        return 16.0 * std_maps[0].flatten(1)[:, 4:5] - 8.0


def known(std, rob, normalized=None):
    """Images on which g and h give class 1 these probabilities and the mixing network this output; all are class 1."""
    n = len(std)
    images = torch.zeros(n, 1, 1, 5)
    images[:, 0, 0, :4] = torch.stack([1 - std, std, 1 - rob, rob], dim=1)
    images[:, 0, 0, 4] = 0.0 if normalized is None else (normalized + 8.0) / 16.0  # a pixel lies in [0, 1]
    alpha = 0.5
    if normalized is not None:
        alpha = AdaptiveAlpha(OnePixel())
        alpha.norm = nn.BatchNorm1d(1, affine=False, eps=0.0)
    model = MixedClassifier(Probabilities(0), Probabilities(2), alpha).eval().requires_grad_(False)
    return model, images, torch.ones(n, dtype=torch.int64)


def robust_from(table):
    """In place of an attack: robust accuracy as a function of alpha_min."""
    return lambda self, candidate, enough: table(candidate)


def test_the_clean_rule_takes_the_largest_alpha_that_keeps_the_clean_accuracy(monkeypatch):
    # g gives the right class 0.9 and h gives it r, so the mix is right while alpha (0.5 - r) < 0.4 (1 - alpha).
    std, rob = torch.full((10,), 0.9), torch.linspace(0.0, 0.45, 10)
    model, images, labels = known(std, rob)
    monkeypatch.setattr(choose._Held, "robust_accuracy", robust_from(lambda candidate: candidate.alpha_min))
    choice = Choice(rule="clean", target=0.8, first=0.0, last=1.0, step=0.001)
    chosen = choose_alpha(model, images, labels, choice, eps=0.1)
    # 8 of 10 right: r = 0.1 is the third smallest, so 0.9 (1 - a) + 0.1 a = 0.5.
    assert chosen.candidate.alpha_min == pytest.approx(0.5, abs=0.0011)
    assert (chosen.clean, chosen.robust, chosen.clean_examples) == (0.8, chosen.candidate.alpha_min, 10)
    assert chosen.tried == ((chosen.candidate, 0.8, chosen.candidate.alpha_min),)


def test_the_robust_rule_takes_the_smallest_alpha_that_is_robust_enough_and_asks_few(monkeypatch):
    model, images, labels = known(torch.full((10,), 0.9), torch.linspace(0.0, 0.45, 10))
    asked = []
    monkeypatch.setattr(
        choose._Held,
        "robust_accuracy",
        robust_from(lambda candidate: asked.append(candidate) or 0.5 * (candidate.alpha_min >= 0.625)),
    )
    choice = Choice(rule="robust", target=0.9, relative=True, first=0.0, last=1.0, step=0.01)
    chosen = choose_alpha(model, images, labels, choice, eps=0.1)
    assert chosen.candidate == Candidate(alpha_min=0.63, alpha_max=0.63)
    assert chosen.target == pytest.approx(0.45)
    assert len(asked) <= 9


def test_an_accuracy_that_equals_a_relative_target_reaches_it(monkeypatch):
    model, images, labels = known(torch.full((10,), 0.9), torch.linspace(0.0, 0.45, 10))
    stops = []

    def table(self, candidate, enough):
        stops.append(enough)
        return 0.4 if candidate.alpha_min == 1.0 else 0.36 * (candidate.alpha_min >= 0.625)

    monkeypatch.setattr(choose._Held, "robust_accuracy", table)
    chosen = choose_alpha(model, images, labels, Choice(rule="robust", target=0.9, relative=True), eps=0.1)
    assert 0.9 * 0.4 > 0.36
    assert chosen.candidate.alpha_min == 0.63
    assert max(stops) <= 0.36  # where attacks end early, it is below what is enough
    monkeypatch.setattr(choose._Held, "clean_accuracy", lambda self, candidate: 0.36 if candidate.alpha_min else 0.4)
    chosen = choose_alpha(model, images, labels, Choice(rule="clean", target=0.9, relative=True), eps=0.1)
    assert chosen.clean == 0.36


def test_the_bias_that_meets_a_clean_accuracy_is_the_closed_form_s(monkeypatch):
    """alpha = sigmoid(2 z + b) must stay below 1/2 - where g and h are equally sure of opposite classes - on 3 of 4."""
    z = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    model, images, labels = known(torch.full((4,), 0.9), torch.full((4,), 0.1), z)
    monkeypatch.setattr(choose._Held, "robust_accuracy", robust_from(lambda candidate: 0.0))
    choice = Choice(
        rule="clean", target=0.75, vary="logit_bias", first=-5, last=5, step=0.001, widths=(1.0,), alpha_mins=(0.0,)
    )
    chosen = choose_alpha(model, images, labels, choice, eps=0.1)
    assert chosen.candidate.logit_bias == pytest.approx(-1.0, abs=0.0015)  # 2 * 0.5 + b = 0
    assert (chosen.candidate.alpha_min, chosen.candidate.alpha_max, chosen.candidate.logit_scale) == (0.0, 1.0, 2.0)


def test_of_several_lines_the_better_by_the_other_accuracy_wins(monkeypatch):
    model, images, labels = known(torch.full((8,), 0.9), torch.linspace(0.0, 0.45, 8), torch.linspace(-2, 2, 8))
    table = lambda candidate: candidate.alpha_min + 0.1 * candidate.logit_scale  # noqa: E731
    monkeypatch.setattr(choose._Held, "robust_accuracy", robust_from(table))
    choice = Choice(rule="clean", target=0.5, first=0.0, widths=(0.1, 0.3), scales=(1.0, 2.0), biases=(0.0, 1.0))
    chosen = choose_alpha(model, images, labels, choice, eps=0.1)
    assert len(chosen.tried) == 8
    assert chosen.robust == max(robust for _, _, robust in chosen.tried)
    assert chosen.clean >= 0.5
    assert all(candidate.alpha_max <= 1.0 for candidate, _, _ in chosen.tried)
    choice = replace(choice, rule="robust", target=0.6)
    chosen = choose_alpha(model, images, labels, choice, eps=0.1)
    enough = [(clean, robust) for _, clean, robust in chosen.tried if robust >= 0.6]
    assert chosen.clean == max(clean for clean, _ in enough)


@given(
    z=st.lists(st.floats(-3, 3), min_size=8, max_size=8),
    gains=st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=4),
    target=st.floats(0.3, 1.0),
)
def test_looking_only_where_a_line_can_still_win_gives_what_looking_everywhere_gives(z, gains, target):
    model, images, labels = known(torch.full((8,), 0.9), torch.linspace(0.0, 0.45, 8), torch.tensor(z))
    widths, biases = (0.1, 0.3), (0.0, 1.0)
    gain = dict(zip(itertools.product(widths, biases), gains, strict=True))
    choice = Choice(rule="robust", target=target, first=0.0, last=0.7, step=0.05, widths=widths, biases=biases)

    def table(candidate):
        return candidate.alpha_min + gain[round(candidate.alpha_max - candidate.alpha_min, 10), candidate.logit_bias]

    def clean(candidate):
        return float((candidate.applied_to(model)(images).argmax(1) == labels).double().mean())

    firsts = []
    for width, bias in gain:
        line = [
            Candidate(alpha_min=low, alpha_max=round(low + width, 10), logit_scale=2.0, logit_bias=bias)
            for low in choice.values
        ]
        enough = [candidate for candidate in line if table(candidate) >= target - choose._ROUNDING]
        firsts += [(clean(candidate), table(candidate)) for candidate in enough[:1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose._Held, "robust_accuracy", robust_from(table))
        if not firsts:
            with pytest.raises(TrainingError):
                choose_alpha(model, images, labels, choice, eps=0.1)
            return
        chosen = choose_alpha(model, images, labels, choice, eps=0.1)
    assert (chosen.clean, chosen.robust) == max(firsts)
    assert len(chosen.tried) <= 4 * 4  # of 60


def test_accuracies_are_the_model_s_own_and_its_attacked_ones_the_engine_s():
    model = a_mix().eval().requires_grad_(False)
    choice = Choice(
        rule="clean", target=0.0, first=0.7, last=0.7, attack_steps=3, attack_targets=2, attacked_examples=20
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    chosen = choose_alpha(model, IMAGES, LABELS, choice, eps=0.05, batch_size=16)
    mixed = chosen.candidate.applied_to(model)
    assert chosen.clean == float((mixed(IMAGES).argmax(1) == LABELS).double().mean())
    places = torch.arange(20) * 64 // 20
    standing = mixed(IMAGES[places]).argmax(1) == LABELS[places]
    settings = complete(AttackSettings(attacks=choice.attacks, batch_size=16)).limited(iterations=3, targets=2)
    classes, device = mixed(IMAGES[:1]).shape[1], torch.device("cpu")
    engine = Search(mixed, ThreatModel("Linf", 0.05), settings, num_classes=classes, device=device)
    for attack in choice.attacks:
        for positions, found in engine.attack(attack, IMAGES[places], LABELS[places], places):
            standing[positions] &= mixed(found).argmax(1) == LABELS[places][positions]
    assert chosen.robust == float(standing.double().mean())
    assert chosen.robust_examples == 20
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert (model.alpha.alpha_min, model.alpha.alpha_max) == (0.0, 1.0)


def test_an_attack_ends_where_the_target_is_missed():
    model = a_mix().eval().requires_grad_(False)
    whole = Choice(rule="clean", target=0.0, first=0.7, last=0.7, attack_steps=3, attack_targets=2)
    bound = Choice(rule="robust", target=0.9, first=0.7, last=0.7, attack_steps=3, attack_targets=2)
    robust = choose_alpha(model, IMAGES, LABELS, whole, eps=0.05, batch_size=8).robust
    assert robust < 0.9
    candidates = []
    with pytest.raises(TrainingError, match="no candidate"):
        choose_alpha(model, IMAGES, LABELS, bound, eps=0.05, batch_size=8, on_candidate=lambda *c: candidates.append(c))
    assert robust <= candidates[0][2] < 0.9


def test_an_interrupted_choice_attacks_nothing_twice(tmp_path, monkeypatch):
    model, images, labels = known(torch.full((10,), 0.9), torch.linspace(0.0, 0.45, 10))
    asked = []
    table = lambda candidate: asked.append(candidate) or candidate.alpha_min  # noqa: E731
    monkeypatch.setattr(choose._Held, "robust_accuracy", robust_from(table))
    choice = Choice(rule="robust", target=0.7)

    def interrupt(candidate, clean, robust):
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose_alpha(model, images, labels, choice, eps=0.1, folder=tmp_path, on_candidate=interrupt)
    chosen = choose_alpha(model, images, labels, choice, eps=0.1, folder=tmp_path)
    assert len(asked) == len(set(map(repr, asked)))
    assert asdict(chosen) == asdict(choose_alpha(model, images, labels, choice, eps=0.1))
    with pytest.raises(ResultsError, match=r"made with threat\.eps 0\.1, this run has threat\.eps 0\.2"):
        choose_alpha(model, images, labels, choice, threat=ThreatModel("Linf", 0.2), folder=tmp_path)
    (tmp_path / "choice.json").write_text("{}")
    with pytest.raises(ResultsError, match="of an earlier version; delete it"):
        choose_alpha(model, images, labels, choice, eps=0.1, folder=tmp_path)


def test_a_target_that_nothing_reaches_is_an_error(monkeypatch):
    model, images, labels = known(torch.full((4,), 0.9), torch.full((4,), 0.1))
    monkeypatch.setattr(choose._Held, "robust_accuracy", robust_from(lambda candidate: 0.3))
    for rule in ("clean", "robust"):
        with pytest.raises(TrainingError, match=f"no candidate reaches a {rule} accuracy of 0.9000"):
            choose_alpha(model, images, labels, Choice(rule=rule, target=0.9), eps=0.1)


def test_the_message_counts_the_examples_that_the_target_is_of():
    model, images, labels = known(torch.full((12,), 0.9), torch.full((12,), 0.4))
    for rule, count in (("clean", 12), ("robust", 3)):
        choice = Choice(rule=rule, target=1.0, first=1.0, last=1.0, attacks=(), attacked_examples=3)
        with pytest.raises(TrainingError, match=f"{rule} accuracy of 1.0000 on the {count} held-out examples"):
            choose_alpha(model, images, labels, choice, eps=0.1)


def test_labels_and_images_that_do_not_fit_the_nets_are_named():
    model, images, labels = known(torch.full((4,), 0.9), torch.full((4,), 0.4))
    choice = Choice(rule="clean", target=0.0, attacks=())
    with pytest.raises(ValueError, match="there is a label 101, but the net has 2 classes"):
        choose_alpha(model, images, labels + 100, choice, eps=0.1)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(5, 2)).double() for _ in range(2)]
    with pytest.raises(EvaluationError, match=r"the model fails on torch.float32 images .* number formats"):
        choose_alpha(MixedClassifier(*nets, 0.5).eval(), images, labels, choice, eps=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rule": "best"}, "'clean' or 'robust'"),
        ({"vary": "scale"}, "'alpha_min' or 'logit_bias'"),
        ({"first": 0.9, "last": 0.8}, "no value lies"),
        ({"step": 0.0}, "no value lies"),
        ({"last": 1.2}, "alpha_min must be in"),
        ({"widths": ()}, "at least one"),
        ({"vary": "logit_bias"}, "alpha_mins"),
        ({"target": 90.0}, r"target must be in \[0, 1\], got 90.0"),
        ({"widths": (0.1, -0.1)}, "widths must be at least 0"),
        ({"scales": (0.0,)}, "scales must be positive"),
        ({"vary": "logit_bias", "alpha_mins": (1.5,)}, "alpha_mins must be in"),
        ({"attacked_examples": 0}, "attacked_examples must be at least 1 or None, got 0"),
        ({"attacks": ("apgd-z",)}, "unknown attack 'apgd-z'"),
        ({"attack_steps": 0}, "iterations of apgd-t-pinned must be an integer of at least 1, got 0"),
    ],
)
def test_choices_without_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Choice(**({"rule": "clean", "target": 0.9} | wrong))


def test_accuracies_are_decided_in_float32_whatever_the_caller_allows(monkeypatch):
    allowed, forward = [], Probabilities.forward

    def noting(net, images):
        allowed.append(tf32_allowed())
        return forward(net, images)

    monkeypatch.setattr(Probabilities, "forward", noting)
    model, images, labels = known(torch.full((10,), 0.9), torch.linspace(0.0, 0.45, 10))
    with float32_precision(tf32=True):
        choose_alpha(model, images, labels, Choice(rule="clean", target=0.8, first=0.0, attacks=()), eps=0.1)
        assert tf32_allowed()
    assert allowed
    assert not any(allowed)


@pytest.mark.parametrize("classes", [2, 3])
def test_attacks_that_need_more_classes_are_replaced(classes):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(IMAGES[0].numel(), classes)) for _ in range(2)]
    model = MixedClassifier(*nets, 0.5).eval().requires_grad_(False)
    labels = nets[1](IMAGES).argmax(dim=1)
    choice = Choice(rule="robust", target=0.0, relative=False, attack_steps=2, attack_targets=1, step=0.5)
    assert "apgd-t-lowering" in choice.attacks
    assert choose_alpha(model, IMAGES, labels, choice, eps=0.01).robust >= 0.0


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'epsilon'"):
        choose_alpha(None, None, None, Choice(rule="clean", target=0.5), epsilon=0.1)


def test_a_constant_alpha_has_no_bias_to_vary():
    model = MixedClassifier(a_net(), a_net(), 0.5).eval()
    choice = Choice(rule="clean", target=0.5, vary="logit_bias", alpha_mins=(0.5,))
    with pytest.raises(ValueError, match="no bias"):
        choose_alpha(model, IMAGES, LABELS, choice, eps=0.1)
