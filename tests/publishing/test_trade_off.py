"""The picture of clean against robust accuracy: what it shows stands where its numbers say."""

import random
import re
from xml.etree import ElementTree

import pytest

from adaptive_smoothing_zoo.publishing.trade_off_plot import Box, Point, TradeOff, _around

SVG = "{http://www.w3.org/2000/svg}"
A, B, C = (
    Point(label="A", key="a", clean=90.0, robust=60.0),
    Point(label="B", key="b", clean=95.0, robust=50.0, kind="other"),
    Point(label="C", key="c", clean=89.0, robust=60.0, open=True),
)
CURVE = tuple(Point(label=f"alpha {i}", clean=99.0 - i, robust=10.0 * i, kind="alpha") for i in range(6))


def picture(plot):
    return ElementTree.fromstring(plot.svg())


def marks(plot):
    """Label and place of every circle."""
    for circle in picture(plot).iter(f"{SVG}circle"):
        yield circle.find(f"{SVG}title").text.partition(":")[0], float(circle.get("cx")), float(circle.get("cy"))


def along(plot, anchor):
    """Place (x of the ticks below, y of those at the left) and number of the ticks of one axis."""
    for text in picture(plot).iter(f"{SVG}text"):
        if text.get("stroke") == "none" and text.get("text-anchor") == anchor:
            yield float(text.get("x" if anchor == "middle" else "y")), float(text.text)


def test_circles_stand_where_the_ticks_say():
    plot = TradeOff(points=(A, B, C), curve=CURVE)
    (x0, clean0), *_, (x1, clean1) = along(plot, "middle")
    (y0, robust0), *_, (y1, robust1) = along(plot, "end")
    numbers = {p.label: (p.clean, p.robust) for p in (A, B, C, *CURVE)}
    found = list(marks(plot))
    assert len(found) == len(numbers)
    for label, x, y in found:
        clean = clean0 + (x - x0) / (x1 - x0) * (clean1 - clean0)
        robust = robust0 + (y - (y0 - 4)) / (y1 - y0) * (robust1 - robust0)  # a tick's text stands 4 below its line
        assert (clean, robust) == pytest.approx(numbers[label], abs=0.1)


def test_numbers_notes_and_kinds_are_in_the_picture():
    text = TradeOff(points=(A, B, C), robust="that accuracy").svg("here")
    assert '<svg xmlns="http://www.w3.org/2000/svg" id="here"' in text
    assert "A: 90.00 % clean, 60.00 % robust" in text
    assert ">that accuracy<" in text
    assert re.search('data-key="c"[^>]* fill="#fff"', text)
    assert not re.search('data-key="a"[^>]* fill="#fff"', text)


def test_names_are_escaped():
    text = TradeOff(points=(Point(label="<b>&", key='"', clean=1.0, robust=1.0),)).svg()
    assert "<b>" not in text
    assert ElementTree.fromstring(text) is not None


def test_the_front_is_what_nobody_beats():
    rng = random.Random(0)
    points = tuple(
        Point(label=str(i), key=str(i), clean=float(rng.randrange(8)), robust=float(rng.randrange(8)))
        for i in range(40)
    )
    best = {p.clean: max(q.robust for q in points if q.clean >= p.clean) for p in points}
    strictly = {p.clean: max([-1.0, *(q.robust for q in points if q.clean > p.clean)]) for p in points}
    expected = {p.key for p in points if p.robust == best[p.clean] and p.robust > strictly[p.clean]}
    assert TradeOff(points=points).front == expected
    assert TradeOff(points=(A, B, C)).front == {"a", "b"}


def test_labels_do_not_cover_each_other_and_all_of_ours_are_there():
    rng = random.Random(1)
    points = tuple(
        Point(
            label=f"Model{i}_with_a_name",
            key=str(i),
            clean=rng.uniform(80, 95),
            robust=rng.uniform(40, 70),
            kind="ours" if i % 20 == 0 else "other",
        )
        for i in range(100)
    )
    plot = TradeOff(points=points, curve=CURVE)
    x, y = plot._scales()
    labels = [(p, Box(left, base - 0.8 * 12, 7.4 * len(p.label), 12)) for p, left, base in plot._labels(x, y)]
    assert {p.label for p, _ in labels} >= {p.label for p in points if p.kind == "ours"}
    circles = [_around(x(p.clean), y(p.robust)) for p in (*points, *CURVE)]
    assert len(labels) > 5
    for point, box in labels:
        assert box.is_inside()
        assert sum(box.overlaps(other) for _, other in labels) == 1  # itself
        assert point.kind == "ours" or not box.overlaps_any(circles)


@pytest.mark.parametrize(
    "points", [(A,), (A, Point(label="D", clean=90.0, robust=60.0)), (Point(label="E", clean=100.0, robust=0.0),)]
)
def test_few_points_and_equal_ones_have_axes(points):
    plot = TradeOff(points=points)
    assert len(list(along(plot, "middle"))) >= 2
    assert len(list(along(plot, "end"))) >= 2
    for _, x, y in marks(plot):
        assert _around(x, y).is_inside()


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_it_is_drawn_in_the_format_of_the_name(name, start, tmp_path):
    TradeOff(points=(A, B, C), curve=CURVE).draw(tmp_path / name, "Title")
    assert (tmp_path / name).read_bytes().startswith(start)
