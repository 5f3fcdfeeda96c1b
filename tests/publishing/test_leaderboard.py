"""Leaderboard entries, and the pages made of them."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from recorded import (
    CIFAR_ENTRY,
    ENTRY,
    EXAMPLES,
    MODEL,
    a_record,
    add_adaptive,
    add_validation,
    an_evaluation,
    entry_of,
    publish,
)
from scipy.stats import binomtest

from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.leaderboard import read_tables, render
from adaptive_smoothing_zoo.publishing.model_info import leaderboard_entry
from adaptive_smoothing_zoo.publishing.others import Others
from adaptive_smoothing_zoo.publishing.run_record import make_record, write_results
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
    write(tmp_path, "First.verify", "{}")
    page, text = render(tmp_path)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "Rank" not in line and "---" not in line]
    assert [row.split(" | ")[1] for row in rows] == ["First", "Second", "Third"]
    assert "alert(1)</script>" not in page
    assert "javascript:" not in page
    assert f'<a href="{ENTRY.paper.link}">' in page
    assert "eps 8/255" in page
    assert page.index("First") < page.index("Second") < page.index("Third")


def test_a_name_that_ends_like_another_file_has_its_row_and_angle_brackets_stay(tmp_path):
    write(tmp_path, "Doe2026Disagreement", leaderboard_entry(CIFAR_ENTRY, 0.9, 0.61) | {"footnote": "<b>n < 5</b> > 3"})
    write(tmp_path, "Mine", leaderboard_entry(CIFAR_ENTRY, 0.9, 0.6))
    write(tmp_path, "engine_agreement", "{}")
    (table,) = read_tables(tmp_path)
    assert [row.info.name for row in table.rows] == ["Doe2026Disagreement", "Mine"]
    assert "n &lt; 5 &gt; 3" in render(tmp_path)[0]


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
    change(path, footnote="one\ntwo", venue="a\r\nb", eps="1/5\n")
    assert render(tmp_path)[1].count("\n") == rows


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_row(*folders, **more):
    (table,) = read_tables(*folders, **more)
    (row,) = table.rows
    return row


class TestWhatIsRecordedNextToAnEntry:
    def test_numbers_and_intervals_are_those_of_the_records(self, tmp_path):
        publish(tmp_path)
        add_adaptive(tmp_path, 1)
        add_validation(tmp_path, 2)
        entry_of(tmp_path)
        row = only_row(tmp_path)
        assert (row.info.clean, row.info.autoattack, row.best) == (87.5, 50.0, 25.0)
        for name, count in (("clean", 7), ("autoattack", 4), ("best", 2)):
            expected = binomtest(count, 8).proportion_ci(0.95, "exact")
            assert row.intervals[name] == pytest.approx((expected.low, expected.high))
        assert (row.flags, row.is_whole) == ((), True)
        page = render(tmp_path)[0]
        assert 'data-value="25.00">25.00<small>3.19 to 65.09</small>' in page
        for kind in ("run.json", "adaptive.json", "validation.md"):
            assert f'href="digits/Linf/{ENTRY.name}.{kind}"' in page

    def test_records_that_are_newer_than_the_entry_count(self, tmp_path):
        publish(tmp_path)
        add_adaptive(tmp_path, 1)
        assert only_row(tmp_path).best == 37.5

    @pytest.mark.parametrize(("name", "value"), [("clean_acc", "87.51"), ("autoattack_acc", "50.01"), ("eps", "1/4")])
    def test_an_entry_that_says_something_else_than_its_record_has_no_rank(self, name, value, tmp_path):
        change(publish(tmp_path), **{name: value})
        row = only_row(tmp_path)
        assert row.flags == (row.problem,)
        assert "87.50 % and 50.00 % at eps 1/5" in row.problem
        assert 'data-plain="no"' in render(tmp_path)[0]

    def test_a_record_that_cannot_be_read_takes_the_rank(self, tmp_path):
        write(tmp_path, "Other", leaderboard_entry(CIFAR_ENTRY, 0.9, 0.1))
        write(tmp_path, "Best", leaderboard_entry(CIFAR_ENTRY, 0.9, 0.9))
        write(tmp_path, "Best.run", "{}")
        (table,) = read_tables(tmp_path)
        assert [row.info.name for row in table.rows] == ["Other", "Best"]
        assert "Best.run.json is not a run record" in table.rows[1].problem
        text = render(tmp_path)[1]
        assert "| 1 | Other |" in text
        assert "| – | Best |" in text

    def test_what_speaks_against_a_number_is_shown(self, tmp_path):
        publish(tmp_path, a_record(test_set_size=9, chosen_among=3, warnings=("W.",), deterministic=False))
        add_validation(tmp_path, failed=("losses_agree",))
        entry_of(tmp_path)
        flags = only_row(tmp_path).flags
        expected = (
            "8 images, not the whole",
            "3 of the images",
            "losses_agree",
            "checks raised a flag",
            "deterministic",
        )
        for flag, words in zip(flags, expected, strict=True):
            assert words in flag
        page = render(tmp_path)[0]
        assert all(f"<strong>{flag}.</strong>".replace("'", "&#39;") in page for flag in flags)
        assert 'data-whole="no" data-plain="no"' in page
        assert only_row(tmp_path).point.open

    def test_images_of_a_file_are_not_called_the_test_set(self, tmp_path):
        publish(tmp_path, a_record(test_set_size=None))
        row = only_row(tmp_path)
        assert row.flags == ("8 images, not known to be of the official test set",)
        assert row.info.footnote.endswith("Not known to be of the official test set: 8 examples.")

    @pytest.mark.parametrize("kept", [True, False])
    def test_a_record_that_was_edited_without_its_verdicts_has_no_rank(self, kept, tmp_path):
        path = publish(tmp_path)
        after = dict.fromkeys(("clean", *STANDARD_ATTACKS), 0.875)
        numbers = {"robust_accuracy": 0.875, "accuracy_after": after, "broken_by": {"clean": 1}}
        change(path.with_suffix(".run.json"), **numbers)
        change(path, autoattack_acc="87.50")
        if not kept:
            path.with_suffix(".examples.npz").unlink()
        row = only_row(tmp_path)
        assert ("does not belong to the run record" if kept else "is missing or damaged") in row.problem
        assert row.evidence is None

    def test_an_entry_without_records_says_so(self, tmp_path):
        publish(tmp_path).rename(tmp_path / "entry.json")
        shutil.rmtree(tmp_path / "digits")
        write(tmp_path, "Alone", json.loads((tmp_path / "entry.json").read_text()) | {"eps": "8/255"})
        row = only_row(tmp_path)
        assert row.flags == ("no record of the run",)
        assert row.intervals == {}

    def test_a_run_that_is_not_standard_is_shown_and_has_no_rank(self, tmp_path):
        publish(tmp_path)
        settings = AttackSettings(engine="reference", batch_size=8).limited(iterations=3)
        custom = replace(ENTRY, name=f"{ENTRY.name}.custom")
        record = make_record(custom, an_evaluation(settings=settings), EXAMPLES, MODEL)
        write_results(tmp_path, custom, an_evaluation(settings=settings), EXAMPLES, record)
        assert only_row(tmp_path).info.name == ENTRY.name
        page, text = render(tmp_path)
        assert "iterations=3" in page
        assert f"{ENTRY.name}.custom.run.json" in page
        assert text.splitlines()[-1].startswith(f"| {ENTRY.name}.custom | digits Linf, {settings.protocol}")
        # Not even if somebody writes an entry for it.
        publish(tmp_path).rename(tmp_path / "digits/Linf" / f"{custom.name}.json")
        with pytest.raises(ResultsError, match="no leaderboard entries"):
            read_tables(tmp_path)

    def test_links_are_relative_to_the_page_and_cards_are_linked(self, tmp_path):
        publish(tmp_path / "results")
        card = tmp_path / "my cards" / f"{ENTRY.key}.md"
        page = render(tmp_path / "results", out=tmp_path / "site", cards=(tmp_path, card.parent))[0]
        assert f'href="../results/digits/Linf/{ENTRY.name}.run.json"' in page
        assert "my%20cards" not in page
        card.parent.mkdir()
        card.touch()
        page = render(tmp_path / "results", out=tmp_path / "site", cards=(tmp_path, card.parent))[0]
        assert f'href="../my%20cards/{ENTRY.key}.md"' in page

    def test_of_the_same_entry_in_several_folders_the_first_counts(self, tmp_path):
        publish(tmp_path / "new")
        publish(tmp_path / "old")
        add_adaptive(tmp_path / "old", 0, 1, 2)
        entry_of(tmp_path / "old")
        assert only_row(tmp_path / "new", tmp_path / "old").best == 50.0
        assert only_row(tmp_path / "old", tmp_path / "new").best == 12.5

    def test_the_page_has_its_date_and_protocol_and_names_nothing_that_a_network_would_bring(self, tmp_path):
        publish(tmp_path)
        page = render(tmp_path, date="2026-01-02")[0]
        assert "<p>2026-01-02. " in page
        assert "AutoAttack standard" in page
        assert not re.search(r"<(link|img|iframe)|src=|@import|url\(", page)
        assert "default-src 'none'" in page


@pytest.fixture
def model_info(tmp_path):
    """Entries as RobustBench's: the most robust models for CIFAR-100 when [BAKS24] entered its leaderboard."""
    folder = tmp_path / "model_info"
    for name, clean, robust in (
        ("Wang2023Better_WRN-70-16", "75.22", "42.67"),
        ("Gowal2020Uncovering_extra", "69.15", "36.88"),
        ("Debenedetti2022Light_XCiT-L12", "70.76", "35.08"),
        ("Rebuffi2021Fixing_70_16_cutmix_ddpm", "63.56", "34.64"),
    ):
        data = leaderboard_entry(CIFAR_ENTRY, float(clean) / 100, float(robust) / 100)
        data |= {"dataset": "cifar100", "clean_acc": clean, "additional_data": True}
        path = folder / "cifar100" / "Linf" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data))
    return folder


