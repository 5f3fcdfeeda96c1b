"""Results that contradict themselves or belong to another run, and exports that are interrupted."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_publishing import EXAMPLES, MODEL, a_record, an_evaluation

from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.errors import ResultsError, ZooError
from adaptive_smoothing_zoo.publishing.evidence import update_entry
from adaptive_smoothing_zoo.publishing.export import export
from adaptive_smoothing_zoo.publishing.leaderboard import render
from adaptive_smoothing_zoo.publishing.push import check_export
from adaptive_smoothing_zoo.publishing.records import (
    check_replaceable,
    check_writable,
    read_record,
    read_verdicts,
    record_path,
    verdicts_path,
    write_results,
)
from adaptive_smoothing_zoo.storage.identity import Identity

ENTRY = MODEL.entry


@pytest.fixture
def folder(tmp_path):
    write_results(tmp_path, ENTRY, an_evaluation(), EXAMPLES, a_record())
    update_entry(tmp_path, ENTRY)
    return tmp_path


@pytest.mark.parametrize("out", ["missing", "missing/below", "."])
def test_asking_whether_results_can_be_written_leaves_nothing_behind(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    check_writable(Path(out), ENTRY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["file", "file/below", "x" * 300, "/dev/null/x", "/proc/x"])
def test_where_results_cannot_be_written_that_is_said_before_a_run(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=rf"cannot write .*{ENTRY.name}\.json: .*; choose another folder"):
        check_writable(Path(out), ENTRY)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["eval", "validate", "certify", "experiment"])
def test_a_command_without_its_data_leaves_no_folder(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    about, threat_model = {"experiment": ("trust-options", "Linf"), "certify": ("Demo2026Smoothed", "L2")}.get(
        command, (ENTRY.name, "Linf")
    )
    names = ["--dataset", "digits", "--threat-model", threat_model, "--data-dir", "nope", "--device", "cpu"]
    with pytest.raises((ZooError, ValueError), match="data_dir has no meaning"):
        asz([command, about, *names], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean_accuracy": 7.0}, "accuracies are fractions"),
        ({"robust_accuracy": -0.5}, "accuracies are fractions"),
        ({"robust_accuracy": 0.625}, "'accuracy_after' must fall from"),
        ({"accuracy_after": {}}, "'accuracy_after' must fall"),
        ({"accuracy_after": {"clean": 0.875, "a": 0.25, "b": 0.5}}, "'accuracy_after' must fall"),
        ({"broken_by": {"clean": 1}}, "'broken_by' does not add up"),
        ({"n": 0}, "'n' must be at least 1"),
        ({"eps": "1e999999999"}, "eps must be a number"),
        ({"model": "x" * 5000}, "records 'xxx"),
    ],
)
def test_a_record_whose_numbers_cannot_be_is_refused(folder, changes, message):
    assert read_record(folder, ENTRY).n == 8
    change(record_path(folder, ENTRY), **changes)
    with pytest.raises(ResultsError, match=message) as refusal:
        read_record(folder, ENTRY)
    assert len(str(refusal.value)) < 1000


def test_verdicts_of_another_run_are_refused_though_as_many_points_are_robust(folder, tmp_path_factory):
    """As they stand there when a process dies between writing the one and the other."""
    record = read_record(folder, ENTRY)
    assert read_verdicts(folder, ENTRY, record).tolist() == [True] * 4 + [False] * 4
    other = tmp_path_factory.mktemp("other")
    robust = np.array([False, True, True, True, True, False, False, False])
    write_results(other, ENTRY, an_evaluation(robust=robust), EXAMPLES, a_record())
    verdicts_path(folder, ENTRY).write_bytes(verdicts_path(other, ENTRY).read_bytes())
    with pytest.raises(ResultsError, match="does not belong to the run record"):
        read_verdicts(folder, ENTRY, record)


@pytest.mark.parametrize("content", [b"", b"PK", np.arange(3).tobytes(), b"\x93NUMPY\x01\x00v\x00{'descr': '<i8'"])
def test_damaged_verdicts_are_refused(folder, content):
    record = read_record(folder, ENTRY)
    verdicts_path(folder, ENTRY).write_bytes(content)
    with pytest.raises(ResultsError, match="missing or damaged"):
        read_verdicts(folder, ENTRY, record)


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
def test_a_leaderboard_shows_percentages_and_texts(folder, changes):
    change(folder / "digits" / "Linf" / f"{ENTRY.name}.json", **changes)
    with pytest.raises(ResultsError, match="is not a leaderboard entry"):
        render(folder)


def test_a_line_break_breaks_no_table(folder):
    rows = render(folder)[1].count("\n")
    change(folder / "digits" / "Linf" / f"{ENTRY.name}.json", footnote="one\ntwo", venue="a\r\nb", eps="1/5\n")
    assert render(folder)[1].count("\n") == rows


def test_an_export_that_is_interrupted_at_its_last_step_leaves_the_earlier_one(monkeypatch, tmp_path):
    card = "---\nlicense: mit\n---\n"
    export(MODEL, tmp_path / "export", card=card)
    rename, left = Path.rename, [2]

    def interrupted(self, target):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(MODEL, tmp_path / "export", card=f"{card}new\n")
    assert check_export(tmp_path / "export").key == ENTRY.key
    assert (tmp_path / "export" / "README.md").read_text() == card
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


OTHER_WEIGHTS = {"identity": Identity(sha256="0" * 64)}


@pytest.mark.parametrize(
    ("known", "n", "eps", "message"),
    [
        (None, 1, None, None),
        ({}, 8, None, None),
        ({}, 9, None, None),
        ({}, 7, None, r"has 8 examples, this run has 7; choose another folder for this run, or add --overwrite"),
        (
            OTHER_WEIGHTS,
            7,
            None,
            "is of another model and has 8 examples, this run has 7; choose .* or add --overwrite",
        ),
        (OTHER_WEIGHTS, 8, None, None),
        (OTHER_WEIGHTS, 9, None, None),
        (
            {},
            8,
            "0.1",
            r"has the entry's radius 1/5 and 8 examples, this run has the radius 0\.1 and 8 examples; choose",
        ),
        ({}, 8, "1/5", None),
        (OTHER_WEIGHTS, 8, "0.1", r"is of another model and has the entry's radius 1/5 and 8 examples, this run has"),
        ({"eps": "0.3"}, 8, "0.1", None),
        ({"eps": "0.3"}, 8, None, None),
    ],
)
def test_a_record_that_says_more_is_not_replaced(tmp_path, known, n, eps, message):
    record = None if known is None else a_record(**known)
    arguments = record, "record", tmp_path, ENTRY, MODEL
    if message is None:
        check_replaceable(*arguments, n=n, eps=eps)
    else:
        with pytest.raises(ResultsError, match=f"the record of {ENTRY.key} in .* {message}"):
            check_replaceable(*arguments, n=n, eps=eps)
