"""What every case of the fuzz tests is made by and held to: seeded generators, attempts, folders put back."""

import random
import shutil
import warnings
from contextlib import contextmanager

import numpy as np
from short_attacks import shorten

from adaptive_smoothing_zoo.errors import ZooError
from adaptive_smoothing_zoo.validation import runner
from adaptive_smoothing_zoo.validation.subject import Budget

REFUSALS = (ZooError, ValueError, OSError)  # what the command line turns into one sentence


def cases(seed, count):
    """Generators of the cases of one test; the number names the case in a failure."""
    for number in range(count):
        yield number, random.Random(f"{seed}-{number}")


def attempt(function, *arguments, **settings):
    """What a call returns and None, or None and its refusal. Any other exception is the case's failure."""
    return _attempt(REFUSALS, function, arguments, settings)


def attempt_call(function, *arguments, **settings):
    """The same of a function of the library, which may refuse an argument of a wrong type by a TypeError."""
    return _attempt((*REFUSALS, TypeError), function, arguments, settings)


def _attempt(refusals, function, arguments, settings):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return function(*arguments, **settings), None
        except refusals as error:
            refusal = error
    assert str(refusal).strip(), f"{type(refusal).__name__} without a word"
    given = sum(len(value) for value in (*arguments, *settings.values()) if isinstance(value, str))
    assert len(str(refusal)) < 3000 + 3 * given, "a message of that length is no sentence"
    return None, refusal


def short_attacks(monkeypatch):
    """The same machinery with fewer iterations."""
    shorten(monkeypatch, iterations=2, queries=4, targets=1)
    spent = {"steps": 2, "grid_steps": 1, "long_steps": 2, "restarts": 1, "survivors": 1, "queries": 4, "noises": 2}
    spent |= {"directions": 1, "planted": 1, "inner": 2, "search": 2}
    monkeypatch.setattr(runner, "Budget", lambda: Budget(**spent))


@contextmanager
def restored(folder, copy_of):
    """The folder as ``copy_of`` holds it, whatever the last case has done to it."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(copy_of, folder, symlinks=True)
    yield folder


def snapshot(folder):
    """Every file below a folder with its content; locks, which hold nothing, left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def assert_no_leftovers(folder):
    """No temporary file of ours is below the folder."""
    left = [path for path in folder.rglob(".*") if not path.name.endswith(".lock")]
    assert not left, left
