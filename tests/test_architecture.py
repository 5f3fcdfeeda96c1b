"""How the package is built: its rooms and their order, no cycles, and the measures that keep functions readable.

The rooms stand in one order; no room imports one that stands later, also not from inside a function.
"""

import ast
import functools
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
    "tuning",
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


@functools.cache
def _nodes(path):
    return tuple(ast.walk(ast.parse(path.read_text())))


def _imports(path):
    """The modules of the package that a file imports, anywhere in it."""
    for node in _nodes(path):
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
    reached, before = {module: set(_imports(path)) for module, path in MODULES.items()}, -1
    while before < (before := sum(map(len, reached.values()))):
        for names in reached.values():
            names |= set().union(*(reached[name] for name in names))
    assert not [module for module, names in reached.items() if module in names]


def test_a_name_belongs_to_one_module():
    names = Counter(module.rpartition(".")[2] for module, path in MODULES.items() if path.name != "__init__.py")
    assert not [name for name, count in names.items() if count > 1]


def _functions(path):
    return (node for node in _nodes(path) if isinstance(node, ast.FunctionDef))


def _lines(function):
    """How many lines a function has without its docstring and its decorators."""
    first = function.body[0]
    docstring = first if ast.get_docstring(function) is not None else None
    return function.end_lineno - function.lineno + 1 - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


def _parameters(function):
    given = function.args
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)


def _is_command(function):
    """Whether click calls it, with a parameter for each option."""
    return any("command(" in ast.unparse(decorator) for decorator in function.decorator_list)


LINES, PARAMETERS, PACKAGE_LINES = 60, 9, 20_000
TAKEN_OVER = {
    "zoo.loading": "load_model: RobustBench's arguments and ours, the front door",
    "plug.timm_models": "create: timm's arguments of an entrypoint",
    "zoo.stand_in": "__init__: the arguments of AutoAttack",
}
# Where a user or a file spells a norm. Everywhere else a ThreatModel travels.
SPELLED = {
    "threat": "what the names mean",
    "units": "which radii can be judged without the images' shape",
    "cli.options": "an option's default",
    "cli.experiment_commands": "an option's default",
    "cli.tune_commands": "an option's default",
    "zoo.entry": "a field of entries",
    "zoo.loading": "load_model's default, as RobustBench's",
    "zoo.stand_in": "AutoAttack's default",
    "training.recipe": "a field of recipes",
    "publishing.certificate_needs": "how a page writes the norm",
}


def _in_room(room):
    return [(module, path) for module, path in MODULES.items() if _room(module) == room]


@pytest.mark.parametrize("room", ROOMS)
def test_a_function_fits_on_a_screen(room):
    found = [(m, f.name, _lines(f)) for m, path in _in_room(room) for f in _functions(path)]
    assert not [each for each in found if each[-1] > LINES]


@pytest.mark.parametrize("room", ROOMS)
def test_a_function_takes_nouns_instead_of_many_parameters(room):
    functions = [(m, f) for m, path in _in_room(room) for f in _functions(path) if not _is_command(f)]
    found = {(m, f.name): _parameters(f) for m, f in functions if _parameters(f) > PARAMETERS}
    assert not {name: count for name, count in found.items() if f"{name[1]}:" not in TAKEN_OVER.get(name[0], "")}


@pytest.mark.parametrize("room", ROOMS)
def test_a_norm_is_spelled_only_where_a_user_or_a_file_spells_it(room):
    for module, path in _in_room(room):
        spelled = [n.lineno for n in _nodes(path) if _is_norm(n)]
        assert bool(spelled) == (module in SPELLED), (module, spelled)


def _is_norm(node):
    return isinstance(node, ast.Constant) and node.value in ("Linf", "L2")


@pytest.mark.xfail(strict=True, reason="not yet")
def test_the_package_has_at_most_20_000_lines():
    assert sum(len(path.read_text().splitlines()) for path in MODULES.values()) <= PACKAGE_LINES
