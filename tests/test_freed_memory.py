"""The heap that is kept while a net runs millions of times."""

import resource
import sys

import pytest
import torch

from adaptive_smoothing_zoo.freed_memory import _glibc, freed_memory_kept

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux") or _glibc() is None, reason="glibc alone has it")


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _faults_of_large_tensors(rounds: int = 20) -> int:
    """Page faults of one-tensor rounds, each of 48 MiB, more than glibc ever takes from the heap by itself."""
    before = _page_faults()
    for _ in range(rounds):
        torch.ones(12 * 2**20)
    return _page_faults() - before


def test_large_tensors_cost_their_pages_once_within_and_again_after() -> None:
    with freed_memory_kept():
        _faults_of_large_tensors(1)
        within = _faults_of_large_tensors()
    assert within < _faults_of_large_tensors() / 2  # not zero: the system may take idle pages away


def test_the_memory_is_given_back() -> None:
    with freed_memory_kept():
        torch.ones(64 * 2**20)
        within = _resident()
    assert _resident() < within - 200 * 2**20


def test_an_inner_use_leaves_the_outer_ones_memory() -> None:
    before = _resident()
    with freed_memory_kept():
        torch.ones(64 * 2**20)
        with freed_memory_kept():
            pass
        assert _resident() > before + 200 * 2**20
    assert _resident() < before + 50 * 2**20


def test_it_is_given_back_after_an_error() -> None:
    before = _resident()
    with pytest.raises(ValueError, match="lost"):
        _fail()
    assert _resident() < before + 50 * 2**20


def _fail() -> None:
    with freed_memory_kept():
        torch.ones(64 * 2**20)
        raise ValueError("lost")


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
