import copy

import pytest
import torch
from quadrants import IMAGES, LABELS, a_net
from torch import nn

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork
from adaptive_smoothing_zoo.attacks.randomized import Randomization
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.machine import folding as prepare
from adaptive_smoothing_zoo.machine.folding import fold_batch_norms
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.training.choose_alpha import Choice, choose_alpha
from adaptive_smoothing_zoo.training.frozen import faster_copy, frozen
from adaptive_smoothing_zoo.training.mixing_training import MixingTraining, TrainingAttack, train_mixing_network
from adaptive_smoothing_zoo.training.smoothed import SmoothedTraining, train_smoothed_net
from adaptive_smoothing_zoo.training.smoothed_losses import SmoothMixLoss


def shaken(net):
    """The net with statistics and weights of batch norms that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2.0, generator=generator)
            for tensor in (module.running_mean, module.bias.data):
                tensor.uniform_(-0.5, 0.5, generator=generator)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "preact_resnet18"])
def test_the_copy_has_the_net_s_logits_and_maps_and_fewer_layers(name):
    options = {"widths": (4, 8)} if name == "small_cnn" else {"width": 4}
    net = shaken(build(name, num_classes=4, **options))
    images = IMAGES[:4] if name == "small_cnn" else torch.rand(4, 3, 16, 16)
    copied = faster_copy(net, images[:2], (0, 1))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copied.modules()) < sum(
        isinstance(module, nn.BatchNorm2d) for module in net.modules()
    )
    torch.testing.assert_close(copied(images), net(images), rtol=1e-4, atol=1e-5)
    for mine, its in zip(
        copied.forward_intermediates(images, [0, 1])[1], net.forward_intermediates(images, [0, 1])[1], strict=True
    ):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


class Peeping(nn.Module):
    """Looks at its layers from outside, so that folding changes what it says."""

    def __init__(self):
        super().__init__()
        self.net = shaken(a_net())

    def forward(self, images):
        return self.net(images) + sum(isinstance(module, nn.BatchNorm2d) for module in self.modules())


def test_where_folding_changes_the_net_the_net_itself_is_used(caplog):
    net = Peeping().eval()
    assert fold_batch_norms(Peeping().eval(), IMAGES[:2]) > 0
    assert faster_copy(net, IMAGES[:2], None) is net
    assert "gives other outputs" in caplog.text


def test_an_error_of_our_own_is_not_taken_for_the_net_s(monkeypatch):
    def fails(outputs):
        raise RuntimeError("a look at allow_tf32")

    monkeypatch.setattr(prepare, "rounding", fails)
    with pytest.raises(RuntimeError, match="allow_tf32"):
        faster_copy(shaken(a_net()), IMAGES[:2], None)


class Foreign(nn.Module):
    """A net with feature maps whose batch norm, dropout and counters change when it is used as foreign nets are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(3), persistent=False)
        self.register_buffer("nothing", None)

    def forward_intermediates(self, images, indices=None):
        self.calls += 1  # in place
        self.seen = self.seen + 1.0  # another tensor
        first = self.conv(images)
        second = self.conv2(first)
        return second, [first, second]

    def forward_head(self, final):
        return self.head(self.drop(final.mean((2, 3))))

    def forward(self, images):
        return self.forward_head(self.forward_intermediates(images)[0])


def snapshot(net):
    tensors = {name: value.clone() for name, value in [*net.named_parameters(), *net.named_buffers()]}
    modes = [module.training for module in net.modules()]
    return tensors, modes, [parameter.requires_grad for parameter in net.parameters()]


def assert_unchanged(net, before):
    tensors, modes, learning = snapshot(net)
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(value, before[0][name]) for name, value in tensors.items())
    assert (modes, learning) == before[1:]


def a_foreign_mix():
    return MixedClassifier(Foreign(), Foreign(), AdaptiveAlpha(MixingNetwork(8, 16, (4, 4, 4))))


