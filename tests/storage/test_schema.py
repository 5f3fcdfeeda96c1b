"""JSON to dataclasses and back."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.storage.schema import parse, to_json

FEW = settings(max_examples=60)


@dataclass(frozen=True, kw_only=True)
class Circle:
    kind: Literal["circle"] = "circle"
    radius: float

    def __post_init__(self):
        if self.radius < 0:
            raise ValueError(f"a radius is not negative, got {self.radius}")


@dataclass(frozen=True, kw_only=True)
class Square:
    kind: Literal["square"] = "square"
    side: int


@dataclass(frozen=True, kw_only=True)
class Drawing:
    title: str
    shape: Circle | Square
    signed: bool = False
    size: tuple[int, int] = (1, 1)
    marks: tuple[float, ...] = ()
    note: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    frame: Circle | None = None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
CIRCLES = st.builds(Circle, radius=st.floats(0, 1e300))
DRAWINGS = st.builds(
    Drawing,
    title=st.text(),
    shape=CIRCLES | st.builds(Square, side=st.integers()),
    signed=st.booleans(),
    size=st.tuples(st.integers(), st.integers()),
    marks=st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
    note=st.none() | st.text(),
    extra=st.dictionaries(st.text(), JSON, max_size=3),
    counts=st.dictionaries(st.text(), st.integers(), max_size=3),
    frame=st.none() | CIRCLES,
)
VALID = {"title": "Sun", "shape": {"kind": "circle", "radius": 2.5}}


@FEW
@given(DRAWINGS)
def test_what_is_written_is_read_back(drawing):
    assert parse(Drawing, json.loads(json.dumps(to_json(drawing))), "x.json") == drawing


@FEW
@given(st.sampled_from(list(Drawing.__dataclass_fields__)), JSON)
def test_any_other_json_is_read_or_refused_by_name_and_never_crashes(key, value):
    try:
        drawing, message = parse(Drawing, {**VALID, key: value}, "x.json"), None
    except ConfigError as error:
        drawing, message = None, str(error)
    if message is None:
        assert to_json(drawing)[key] == value
    else:
        assert message.startswith(f"x.json: {key}")


@FEW
@given(JSON)
def test_any_kind_is_known_or_refused(kind):
    data = {**VALID, "shape": {"kind": kind, "radius": 1}}
    if kind == "circle":
        assert parse(Drawing, data, "x.json").shape == Circle(radius=1.0)
    else:
        with pytest.raises(ConfigError, match=r"x\.json: shape"):
            parse(Drawing, data, "x.json")


def test_defaults_fill_what_is_left_out():
    assert parse(Drawing, VALID, "x.json") == Drawing(title="Sun", shape=Circle(radius=2.5))


def test_an_integer_serves_as_a_float():
    radius = parse(Circle, {"kind": "circle", "radius": 2}, "x.json").radius
    assert (radius, type(radius)) == (2.0, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "x.json: unknown key 'colour'; known keys: title, shape, signed"),
        ({"title": 3}, "x.json: title: expected str, got int 3"),
        ({"title": None}, "x.json: title: expected str, got NoneType None"),
        ({"signed": 1}, "x.json: signed: expected bool, got int 1"),
        ({"size": [1]}, "x.json: size: expected 2 items, got 1"),
        ({"size": [1, 2.0]}, r"x.json: size\[1\]: expected int, got float 2.0"),
        ({"size": [1, True]}, r"x.json: size\[1\]: expected int, got bool True"),
        ({"size": 3}, "x.json: size: expected a list, got int 3"),
        ({"marks": [1, "a"]}, r"x.json: marks\[1\]: expected float, got str 'a'"),
        ({"note": 1}, "x.json: note: expected str, got int 1"),
        ({"extra": []}, "x.json: extra: expected an object, got list"),
        ({"counts": {"a": "b"}}, "x.json: counts.a: expected int, got str 'b'"),
        ({"frame": {"radius": True}}, "x.json: frame: radius: expected float, got bool True"),
        (
            {"frame": {"kind": "square", "radius": 1}},
            "x.json: frame: kind: expected one of 'circle', got 'square'",
        ),
        ({"frame": 3}, "x.json: frame: expected an object with named fields, got int 3"),
        ({"shape": {"kind": "star"}}, "x.json: shape: 'kind' must be one of 'circle', 'square', got 'star'"),
        ({"shape": {"radius": 1}}, "x.json: shape: 'kind' must be one of 'circle', 'square', got None"),
        ({"shape": None}, "x.json: shape: 'kind' must be one of"),
        ({"shape": {"kind": ["circle"]}}, r"x.json: shape: 'kind' must be one of .*, got \['circle'\]"),
        ({"shape": {"kind": "circle"}}, "x.json: shape: missing key 'radius'"),
        ({"shape": {"kind": "circle", "radius": -1}}, "x.json: shape: a radius is not negative"),
        ({"shape": {"kind": "circle", "radius": 10**400}}, "x.json: shape: radius: expected a finite number"),
        ({"marks": [float("nan")]}, r"x.json: marks\[0\]: expected a finite number, got nan"),
        ({"marks": [float("inf")]}, r"x.json: marks\[0\]: expected a finite number, got inf"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change, message):
    with pytest.raises(ConfigError, match=message):
        parse(Drawing, {**VALID, **change}, "x.json")


@pytest.mark.parametrize("key", ["title", "shape"])
def test_a_missing_key_is_named(key):
    with pytest.raises(ConfigError, match=f"x.json: missing key '{key}'"):
        parse(Drawing, {k: v for k, v in VALID.items() if k != key}, "x.json")


@pytest.mark.parametrize("data", [None, 3, "text", [], [VALID]])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(ConfigError, match=r"x\.json: expected an object with named fields"):
        parse(Drawing, data, "x.json")
