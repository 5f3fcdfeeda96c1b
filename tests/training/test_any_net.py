"""Trainings of the nets and images that users bring: they work, or are refused in a sentence."""

import pytest
import torch
from quadrants import IMAGES, LABELS, a_net, same_tensors
from torch import nn

from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.training.smoothed import SmoothedTraining, train_smoothed_net
from adaptive_smoothing_zoo.training.smoothed_losses import SmoothAdvLoss

PGD = {"eps": 0.05, "attack_steps": 1, "attack_step_size": 0.03}
ONE_EPOCH = {"epochs": 1, "batch_size": 16}
TRAININGS = {
    "standard": (train_base_net, BaseNetTraining(**ONE_EPOCH, accumulation=2)),
    "PGD": (train_base_net, BaseNetTraining(**ONE_EPOCH, **PGD)),
    "N-FGSM": (train_base_net, BaseNetTraining(**ONE_EPOCH, eps=0.05, attack_step_size=0.05, noise_factor=2.0)),
    "TRADES": (train_base_net, BaseNetTraining(**ONE_EPOCH, **PGD, trades_beta=1.0)),
    "Gaussian": (train_smoothed_net, SmoothedTraining(**ONE_EPOCH, sigma=0.1)),
    "DDN": (train_smoothed_net, SmoothedTraining(**ONE_EPOCH, sigma=0.1, loss=SmoothAdvLoss(search="ddn", steps=2))),
}


def linear_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


class Tied(nn.Module):
    """Two layers with the same weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = (nn.Linear(64, size) for size in (64, 64, 4))
        self.second.weight = self.first.weight

    def forward(self, images):
        return self.head(self.second(self.first(images.flatten(1)).relu()).relu())


class Noting(nn.Sequential):
    """A net that saves more than its tensors."""

    def __init__(self, note):
        super().__init__(a_net())
        self.note = note

    def get_extra_state(self):
        return self.note

    def set_extra_state(self, state):
        self.note = state


@pytest.mark.parametrize("name", TRAININGS)
def test_images_that_require_a_gradient_get_none(name):
    train, settings = TRAININGS[name]
    images = IMAGES.clone().requires_grad_()
    assert same_tensors(train(a_net(), images, LABELS, settings), train(a_net(), IMAGES, LABELS, settings))
    assert images.grad is None


@pytest.mark.parametrize("name", TRAININGS)
def test_a_net_learns_in_its_own_number_format(name):
    train, settings = TRAININGS[name]
    assert train(linear_net().bfloat16(), IMAGES.bfloat16(), LABELS, settings)[1].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("make", [Tied, lambda: linear_net().bfloat16()])
def test_tied_weights_and_bfloat16_are_kept_in_checkpoints(make, tmp_path):
    def train(**options):
        net = make()
        images = IMAGES.to(next(net.parameters()).dtype)
        return train_base_net(net, images, LABELS, BaseNetTraining(epochs=2, batch_size=16, ema_decay=0.9), **options)

    def stop(progress):
        if progress.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path, checkpoint_seconds=0.0, on_progress=stop)
    again = train(folder=tmp_path)
    assert same_tensors(again, train())
    if isinstance(again, Tied):
        assert again.second.weight is again.first.weight


def test_extra_state_is_kept_as_it_is_where_no_checkpoint_needs_it(tmp_path):
    settings = BaseNetTraining(**ONE_EPOCH, ema_decay=0.9)
    net = train_base_net(Noting({"made": "here"}), IMAGES, LABELS, settings)
    assert net.note == {"made": "here"}
    assert same_tensors(net[0], train_base_net(Noting(None), IMAGES, LABELS, settings)[0])
    with pytest.raises(TypeError, match="checkpoints hold tensors, and _extra_state of the net is none; return"):
        train_base_net(Noting({"made": "here"}), IMAGES, LABELS, settings, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    train_base_net(Noting(torch.ones(2)), IMAGES, LABELS, settings, folder=tmp_path)


@pytest.mark.parametrize("name", TRAININGS)
def test_labels_beyond_the_classes_are_named(name):
    train, settings = TRAININGS[name]
    with pytest.raises(ValueError, match="there is a label 9, but the net has 4 classes, counted from 0"):
        train(a_net(), IMAGES, torch.where(LABELS == 3, 9, LABELS), settings)


@pytest.mark.parametrize("name", TRAININGS)
def test_images_of_another_number_format_are_named(name):
    train, settings = TRAININGS[name]
    with pytest.raises(EvaluationError, match=r"the model fails on torch.float32 images .* number formats of its weig"):
        train(linear_net().double(), IMAGES, LABELS, settings)