def train_a_mixing_network(model, setting="B"):
    attack = TrainingAttack(setting=setting, eps=0.1, targets=1, randomization=Randomization(steps=2))
    settings = MixingTraining(epochs=1, batch_size=32, attack=attack)
    train_mixing_network(model, IMAGES, LABELS, settings)


def choose(model):
    choice = Choice(rule="clean", target=0.0, step=0.5, attack_steps=2, attack_targets=1, attacked_examples=8)
    choose_alpha(model, IMAGES, LABELS, choice, eps=0.1)


@pytest.mark.parametrize("train", [*(lambda m, s=s: train_a_mixing_network(m, s) for s in "ABC"), choose])
@pytest.mark.parametrize("mode", ["train", "eval", "some"])
def test_frozen_g_and_h_are_after_a_training_what_they_were(train, mode):
    model = a_foreign_mix()
    if mode == "eval":
        model.eval().requires_grad_(False)
    if mode == "some":
        model.std_model.conv.eval()
        model.rob_model.head.requires_grad_(False)
    before = [snapshot(net) for net in (model.std_model, model.rob_model)]
    train(model)
    for net, was in zip((model.std_model, model.rob_model), before, strict=True):
        assert_unchanged(net, was)


def test_a_failed_training_leaves_frozen_nets_alone():
    model = a_foreign_mix()
    before = snapshot(model.std_model)

    def fail(progress):
        raise KeyboardInterrupt

    settings = MixingTraining(epochs=1, batch_size=32, attack=TrainingAttack(eps=0.1))
    with pytest.raises(KeyboardInterrupt):
        train_mixing_network(model, IMAGES, LABELS, settings, on_progress=fail)
    assert_unchanged(model.std_model, before)


SETTINGS = {
    "standard": BaseNetTraining(epochs=1, batch_size=32),
    "PGD": BaseNetTraining(epochs=1, batch_size=32, eps=0.1, attack_steps=2, attack_step_size=0.1),
    "TRADES": BaseNetTraining(
        epochs=1, batch_size=32, eps=0.1, attack_steps=2, attack_step_size=0.1, attack_mode="eval", trades_beta=6.0
    ),
    "N-FGSM": BaseNetTraining(epochs=1, batch_size=32, eps=0.1, attack_step_size=0.1, noise_factor=2.0),
    "averaged": BaseNetTraining(epochs=1, batch_size=32, ema_decay=0.9),
    "SmoothMix": SmoothedTraining(sigma=0.25, epochs=1, batch_size=32, loss=SmoothMixLoss(steps=1)),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_frozen_part_of_what_is_trained_stays_as_it_is(kind):
    """A frozen backbone under a head that learns: its batch norms do not see the batches, its dropout drops nothing."""
    backbone, head = Foreign().requires_grad_(False), nn.Linear(4, 4)
    tensors, first = snapshot(backbone)[0], copy.deepcopy(head.weight)
    dropped = []
    backbone.drop.register_forward_hook(lambda _, inputs, output: dropped.append(not torch.equal(inputs[0], output)))
    train = train_smoothed_net if kind == "SmoothMix" else train_base_net
    net = train(nn.Sequential(backbone, head), IMAGES, LABELS, SETTINGS[kind])
    assert all(torch.equal(value, tensors[name]) for name, value in snapshot(backbone)[0].items())
    assert dropped
    assert not any(dropped)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not torch.equal(head.weight, first)
    assert not any(module.training for module in net.modules())


def test_nothing_to_train_is_said():
    with pytest.raises(ValueError, match="all parameters are frozen; call requires_grad_"):
        train_base_net(a_net().requires_grad_(False), IMAGES, LABELS, SETTINGS["standard"])


def test_nets_are_left_alone_where_a_later_one_cannot_be_frozen():
    net = Foreign()
    with torch.inference_mode():
        other = nn.Linear(2, 2)
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"made in torch\.inference_mode"), frozen(net, other):
        pass
    assert_unchanged(net, before)


def test_within_the_block_nets_are_in_eval_mode_and_without_gradients():
    net = Foreign()
    with frozen(net):
        assert not any(module.training for module in net.modules())
        assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(module.training for module in net.modules())
