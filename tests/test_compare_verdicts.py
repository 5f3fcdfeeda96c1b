"""The script that compares two runs on the same examples."""

import importlib.util
import re
from math import comb
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "eval" / "compare_verdicts.py"
spec = importlib.util.spec_from_file_location("compare_verdicts", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_the_interval_is_that_of_paired_differences():
    """Against the normal interval, which is good for many examples, and the closed form of the sign test."""
    first = np.array([True] * 120 + [False] * 80)
    second = np.array([True] * 90 + [False] * 30 + [True] * 10 + [False] * 70)
    mean, spread = 20 / 200, np.sqrt((40 / 200 - 0.1**2) / 200)
    told = script.difference(first, second)
    numbers = [float(number) for number in re.findall(r"[+-][0-9.]+", told)]
    assert numbers == pytest.approx([100 * mean, 100 * (mean - 1.96 * spread), 100 * (mean + 1.96 * spread)], abs=0.7)
    assert "30 examples ahead, 10 behind" in told
    tail = 2 * sum(comb(40, k) for k in range(11)) / 2**40
    assert float(told.rpartition("= ")[2]) == pytest.approx(tail, rel=0.1)


def test_runs_that_agree_have_no_difference():
    assert "none" in script.difference(np.array([True, False]), np.array([True, False]))
