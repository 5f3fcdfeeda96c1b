"""Square and its random numbers on images of any height and width."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_smoothing_zoo.attacks.autoattack.square import Square
from adaptive_smoothing_zoo.attacks.autoattack.square_draws import KeyedSquares, tile_grid
from adaptive_smoothing_zoo.attacks.random_streams import normal_images, run_keys, uniform_images
from adaptive_smoothing_zoo.threat import ThreatModel

CPU = torch.device("cpu")


@settings(max_examples=40)
@given(st.integers(1, 3), st.integers(1, 41), st.integers(1, 41), st.sampled_from(["Linf", "L2"]), st.integers(0, 3))
def test_any_shape_stays_in_the_ball_and_the_box(channels, height, width, norm, count):
    generator = torch.Generator().manual_seed(height * 100 + width)
    images = torch.rand(count, channels, height, width, generator=generator)
    weight = torch.randn(images[0].numel() if count else channels * height * width, 3, generator=generator)
    eps, queries = 0.3, 12
    threat = ThreatModel(norm, eps)
    attack = Square(threat, KeyedSquares(0, "square", (channels, height, width), threat, CPU, queries), queries=queries)
    keys = run_keys(0, "square", 0, torch.arange(count))
    labels = torch.zeros(count, dtype=torch.int64)
    state = attack.start(images, labels, labels, keys)
    for _ in range(queries + 1):
        attack.step(state, lambda points: points.flatten(1) @ weight)
    away = (state.best - images).double().flatten(1)
    size = away.abs().amax(1) if norm == "Linf" else away.norm(dim=1)
    assert bool((size <= eps + 1e-6).all())
    assert bool(((state.best >= 0) & (state.best <= 1)).all())


@pytest.mark.parametrize("draw", [uniform_images, normal_images])
def test_no_runs_draw_no_images(draw):
    assert draw(run_keys(0, "x", 0, torch.arange(0)), (1, 3, 2)).shape == (0, 1, 3, 2)


def test_tiles_where_pyautoattack_has_them():
    for height in range(5, 60):
        for width in (3, 8, 40):
            side, begin, rows, columns = tile_grid(height, width)
            assert (side, begin) == (height // 5, (height - 5 * (height // 5)) // 2)
            assert (rows, columns) == (height // side, width // side)
