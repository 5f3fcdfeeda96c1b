from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaptive_smoothing_zoo.attacks.contract import State
from adaptive_smoothing_zoo.attacks.pool import Pool
from adaptive_smoothing_zoo.errors import ResultsError

BUDGET = 6


@dataclass
class Counting(State):
    point: Tensor
    steps: Tensor
    hit_at: Tensor


class Scripted:
    """Runs that meet a misclassified point after as many steps as a table says (never if 0)."""

    name, answered = "scripted", None

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
            iteration=zeros.clone(),
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

    def spent(self, state):
        return state.steps / BUDGET


def a_pool(hit_at, *, batch_size, look_every=1, verify=None):
    attack = Scripted(hit_at)
    return Pool(
        attack,
        None,
        start=attack.start,
        verify=verify or (lambda points, candidates: torch.ones(len(points), dtype=torch.bool)),
        points=len(hit_at),
        ranks=len(hit_at[0]),
        batch_size=batch_size,
        look_every=look_every,
    )


def run(hit_at, **options):
    pool = a_pool(hit_at, **options)
    attack = pool.attack
    broken, held = {}, []
    for finished in pool:
        if finished.adversarials is None:
            held += finished.points.tolist()
        else:
            broken |= dict(zip(finished.points.tolist(), finished.adversarials.flatten().tolist(), strict=True))
    assert len(broken) + len(held) == len(set(broken) | set(held)) == len(hit_at)  # each point once
    assert max(attack.widths) <= options["batch_size"]
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


def told(pool, most=None):
    """What a pool yields until it has given so many heartbeats: (point, adversarial or None), and the heartbeats."""
    found, beats = [], 0
    for finished in pool:
        if len(finished.points) == 0:
            beats += 1
            if beats == most:
                break
            continue
        values = [None] * len(finished.points) if finished.adversarials is None else finished.adversarials.flatten()
        found += [
            (int(point), None if value is None else float(value))
            for point, value in zip(finished.points, values, strict=True)
        ]
    return found, beats


TABLES = st.integers(1, 3).flatmap(
    lambda ranks: st.lists(
        st.lists(st.sampled_from([0, 0, 0, *range(1, BUDGET + 1)]), min_size=ranks, max_size=ranks),
        min_size=1,
        max_size=12,
    )
)


def some_hold(points, candidates):
    """A judge that rejects a third of the candidates."""
    return (7 * candidates.flatten()).long() % 3 > 0


@settings(max_examples=150)
@given(TABLES, st.integers(1, 6), st.integers(1, 4), st.lists(st.integers(1, 5), max_size=6), st.booleans())
def test_a_pool_that_is_written_down_and_restored_goes_on_as_if_nothing_had_been(
    table, batch_size, look_every, stops, lenient
):
    options = {"batch_size": batch_size, "look_every": look_every, "verify": None if lenient else some_hold}
    whole = a_pool(table, **options)
    expected, beats = told(whole)
    found, seen, pool = [], 0, a_pool(table, **options)
    for most in stops:
        part, more = told(pool, most)
        found, seen, kept = found + part, seen + more, pool.snapshot()
        pool = a_pool(table, **options)
        pool.restore(kept)
        assert {name: tensor.tolist() for name, tensor in pool.snapshot().items()} == {
            name: tensor.tolist() for name, tensor in kept.items()
        }
    part, more = told(pool)
    assert found + part == expected
    assert (pool.asked, pool.lost, pool.flat, seen + more) == (whole.asked, whole.lost, whole.flat, beats)


@settings(max_examples=100)
@given(TABLES, st.integers(1, 6), st.integers(1, 6), st.integers(1, 12))
def test_a_pool_of_another_width_may_go_on(table, batch_size, other, stop):
    pool = a_pool(table, batch_size=batch_size)
    found, _ = told(pool, stop)
    wider = a_pool(table, batch_size=other)
    wider.restore(pool.snapshot())
    found += told(wider)[0]
    assert sorted(point for point, _ in found) == list(range(len(table)))
    assert {point for point, value in found if value is not None} == {i for i, row in enumerate(table) if any(row)}
    assert max(wider.attack.widths, default=0) <= other


@settings(max_examples=100)
@given(TABLES, st.integers(1, 6), st.integers(1, 30), st.booleans())
def test_an_exception_in_a_step_or_a_judge_costs_no_more_than_that(table, batch_size, moment, at_the_judge):
    class Interrupted(BaseException):
        pass

    whole = a_pool(table, batch_size=batch_size, look_every=2, verify=some_hold)
    expected, _ = told(whole)
    calls, found = 0, []

    def interrupting(function, before):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if before and calls == moment:
                raise Interrupted
            result = function(*arguments)
            if calls == moment:
                raise Interrupted
            return result

        return call

    pool = a_pool(table, batch_size=batch_size, look_every=2, verify=some_hold)
    if at_the_judge:
        pool.verify = interrupting(pool.verify, before=False)
    else:
        pool.attack.step = interrupting(pool.attack.step, before=bool(moment % 2))
    try:
        for finished in pool:
            found += told([finished])[0]
    except Interrupted:
        kept = pool.snapshot()
        pool = a_pool(table, batch_size=batch_size, look_every=2, verify=some_hold)
        pool.restore(kept)
        found += told(pool)[0]
    assert found == expected
    assert pool.asked == whole.asked


def test_the_work_under_way_rises_to_all_points():
    pool, yielded, seen = a_pool([[0, 0]] * 5, batch_size=4), 0, []
    for finished in pool:
        yielded += len(finished.points)
        seen.append(yielded + pool.underway())
    assert seen == sorted(seen)
    assert seen[0] == pytest.approx(4 / BUDGET / 2)
    assert seen[-1] == yielded == 5
    whole = a_pool([[0, 0]] * 5, batch_size=10)
    assert max(whole.underway() for _ in whole) == pytest.approx(5.0)


@pytest.mark.parametrize("damage", ["lost row", "another point", "another kind", "another size", "nothing"])
def test_a_snapshot_that_does_not_fit_is_refused(damage):
    pool = a_pool([[0], [3], [0]], batch_size=2)
    told(pool, 2)
    kept = pool.snapshot()
    if damage == "lost row":
        kept["running.steps"] = kept["running.steps"][1:]
    elif damage == "another point":
        kept["running.owners"] = kept["running.owners"] + 2
    elif damage == "another kind":
        kept["running.images"] = kept["running.images"].double()
    elif damage == "nothing":
        kept = {}
    other = a_pool([[0]] * (4 if damage == "another size" else 3), batch_size=2)
    with pytest.raises(ResultsError, match="invalid snapshot of a pool"):
        other.restore(kept)
