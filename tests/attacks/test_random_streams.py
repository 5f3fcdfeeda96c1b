import pytest
import torch
from scipy import stats

from adaptive_smoothing_zoo.attacks.autoattack.square_draws import KeyedSquares
from adaptive_smoothing_zoo.attacks.random_streams import (
    bits,
    normal_images,
    run_keys,
    signs,
    uniform,
    uniform_images,
)
from adaptive_smoothing_zoo.threat import ThreatModel

INDICES = torch.arange(2000)


def test_the_hash_is_splitmix64():
    # The generator's first outputs for the seed 0, computed with Python's integers.
    def splitmix(state):
        mask = 2**64 - 1
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        return state ^ (state >> 31)

    expected = [splitmix((i + 1) * 0x9E3779B97F4A7C15 % 2**64) for i in range(100)]
    assert expected[0] == 0xE220A8397B1DCDAF  # as published with the algorithm
    found = bits(torch.zeros(1, dtype=torch.int64), torch.arange(100))
    assert [value % 2**64 for value in found.tolist()] == expected


def test_keys_differ_in_everything_they_are_made_of():
    keys = [
        run_keys(seed, attack, rank, INDICES)
        for seed in (0, 1, -1, 2**40)
        for attack in ("apgd-ce", "apgd-t", "square")
        for rank in (0, 1, 8)
    ]
    assert len(torch.cat(keys).unique()) == len(keys) * len(INDICES)
    by_run = run_keys(3, "apgd-t", torch.tensor([0, 1, 0]), torch.tensor([5, 5, 6]))
    assert torch.equal(by_run[1:2], run_keys(3, "apgd-t", 1, torch.tensor([5])))


def _draws(counters):
    """One draw for each of many keys, or many draws for one key."""
    if counters == "along":
        return uniform(run_keys(7, "square", 0, torch.tensor([123])), torch.arange(200_000))
    return uniform(run_keys(7, "square", 0, torch.arange(200_000)), torch.tensor(4))


@pytest.mark.parametrize("counters", ["along", "across"])
def test_draws_are_uniform_and_neighbours_independent(counters):
    draws = _draws(counters)
    assert float(draws.min()) >= 0.0
    assert float(draws.max()) < 1.0
    assert stats.kstest(draws.numpy(), "uniform").pvalue > 1e-3
    # Pairs of neighbours over a 16 x 16 grid.
    cells = (draws[:-1:2] * 16).long() * 16 + (draws[1::2] * 16).long()
    assert stats.chisquare(torch.bincount(cells, minlength=256).numpy()).pvalue > 1e-3
    for lag in (1, 2, 7, 64):
        assert abs(stats.pearsonr(draws[:-lag], draws[lag:]).statistic) < 4 / 200_000**0.5


def test_each_bit_is_fair():
    values = bits(run_keys(1, "apgd-ce", 0, torch.arange(100_000)), torch.tensor(0))
    ones = torch.stack([(values >> bit & 1).double().mean() for bit in range(64)])
    assert float((ones - 0.5).abs().max()) < 5 * 0.5 / 100_000**0.5


def test_images_have_the_distribution_asked_for():
    keys = run_keys(0, "apgd-ce", 0, torch.arange(300))
    flat = uniform_images(keys, (3, 8, 8)).flatten()
    assert stats.kstest(flat.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    normal = normal_images(keys, (3, 8, 8)).flatten()
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-3
    assert abs(float(signs(keys[:, None], torch.arange(192)).mean())) < 5 / (300 * 192) ** 0.5


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_squares_start_and_move_alike_whatever_the_company(norm):
    squares = KeyedSquares(3, "square", (2, 10, 12), ThreatModel(norm, 0.1), torch.device("cpu"), queries=400)
    keys = run_keys(3, "square", 0, torch.tensor([4, 9, 2]))
    together = squares.start(keys)
    assert together.shape == (3, 2, 10, 12)
    assert torch.equal(together[1:2], squares.start(keys[1:2]))
    if norm == "Linf":
        assert set(together.unique().tolist()) == {-1.0, 1.0}

    class Runs:
        pass

    Runs.keys = keys
    changes = squares(Runs, torch.arange(3), torch.tensor([0, 399, 76]))
    Runs.keys = keys[2:]
    alone = squares(Runs, torch.zeros(2, dtype=torch.int64), torch.tensor([76, 75]))
    for name, value in vars(alone).items():
        assert torch.equal(getattr(changes, name)[2:], value[:1])
    for corner, extent in ((changes.top, 10), (changes.left, 12), (changes.top_2, 10), (changes.left_2, 12)):
        assert bool(((corner >= 0) & (corner + changes.size <= extent)).all())
