"""The commands that make pages and pictures of what is recorded."""

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import run

from adaptive_smoothing_zoo.zoo.registry import find_entry

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "eval" / "results"
MODEL_INFO = ROOT / "../shared/reference/robustbench_model_info"
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


def test_pages_need_a_folder_or_the_published_triplets(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for command in (("leaderboard",), ("plot", "trade-off")):
        code, _, err = run(capsys, *command)
        assert code == 2
        assert "name a FOLDER with entries, or add --published" in err
    code, _, err = run(capsys, "leaderboard", "--published", "--known-by", "April")
    assert code == 2
    assert "a month is written as 2023-04, got 'April'" in err
    page, text = written(capsys, "leaderboard", "--published")
    assert (page, text) == (Path("leaderboard.html"), Path("leaderboard.md"))
    assert "| Bai2023Improving_edm (published) | 85.21 | 38.72 |" in text.read_text()
    (plot,) = written(capsys, "plot", "trade-off", "--published", "--dataset", "imagenet", "--out", "plot.svg")
    assert "Bai2024MixedNUTS" in plot.read_text()


def ranked(text, dataset):
    """Rank, name and clean accuracy of the models in the table of a data set for l_inf."""
    table = re.search(rf"^## {dataset} Linf.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[0]
    rows = re.findall(r"^\| (\d+) \| (\S+) .*?\| (\S+) \|", table, re.MULTILINE)
    return [(int(rank), name, float(clean)) for rank, name, clean in rows]


@pytest.mark.skipif(not MODEL_INFO.exists(), reason=f"RobustBench's files are not in {MODEL_INFO}")
class TestThePaperAmongRobustBenchsFiles:
    """[BAKS24, abstract], of 85.21 % clean and 38.72 % AutoAttack accuracy: "becoming the second most robust method on
    the RobustBench CIFAR-100 benchmark as of submission, while improving the clean accuracy by ten percentage points
    compared with all listed models".
    """

    ALL = ("leaderboard", "--published", "--with-robustbench", MODEL_INFO)
    EDM = "Bai2023Improving_edm"

    def of(self, capsys, out, *limits):
        return ranked(written(capsys, *self.ALL, *limits, "--out", out)[1].read_text(), "cifar100")

    @pytest.mark.parametrize(
        ("month", "rank"),
        [
            ("2023-01", 1),  # before the paper of its own h
            ("2023-02", 2),
            ("2023-04", 2),
            ("2023-05", 3),  # with Cui2023Decoupled, which may have been listed later than its paper
        ],
    )
    def test_it_is_the_second_most_robust_method_of_papers_from_february_to_april_2023(
        self, month, rank, capsys, tmp_path
    ):
        found = self.of(capsys, tmp_path, "--known-by", month, "--best-per-paper")
        assert found[rank - 1] == (rank, self.EDM, 85.21)
        if month == "2023-04":
            assert found[0][1] == "Wang2023Better_WRN-70-16"
            others = [clean for _, name, clean in found if name != self.EDM]
            assert 85.21 - max(others) == pytest.approx(9.99)

    def test_as_entries_two_of_one_method_are_ahead_of_it(self, capsys, tmp_path):
        found = self.of(capsys, tmp_path, "--known-by", "2023-04")
        assert [name for _, name, _ in found[:3]] == [
            *("Wang2023Better_WRN-70-16", "Wang2023Better_WRN-28-10", self.EDM)
        ]

    def test_without_limits_its_rank_is_that_of_the_files(self, capsys, tmp_path):
        files = [json.loads(path.read_text()) for path in (MODEL_INFO / "cifar100" / "Linf").glob("*.json")]
        robust = [min(float(file["autoattack_acc"]), float(file.get("external", 100))) for file in files]
        found = self.of(capsys, tmp_path)
        assert len(found) == len(files)
        (rank,) = [rank for rank, name, _ in found if name == self.EDM]
        assert rank == 1 + sum(accuracy > 38.72 for accuracy in robust)

    @pytest.mark.parametrize(
        ("said", "limits"),
        [
            ("papers until April 2023, the best entry of each", ("--known-by", "2023-04", "--best-per-paper")),
            ("papers until April 2023, all entries", ("--known-by", "2023-04")),
            ("all papers, the best entry of each", ("--best-per-paper",)),
            ("all entries", ()),
        ],
    )
    def test_the_docs_state_the_ranks(self, said, limits, capsys, tmp_path):
        found = self.of(capsys, tmp_path, *limits)
        (rank,) = [rank for rank, name, _ in found if name == self.EDM]
        assert f"\n| {said} | {rank} of {len(found)} |\n" in (ROOT / "docs" / "results.md").read_text()

    def test_the_recorded_page_is_what_the_command_writes(self, capsys, tmp_path):
        limits = ("--known-by", "2023-04", "--best-per-paper")
        fresh = written(capsys, *self.ALL, *limits, "--out", tmp_path)
        recorded = RESULTS / "robustbench"
        passing = r"\d{4}-\d\d-\d\d(?=, adaptive|\. Acc|<)|zoo \d[\d.]*|href=.*?>"  # date, version, links
        for path in fresh:
            assert re.sub(passing, "", path.read_text()) == re.sub(passing, "", (recorded / path.name).read_text())


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
