"""The commands that make pages and pictures of what is recorded."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import run

from adaptive_smoothing_zoo.zoo.registry import find_entry

RESULTS = Path(__file__).parents[2] / "eval" / "results"
NAME = "Demo2026Adaptive"


@pytest.fixture
def results(tmp_path):
    """What is recorded of the two digits triplets for l_inf, and of one for l_2."""
    for source in (RESULTS / "digits" / "Linf", RESULTS / "digits" / "L2"):
        folder = tmp_path / "results" / source.relative_to(RESULTS)
        folder.mkdir(parents=True)
        for path in (*source.glob("*.json"), *source.glob("*.npz")):
            shutil.copy(path, folder)
    return tmp_path / "results"


def written(capsys, *arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    return [Path(line.removeprefix("wrote ")) for line in out.splitlines()]


def test_the_page_ranks_among_robustbench_and_says_what_it_skips(capsys, caplog, results, tmp_path):
    theirs = tmp_path / "model_info" / "digits" / "Linf"
    theirs.mkdir(parents=True)
    entry = json.loads((results / "digits" / "Linf" / f"{NAME}.json").read_text())
    (theirs / "Doe2020.json").write_text(json.dumps(entry | {"external": "54.00"}))
    (theirs / "Other.json").write_text(json.dumps(entry | {"eps": "1/4"}))
    arguments = ("--with-robustbench", tmp_path / "model_info", "--out", tmp_path / "site")
    page, text = written(capsys, "leaderboard", results, *arguments)
    assert [page.name, text.name] == ["leaderboard.html", "leaderboard.md"]
    ranked = [
        line.split(" | ")[1:5] for line in text.read_text().splitlines() if line.startswith(("| 1 ", "| 2 ", "| 3 "))
    ]
    assert [row[0] for row in ranked][-3:] == ["Demo2026Constant", "Doe2020 (RobustBench)", NAME]
    assert [row[3] for row in ranked][-3:] == ["55.43", "54.00", "51.81"]
    assert page.read_text().count('data-ours="no"') == 1
    (warning,) = caplog.messages
    assert "Other.json is at another radius" in warning


def test_a_folder_that_is_not_robustbench_s_is_refused(capsys, results):
    code, _, err = run(capsys, "leaderboard", results, "--with-robustbench", results / "nothing")
    assert code == 2
    assert "has no entries for digits/L2 or digits/Linf" in err
    assert not (results / "leaderboard.html").exists()


def test_a_trade_off_is_drawn_of_one_table(capsys, results, tmp_path):
    out = ("--out", tmp_path / "plot.svg")
    (path,) = written(capsys, "plot", "trade-off", results, "--threat-model", "Linf", *out)
    assert NAME in path.read_text()
    path.unlink()
    for wrong in ((), ("--threat-model", "Linf", "--eps", "1/3"), ("--dataset", "cifar10")):
        code, _, err = run(capsys, "plot", "trade-off", results, *wrong, *out)
        assert code == 2
        assert "choose one with --dataset, --threat-model and --eps: digits L2, eps 1/4; digits Linf, eps 1/5" in err
    code, _, err = run(capsys, "plot", "trade-off", results, "--threat-model", "L2", "--out", tmp_path / "plot.xyz")
    assert code == 2
    assert "xyz" in err
    assert not list(tmp_path.glob("plot*"))


def test_a_card_is_written_with_its_picture_where_there_is_a_curve(capsys, results, tmp_path):
    entry = find_entry(NAME, "digits", "Linf")
    where = ("--dataset", "digits", "--results", results)
    written(capsys, "card", NAME, *where, "--out", tmp_path / "a")
    assert f"]({entry.key}.svg)" in (tmp_path / "a" / f"{entry.key}.md").read_text()
    assert (tmp_path / "a" / f"{entry.key}.svg").read_text().startswith("<svg ")
    (results / "digits" / "Linf" / "constant_alpha.curve.json").unlink()
    written(capsys, "card", NAME, *where, "--out", tmp_path / "b")
    assert [path.name for path in (tmp_path / "b").iterdir()] == [f"{entry.key}.md"]
    assert ".svg" not in (tmp_path / "b" / f"{entry.key}.md").read_text()
