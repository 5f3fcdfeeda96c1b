"""An evaluation notices a model whose outputs for an image depend on the other images in its batch."""

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.attacks.verify import heeds_company
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.evaluation.screening import screen

IMAGES, LABELS = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


class Leaning(nn.Module):
    """A linear net whose logits lean on the mean of the batch, and vary from pass to pass."""

    def __init__(self, share=0.0, noise=0.0):
        super().__init__()
        self.net, self.share, self.noise = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), share, noise

    def forward(self, images):
        logits = self.net(images)
        return logits + self.share * logits.mean(dim=0) + self.noise * torch.randn_like(logits)


class Norm(nn.Module):
    """Batch norm without running statistics takes those of the batch in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(16, 4))

    def forward(self, images):
        return self.net(images)


def told(model, images=IMAGES, labels=LABELS, **options):
    found = evaluate(model, images, labels, norm="Linf", eps=0.0, device="cpu", **options)
    return found, [text for text in found.warnings if "other images in its batch" in text]


@pytest.mark.parametrize("model", [Leaning(0.01), Norm()])
@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_company_that_matters_is_a_warning_in_the_result(model, engine):
    found, warnings = told(model, engine=engine)
    assert len(warnings) == 1
    assert found.deterministic


def test_each_shard_tells_and_so_does_a_screening():
    assert told(Leaning(0.1), shard=(1, 3))[1]
    assert told(Leaning(0.1), IMAGES[:2], LABELS[:2])[1]
    screened = screen(Leaning(0.1), IMAGES, LABELS, norm="Linf", eps=0.0, device="cpu")
    assert any("other images in its batch" in text for text in screened.warnings)


@pytest.mark.parametrize("version", ["standard", "rand"])
def test_an_honest_net_a_single_image_and_random_outputs_are_not_reported_so(version):
    settings = AttackSettings.version(version)
    assert not told(Leaning(), settings=settings)[1]
    assert not told(Leaning(1e-5), settings=settings)[1]  # as much as rounding may
    assert not told(Leaning(0.5), IMAGES[:1], LABELS[:1], settings=settings)[1]
    found, warnings = told(Leaning(noise=0.1), settings=settings)
    assert not warnings
    assert not found.deterministic


def test_the_check_takes_no_random_numbers_from_the_attacks():
    model, state = Leaning(noise=0.1), torch.get_rng_state()
    assert not heeds_company(model, IMAGES, torch.device("cpu"))
    assert torch.get_rng_state().equal(state)


class Small(Leaning):
    """Runs out of memory for more than two images."""

    def forward(self, images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(images)


def test_no_larger_batch_than_memory_holds_is_tried():
    assert told(Small(0.1), batch_size=4)[1]
    assert not told(Small(), batch_size=4)[1]
