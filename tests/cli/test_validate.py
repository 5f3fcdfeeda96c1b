"""``asz validate`` as a user meets it."""

import json
from dataclasses import fields

import pytest
from command_line import run
from short_attacks import shorten
from torch import nn

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.publishing.validation_record import Validation
from adaptive_smoothing_zoo.validation import CHECKS, Budget, runner

DIGITS = ("Demo2026Constant", "--dataset", "digits")
TINY = Budget(**{**{field.name: 2 for field in fields(Budget)}, "steps": 6})


def test_single_checks_are_told_and_nothing_is_written(capsys, tmp_path):
    only = ("--only", "repeated_forward", "--only", "zero_radius")
    code, out, err = run(capsys, "validate", *DIGITS, "--n", 6, *only, "--out", tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("Demo2026Constant-digits-Linf: 6 examples")
    assert "nothing to compare with: no run is recorded" in lines[1]
    assert [line.split()[:2] for line in lines[2:4]] == [["passed", "repeated_forward"], ["passed", "zero_radius"]]
    assert "nothing is written" in lines[4]
    assert list(tmp_path.rglob("*.*")) == []
    assert "zero_radius" in err  # the progress bar
    assert "/2" in err


def test_all_checks_leave_a_record_beside_the_run_and_the_entry_tells_of_failures(capsys, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        shorten(patch, iterations=10, queries=100)
        assert run(capsys, "eval", *DIGITS, "--n", 4, "--out", tmp_path)[0] == 0
    monkeypatch.setattr(runner, "Budget", lambda: TINY)
    code, out, err = run(capsys, "validate", *DIGITS, "--n", 3, "--out", tmp_path)
    folder = tmp_path / "digits" / "Linf"
    record = Validation.read(tmp_path, load_model("Demo2026Constant", dataset="digits").entry)
    assert [result.name for result in record.checks] == list(CHECKS)
    assert record.n == 3
    assert record.recorded_n == 4
    assert record.budget["steps"] == 6
    assert code == (1 if record.failed else 0)
    assert ("do not trust" in err) is bool(record.failed)
    for result in record.checks:
        assert f"{result.verdict:15}{result.name:30}" in out
        assert f"### {result.name}: {result.verdict}" in (folder / "Demo2026Constant.validation.md").read_text()
    assert (folder / "Demo2026Constant.validation.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.state"))
    entry = json.loads((folder / "Demo2026Constant.json").read_text())
    assert all(result.name in entry["footnote"] for result in record.failed)


def test_a_failed_check_ends_with_code_1(capsys, tmp_path):
    model = load_model("Demo2026Constant", dataset="digits")
    for net in (model.std_model, model.rob_model):
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        for parameter in last.parameters():
            parameter.mul_(1e4)
    model.save_pretrained(tmp_path / "model")
    where = ("--n", 4, "--model-dir", tmp_path / "model", "--out", tmp_path / "results")
    code, out, err = run(capsys, "validate", *DIGITS, *where, "--only", "nonzero_gradients")
    assert code == 1
    assert out.splitlines()[-2].startswith("failed")
    assert "1 checks failed: do not trust the robust accuracy" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Demo2026Adaptve", "--dataset", "digits"), "did you mean Demo2026Adaptive"),
        ((*DIGITS, "--only", "luck"), "unknown check 'luck'; known: linear_net"),
        ((*DIGITS, "--n", "360"), "n must be between 1 and the 359 examples"),
        ((*DIGITS, "--n", "-1"), "-1 is not in the range x>=0"),
        ((*DIGITS, "--n", "2", "--batch-size", "0"), "batch size must be at least 1"),
        ((*DIGITS, "--device", "tpu9"), "unknown device 'tpu9'"),
        ((*DIGITS, "--data-dir", "x"), "data_dir has no meaning"),
        ((*DIGITS, "--model-dir", "nowhere"), "nowhere"),
        ((*DIGITS, "--budget", "1"), "No such option"),
    ],
)
def test_what_a_user_gets_wrong_ends_with_one_sentence_and_code_2(capsys, tmp_path, arguments, message):
    code, _, err = run(capsys, "validate", *arguments, "--out", tmp_path)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_an_output_folder_that_cannot_be_written_is_found_before_the_checks(capsys, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    code, out, err = run(capsys, "validate", *DIGITS, "--n", 2, "--out", blocker / "results")
    assert code == 2
    assert "cannot write" in err
    assert "passed" not in out
