"""The memory that is kept while a net runs millions of times, as glibc itself counts it.

Page faults would be no oracle: the system gives huge pages, and takes idle ones away, as it likes.
"""

import ctypes
import gc
import resource

import pytest
import torch

from adaptive_smoothing_zoo.machine.allocator import _glibc, freed_memory_kept

LIBC = _glibc()
HAS_COUNTS = LIBC is not None and hasattr(LIBC, "mallinfo2")
pytestmark = pytest.mark.skipif(not HAS_COUNTS, reason="glibc 2.33 or later alone counts it")

MIB = 2**20


@pytest.fixture(autouse=True)
def _no_use_is_left_over() -> None:
    gc.collect()  # generators that an earlier test has abandoned inside of a use


class _Mallinfo2(ctypes.Structure):
    """mallinfo(3): ``hblks`` is the number of separate maps, ``fordblks`` the free bytes of the heap."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _counts() -> _Mallinfo2:
    assert LIBC is not None
    LIBC.mallinfo2.restype = _Mallinfo2
    counts: _Mallinfo2 = LIBC.mallinfo2()
    return counts


def _resident() -> int:
    """Bytes: malloc_trim gives pages back from the middle of the heap too, of which glibc keeps no count."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _large_tensor(more: int = 0) -> torch.Tensor:
    return torch.ones(16 * MIB + more // 4)  # 64 MiB: more than glibc ever takes from the heap by itself


def test_a_large_tensor_comes_from_the_heap_within_and_from_a_map_of_its_own_afterwards() -> None:
    free = _counts().fordblks  # a gap that earlier tests have left in the heap may be as large, and would be taken
    with freed_memory_kept():
        maps = _counts().hblks
        tensor = _large_tensor(free)
        assert _counts().hblks == maps
        del tensor
    tensor = _large_tensor(free)
    assert _counts().hblks == maps + 1
    del tensor
    assert _counts().hblks == maps


def test_the_memory_is_given_back() -> None:
    before = _resident()
    with freed_memory_kept():
        _large_tensor()
        assert _counts().fordblks >= 64 * MIB
    assert _resident() < before + 16 * MIB


def test_an_inner_use_leaves_the_outer_ones_memory() -> None:
    before = _resident()
    with freed_memory_kept():
        _large_tensor()
        with freed_memory_kept():
            pass
        assert _counts().fordblks >= 64 * MIB
    assert _resident() < before + 16 * MIB


def test_it_is_given_back_after_an_error() -> None:
    before = _resident()
    with pytest.raises(ValueError, match="lost"):
        _fail()
    assert _resident() < before + 16 * MIB


def _fail() -> None:
    with freed_memory_kept():
        _large_tensor()
        raise ValueError("lost")
