"""File systems that fail on request: at the k-th call, after so many bytes, or with the death of the process."""

import errno
import os
import resource
import signal
import sys
from contextlib import contextmanager

_CALLS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink"}
_watch = None  # what is done at each call below the folder that is watched; hooks cannot be taken away again


class _Watch:
    def __init__(self, folder, at, act):
        self.folder, self.at, self.act = os.fspath(folder), at, act
        self.seen = []

    def __call__(self, event, path):
        self.seen.append((event, path))
        if len(self.seen) == self.at:
            self.act()


def _hook(event, arguments):
    if _watch is not None and event in _CALLS and isinstance(arguments[0], str | os.PathLike):
        path = os.fspath(arguments[0])
        if isinstance(path, str) and path.startswith(_watch.folder):
            _watch(event, path)


sys.addaudithook(_hook)


@contextmanager
def watched(folder, at=0, act=lambda: None):
    """Let ``act`` happen in place of the ``at``-th call on files below a folder; yield the list of calls so far."""
    global _watch
    _watch = _Watch(folder, at, act)
    try:
        yield _watch.seen
    finally:
        _watch = None


def full_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted():
    raise KeyboardInterrupt


def no_memory():
    raise MemoryError("no memory left")


def killed():
    os._exit(137)


@contextmanager
def limited(size):
    """No file of this process can grow beyond ``size`` bytes; what is written beyond them fails, after a part of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def in_child(function):
    """Whether ``function`` came to its end in a copy of this process, which it may kill."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return status == 0


def killed_while_writing(size):
    """The child's next write beyond ``size`` bytes of a file kills it, in the midst of the write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
