"""Memory that is freed stays with the process, for the millions of passes that need the same amounts again."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Of mallopt(3): what is given back at the top of the heap, what is mapped on its own, and how many such maps there are.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGEST_INT = 2**31 - 1
_DEFAULT_MMAP_MAX = 65536
_LARGEST_MMAP_THRESHOLD = 32 * 2**20

_depth = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep what is freed, and give it back afterwards; elsewhere nothing happens.

    PyTorch has no cache for tensors on CPUs: glibc maps a large one anew, or gives the top of the heap back with it, so
    that each pass of a net pays for its pages once more, which can take as long as the pass. (Measured:
    ``eval/benchmarks/freed_memory.py``.) The numbers that come out are the same.

    glibc adapts its thresholds only until they are set; after the last use they stay where that would have led: blocks
    up to 32 MiB come from the heap, of which 64 MiB are kept.
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
