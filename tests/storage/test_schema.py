"""JSON to dataclasses and back."""

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.storage.schema import BY_KIND, checked, json_schema, parse, read_json, to_json

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
    side: Annotated[int, Field(ge=-1000)]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    title: str
    shape: Annotated[Circle | Square, BY_KIND]
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
    shape=CIRCLES | st.builds(Square, side=st.integers(-1000)),
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
        ({"colour": "red"}, "x.json: unknown key 'colour'; remove it or correct its name"),
        ({"title": 3}, "x.json: title: must be text in quotes, got 3"),
        ({"title": None}, "x.json: title: must be text in quotes, got None"),
        ({"signed": 1}, "x.json: signed: must be a valid boolean, got 1"),
        ({"size": [1]}, "x.json: size: item 1 is missing"),
        ({"size": [1, 2.0]}, r"x.json: size\[1\]: must be a valid integer, got 2.0"),
        ({"size": [1, True]}, r"x.json: size\[1\]: must be a valid integer, got True"),
        ({"size": 3}, "x.json: size: must be a valid array, got 3"),
        ({"marks": [1, "a"]}, r"x.json: marks\[1\]: must be a valid number, got 'a'"),
        ({"note": 1}, "x.json: note: must be text in quotes, got 1"),
        ({"extra": []}, "x.json: extra: must be an object, got list"),
        ({"counts": {"a": "b"}}, "x.json: counts.a: must be a valid integer, got 'b'"),
        ({"frame": {"radius": True}}, "x.json: frame.radius: must be a valid number, got True"),
        ({"frame": {"kind": "square", "radius": 1}}, "x.json: frame.kind: must be 'circle', got 'square'"),
        ({"frame": 3}, "x.json: frame: must be an object, got 3"),
        ({"shape": {"kind": "star"}}, "x.json: shape: 'kind' must be one of 'circle', 'square', got 'star'"),
        ({"shape": {"radius": 1}}, "x.json: shape: missing key 'kind'"),
        ({"shape": None}, "x.json: shape: must be an object, got None"),
        ({"shape": {"kind": ["circle"]}}, r"x.json: shape: 'kind' must be one of .*, got .*circle"),
        ({"shape": {"kind": "circle"}}, "x.json: shape: missing key 'radius'"),
        ({"shape": {"kind": "circle", "radius": -1}}, "x.json: shape: a radius is not negative"),
        ({"shape": {"kind": "square", "side": -1001}}, "x.json: shape.side: must be greater than or equal to -1000"),
        ({"shape": {"kind": "square", "side": 1, "square": 1}}, "x.json: shape: unknown key 'square'"),
        ({"shape": {"kind": "circle", "radius": 10**400}}, "x.json: shape.radius: must be a finite number"),
        ({"marks": [float("nan")]}, r"x.json: marks\[0\]: must be a finite number, got nan"),
        ({"marks": [float("inf")]}, r"x.json: marks\[0\]: must be a finite number, got inf"),
        (
            {"shape": {"kind": "circle", "radios": 1}},
            "x.json: shape: unknown key 'radios'; .*; shape: missing key 'radius'",
        ),
        ({"note": 1, "frame": 3}, "x.json: note: must be text in quotes, got 1; frame: must be an object, got 3"),
        ({"extra": {"a": object()}}, "x.json: .* is not JSON serializable"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change, message):
    with pytest.raises(ConfigError, match=message):
        parse(Drawing, {**VALID, **change}, "x.json")


@pytest.mark.parametrize("key", ["title", "shape"])
def test_a_missing_key_is_named(key):
    with pytest.raises(ConfigError, match=f"x.json: missing key '{key}'"):
        parse(Drawing, {k: v for k, v in VALID.items() if k != key}, "x.json")


def test_what_no_json_parser_reads_is_refused_in_a_sentence():
    deep = inner = {}
    for _ in range(400):
        inner["a"] = inner = {}
    for name in (deep, "half of a character: \ud800"):
        with pytest.raises(ConfigError, match=r"x\.json: it is not valid JSON"):
            parse(Drawing, VALID | {"title": name}, "x.json")


@pytest.mark.parametrize("data", [None, 3, "text", [], [VALID]])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(ConfigError, match=r"x\.json: must be an object"):
        parse(Drawing, data, "x.json")


@checked
@dataclass(frozen=True, kw_only=True)
class Line:
    """A line."""

    length: Annotated[float, Field(gt=0)]


def test_a_checked_constructor_refuses_what_a_file_may_not_say():
    assert Line(length=2.5).length == 2.5
    with pytest.raises(ConfigError, match=r"Line: length: must be greater than 0, got -1\.0"):
        Line(length=-1.0)


def test_the_json_schema_says_types_ranges_kinds_and_that_nothing_else_is_known():
    found = json_schema(Drawing)
    assert found["$ref"] == "#/$defs/Drawing"
    assert set(found["$defs"]) == {"Circle", "Drawing", "Square"}
    drawing, square = found["$defs"]["Drawing"], found["$defs"]["Square"]
    assert drawing["required"] == ["title", "shape"]
    assert drawing["additionalProperties"] is square["additionalProperties"] is False
    assert set(drawing["properties"]["shape"]["discriminator"]["mapping"]) == {"circle", "square"}
    assert square["properties"]["side"]["minimum"] == -1000


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, mark):
    (tmp_path / "x.json").write_bytes(mark + b'{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}