def add_edm(folder):
    """The triplet of [BAKS24] as it was published."""
    (entry,) = (e for e in PUBLISHED if e.name == "Bai2023Improving_edm" and e.dataset == "cifar100")
    data = leaderboard_entry(entry, float(entry.published.clean) / 100, float(entry.published.autoattack) / 100)
    path = folder / "cifar100" / "Linf" / f"{entry.name}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(data))


class TestAmongRobustBench:
    def test_of_equal_models_the_others_come_first(self, model_info, tmp_path):
        add_edm(tmp_path / "results")
        for path in (model_info / "cifar100" / "Linf").iterdir():
            change(path, autoattack_acc="38.72")
        (table,) = read_tables(tmp_path / "results", others=Others(model_info=model_info))
        assert [row.ours for row in table.rows] == [False] * 4 + [True]
        assert table.ranks == {"Bai2023Improving_edm": (5, 5)}

    def test_the_triplet_of_the_paper_is_the_second_most_robust_and_the_most_accurate(self, model_info, tmp_path):
        add_edm(tmp_path / "results")
        (table,) = read_tables(tmp_path / "results", others=Others(model_info=model_info))
        assert [row.info.name for row in table.rows][:3] == [
            *("Wang2023Better_WRN-70-16", "Bai2023Improving_edm", "Gowal2020Uncovering_extra")
        ]
        assert [row.ours for row in table.rows] == [False, True, False, False, False]
        assert table.rows[1].info.clean - max(row.info.clean for row in table.rows if not row.ours) > 9
        assert {point.label for point in table.trade_off.points if point.kind == "ours"} == {"Bai2023Improving_edm"}
        assert table.trade_off.front == {row.point.key for row in table.rows[:2]}
        page, text = render(tmp_path / "results", others=Others(model_info=model_info))
        assert page.count('data-ours="no"') == 4
        assert "| 3 | Gowal2020Uncovering_extra (RobustBench) | 69.15 | 36.88 |" in text

    def test_other_radii_and_files_that_are_no_entries_are_left_out_with_a_warning(self, model_info, tmp_path, caplog):
        add_edm(tmp_path / "results")
        folder = model_info / "cifar100" / "Linf"
        change(folder / "Gowal2020Uncovering_extra.json", eps="4/255")
        (folder / "Debenedetti2022Light_XCiT-L12.json").write_text("{")
        change(folder / "Rebuffi2021Fixing_70_16_cutmix_ddpm.json", external=None)
        change(folder / "Wang2023Better_WRN-70-16.json", unreliable=True, external="10.00")
        (table,) = read_tables(tmp_path / "results", others=Others(model_info=model_info))
        assert [row.info.name for row in table.rows] == ["Bai2023Improving_edm", "Wang2023Better_WRN-70-16"]
        assert table.rows[1].flags == ("AutoAttack is not reliable here, says RobustBench",)
        assert len(caplog.messages) == 3
        for name in ("Gowal", "Debenedetti", "Rebuffi"):
            assert sum(name in message for message in caplog.messages) == 1

    def test_a_folder_without_such_entries_is_refused(self, tmp_path):
        add_edm(tmp_path)
        with pytest.raises(ResultsError, match="has no entries for cifar100/Linf; name RobustBench's"):
            read_tables(tmp_path, others=Others(model_info=tmp_path / "cifar100"))


