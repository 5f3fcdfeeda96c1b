from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from quadrants import IMAGES, LABELS, a_mix, a_net, same_tensors
from torch import nn

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork
from adaptive_smoothing_zoo.attacks.randomized import Randomization
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.training.choose_alpha import Choice, choose_alpha
from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss
from adaptive_smoothing_zoo.training.draws import batch_of_round
from adaptive_smoothing_zoo.training.mixing_training import (
    MixingTask,
    MixingTraining,
    TrainingAttack,
    train_mixing_network,
)
from adaptive_smoothing_zoo.training.workers import Workers

CPU = Workers(torch.device("cpu"))
SHORT = Randomization(steps=5)


def settings(**changes):
    attack = {"eps": 0.2, "randomization": SHORT} | changes.pop("attack", {})
    return MixingTraining(**({"epochs": 1, "batch_size": 16, "attack": TrainingAttack(**attack)} | changes))


def task(model=None, **changes):
    return MixingTask(model or a_mix().eval(), IMAGES, LABELS, settings(**changes), CPU)


@pytest.fixture(scope="module")
def nets():
    common = {"epochs": 10, "batch_size": 16, "learning_rate": 0.05}
    std = train_base_net(a_net(), IMAGES, LABELS, BaseNetTraining(**common))
    attack = {"eps": 0.3, "attack_steps": 2, "attack_step_size": 0.2}
    return std, train_base_net(a_net(), IMAGES, LABELS, BaseNetTraining(**common, **attack))


@pytest.mark.parametrize(
    "attack",
    [
        {"setting": "A"},
        {"setting": "B"},
        pytest.param({"setting": "C"}, marks=pytest.mark.slow),
        pytest.param({"setting": "C", "every_run": False}, marks=pytest.mark.slow),
    ],
)
def test_the_network_learns_to_tell_attacked_from_clean_and_everything_else_stays(nets, attack):
    torch.manual_seed(0)
    alpha = AdaptiveAlpha(
        MixingNetwork(8, 16, (8, 8, 8)), alpha_min=0.6, alpha_max=0.9, logit_scale=3.0, logit_bias=1.0
    )
    model = MixedClassifier(*nets, alpha)
    before = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("alpha")}
    rows = []
    attack = {"eps": 0.25, **attack}
    steps = 8 if attack.get("every_run", True) and attack["setting"] == "C" else 1
    epochs = 6 if attack["setting"] == "C" else 12
    train_mixing_network(
        model,
        IMAGES,
        LABELS,
        settings(epochs=epochs, batch_size=32, attack=attack, steps=steps, learning_rate=1e-3),
        on_progress=lambda progress: rows.append(progress.measured),
    )
    assert rows[-1]["loss"] < 0.85 * rows[0]["loss"]
    assert rows[-1]["alpha_attacked"] > rows[-1]["alpha_clean"] + 0.1
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert (alpha.alpha_min, alpha.alpha_max, alpha.logit_scale, alpha.logit_bias) == (0.6, 0.9, 3.0, 1.0)
    assert alpha.clamp is None
    assert not any(module.training for module in alpha.modules())
    assert not any(parameter.requires_grad for parameter in alpha.parameters())


