"""How many images go into a batch if nobody says."""

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo import ThreatModel
from adaptive_smoothing_zoo.attacks.autoattack.reference import ReferenceEngine
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.machine.batch_size import BRISK_OPERATIONS, brisk_batch_size

IMAGES = torch.rand(40, 3, 32, 32)


class Counted(nn.Module):
    """A net of 2 * 9 * 3 * channels * 1024 operations in its convolution, whose backward costs nothing much."""

    def __init__(self, channels, repeat):
        super().__init__()
        self.conv, self.repeat, self.sizes = nn.Conv2d(3, channels, 3, padding=1), repeat, []

    def forward(self, images):
        self.sizes.append(len(images))
        for _ in range(self.repeat):
            features = self.conv(images)
        return features.mean((2, 3))[:, :6]


@pytest.mark.parametrize(("channels", "repeat"), [(6, 1), (64, 100), (64, 1000), (512, 400)])
def test_a_cpu_takes_as_many_as_make_a_step_in_seconds(channels, repeat):
    net = Counted(channels, repeat)
    operations = 2 * 9 * 3 * channels * 32 * 32 * repeat
    found = brisk_batch_size(net, IMAGES)
    assert net.sizes == [1]
    assert found == brisk_batch_size(net, IMAGES)
    assert found & (found - 1) == 0
    assert found == 256 or found * operations <= BRISK_OPERATIONS < 2 * found * operations
    assert (found == 256) == (channels == 6)


def test_what_costs_more_than_a_batch_goes_alone(monkeypatch):
    monkeypatch.setattr("adaptive_smoothing_zoo.machine.batch_size.BRISK_OPERATIONS", 1000)
    assert brisk_batch_size(Counted(6, 1), IMAGES) == 1


@pytest.mark.parametrize(("engine", "expected"), [("fast", 8), ("reference", 40)])
def test_an_evaluation_takes_it_where_random_numbers_do_not_depend_on_it(monkeypatch, engine, expected):
    net = Counted(6, 1)
    operations = 2 * 9 * 3 * 6 * 32 * 32
    monkeypatch.setattr("adaptive_smoothing_zoo.machine.batch_size.BRISK_OPERATIONS", 9 * operations)
    labels = net(IMAGES).argmax(1)
    found = evaluate(net, IMAGES, labels, eps=0.0, engine=engine, device="cpu")
    assert found.batch_size == expected
    assert evaluate(net, IMAGES, labels, eps=0.0, engine=engine, device="cpu", batch_size=16).batch_size == 16


def test_autoattacks_checks_look_at_more_than_a_small_batch():
    class NoisyWhereBright(nn.Module):
        def forward(self, images):
            assert len(images) <= 5
            logits = images.mean((2, 3)).repeat(1, 2)
            return logits + (images.amax((1, 2, 3)) > 1.5)[:, None] * torch.randn(logits.shape)

    images = IMAGES.clone()
    beats = []
    settings, device = AttackSettings(batch_size=5), torch.device("cpu")
    engine = ReferenceEngine(NoisyWhereBright(), ThreatModel("Linf", 0.1), settings, num_classes=6, device=device)
    assert not any(
        "randomized" in text for text in engine.check(images, torch.zeros(40).long(), lambda: beats.append(1))
    )
    assert len(beats) == 7 * 8
    assert engine.spent() == 7 * 40
    images[30] = 2.0
    assert any("randomized" in text for text in engine.check(images, torch.zeros(40).long()))