def add_theirs(folder, name, robust, **changes):
    """An entry of RobustBench for CIFAR-10; the folder model_info is returned."""
    write(folder / "model_info", name, leaderboard_entry(CIFAR_ENTRY, 0.9, robust) | changes)
    return folder / "model_info"


def names(table):
    return [row.info.name for row in table.rows]


class TestAModelIsListedOnce:
    def test_as_ours_where_robustbench_has_an_entry_of_the_same_name(self, tmp_path):
        write(tmp_path / "results", "Mine", leaderboard_entry(CIFAR_ENTRY, 0.9, 0.5))
        add_theirs(tmp_path, "Mine", 0.6)
        others = Others(model_info=add_theirs(tmp_path, "Mine_large", 0.6))
        (table,) = read_tables(tmp_path / "results", others=others)
        assert [(row.info.name, row.ours, row.best) for row in table.rows] == [
            ("Mine_large", False, 60.0),
            ("Mine", True, 50.0),
        ]
        assert table.rows[1].flags == ("no record of the run",)

    def test_and_says_so_if_robustbench_knows_a_lower_accuracy(self, tmp_path):
        write(tmp_path / "results", "Mine", leaderboard_entry(CIFAR_ENTRY, 0.9, 0.5))
        others = Others(model_info=add_theirs(tmp_path, "Mine", 0.6, external="49.98"))
        (row,) = read_tables(tmp_path / "results", others=others)[0].rows
        assert "RobustBench knows 49.98 % robust accuracy" in row.flags
        assert row.point.open

    def test_published_triplets_are_listed_unless_a_folder_has_their_entry(self, tmp_path):
        published = {entry.key: entry.published for entry in PUBLISHED}
        found = {row.info.key: row for table in read_tables(others=Others(published=True)) for row in table.rows}
        assert found.keys() == published.keys()
        for key, row in found.items():
            assert f"{row.info.clean:.2f}" == published[key].clean
            assert f"{row.info.autoattack:.2f}" == published[key].autoattack
            assert row.flags == ("published accuracies, not evaluated here",)
        add_edm(tmp_path)
        change(tmp_path / "cifar100/Linf/Bai2023Improving_edm.json", autoattack_acc="10.00")
        table = next(t for t in read_tables(tmp_path, others=Others(published=True)) if t.dataset == "cifar100")
        assert names(table) == ["Bai2024MixedNUTS", "Bai2023Improving_trades", "Bai2023Improving_edm"]
        assert [row.published for row in table.rows] == [True, True, False]


