"""The choice between two ways, by a clock and a count of our own."""

import pytest
import torch

from adaptive_smoothing_zoo.machine.faster_way import CYCLE, TRIAL, WARM_UP, FasterWay, clock_of


class Work:
    """Steps that take a second each; a sparing one does so many things, another one thing."""

    def __init__(self, spared):
        self.spared, self.time, self.done, self.looks = spared, 0.0, 0, 0
        self.faster_way = FasterWay(self.now)

    def now(self):
        self.looks += 1
        return self.time

    def step(self, width=4):
        sparing = self.faster_way.sparing(width, torch.tensor(self.done))
        self.time += 1.0
        self.done += self.spared if sparing else 1
        return sparing


@pytest.mark.parametrize("spared", [3, 0])
def test_the_faster_way_is_taken_and_measured_again(spared):
    work = Work(spared)
    ways = [work.step() for _ in range(WARM_UP + CYCLE)]
    assert ways[: WARM_UP + TRIAL] == [False] * (WARM_UP + TRIAL)
    assert ways[WARM_UP + TRIAL : WARM_UP + 2 * TRIAL] == [True] * TRIAL
    assert set(ways[WARM_UP + 2 * TRIAL :]) == {spared > 1}
    assert work.looks == 4  # else nothing makes the host wait
    work.step()
    work.spared = 3 - spared
    again = [work.step() for _ in range(3 * TRIAL)]
    assert again[2 * TRIAL :] == [spared <= 1] * TRIAL


def test_each_width_is_measured_by_itself_and_an_interrupted_measurement_begins_again():
    work = Work(3)
    for _ in range(WARM_UP + TRIAL + 2):
        work.step(8)
    assert [work.step(4) for _ in range(WARM_UP + TRIAL)] == [False] * (WARM_UP + TRIAL)
    assert [work.step(8) for _ in range(3 * TRIAL)] == [False] * TRIAL + [True] * 2 * TRIAL


def test_a_cpu_has_a_clock():
    now = clock_of(torch.device("cpu"))
    assert now() <= now()
