"""What holds for every kind of training: it resumes, bit for bit, and repeats itself."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from quadrants import IMAGES, LABELS, a_mix, a_net, log_without_times, same_tensors
from torch import nn

from adaptive_smoothing_zoo.attacks.randomized import Randomization
from adaptive_smoothing_zoo.errors import ResultsError, TrainingError
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.training.mixing_training import MixingTraining, TrainingAttack, train_mixing_network
from adaptive_smoothing_zoo.training.smoothed import SmoothedTraining, train_smoothed_net
from adaptive_smoothing_zoo.training.smoothed_losses import MacerLoss, SmoothMixLoss


def base(**changes):
    return train_base_net, a_net, BaseNetTraining(epochs=2, batch_size=16, **changes)


def smoothed(**changes):
    return train_smoothed_net, a_net, SmoothedTraining(epochs=2, batch_size=16, sigma=0.25, **changes)


def mixing(setting="B", **changes):
    attack = TrainingAttack(setting=setting, eps=0.2, targets=1, randomization=Randomization(steps=2))
    return train_mixing_network, a_mix, MixingTraining(epochs=2, batch_size=16, attack=attack, **changes)


def with_dropout():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 4))


AUGMENTED = {"padding": 1, "flip": True, "accumulation": 2, "ema_decay": 0.9}
PGD = {"eps": 0.05, "attack_steps": 2, "attack_step_size": 0.03}
KINDS = {
    "standard": base(),
    "dropout": (train_base_net, with_dropout, BaseNetTraining(epochs=2, batch_size=16)),
    "PGD": base(**PGD, gradient_clip=1.0),
    "N-FGSM": base(eps=0.05, attack_step_size=0.05, noise_factor=2.0, **AUGMENTED),
    "TRADES": base(**PGD, attack_mode="eval", trades_beta=6.0),
    "PGD, bfloat16": base(**PGD, bfloat16=True),
    "SmoothMix": smoothed(loss=SmoothMixLoss(noises=2, warm_up=1, one_step=True), **AUGMENTED),
    "MACER, bfloat16": smoothed(loss=MacerLoss(noises=2, deferred=1), bfloat16=True),
    "A": mixing("A"),
    "B": mixing(**AUGMENTED, steps=2),
    "C": mixing("C", steps=2),
    "B, bfloat16": mixing(bfloat16=True),
}


class Stop:
    """Ends a training after a round, and notes the rounds that it was told of."""

    def __init__(self, after=None):
        self.after, self.rounds = after, []

    def __call__(self, progress):
        self.rounds.append(progress.round)
        if progress.round == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_goes_on_to_the_same_weights(kind, tmp_path):
    train, make, settings = KINDS[kind]
    torch.manual_seed(123)
    model, state = make(), torch.random.get_rng_state()
    whole = train(model, IMAGES, LABELS, settings, folder=tmp_path / "whole")
    assert torch.equal(torch.random.get_rng_state(), state)
    options = {"folder": tmp_path / "parts", "checkpoint_seconds": 1000.0}
    for after in (1, 5):
        with pytest.raises(KeyboardInterrupt):
            train(make(), IMAGES, LABELS, settings, on_progress=Stop(after), **options)
    told = Stop()
    torch.manual_seed(7)
    resumed = train(make(), IMAGES, LABELS, settings, on_progress=told, **options)
    assert told.rounds == [6, 7, 8]
    assert same_tensors(whole, resumed)
    assert {parameter.dtype for parameter in resumed.parameters()} == {torch.float32}
    assert log_without_times(tmp_path / "parts") == log_without_times(tmp_path / "whole")
    with pytest.raises(ResultsError, match=r"made with settings\.seed 0, this run has settings\.seed 1"):
        train(make(), IMAGES, LABELS, replace(settings, seed=1), **options)
    with pytest.raises(ResultsError, match="made with data "):
        train(make(), IMAGES.flip(0), LABELS, settings, **options)


def test_bfloat16_learns_what_float32_learns():
    losses = {}
    for bfloat16 in (False, True):
        settings = BaseNetTraining(epochs=10, batch_size=16, learning_rate=0.05, bfloat16=bfloat16)
        found = losses.setdefault(bfloat16, [])
        train_base_net(a_net(), IMAGES, LABELS, settings, on_progress=lambda p, to=found: to.append(p.measured["loss"]))
    assert losses[True] == pytest.approx(losses[False], rel=0.1, abs=0.02)
    assert losses[True][-1] < 0.5 * losses[True][0]


@pytest.mark.parametrize("train", [base, smoothed])
def test_a_batch_in_passes_gives_the_gradient_of_the_whole_where_no_batch_norm_sees_it(train):
    nets = []
    for accumulation in (1, 2, 4):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
        run, _, settings = train(accumulation=accumulation)
        nets.append(run(net, IMAGES.double(), LABELS, settings))
    for other in nets[1:]:
        torch.testing.assert_close(other[1].weight, nets[0][1].weight, rtol=1e-5, atol=1e-7)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    settings = BaseNetTraining(epochs=3, batch_size=16, learning_rate=1e30)
    with pytest.raises(TrainingError, match="the loss is nan in round"):
        train_base_net(a_net(), IMAGES, LABELS, settings, folder=tmp_path)


class Rooted(nn.Module):
    """A net with a root of zero: its logits are finite, its gradient is not."""

    def __init__(self):
        super().__init__()
        self.net, self.weight = a_net(), nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return self.net(images) + 0.0 * self.weight.sqrt()


def test_weights_that_are_not_finite_end_the_training_and_are_not_saved(tmp_path):
    settings = BaseNetTraining(epochs=1, batch_size=64)  # one round, whose loss is finite
    with pytest.raises(TrainingError, match="a weight is not finite in round 1"):
        train_base_net(Rooted(), IMAGES, LABELS, settings, folder=tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


@dataclass
class Output:
    logits: torch.Tensor


class Answering(nn.Module):
    """A net that answers in another form, and writes into its input."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = a_net(), form

    def forward(self, images):
        logits = self.net(images.clone())
        images.zero_()
        return self.form(logits)


