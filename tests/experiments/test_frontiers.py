"""Frontiers of mixes and of h alone, against the definitions point by point on tables made by hand."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import ABOUT

from adaptive_smoothing_zoo.experiments.experiment import Row, verdict
from adaptive_smoothing_zoo.experiments.frontiers import (
    best_alone,
    frontier_claims,
    gain,
    gain_table,
    gaining,
    lead_words,
    most_accurate_alone,
)
from adaptive_smoothing_zoo.experiments.published_mix import PRINTED
from adaptive_smoothing_zoo.experiments.published_pareto import EXPERIMENT, PublishedParetoTable

SIXTHS = [k / 6 for k in range(7)]
NOISES = ("a", "b", "c")
FIRST = "theorem4"


def row(noise, alpha, clean, certified, most=None, bound=FIRST):
    values = {"clean": clean, "clean_at_most": clean if most is None else most}
    values |= {f"certified_{i}": value for i, value in enumerate(certified)}
    return Row(case={"noise": noise, "alpha": alpha, "bound": bound}, values=values)


def a_table(*rows):
    return PublishedParetoTable(
        experiment="published-pareto", rows=rows, radii=(0.5, 1.0), **{**ABOUT, "dataset": "cifar10"}
    )


@st.composite
def tables(draw, bounds=(FIRST, "theorem5")):
    """Few different accuracies, so that ties are frequent."""
    some, rows = st.sampled_from(SIXTHS), []
    for bound, noise, alpha in product(bounds, NOISES, ("0.6", "0.999", "1")):
        least, most = sorted((draw(some), draw(some)))
        certified = (draw(some), draw(some))
        rows.append(row(noise, alpha, least, certified, least if alpha == "1" else most, bound))
    return a_table(*rows)


def at_least_as_accurate(table, mix, clean):
    """Every h alone that a mix has to outdo, by the definition."""
    alone = [each for each in table.rows if each.case["bound"] == mix.case["bound"] and each.case["alpha"] == "1"]
    found = [h for h in alone if h.values["clean"] >= mix.values[clean]]
    return found or [h for h in alone if all(h.values["clean"] >= other.values["clean"] for other in alone)]


def outdoes_all(table, mix, radius, clean):
    mine = mix.values[f"certified_{radius}"]
    return all(mine > h.values[f"certified_{radius}"] for h in at_least_as_accurate(table, mix, clean))


def mixes_of(table, bound):
    return [each for each in table.rows if each.case["bound"] == bound and each.case["alpha"] != "1"]


@given(tables(), st.sampled_from(["clean", "clean_at_most"]))
def test_a_mix_gains_if_it_certifies_more_than_every_h_alone_that_is_as_accurate(table, clean):
    for radius, bound in product((0, 1), (FIRST, "theorem5")):
        expected = [mix for mix in mixes_of(table, bound) if outdoes_all(table, mix, radius, clean)]
        assert gaining(table, bound, radius, clean) == expected
        for mix in mixes_of(table, bound):
            name = f"certified_{radius}"
            rivals = sorted(h.values[name] for h in at_least_as_accurate(table, mix, clean))
            assert gain(table, mix, radius, clean) == mix.values[name] - rivals[-1]


@given(tables())
def test_the_claims_are_about_all_mixes_and_radii(table):
    for clean in ("clean", "clean_at_most"):
        seen = {
            (bound, radius): any(outdoes_all(table, mix, radius, clean) for mix in mixes_of(table, bound))
            for bound, radius in product((FIRST, "theorem5"), (0, 1))
        }
        reached = [
            radius
            for radius in (0, 1)
            if any(r.values[f"certified_{radius}"] for r in table.rows if r.case["bound"] == FIRST)
        ]
        assert list(frontier_claims(table, FIRST, clean).values()) == [
            seen[FIRST, 0] or seen[FIRST, 1],
            bool(reached) and seen[FIRST, reached[-1]],
            not (seen["theorem5", 0] or seen["theorem5", 1]),
        ]


@given(tables((PRINTED, "theorem5")), st.data())
def test_what_the_logs_decide_holds_for_every_clean_accuracy_between_the_bounds(table, data):
    least, most = (frontier_claims(table, PRINTED, clean) for clean in ("clean", "clean_at_most"))
    between = [
        Row(case=each.case, values=each.values | {"clean": data.draw(st.floats(each["clean"], each["clean_at_most"]))})
        for each in table.rows
    ]
    found = frontier_claims(a_table(*between), PRINTED)
    agreement = EXPERIMENT.agreement(table)
    for claim, is_seen in found.items():
        if least[claim] == most[claim]:
            assert is_seen == least[claim]
    undecided = agreement.partition("do not decide whether ")[2].partition(".")[0].split(", nor whether ")
    assert [claim for claim in least if least[claim] != most[claim]] == [claim for claim in undecided if claim]
    assert ("The logs do not decide a claim" in agreement) == (least != most)


def test_another_noise_that_hardly_mixes_is_no_gain():
    """The h alone of that noise is as accurate, too."""
    table = a_table(row("a", "1", 0.9, (0.2, 0.0)), row("b", "1", 0.9, (0.5, 0.3)), row("b", "0.999", 0.9, (0.5, 0.25)))
    assert best_alone(table, FIRST, 0, 0.9).case["noise"] == "b"
    assert [gain(table, table.rows[2], radius) for radius in (0, 1)] == pytest.approx([0.0, -0.05])
    assert gaining(table, FIRST, 0) == gaining(table, FIRST, 1) == []
    assert lead_words(table, FIRST) == ""


TABLE = a_table(
    row("a", "1", 0.7, (0.5, 0.2)),
    row("b", "1", 0.9, (0.2, 0.0)),
    row("a", "0.8", 0.75, (0.45, 0.0), most=0.95),
    row("a", "0.6", 0.95, (0.1, 0.0)),
)


def test_the_table_shows_the_largest_gain_and_what_it_is_compared_with():
    assert most_accurate_alone(TABLE, TABLE.rows[2], 0) is TABLE.rows[0]
    first, second = gain_table(TABLE, FIRST).splitlines()[2:]
    mix, other = "a, alpha 0.8: 45.00 (clean 75.00)", "a, alpha 0.6: 10.00 (clean 95.00)"
    assert first == f"| 0.5 | +25.00 | {mix} | b: 20.00 (clean 90.00) | a: 50.00 (clean 70.00) | {other} |"
    assert second == "| 1 | none | none | none | none | none |"
    assert gain_table(TABLE, FIRST, "clean_at_most").splitlines()[2].endswith("a, alpha 0.8: 45.00 (clean 95.00) |")


def test_the_lead_is_over_the_most_accurate_h_alone_that_certifies_no_less():
    assert "at most 5.00 points more accurate" in lead_words(TABLE, FIRST)
    more = row("a", "0.76", 0.8, (0.6, 0.0))  # no h alone certifies as much
    assert most_accurate_alone(a_table(*TABLE.rows, more), more, 0) is None
    assert "at most 80.00 points more accurate" in lead_words(a_table(*TABLE.rows, more), FIRST)


@pytest.mark.parametrize("seen", list(product((True, False, None), repeat=3)))
def test_a_verdict_names_every_claim_once_where_it_belongs(seen):
    claims = dict(zip(("aaa", "bbb", "ccc"), seen, strict=True))
    text = verdict(claims)
    kinds = set(seen)
    begin = "not answered:" if None in kinds and True not in kinds else "in part:"
    assert text.startswith({frozenset({True}): "yes:", frozenset({False}): "no:"}.get(frozenset(kinds), begin))
    rest, _, undecided = text.partition("the data do not decide whether ")
    found, _, missing = rest.partition("it was not seen that ")
    for claim, is_seen in claims.items():
        places = {True: found, False: missing, None: undecided}
        assert [kind for kind, place in places.items() if claim in place] == [is_seen]
