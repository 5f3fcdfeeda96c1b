"""Leaderboard entries, and the pages made of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recorded import CIFAR_ENTRY, ENTRY, publish

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.leaderboard import leaderboard_entry, render
from adaptive_smoothing_zoo.zoo.entry import Published
from adaptive_smoothing_zoo.zoo.registry import list_models

MODEL_INFO = Path(__file__).parents[2] / "../shared/reference/robustbench_model_info"
PUBLISHED = [entry for entry in list_models() if entry.published is not None]
WITH_ADAPTIVE = replace(ENTRY, published=Published(clean="90.00", autoattack="60.00", source="s", adaptive="58.00"))


def write(folder, name, content):
    path = folder / "cifar10" / "Linf" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_an_entry_quotes_what_was_published_and_what_was_measured():
    data = leaderboard_entry(ENTRY, 0.95, 0.68)
    assert data["reported"] == data["autoattack_acc"] == "68.00"
    assert data["eps"] == "1/5"
    assert data["additional_data"] is False
    assert data["number_forward_passes"] == 2


@pytest.mark.parametrize("entry", PUBLISHED, ids=[entry.key for entry in PUBLISHED])
def test_entries_of_published_models_are_robustbench_s_own(entry):
    path = MODEL_INFO / entry.dataset / entry.threat_model / f"{entry.name}.json"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    theirs, published = json.loads(path.read_text()), entry.published
    ours = leaderboard_entry(entry, float(published.clean) / 100, float(published.autoattack) / 100)
    assert list(ours.items()) == list(theirs.items())


def test_the_lowest_known_figure_is_external_and_the_authors_count():
    cases = ((0.60, None, "58.00"), (0.60, 0.59, "58.00"), (0.60, 0.57, "57.00"), (0.57, None, None))
    for robust, external, expected in cases:
        data = leaderboard_entry(WITH_ADAPTIVE, 0.9, robust, external=external)
        assert data.get("external") == expected
        assert data["reported"] == "58.00"
    keys = list(leaderboard_entry(WITH_ADAPTIVE, 0.9, 0.6))
    assert keys.index("external") == keys.index("autoattack_acc") + 1


def test_published_figures_do_not_count_at_another_radius():
    data = leaderboard_entry(WITH_ADAPTIVE, 0.9, 0.7, eps="1/10")
    assert data["reported"] == data["autoattack_acc"] == "70.00"
    assert "external" not in data
    assert leaderboard_entry(WITH_ADAPTIVE, 0.9, 0.7, eps="0.2")["external"] == "58.00"


def test_pages_rank_by_the_best_known_accuracy_and_escape_text(tmp_path):
    for name, robust, extra in (
        ("First", 0.5, {}),
        ("Third", 0.6, {"external": "10.00", "footnote": "<script>alert(1)</script>"}),
        ("Second", 0.4, {"link": "javascript:alert(1)", "name": "a | b"}),
    ):
        write(tmp_path, name, leaderboard_entry(CIFAR_ENTRY, 0.9, robust) | extra)
    write(tmp_path, "First.run", "{}")
    page, text = render(tmp_path)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "Rank" not in line and "---" not in line]
    assert [row.split(" | ")[1] for row in rows] == ["First", "Second", "Third"]
    assert "alert(1)</script>" not in page
    assert "javascript:" not in page
    assert f'<a href="{ENTRY.paper.link}">' in page
    assert "eps 8/255" in page
    assert page.index("First") < page.index("Second") < page.index("Third")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": 3}', "\x00"])
def test_a_file_that_is_no_entry_is_named(tmp_path, content):
    write(tmp_path, "Broken", content)
    with pytest.raises(ResultsError, match=r"Broken\.json is not a leaderboard entry"):
        render(tmp_path)


def test_an_empty_folder_has_no_leaderboard(tmp_path):
    with pytest.raises(ResultsError, match="no leaderboard entries"):
        render(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"clean_acc": "101"},
        {"clean_acc": "nan"},
        {"autoattack_acc": True},
        {"autoattack_acc": "-1"},
        {"external": 1e6},
        {"additional_data": "no"},
        {"eps": "1/0"},
        {"eps": None},
        {"venue": ["a list"]},
    ],
)
def test_a_leaderboard_shows_percentages_and_texts(tmp_path, changes):
    write(tmp_path, "Model", leaderboard_entry(CIFAR_ENTRY, 0.9, 0.5) | changes)
    with pytest.raises(ResultsError, match="is not a leaderboard entry"):
        render(tmp_path)


def test_a_line_break_breaks_no_table(tmp_path):
    path = publish(tmp_path)
    rows = render(tmp_path)[1].count("\n")
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"footnote": "one\ntwo", "venue": "a\r\nb", "eps": "1/5\n"})
    )
    assert render(tmp_path)[1].count("\n") == rows
