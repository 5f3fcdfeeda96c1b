"""Damage, drawn from a seeded generator: to bytes, to JSON, to files; and what every case is held to."""

import copy
import json
import random
import shutil
import warnings
from contextlib import contextmanager

import numpy as np

from adaptive_smoothing_zoo.errors import ZooError

REFUSALS = (ZooError, ValueError, OSError)  # what the command line turns into one sentence

HUGE = (2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308, float("inf"), float("nan"), -1, 0, -0.5, 1 << 40)
STRANGE_TEXTS = (
    "",
    "\x00",
    "../../etc",
    "ä" * 300,
    "9" * 5000,
    "1e999999999",
    "1/0",
    "nan",
    "-1",
    "<b>",
    "|",
    "one\ntwo",
    "\ud800",
)


def nested(depth):
    """JSON text of that many lists in each other."""
    return b"[" * depth + b"]" * depth


def damaged_bytes(content, rng):
    """The content with flips, cuts, insertions, repetitions, or replaced altogether."""
    content = bytearray(content)
    way = rng.randrange(9)
    if way == 0 or not content:
        return rng.choice(
            [
                b"",
                b"\x00",
                b"<!doctype html><title>404</title>",
                b"{}",
                b"[]",
                b"null",
                nested(100_000),
                b'{"a":' * 50_000,
                rng.randbytes(rng.randrange(1, 200)),
                "\ufeff{}".encode(),
                "größe".encode("latin-1"),
                '{"name": "x"}'.encode("utf-16"),
                b"9" * 5000,
            ]
        )
    if way == 1:
        return bytes(content[: rng.randrange(len(content))])
    if way == 2:
        place = rng.randrange(len(content))
        return bytes(content[:place] + rng.randbytes(rng.choice([1, 2, 8, 100])) + content[place:])
    if way == 3:
        place = rng.randrange(len(content))
        return bytes(content[:place] + content[place + rng.choice([1, 2, 8, 100]) :])
    if way == 4:
        return bytes(content + rng.choice([b"\x00", b"}", b"\n\n", rng.randbytes(50), bytes(content[:64])]))
    if way == 5:  # near the beginning, where formats say what they are
        place = rng.randrange(min(64, len(content)))
        content[place] = rng.randrange(256)
        return bytes(content)
    if way == 6:
        a, b = sorted(rng.randrange(len(content)) for _ in range(2))
        return bytes(content[:b] + content[a:])
    for _ in range(rng.choice([1, 1, 2, 10])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def damaged_json(data, rng):
    """The value with one place changed to another type, an extreme value, nothing, or something more."""
    data = copy.deepcopy(data)
    places = list(_places(data))
    if not places:
        return rng.choice([None, 3, "text", [], {}])
    holder, key = rng.choice(places)
    way = rng.randrange(6)
    if way == 0:
        del holder[key]
    elif way == 1:
        holder[key] = rng.choice(HUGE)
    elif way == 2:
        holder[key] = rng.choice(STRANGE_TEXTS)
    elif way == 3:
        holder[key] = rng.choice([None, True, False, [], {}, [[]], {"kind": []}, [1, 2], 0.5, 7, "7"])
    elif way == 4:
        other, name = rng.choice(places)
        holder[key] = copy.deepcopy(other.get(name) if isinstance(other, dict) else other[min(name, len(other) - 1)])
    elif isinstance(holder, dict):
        holder[rng.choice(["", "kind", "extra", "name", "sha256", "\x00"])] = rng.choice([1, "x", None, []])
    else:
        holder.insert(key, holder[key])
    return data


def _places(data):
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield data, key
        yield from _places(data[key])


def damaged_text(content, rng):
    """A JSON file's bytes, damaged as bytes or as JSON."""
    if rng.random() < 0.4:
        return damaged_bytes(content, rng)
    return json.dumps(damaged_json(json.loads(content), rng), ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )


def damage(path, rng, content=None):
    """Damage a file in place; now and then a folder takes its place, or nothing does."""
    way = rng.random()
    original = path.read_bytes()
    if content is None:
        content = damaged_text(original, rng) if path.suffix == ".json" else damaged_bytes(original, rng)
    path.unlink()
    if way < 0.02:
        path.mkdir()
    elif way >= 0.04:
        path.write_bytes(content)
    return content != original or way < 0.04


@contextmanager
def restored(folder, copy_of):
    """The folder as ``copy_of`` holds it, whatever the last case has done to it."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(copy_of, folder)
    yield folder


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


def cases(seed, count):
    """Generators of the cases of one test; the number names the case in a failure."""
    for number in range(count):
        yield number, random.Random(f"{seed}-{number}")


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
