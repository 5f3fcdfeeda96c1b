"""The rooms of the package stand in one order; no room imports one that stands later, and no two modules import each
other, also not from inside a function."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "adaptive_smoothing_zoo"
ROOMS = (
    "errors",
    "units",
    "surroundings",
    "threat",
    "backbones",
    "method",
    "machine",
    "storage",
    "data",
    "attacks",
    "certification",
    "zoo",
    "evaluation",
    "validation",
    "training",
    "publishing",
    "experiments",
    "plug",
    "",  # __init__.py: the public names
    "cli",
)


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


def _imports(path):
    """The modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE.name:
            room = node.module.partition(".")[2]
            for alias in node.names:
                inner = f"{room}.{alias.name}".lstrip(".")
                yield inner if inner in MODULES else room
        elif isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] for a in node.names if a.name.partition(".")[0] == PACKAGE.name)


def _room(module):
    return module.partition(".")[0]


def test_every_room_has_its_place():
    assert {_room(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_itself_and_from_those_before(room):
    known = set(ROOMS[: ROOMS.index(room) + 1])
    found = {m: set(map(_room, _imports(p))) - known for m, p in MODULES.items() if _room(m) == room}
    assert not {module: later for module, later in found.items() if later}


def test_no_module_imports_itself_by_way_of_others():
    reached = {module: set(_imports(path)) for module, path in MODULES.items()}
    for _ in MODULES:
        for names in reached.values():
            names |= set().union(*(reached[name] for name in names))
    assert not [module for module, names in reached.items() if module in names]


def test_a_name_belongs_to_one_module():
    names = Counter(module.rpartition(".")[2] for module, path in MODULES.items() if path.name != "__init__.py")
    assert not [name for name, count in names.items() if count > 1]
