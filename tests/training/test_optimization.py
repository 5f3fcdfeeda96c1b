import math

import pytest
import torch

from adaptive_smoothing_zoo.training.optimization import SCHEDULES, cosine, thirds, triangle


def of_torch(make, total):
    """The rates of one of PyTorch's schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    for _ in range(total):
        yield scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("total", [7, 100, 1000])
def test_the_cosine_is_torch_s_behind_an_exponential_warm_up(total):
    period = max(1, total // 25)
    rates = of_torch(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total), total)
    for step, rate in enumerate(rates):
        assert cosine(step, total) == pytest.approx(rate * (1 - math.e ** (-(step + 1) / period)), abs=1e-9)


def test_thirds_are_torch_s_steps():
    rates = of_torch(lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60], gamma=0.1), 90)
    assert [thirds(step, 90) for step in range(90)] == pytest.approx(list(rates))


def test_the_warm_up_reaches_63_percent_after_a_25th_of_the_steps():
    assert cosine(39, 1000) / (0.5 * (1 + math.cos(math.pi * 0.039))) == pytest.approx(1 - 1 / math.e)


def test_the_triangle_peaks_after_30_percent_and_ends_near_zero():
    rates = [triangle(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates.index(max(rates)) in (29, 30)
    assert rates[0] == pytest.approx(1 / 30)
    assert rates[-1] == pytest.approx(1 / 70)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_stay_between_zero_and_one(name):
    for total in (1, 2, 3, 50):
        assert all(0 < SCHEDULES[name](step, total) <= 1 for step in range(total))