@contextmanager
def float64_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, float64_default])
def test_training_and_choice_are_the_same_in_any_mode(mode):
    choice = Choice(rule="robust", target=0.0, first=0.7, last=0.7, attacks=("apgd-ce-lowering",), attack_steps=2)
    found = []
    for model, around in ((a_mix().eval(), nullcontext), (a_mix().eval(), mode)):
        with around():
            train_mixing_network(model, IMAGES[:16], LABELS[:16], settings())
            chosen = choose_alpha(model, IMAGES[:4], LABELS[:4], choice, eps=0.01, device=torch.device("cpu"))
        found.append((model, chosen))
    assert same_tensors(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_the_first_step_is_the_formula_s():
    """AdamW's first step of the gradient of the mean loss over clean and attacked images, computed by other means."""
    model, twin = a_mix().double(), a_mix().double()
    chosen_settings = settings(batch_size=64, loss=CompositeLoss(c_ce=0.5, c_bce=1.0, c_prod=0.1, clean_weight=2.0))
    images = IMAGES.double()
    ((part,),), _ = MixingTask(twin.eval(), images, LABELS, chosen_settings, CPU).round(0)
    outputs, half = part.outputs, 64
    alpha = twin.alpha.train()
    raw = alpha.mixing_network(outputs.std_maps, outputs.rob_maps)[:, 0]
    centre, spread = raw.detach().mean(), raw.detach().std()
    limited = raw.clamp(centre - 0.6 * spread, centre + 0.6 * spread)
    gamma = 2.0 * (limited - limited.mean()) / (limited.var(correction=0) + alpha.norm.eps).sqrt() + 0.4
    a = torch.sigmoid(gamma)
    mixed = ((1 - a)[:, None] * outputs.log_std.exp() + a[:, None] * outputs.log_rob.exp()).log()
    ce = -mixed.gather(1, part.labels[:, None])[:, 0]
    bce = -torch.where(part.use_rob > 0, a, 1 - a).log()
    weight = torch.where(part.use_rob > 0, 1.0, 2.0)
    loss = (weight * (0.5 * ce + bce + 0.1 * ce * bce)).mean()
    gradients = torch.autograd.grad(loss, list(alpha.parameters()))
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert torch.equal(part.use_rob, torch.tensor([0.0, 1.0]).repeat_interleave(half))
    rows = []
    train_mixing_network(model, images, LABELS, chosen_settings, on_progress=lambda p: rows.append(p.measured))
    assert rows[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert rows[0]["gradient_norm"] == pytest.approx(float(norm), rel=1e-6)
    rate = 1e-4 * (1 - torch.tensor(-1.0).exp())  # one step: the cosine is 1, the warm-up's period is 1
    clipped = [gradient * min(1.0, 10.0 / float(norm)) for gradient in gradients]
    before = a_mix().double().alpha.parameters()
    for new, old, gradient in zip(model.alpha.parameters(), before, clipped, strict=True):
        expected = old * (1 - rate * 1e-5) - rate * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(new, expected, rtol=1e-6, atol=1e-9)


def test_clean_and_attacked_images_are_of_equal_number_in_every_pass():
    for attack, steps, accumulation, rows in (
        ({"setting": "A"}, 1, 2, 16),
        ({"setting": "B"}, 2, 4, 4),
        ({"setting": "C"}, 4, 2, 16),  # 4 runs: the cross-entropy and 3 wrong classes
        ({"setting": "C", "targets": 1}, 2, 1, 32),
        ({"setting": "C", "every_run": False}, 1, 1, 32),
    ):
        parts, _ = task(attack=attack, steps=steps, accumulation=accumulation).round(0)
        assert [len(step) for step in parts] == [accumulation] * steps
        for part in (part for step in parts for part in step):
            assert len(part.labels) == len(part.outputs.log_std) == len(part.outputs.std_maps[0]) == rows
            assert part.use_rob.tolist() == [0.0] * (rows // 2) + [1.0] * (rows // 2)


def test_parts_hold_what_g_and_h_say_of_the_images_of_the_batch_and_its_attack(nets):
    model = MixedClassifier(*nets, a_mix().alpha).eval()
    ((part,),), measured = task(model, attack={"eps": 0.25}).round(3)
    chosen = batch_of_round(0, 3, 64, 16)
    assert torch.equal(part.labels, LABELS[chosen].repeat(2))
    clean = IMAGES[chosen]
    torch.testing.assert_close(part.outputs.log_std[:16], model.std_model(clean).log_softmax(1))
    torch.testing.assert_close(part.outputs.log_rob[:16], model.rob_model(clean).log_softmax(1))
    for maps, net in ((part.outputs.std_maps, model.std_model), (part.outputs.rob_maps, model.rob_model)):
        for mine, its in zip(maps, net.forward_intermediates(clean, [0, 1])[1], strict=True):
            torch.testing.assert_close(mine[:16], its)
    assert (part.outputs.log_std[16:] - part.outputs.log_std[:16]).abs().max() > 0.1
    full_range = AdaptiveAlpha(model.alpha.mixing_network).eval()  # training's scale and bias are the defaults
    full_range.norm = model.alpha.norm
    mixed = MixedClassifier(*nets, full_range).eval()
    assert measured["accuracy_clean"] == (mixed(clean).argmax(1) == LABELS[chosen]).float().mean()


def test_attacks_follow_the_gradient_that_their_setting_allows(monkeypatch):
    """In A the mixing network gets no gradient; in B and C it does."""
    for setting, flows in (("A", False), ("B", True), ("C", True)):
        model = a_mix().eval()
        seen = set()
        model.alpha.mixing_network.register_forward_hook(
            lambda _, inputs, output, seen=seen: seen.add(output.requires_grad)
        )
        round_ = task(model, attack={"setting": setting})
        model.alpha.requires_grad_(False)
        round_.round(0)
        assert (True in seen) == flows


def test_an_attack_belongs_to_the_example_and_the_round_not_to_the_batch(nets):
    model = MixedClassifier(*nets, a_mix().alpha).eval()
    (whole,), _ = task(model, batch_size=64).round(0)
    chosen = batch_of_round(0, 0, 64, 64)

    class Second(Workers):
        rank, size = 1, 2

    other = MixingTask(model, IMAGES, LABELS, settings(batch_size=64), Second(torch.device("cpu")))
    (half,), _ = other.round(0)
    assert torch.equal(half[0].labels[:32], LABELS[chosen[1::2]])
    attacked = whole[0].outputs.log_rob[64:][1::2]
    torch.testing.assert_close(half[0].outputs.log_rob[32:], attacked, rtol=1e-3, atol=1e-4)


def test_a_training_with_another_loss_or_another_g_does_not_resume(tmp_path):
    def train(model, **changes):
        return train_mixing_network(model, IMAGES, LABELS, settings(**changes), folder=tmp_path)

    train(a_mix())
    with pytest.raises(ResultsError, match=r"loss\.c_prod 0\.2, this run has settings\.loss\.c_prod 0\.1"):
        train(a_mix(), loss=CompositeLoss(c_prod=0.1))
    other = a_mix()
    other.std_model.head.bias.data += 1.0
    with pytest.raises(ResultsError, match="made with std_model "):
        train(other)
    other = a_mix()
    next(part for part in other.rob_model.modules() if isinstance(part, nn.BatchNorm2d)).eps = 0.1  # not a weight
    with pytest.raises(ResultsError, match="made with rob_model "):
        train(other)


@pytest.mark.parametrize("attack", [{"setting": "B"}, {"setting": "C"}, {"setting": "C", "every_run": False}])
def test_bfloat16_computes_attacks_and_network_and_float32_judges(nets, attack):
    model = MixedClassifier(*nets, a_mix().alpha)
    steps = 8 if attack == {"setting": "C"} else 1
    dtypes = set()
    model.alpha.mixing_network.head.register_forward_hook(lambda _, inputs, output: dtypes.add(output.dtype))
    chosen = settings(attack=attack, steps=steps, bfloat16=True)
    (first, *_), measured = MixingTask(model.eval(), IMAGES, LABELS, chosen, CPU).round(0)
    assert {first[0].outputs.log_std.dtype, first[0].outputs.std_maps[0].dtype} == {torch.float32}
    assert dtypes == {torch.bfloat16, torch.float32}
    assert 0 <= measured["accuracy_attacked"] <= measured["accuracy_clean"] <= 1
    train_mixing_network(model, IMAGES, LABELS, chosen)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.std_model.stages[0][3].weight.is_contiguous()


def test_channels_last_changes_no_more_than_rounding(nets):
    models = []
    for channels_last in (False, True):
        model = MixedClassifier(*nets, a_mix().alpha)
        models.append(train_mixing_network(model, IMAGES, LABELS, settings(channels_last=channels_last)))
    torch.testing.assert_close(models[0](IMAGES), models[1](IMAGES), rtol=0.02, atol=0.02)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="constant alpha"):
        train_mixing_network(MixedClassifier(a_net(), a_net(), 0.5), IMAGES, LABELS, settings())
    with pytest.raises(ValueError, match="16 attacked images per process cannot be split into 3 steps of 1"):
        task(steps=3)
    with pytest.raises(ValueError, match="all 64 examples"):
        task(batch_size=65)
    three = build("small_cnn", widths=(4, 8), num_classes=3)
    model = MixedClassifier(three, three, AdaptiveAlpha(MixingNetwork(8, 16, (8, 8, 8)))).eval()
    with pytest.raises(ValueError, match="at least 4 classes; there are 3"):
        task(model, attack={"setting": "C"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"setting": "D"}, "unknown training attack 'D'; known: A, B, BT, C, T"),
        ({"alpha_t_logits": (2.0, 1.0)}, "alpha_t_logits must be a finite range"),
        ({"norm": "L1"}, "norm"),
        ({"eps": 0.0}, "eps"),
        ({"targets": -1}, "targets"),
    ],
)
def test_an_attack_that_is_none_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingAttack(**({"eps": 0.1} | wrong))


def test_the_gray_box_attack_does_not_depend_on_alpha_s_part():
    """Alpha's own loss has no gradient in A, so its weight must change nothing, not even through (1 - w)."""
    rounds = []
    for weight in ((0.0, 0.0), (0.4, 0.4)):
        randomization = replace(SHORT, alpha_weight=weight)
        ((part,),), _ = task(attack={"setting": "A", "randomization": randomization}).round(0)
        rounds.append(part.outputs.log_std)
    assert torch.equal(*rounds)
    assert F.softmax(rounds[0], dim=1).isfinite().all()
