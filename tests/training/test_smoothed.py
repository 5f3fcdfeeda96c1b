"""The trainer of nets to be smoothed: keyed noise, resumption, what the losses are given."""

import math

import pytest
import torch
from quadrants import IMAGES, LABELS, a_net, same_tensors

from adaptive_smoothing_zoo.certification import certify
from adaptive_smoothing_zoo.training.draws import batch_of_round
from adaptive_smoothing_zoo.training.smoothed import SmoothedTask, SmoothedTraining, train_smoothed_net
from adaptive_smoothing_zoo.training.smoothed_losses import (
    ConsistencyLoss,
    GaussianLoss,
    MacerLoss,
    SmoothAdvLoss,
    SmoothMixLoss,
    StabilityLoss,
)
from adaptive_smoothing_zoo.training.workers import Workers

CPU = Workers(torch.device("cpu"))
LOSSES = {
    "gaussian": GaussianLoss(),
    "stability": StabilityLoss(),
    "smoothadv": SmoothAdvLoss(noises=2, eps=0.25, steps=2, warm_up=2),
    "macer": MacerLoss(noises=4, deferred=5, weight=2.0),
    "consistency": ConsistencyLoss(),
    "smoothmix": SmoothMixLoss(noises=2, step_size=0.25, warm_up=2),
    "smoothmix, one step": SmoothMixLoss(noises=2, step_size=0.25, warm_up=2, one_step=True),
}


def settings(**changes):
    values = {"sigma": 0.25, "epochs": 15, "batch_size": 16, "learning_rate": 0.05, "schedule": "triangle"}
    return SmoothedTraining(**(values | changes))


def a_task(workers=CPU, net=None, **changes):
    return SmoothedTask(net or a_net(), IMAGES, LABELS, settings(**changes), workers)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_gives_nets_that_certify_and_the_same_seed_the_same_net(name):
    short, whole = settings(loss=LOSSES[name], epochs=3), settings(loss=LOSSES[name])
    assert same_tensors(*(train_smoothed_net(a_net(), IMAGES, LABELS, short) for _ in range(2)))
    net = train_smoothed_net(a_net(), IMAGES, LABELS, whole)
    assert not net.training
    certificates = certify(net, IMAGES, LABELS, sigma=0.25, n=200, failure_probability=0.01)
    assert certificates.certified_accuracy(0.25) > 0.9  # chance is 0.25


def test_noise_and_mixing_belong_to_the_example_and_the_round():
    loss = SmoothMixLoss(noises=3, steps=1)
    ((whole,),), _ = a_task(loss=loss, batch_size=32).round(0)
    chosen = batch_of_round(0, 0, 64, 32)
    assert torch.equal(whole.labels, LABELS[chosen])
    ((half,),), _ = a_task(loss=loss, batch_size=16).round(0)
    assert torch.equal(half.noise, whole.noise[:16])
    assert torch.equal(half.mixing, whole.mixing[:16])
    (parts,), _ = a_task(loss=loss, batch_size=32, accumulation=4).round(0)
    for i, part in enumerate(parts):
        for name in ("images", "labels", "noise", "mixing", "start"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[i::4])
        torch.testing.assert_close(part.adversary, whole.adversary[i::4])
    second = Workers(CPU.device)
    second.rank, second.size = 1, 2
    ((share,),), _ = a_task(second, loss=loss, batch_size=32).round(0)
    assert torch.equal(share.noise, whole.noise[1::2])
    ((later,),), _ = a_task(loss=loss, batch_size=32).round(1)
    assert not torch.equal(later.noise, whole.noise)
    assert not torch.equal(whole.noise[:, 0], whole.noise[:, 1])


def test_noise_is_normal_with_the_deviation_asked_for_and_mixing_uniform_below_a_half():
    ((part,),), _ = a_task(batch_size=64, sigma=0.5, loss=GaussianLoss(noises=20)).round(0)
    values = part.noise.flatten()  # 81,920 of them
    assert part.noise.shape == (64, 20, 1, 8, 8)
    assert values.mean().abs() < 0.01
    assert values.std() == pytest.approx(0.5, abs=0.005)
    assert (values.abs() < 0.5).double().mean() == pytest.approx(0.6827, abs=0.007)
    draws = torch.cat([a_task(batch_size=64).round(number)[0][0][0].mixing for number in range(20)])
    assert 0 <= draws.min() < 0.02
    assert 0.48 < draws.max() < 0.5
    assert draws.mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("name", ["smoothadv", "smoothmix"])
def test_attacks_meet_the_net_in_eval_mode_and_leave_it_as_it_was(name):
    net = a_net().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    task = a_task(net=net, loss=LOSSES[name])
    ((part,),), _ = task.round(5)  # a second epoch, fully warm
    moved = part.start if name == "smoothadv" else part.adversary
    assert ((moved - part.images).flatten(1).norm(dim=1) > 0.2).all()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    net.train()
    losses, _ = task.losses(net, part)
    assert losses.shape == (16,)
    assert not torch.equal(net.state_dict()["stages.0.1.running_mean"], before["stages.0.1.running_mean"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"sigma": float("inf")}, "sigma must be positive and finite, got inf"),
        ({"schedule": "none"}, "no schedule 'none'"),
        ({"loss": GaussianLoss(noises=0)}, "at least one noise"),
        ({"loss": SmoothMixLoss(steps=0)}, "at least one step"),
        ({"loss": SmoothMixLoss(max_norm=0.0)}, "max_norm must be the radius of a ball"),
        ({"loss": SmoothMixLoss(step_size=-1.0)}, "step_size of the loss must be finite and at least 0, got -1"),
        ({"loss": SmoothMixLoss(weight=math.nan)}, "weight of the loss must be finite and at least 0, got nan"),
        ({"loss": SmoothAdvLoss(eps=-1.0)}, "eps of the loss must be"),
        ({"loss": MacerLoss(inverse_temperature=-1.0)}, "inverse_temperature of the loss must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)
