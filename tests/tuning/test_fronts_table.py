import itertools

from hypothesis import given
from hypothesis import strategies as st

from adaptive_smoothing_zoo.tuning.front import Candidate, Front
from adaptive_smoothing_zoo.tuning.fronts_table import ROWS, levels, side_by_side


def _front(*pairs):
    """A front of (clean, robust) pairs."""
    made = [Candidate(std_map=None, rob_map=None, alpha=0.5, clean=clean, robust=robust) for clean, robust in pairs]
    return Front(candidates=tuple(made), looked_at=len(made))


def test_each_form_shows_its_most_robust_mix_of_enough_clean_accuracy():
    fronts = {"constant": _front((0.93, 0.2), (0.9, 0.35)), "scaled": _front((0.92, 0.3), (0.91, 0.4))}
    assert side_by_side(fronts, 0.895).splitlines() == [
        "| clean at least | constant | scaled |",
        "| --- | --- | --- |",
        "| 93 % | 20.0 | - |",
        "| 92.5 % | 20.0 | - |",
        "| 92 % | 20.0 | 30.0 |",
        "| 91.5 % | 20.0 | 30.0 |",
        "| 91 % | 20.0 | 40.0 |",
        "| 90.5 % | 20.0 | 40.0 |",
        "| 90 % | 35.0 | 40.0 |",
        "| 89.5 % | 35.0 | 40.0 |",
    ]


def test_levels_where_h_is_as_accurate_as_any_mix():
    fronts = {"constant": _front((0.994, 0.9))}
    assert levels(fronts, 0.994) == range(994, 993, -1)
    assert side_by_side(fronts, 0.999).splitlines()[-1] == "| 99.4 % | 90.0 |"


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_levels_are_few_and_even_and_end_where_asked(top, lowest):
    found = list(levels({"constant": _front((top / 1000, 0.5))}, lowest / 1000))
    assert 1 <= len(found) <= ROWS
    assert found[0] <= top
    if lowest <= top:
        assert found[-1] >= lowest or found == [top]
        steps = {a - b for a, b in itertools.pairwise(found)}
        assert len(steps) <= 1
        assert top - found[0] < (steps.pop() if steps else 100)