@pytest.mark.parametrize("form", [lambda x: {"logits": x}, lambda x: (x, None), lambda x: Output(x)])
@pytest.mark.parametrize("kind", ["PGD", "TRADES", "N-FGSM", "SmoothMix"])
def test_a_net_may_hold_its_logits_in_something(kind, form):
    train, _, settings = KINDS[kind]
    expected = train(a_net(), IMAGES, LABELS, settings)
    assert same_tensors(train(Answering(form), IMAGES, LABELS, settings).net, expected)


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [(str, TypeError, "must be a tensor of logits"), (lambda x: x[:, 0], ValueError, r"gives \(16,\) for 16 images")],
)
def test_a_net_without_logits_is_refused(form, error, message):
    with pytest.raises(error, match=message):
        train_base_net(Answering(form), IMAGES, LABELS, KINDS["standard"][2])


@pytest.mark.parametrize("kind", ["standard", "SmoothMix", "B"])
def test_a_model_of_inference_mode_is_refused(kind):
    train, make, settings = KINDS[kind]
    with torch.inference_mode():
        model = copy.deepcopy(make())
    with pytest.raises(ValueError, match=r"made in torch\.inference_mode, so it has no gradient; build the net"):
        train(model, IMAGES, LABELS, settings)


@pytest.mark.parametrize("train", [train_base_net, train_smoothed_net, train_mixing_network])
def test_an_unknown_keyword_is_refused(train, tmp_path):
    make, make_model, settings = {kind[0]: kind for kind in (base(), smoothed(), mixing())}[train]
    with pytest.raises(TypeError, match="unexpected keyword argument 'foldr'"):
        make(make_model(), IMAGES, LABELS, settings, foldr=tmp_path)
