"""Keeps freed memory in the process, for millions of passes that need the same amounts again."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt(3): thresholds for trimming the heap's top and for separate maps, and the number of such maps.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGEST_INT = 2**31 - 1
_DEFAULT_MMAP_MAX = 65536
_LARGEST_MMAP_THRESHOLD = 32 * 2**20

_depth = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within the block, let glibc keep freed memory; afterwards return it. Without glibc, do nothing.

    PyTorch has no cache for tensors on CPUs. glibc maps each large tensor anew, or returns the top of the heap when it
    is freed, so each pass of a net pays for its pages again. That can take as long as the pass itself (measured in
    ``eval/benchmarks/freed_memory.py``). Results are the same.

    glibc adapts its thresholds only until they are set. After the last use they stay at the values that adapting would
    have reached: blocks up to 32 MiB come from the heap, whose top keeps up to 64 MiB.
    """
    global _depth
    libc = _glibc()
    if libc is None:
        yield
        return
    if _depth == 0:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST_INT)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
            libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
            libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
            libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # TypeError: on Windows
        return None
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