class TestLimits:
    @pytest.mark.parametrize(
        ("link", "venue", "date", "paper"),
        [
            ("https://arxiv.org/abs/2302.04638", "ICML 2024", "2023-02", "2302.04638"),
            ("https://arxiv.org/abs/1907.02610v2", "x", "2019-07", "1907.02610"),
            ("https://arxiv.org/pdf/2202.10103.pdf", "ICML 2022", "2022-02", "2202.10103"),
            ("https://doi.org/10.1/x.2020.11", "A Journal 2024", "2024", "https://doi.org/10.1/x.2020.11"),
            ("https://github.com/x", "GitHub,<br>Oct 2019", "2019", "https://github.com/x"),
            ("https://github.com/x", "N/A", "", "https://github.com/x"),
        ],
    )
    def test_a_paper_is_known_by_its_arxiv_number_or_its_link(self, link, venue, date, paper, tmp_path):
        write(tmp_path, "Model", leaderboard_entry(CIFAR_ENTRY, 0.9, 0.5) | {"link": link, "venue": venue})
        info = only_row(tmp_path).info
        assert (info.date, info.paper) == (date, paper)

    @pytest.fixture
    def folder(self, tmp_path):
        """Ours, of a paper of May 2023, and entries of RobustBench, the two of one paper among them of April."""
        mine = leaderboard_entry(CIFAR_ENTRY, 0.9, 0.5) | {"link": "arxiv.org/abs/2305.00001"}
        write(tmp_path / "results", "Mine", mine)
        for name, robust, link, venue in (
            ("Late", 0.9, "arxiv.org/abs/2305.00002", "A 2023"),
            ("Later", 0.8, "example.org", "B 2024"),
            ("Large", 0.7, "arxiv.org/abs/2304.00001v2", "C 2025"),
            ("Small", 0.6, "arxiv.org/pdf/2304.00001", "C 2025"),
            ("Undated", 0.4, "example.net", "N/A"),
            ("Year", 0.3, "example.com", "D 2023"),
            ("Mine_small", 0.2, "arxiv.org/abs/2305.00001", "E 2023"),
        ):
            add_theirs(tmp_path, name, robust, link=link, venue=venue)
        return tmp_path

    @pytest.mark.parametrize(
        ("limits", "expected"),
        [
            ({}, "Late Later Large Small Mine Undated Year Mine_small"),
            ({"known_by": "2023-04"}, "Large Small Mine Undated Year"),
            ({"known_by": "2023-05"}, "Late Large Small Mine Undated Year Mine_small"),
            ({"best_per_paper": True}, "Late Later Large Mine Undated Year"),
            ({"known_by": "2023-04", "best_per_paper": True}, "Large Mine Undated Year"),
        ],
    )
    def test_they_leave_out_entries_of_others_and_both_ranks_are_stated(self, limits, expected, folder):
        others, left = Others(model_info=folder / "model_info", **limits), expected.split()
        (table,) = read_tables(folder / "results", others=others)
        assert names(table) == left
        for text in render(folder / "results", others=others):
            sentence = f"Mine: rank {left.index('Mine') + 1} of {len(left)}; without the limits 5 of 8."
            assert (sentence in text) == bool(limits)
            assert all(name in text for name in ("Late", "Mine_small"))

    def test_an_entry_of_a_folder_stays_though_a_better_one_is_of_the_same_paper(self, folder):
        change(folder / "model_info/cifar10/Linf/Mine_small.json", autoattack_acc="55.00")
        others = Others(model_info=folder / "model_info", best_per_paper=True)
        (table,) = read_tables(folder / "results", others=others)
        assert names(table)[3:5] == ["Mine_small", "Mine"]

    def test_a_model_without_a_rank_is_not_counted(self, folder):
        write(folder / "results", "Mine.run", "{}")
        others = Others(model_info=folder / "model_info", known_by="2023-04")
        (table,) = read_tables(folder / "results", others=others)
        assert (table.ranks, table.counts) == ({}, (4, 7))

    def test_published_triplets_are_limited_too(self):
        tables = read_tables(others=Others(published=True, known_by="2023-04", best_per_paper=True))
        assert [(table.dataset, names(table)) for table in tables] == [
            ("cifar10", ["Bai2023Improving_edm"]),
            ("cifar100", ["Bai2023Improving_edm"]),
        ]
        with pytest.raises(ResultsError, match="none of our models is left without papers after 2022-12"):
            read_tables(others=Others(published=True, known_by="2022-12"))

    @pytest.mark.parametrize("month", ["2023", "2023-13", "2023-4", "23-04", "2023-04-01"])
    def test_a_month_is_a_month(self, month):
        with pytest.raises(ResultsError, match="a month is written as 2023-04"):
            Others(published=True, known_by=month)

    def test_limits_without_others_are_refused(self):
        for limits in ({"known_by": "2023-04"}, {"best_per_paper": True}):
            with pytest.raises(ResultsError, match="add --with-robustbench MODEL_INFO_DIR or --published"):
                Others(**limits)

    def test_pages_identify_the_files_as_the_shell_does(self, folder):
        files, others = folder / "model_info" / "cifar10" / "Linf", Others(model_info=folder / "model_info")
        (files / "Undated.json").rename(files / "aUndated.json")
        shell = "sha256sum *.json | LC_ALL=C sort -k2 | sha256sum"
        printed = subprocess.run(shell, shell=True, cwd=files, capture_output=True, text=True, check=True).stdout
        expected = printed.split()[0]
        for text in render(folder / "results", others=others):
            assert expected in text
            assert "7 files" in text
        change(files / "Late.json", footnote="another")
        assert expected not in render(folder / "results", others=others)[1]
