from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from quadrants import IMAGES, LABELS, a_net, same_tensors

from adaptive_smoothing_zoo.attacks.random_streams import run_keys, uniform_images
from adaptive_smoothing_zoo.training.base_nets import (
    BaseNetTask,
    BaseNetTraining,
    divergence,
    train_base_net,
)
from adaptive_smoothing_zoo.training.draws import batch_of_round, derived_seed
from adaptive_smoothing_zoo.training.optimization import triangle
from adaptive_smoothing_zoo.training.workers import Workers

CPU = Workers(torch.device("cpu"))


def test_all_kinds_of_training_learn_and_the_same_seed_gives_the_same_net():
    common = {"epochs": 10, "batch_size": 16, "learning_rate": 0.05}
    pgd = {"eps": 0.05, "attack_steps": 2, "attack_step_size": 0.03}
    for settings in (
        BaseNetTraining(**common),
        BaseNetTraining(**common, **pgd),
        BaseNetTraining(**common, **pgd, attack_mode="eval", trades_beta=1.0),
        BaseNetTraining(**common, eps=0.05, noise_factor=2.0, attack_step_size=0.05),
    ):
        losses = []
        net = train_base_net(
            a_net(), IMAGES, LABELS, settings, on_progress=lambda p, losses=losses: losses.append(p.measured["loss"])
        )
        assert losses[-1] < 0.5 * losses[0]
        assert (net(IMAGES).argmax(1) == LABELS).all()
        assert not net.training
        short = replace(settings, epochs=2)
        assert same_tensors(*(train_base_net(a_net(), IMAGES, LABELS, short) for _ in range(2)))


def test_sgd_s_first_step_is_the_formula_s():
    net = a_net().double().train()
    expected = a_net().double().train()
    settings = BaseNetTraining(epochs=1, batch_size=64, learning_rate=0.1, weight_decay=0.01, label_smoothing=0.1)
    images = IMAGES.double()
    chosen = batch_of_round(0, 0, 64, 64)
    logits = expected(images[chosen])
    target = 0.9 * F.one_hot(LABELS[chosen], 4) + 0.1 / 4
    loss = -(target * logits.log_softmax(1)).sum(1).mean()
    gradients = torch.autograd.grad(loss, list(expected.parameters()))
    train_base_net(net, images, LABELS, settings)
    rate = 0.1 * triangle(0, 1)
    for after, before, gradient in zip(net.parameters(), expected.parameters(), gradients, strict=True):
        step = -rate * 1.9 * (gradient + 0.01 * before)  # Nesterov's first step
        torch.testing.assert_close(after - before, step, rtol=1e-4, atol=1e-6)


def the_attack(settings, seen_by=None):
    """Chosen examples, clean and attacked images of the first round."""
    net = a_net()
    if seen_by is not None:
        net.register_forward_pre_hook(lambda _, inputs: seen_by.append(inputs[0].detach()))
    ((part,),), _ = BaseNetTask(net, IMAGES, LABELS, settings, CPU).round(0)
    return batch_of_round(settings.seed, 0, 64, settings.batch_size), part


def test_n_fgsm_is_one_unprojected_step_from_noise():
    settings = BaseNetTraining(epochs=1, batch_size=64, eps=0.05, attack_step_size=0.07, noise_factor=3.0)
    seen = []
    chosen, part = the_attack(settings, seen)
    keys = run_keys(derived_seed(0, "round", 0), "n-fgsm", 0, chosen)
    noisy = IMAGES[chosen] + 3.0 * 0.05 * uniform_images(keys, (1, 8, 8))
    torch.testing.assert_close(seen[0], noisy, rtol=0, atol=1e-7)
    step = part.attacked - noisy
    inside = (noisy + 0.07 < 1) & (noisy - 0.07 > 0)
    assert inside.any()
    assert ((step[inside].abs() - 0.07).abs() < 1e-6).float().mean() > 0.99  # the rest: gradients of exactly zero
    assert (part.attacked - IMAGES[chosen]).abs().max() > 0.15
    assert torch.equal(part.clean, IMAGES[chosen])


def test_trades_attacks_the_divergence_from_close_to_the_image():
    settings = BaseNetTraining(
        epochs=1, batch_size=64, eps=0.05, attack_steps=1, attack_step_size=0.02, trades_beta=6.0, attack_mode="eval"
    )
    _, part = the_attack(settings)
    away = (part.attacked - part.clean).abs()
    assert ((away - 0.02).abs() < 0.006).float().mean() > 0.9  # one signed step from noise of 0.001, cut by the box
    net = a_net().eval()
    assert divergence(net(part.clean), net(part.attacked)).mean() > 0


