from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.pool import Pool
from adaptive_smoothing_zoo.attacks.state import State

BUDGET = 6


@dataclass
class Counting(State):
    point: Tensor
    steps: Tensor
    hit_at: Tensor


class Scripted:
    """Runs that meet a misclassified point after as many steps as a table says (never if 0)."""

    name = "scripted"

    def __init__(self, hit_at):
        self.hit_at, self.widths, self.active = torch.tensor(hit_at), [], set()

    def start(self, points, ranks):
        n = len(points)
        no = torch.zeros(n, dtype=torch.bool)
        images = points.view(-1, 1, 1, 1).float() + 0.1 * ranks.view(-1, 1, 1, 1)
        parts = {name: no.clone() for name in ("found", "exhausted", "lost", "flat")}
        zeros = torch.zeros(n, dtype=torch.int64)
        self.active |= {(int(p), int(r)) for p, r in zip(points, ranks, strict=True)}
        return Counting(
            images=images,
            labels=zeros,
            targets=zeros,
            adversarials=torch.full_like(images, -1.0),
            point=points,
            steps=zeros.clone(),
            hit_at=self.hit_at[points, ranks],
            **parts,
        )

    def step(self, state, model):
        self.widths.append(len(state))
        state.steps = state.steps + 1
        state.meet(
            state.images + 100 * state.steps.view(-1, 1, 1, 1), (state.steps >= state.hit_at) & (state.hit_at > 0)
        )
        state.exhausted = state.steps >= BUDGET
        return len(state)


def run(hit_at, *, batch_size, look_every=1, verify=None):
    attack = Scripted(hit_at)
    pool = Pool(
        attack,
        None,
        start=attack.start,
        verify=verify or (lambda points, candidates: torch.ones(len(points), dtype=torch.bool)),
        points=len(hit_at),
        ranks=len(hit_at[0]),
        batch_size=batch_size,
        look_every=look_every,
    )
    broken, held = {}, []
    for finished in pool:
        if finished.adversarials is None:
            held += finished.points.tolist()
        else:
            broken |= dict(zip(finished.points.tolist(), finished.adversarials.flatten().tolist(), strict=True))
    assert len(broken) + len(held) == len(set(broken) | set(held)) == len(hit_at)  # each point once
    assert max(attack.widths) <= batch_size
    assert pool.asked == sum(attack.widths)
    return broken, sorted(held), attack


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("look_every", [1, 4])
def test_every_point_is_finished_once_with_the_verdict_of_its_runs(batch_size, look_every):
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(1, BUDGET + 1, (23, 3), generator=generator)
    table *= torch.rand(23, 3, generator=generator) < 0.25
    broken, held, _ = run(table.tolist(), batch_size=batch_size, look_every=look_every)
    assert sorted(broken) == (table > 0).any(1).nonzero().flatten().tolist()
    assert held == (table == 0).all(1).nonzero().flatten().tolist()
    assert broken
    assert held
    for point, value in broken.items():  # the first misclassified point of some run
        assert value in [
            pytest.approx(point + 0.1 * r + 100 * int(table[point, r])) for r in range(3) if table[point, r]
        ]


def test_batches_stay_full_while_there_is_work():
    _, held, attack = run([[0]] * 40, batch_size=10)
    assert held == list(range(40))
    assert attack.widths == [10] * 4 * BUDGET
    _, _, attack = run([[0]] * 21, batch_size=10)  # three rounds of seven rather than 10, 10 and 1
    assert attack.widths == [7] * 3 * BUDGET


def test_slots_that_are_free_are_taken_at_once_and_the_batch_shrinks_only_when_no_run_is_left():
    _, _, attack = run([[1]] * 8 + [[0]] * 8, batch_size=8)
    assert attack.widths == [8] * (1 + BUDGET)
    _, _, attack = run([[0]] * 2 + [[1]] * 6, batch_size=8)
    assert attack.widths == [8] + [2] * (BUDGET - 1)


def test_later_targets_of_a_broken_point_are_not_run():
    _, _, attack = run([[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]], batch_size=3)
    assert {rank for point, rank in attack.active if point == 0} == {0}
    assert {point: rank for point, rank in sorted(attack.active)} == {0: 0, 1: 2, 2: 2, 3: 2}


def test_a_point_that_does_not_hold_goes_on_from_where_it_was():
    asked = []

    def verify(points, candidates):
        asked.append(sorted(zip(points.tolist(), candidates.flatten().tolist(), strict=True)))
        return candidates.flatten() > 350  # what is found after fewer than four steps does not hold

    broken, held, _ = run([[2], [0], [5]], batch_size=3, verify=verify)
    assert held == [1]
    assert broken == {0: 400.0, 2: 502.0}
    assert [value for batch in asked for point, value in batch if point == 0] == [200.0, 300.0, 400.0]


def test_a_run_whose_last_point_does_not_hold_is_over():
    broken, held, attack = run(
        [[BUDGET, 0], [0, 0]],
        batch_size=4,
        verify=lambda points, candidates: torch.zeros(len(points), dtype=torch.bool),
    )
    assert not broken
    assert held == [0, 1]
    assert attack.active == {(0, 0), (0, 1), (1, 0), (1, 1)}
