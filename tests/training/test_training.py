from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, augment, train_base_net
from adaptive_smoothing_zoo.training.mixing import MixingTraining, composite_loss, train_mixing_network

LABELS = torch.arange(64) % 4
# Four classes, each a bright quadrant in noise.
IMAGES = 0.2 * torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
for i, label in enumerate(LABELS.tolist()):
    row, column = divmod(label, 2)
    IMAGES[i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.5


def a_net():
    torch.manual_seed(0)
    return build("small_cnn", widths=(4, 8), num_classes=4)


@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_a_base_net_learns_and_the_same_seed_gives_the_same_net(eps):
    settings = BaseNetTraining(
        epochs=15, batch_size=16, learning_rate=0.05, eps=eps, attack_steps=2, attack_step_size=0.03
    )
    losses = []
    first = train_base_net(a_net(), IMAGES, LABELS, settings, on_epoch=lambda _, loss: losses.append(loss))
    second = train_base_net(a_net(), IMAGES, LABELS, settings)
    assert losses[-1] < 0.5 * losses[0]
    assert (first(IMAGES).argmax(1) == LABELS).all()
    assert not first.training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("noise_factor", [0.0, 2.0])
def test_an_interrupted_training_goes_on_to_the_same_net(tmp_path, noise_factor):
    settings = BaseNetTraining(
        epochs=3, batch_size=24, eps=0.05, attack_step_size=0.05, noise_factor=noise_factor, padding=1, flip=True
    )
    whole = train_base_net(a_net(), IMAGES, LABELS, settings)

    def interrupt(epoch, loss):
        if epoch == 1:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train_base_net(a_net(), IMAGES, LABELS, settings, checkpoint=checkpoint, on_epoch=interrupt)
    epochs = []
    resumed = train_base_net(
        a_net(), IMAGES, LABELS, settings, checkpoint=checkpoint, on_epoch=lambda epoch, _: epochs.append(epoch)
    )
    assert epochs == [2]
    assert all(torch.equal(whole.state_dict()[key], value) for key, value in resumed.state_dict().items())
    with pytest.raises(ResultsError, match=r"made with the settings .*'seed': 0.* not .*'seed': 1"):
        train_base_net(a_net(), IMAGES, LABELS, replace(settings, seed=1), checkpoint=checkpoint)


def test_n_fgsm_is_one_unprojected_step_from_noise():
    seen = []
    net = a_net()
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    settings = BaseNetTraining(epochs=1, batch_size=64, eps=0.05, attack_step_size=0.07, noise_factor=3.0)
    train_base_net(net, IMAGES, LABELS, settings)
    noisy, attacked = seen
    step = attacked - noisy
    inside = (noisy + 0.07 < 1) & (noisy - 0.07 > 0)
    assert inside.any()
    assert ((step[inside].abs() - 0.07).abs() < 1e-6).float().mean() > 0.99  # the rest: gradients of exactly zero
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    noise = noisy - IMAGES[order]
    assert 0.14 < noise.abs().max() <= 0.15 + 1e-6
    assert (attacked - IMAGES[order]).abs().max() > 0.15


def test_bfloat16_training_runs_and_leaves_float32_weights():
    net = train_base_net(a_net(), IMAGES, LABELS, BaseNetTraining(epochs=1, batch_size=32, bfloat16=True))
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


def test_a_crop_is_a_shift_of_the_padded_image_and_mirroring_reverses_columns():
    images = torch.arange(2 * 1 * 4 * 5, dtype=torch.float32).reshape(2, 1, 4, 5) + 1
    padded = F.pad(images, (1, 1, 1, 1))
    shifts = [(r, c) for r in range(3) for c in range(3)]
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        for original, cropped in zip(padded, augment(images, 1, False, generator), strict=True):
            match = [s for s in shifts if torch.equal(cropped, original[:, s[0] : s[0] + 4, s[1] : s[1] + 5])]
            assert len(match) == 1
            seen.add(match[0])
    assert len(seen) == 9
    mirrored = [augment(images, 0, True, generator) for _ in range(20)]
    kinds = {
        "same" if torch.equal(image, original) else "mirrored" if torch.equal(image, original.flip(2)) else "neither"
        for batch in mirrored
        for image, original in zip(batch, images, strict=True)
    }
    assert kinds == {"same", "mirrored"}


def test_the_composite_loss_is_its_formula():
    log_mix = torch.randn(5, 3, dtype=torch.float64).log_softmax(1)
    alpha_logit, labels = torch.randn(5, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    use_rob = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    settings = MixingTraining(epochs=1, eps=0.1, c_ce=0.5, c_bce=1.0, c_prod=0.1)
    loss = composite_loss(log_mix, alpha_logit, labels, use_rob, settings)
    for i in range(5):
        ce = -log_mix[i, labels[i]]
        alpha = 1 / (1 + (-alpha_logit[i]).exp())
        bce = -alpha.log() if use_rob[i] else -(1 - alpha).log()
        assert loss[i] == pytest.approx(float(0.5 * ce + bce + 0.1 * ce * bce))


def test_the_mixing_network_learns_to_tell_attacked_from_clean_and_the_base_nets_stay():
    std = train_base_net(a_net(), IMAGES, LABELS, BaseNetTraining(epochs=10, batch_size=16, learning_rate=0.05))
    rob = train_base_net(
        a_net(),
        IMAGES,
        LABELS,
        BaseNetTraining(epochs=10, batch_size=16, learning_rate=0.05, eps=0.3, attack_steps=2, attack_step_size=0.2),
    )
    model = MixedClassifier(std, rob, AdaptiveAlpha(MixingNetwork(8, 16, (8, 8, 8)), alpha_min=0.6, alpha_max=0.9))
    before = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("alpha")}
    losses = []
    settings = MixingTraining(epochs=12, batch_size=32, eps=0.25, attack_steps=3)
    train_mixing_network(model, IMAGES, LABELS, settings, on_epoch=lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert (model.alpha.alpha_min, model.alpha.alpha_max) == (0.6, 0.9)
    assert model.alpha.clamp is None
    assert not model.training


def test_a_constant_alpha_cannot_be_trained():
    with pytest.raises(ValueError, match="constant alpha"):
        train_mixing_network(MixedClassifier(a_net(), a_net(), 0.5), IMAGES, LABELS, MixingTraining(epochs=1, eps=0.1))