def test_the_trades_loss_is_its_formula_in_float64():
    net = a_net().double()
    settings = BaseNetTraining(epochs=1, batch_size=64, eps=0.05, trades_beta=6.0, attack_step_size=0.02)
    task = BaseNetTask(net, IMAGES.double(), LABELS, settings, CPU)
    ((part,),), _ = task.round(0)
    net.eval()
    task.run = lambda module, images: module(images)  # in float64
    losses, _ = task.losses(net, part)
    clean, attacked = net(part.clean).softmax(1), net(part.attacked).softmax(1)
    natural = -clean.log().gather(1, part.labels[:, None]).squeeze(1)
    torch.testing.assert_close(losses, natural + 6.0 * (clean * (clean / attacked).log()).sum(1))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_stays_in_its_ball_and_depends_on_examples_alone(norm):
    settings = BaseNetTraining(
        epochs=1, batch_size=64, eps=0.3, norm=norm, attack_steps=3, attack_step_size=0.2, attack_mode="eval"
    )
    _, part = the_attack(settings)
    away = (part.attacked - part.clean).flatten(1)
    size = away.abs().amax(1) if norm == "Linf" else away.norm(dim=1)
    assert 0.2 < size.max() <= 0.3 + 1e-6
    task = BaseNetTask(a_net(), IMAGES, LABELS, replace(settings, batch_size=32), CPU)
    ((other,),), _ = task.round(0)
    assert torch.equal(other.clean, part.clean[:32])
    torch.testing.assert_close(other.attacked, part.attacked[:32])


def test_the_average_of_the_weights_takes_their_place():
    settings = BaseNetTraining(epochs=2, batch_size=16, learning_rate=0.05, ema_decay=0.5)
    history = []
    net = a_net()
    plain = a_net()
    train_base_net(
        plain,
        IMAGES,
        LABELS,
        replace(settings, ema_decay=0.0),
        on_progress=lambda _: history.append(plain.head.weight.detach().clone()),
    )
    train_base_net(net, IMAGES, LABELS, settings)
    expected = a_net().head.weight.detach()
    for step, weight in enumerate(history):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(net.head.weight.detach(), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise_factor": 2.0}, "need a radius"),
        ({"trades_beta": 6.0}, "need a radius"),
        ({"eps": 0.1, "noise_factor": 2.0, "norm": "L2"}, "N-FGSM is one step"),
        ({"eps": 0.1, "noise_factor": 2.0, "trades_beta": 1.0}, "N-FGSM is one step"),
        ({"attack_mode": "both"}, "attack_mode"),
        ({"eps": 0.1}, "positive attack_step_size, got 1 and 0.0"),
        ({"eps": 0.1, "attack_steps": 0, "attack_step_size": 0.1}, "attack_steps of at least 1"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be a finite number in \[0, 1\], got 1.5"),
        ({"eps": 0.1, "attack_step_size": 0.1, "trades_beta": -1.0}, "trades_beta must be a finite number"),
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"accumulation": 0}, "accumulation must be at least 1, got 0"),
        ({"padding": -1}, "padding must be at least 0, got -1"),
        ({"learning_rate": -0.1}, "learning_rate must be a finite number >= 0"),
        ({"gradient_clip": -1.0}, "gradient_clip must be positive or None, got -1.0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        BaseNetTraining(**({"epochs": 1} | wrong))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (255 * IMAGES, LABELS, r"images must be finite and in \[0, 1\], got values in"),
        (IMAGES / 0.0, LABELS, "images must be finite"),
        ((255 * IMAGES).byte(), LABELS, "divide 8-bit images by 255"),
        (IMAGES, LABELS.float(), r"64 images need int64 labels of shape \(64,\), got torch.float32 \(64,\)"),
        (IMAGES, LABELS[:8], r"got torch.int64 \(8,\)"),
        (IMAGES, LABELS - 100, "labels must be class indices, at least 0, got -100"),
        (IMAGES[:0], LABELS[:0], "no images to learn from"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        train_base_net(a_net(), images, labels, BaseNetTraining(epochs=1, batch_size=16))


@pytest.mark.parametrize(("wrong", "message"), [({"batch_size": 65}, "all 64"), ({"accumulation": 3}, "3 equal")])
def test_a_batch_must_fit_the_data_and_its_passes(wrong, message):
    with pytest.raises(ValueError, match=message):
        train_base_net(a_net(), IMAGES, LABELS, BaseNetTraining(**({"epochs": 1, "batch_size": 16} | wrong)))
