"""The one way in which files are damaged: as bytes, as JSON, as lines, or as tensors with a right checksum."""

import copy
import json

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from strange import HUGE, ROWS, TEXTS, strange_tensor

from adaptive_smoothing_zoo.storage.checked_file import checksum

OTHER_CONTENT = (
    b"",
    b"\x00",
    b"<!doctype html><title>404</title>",
    b"{}",
    b"[]",
    b"null",
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 50_000,
    "\ufeff{}".encode(),
    "größe".encode("latin-1"),
    '{"name": "x"}'.encode("utf-16"),
    b"9" * 5000,
)


def damaged_bytes(content, rng):
    """The content with flips, cuts, insertions, repetitions, or replaced altogether."""
    way, size = rng.randrange(9), len(content)
    if way == 0 or not content:
        return rng.choice([*OTHER_CONTENT, rng.randbytes(rng.randrange(1, 200))])
    a, b = sorted(rng.randrange(size) for _ in range(2))
    if way == 1:
        return content[:a]
    if way == 2:
        return content[:a] + rng.randbytes(rng.choice([1, 2, 8, 100])) + content[a:]
    if way == 3:
        return content[:a] + content[a + rng.choice([1, 2, 8, 100]) :]
    if way == 4:
        return content + rng.choice([b"\x00", b"}", b"\n\n", rng.randbytes(50), content[:64]])
    if way == 5:
        return content[:b] + content[a:]
    changed = bytearray(content)
    if way == 6:  # near the beginning, where formats say what they are
        changed[rng.randrange(min(64, size))] = rng.randrange(256)
        return bytes(changed)
    for _ in range(rng.choice([1, 1, 2, 10])):
        changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
    return bytes(changed)


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
        holder[key] = rng.choice(TEXTS)
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


def damaged_line(content, rng):
    """A table's bytes with another value in one field."""
    lines = content.decode().split("\n")
    i = rng.randrange(len(lines) - 1)
    fields = lines[i].split("\t")
    fields[rng.randrange(len(fields))] = str(rng.choice([*HUGE, *TEXTS, "1_0", "٣", "0x1", "1e400"]))
    lines[i] = "\t".join(fields)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damaged_content(path, rng):
    """A file's content, damaged as bytes or as what its name says it holds."""
    content = path.read_bytes()
    if rng.random() < 0.4:
        return damaged_bytes(content, rng)
    if path.suffix == ".json":
        text = json.dumps(damaged_json(json.loads(content), rng), ensure_ascii=rng.random() < 0.5)
        return text.encode("utf-8", "surrogatepass")
    if path.suffix == ".safetensors":  # what its header says
        size = 8 + int.from_bytes(content[:8], "little")
        header = json.dumps(damaged_json(json.loads(content[8:size]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + content[size:]
    return damaged_line(content, rng) if path.suffix == ".tsv" else damaged_bytes(content, rng)


def damage(path, rng):
    """Damage a file in place; now and then a folder takes its place, or nothing does. Whether anything changed."""
    original, content, way = path.read_bytes(), damaged_content(path, rng), rng.random()
    path.unlink()
    if way < 0.02:
        path.mkdir()
    elif way >= 0.04:
        path.write_bytes(content)
    return way < 0.04 or content != original


def tensor_damage(path, rng):
    """Flip bits of the tensors of a file alone, which stays one that can be read: only a checksum tells."""
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    for _ in range(rng.choice([1, 2, 10])):
        content[rng.randrange(begin, len(content))] ^= 1 << rng.randrange(8)
    changed = bytes(content) != path.read_bytes()
    path.write_bytes(bytes(content))
    return changed


def sealed_damage(path, rng):
    """Change a tensor of a checked file, or what is said about them, and give it the checksum of what it then holds.

    A checksum says that the file is whole, not that it makes sense.
    """
    with safe_open(path, framework="pt") as file:
        about = file.metadata()["about"]
    tensors = load_file(path)
    if rng.random() < 0.5 or not tensors:
        about = json.dumps(damaged_json(json.loads(about), rng))
    else:
        name = rng.choice(sorted(tensors))
        tensors[name] = strange_tensor(tensors[name], rng, ROWS)
    save_file(tensors, path, metadata={"about": about, "sha256": checksum(tensors, about)})
    return True
