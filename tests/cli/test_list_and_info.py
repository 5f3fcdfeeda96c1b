"""What ``asz list`` and ``asz info`` tell, against the entries and the records."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from command_line import run

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.publishing.evidence import read_evidence
from adaptive_smoothing_zoo.publishing.known import SHIPPED, known_of
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.zoo.registry import find_entry, list_models

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "eval" / "results"
DIGITS = find_entry("Demo2026Adaptive", "digits", "Linf")
MIXED_NUTS = find_entry("Bai2024MixedNUTS", "cifar100", "Linf")


def listed(capsys, *arguments):
    code, out, err = run(capsys, "list", *arguments)
    assert (code, err) == (0, "")
    return out


def rows(capsys, *arguments):
    return json.loads(listed(capsys, *arguments, "--json"))


def test_the_package_knows_what_is_recorded():
    spec = importlib.util.spec_from_file_location("known_accuracies", ROOT / "eval" / "known_accuracies.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert SHIPPED.read_text() == script.summary(), "run python eval/known_accuracies.py"


@pytest.mark.parametrize("entry", list_models(), ids=lambda entry: entry.key)
def test_known_accuracies_are_those_of_the_records_or_else_those_published(entry):
    known = known_of(entry)
    said = known and (known.clean, known.autoattack, known.best)
    if RunRecord.path(RESULTS, entry).exists():
        evidence = read_evidence(RESULTS, entry)
        run = evidence.run
        expected = (run.clean_accuracy, run.robust_accuracy, run.robust_accuracy - len(evidence.broken) / run.n)
        assert said == tuple(f"{100 * value:.2f}" for value in expected)
        assert (known.n, known.is_whole, known.source) == (run.n, run.n == run.test_set_size, None)
        assert known.failed_checks == evidence.failed_checks
    else:
        published = entry.published
        assert said == (published.clean, published.autoattack, published.adaptive or published.autoattack)
        assert (known.n, known.source) == (None, published.source)


class TestList:
    def test_a_line_has_the_accuracies_beside_the_name(self, capsys):
        (line,) = (
            line for line in listed(capsys).splitlines() if line.startswith("Demo2026Adaptive") and "digits" in line
        )
        known = known_of(DIGITS)
        assert line.split()[:9] == [
            *("Demo2026Adaptive", "digits", "Linf", "eps", "1/5"),
            *(known.clean, known.autoattack, known.best, "359"),
        ]
        assert line.endswith("alpha [0.85, 1]      embedded")

    def test_a_heading_is_for_a_terminal_alone(self, capsys, monkeypatch):
        without = listed(capsys)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        heading, *lines = listed(capsys).splitlines()
        assert lines == without.splitlines()
        for word, value in (("clean", "94.99"), ("best", "51.81"), ("images", "359")):
            (line,) = (line for line in lines if "94.99" in line)
            assert heading.index(word) + len(word) == line.index(value) + len(value)

    def test_filters_are_taken_together(self, capsys):
        names = [(row["name"], row["dataset"]) for row in rows(capsys, "--embedded", "--dataset", "digits", "MIXING")]
        assert names == [("Demo2026Adaptive", "digits")]
        assert {row["name"] for row in rows(capsys, "hard", "maximum")} == {"Bai2024MixedNUTS"}
        assert {row["threat_model"] for row in rows(capsys, "--threat-model", "L2")} == {"L2"}
        code, out, err = run(capsys, "list", "no such words")
        assert (code, out) == (2, "")
        assert "no triplet matches" in err

    def test_json_has_what_the_entry_says(self, capsys):
        (row,) = rows(capsys, "--dataset", "cifar100", "mixednuts")
        assert row["accuracies"]["best"] == MIXED_NUTS.published.adaptive
        assert row["alpha"] == [MIXED_NUTS.alpha.alpha_min, MIXED_NUTS.alpha.alpha_max]
        assert (row["num_classes"], row["image_shape"]) == (100, [3, 32, 32])

    def test_own_records_count_first_and_a_part_of_the_test_set_has_a_star(self, capsys, tmp_path):
        folder = tmp_path / "digits" / "Linf"
        folder.mkdir(parents=True)
        source = RESULTS / "digits" / "Linf"
        shutil.copy(source / "Demo2026Adaptive.examples.npz", folder)
        record = json.loads((source / "Demo2026Adaptive.run.json").read_text()) | {"test_set_size": None}
        (folder / "Demo2026Adaptive.run.json").write_text(json.dumps(record))
        (line,) = listed(capsys, "--results", tmp_path, "--dataset", "digits", "mixing").splitlines()
        assert line.split()[5:9] == ["94.99", "56.82", "56.82", "359*"]  # no adaptive attacks are recorded there
        record["protocol"] = "another"
        (folder / "Demo2026Adaptive.run.json").write_text(json.dumps(record))
        (line,) = listed(capsys, "--results", tmp_path, "--dataset", "digits", "mixing").splitlines()
        assert line.split()[7] == known_of(DIGITS).best


class TestInfo:
    def told(self, capsys, *arguments):
        code, out, _ = run(capsys, "info", *arguments)
        assert code == 0
        return out

    def test_a_page_has_numbers_intervals_and_code_that_runs(self, capsys, tmp_path):
        text = self.told(capsys, "Demo2026Adaptive", "--dataset", "digits", "--results", tmp_path)
        known = known_of(DIGITS)
        for name, value in (("clean", known.clean), ("AutoAttack", known.autoattack), ("best known", known.best)):
            assert re.search(rf"^  {name} +{value}   95 % interval \d+\.\d\d to \d+\.\d\d$", text, re.MULTILINE)
        code = text.partition("Load it\n")[2].partition("\n\nLimits")[0]
        exec(re.sub("^  ", "", code, flags=re.MULTILINE), names := {})
        assert names["log_probabilities"].shape == (2, 10)
        assert DIGITS.limits[0] in text
        assert DIGITS.paper.link in text
        assert max(map(len, text.splitlines())) < 250

    def test_published_numbers_name_their_source(self, capsys, tmp_path):
        text = self.told(capsys, "Bai2024MixedNUTS", "--dataset", "cifar100", "--results", tmp_path)
        assert all(value in text for value in ("83.08", "41.91", "41.80", MIXED_NUTS.published.source))
        assert "interval" not in text

    def test_a_folder_and_a_net_are_told_of(self, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        load_model("Demo2026Constant", dataset="digits").save_pretrained("saved")
        text = self.told(capsys, "saved")
        assert "alpha          0.95, constant" in text
        assert "not known" in text  # a folder may hold another model of the same name
        text = self.told(capsys, "base:pyautoattack_resnet18")
        assert "not known; asz eval measures it" in text
        assert "base:pyautoattack_resnet18" in text
        assert "Load it" not in text

    def test_records_are_named_where_they_are_told(self, capsys, tmp_path):
        words = ("Demo2026Adaptive", "--dataset", "digits", "--results")
        assert f"recorded in {RESULTS}" in self.told(capsys, *words, RESULTS)
        assert "recorded in" not in self.told(capsys, *words, tmp_path)

    def test_json_is_the_entry(self, capsys):
        assert json.loads(self.told(capsys, "Demo2026Adaptive", "--dataset", "digits", "--json"))["name"] == DIGITS.name
