"""The check that a GPU gets, on a CPU: every part runs, so that it runs on the day a GPU is there."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

EVAL = Path(__file__).parent.parent / "eval"


def test_every_part_runs_on_a_cpu_and_is_recorded(check, tmp_path):
    from cuda_checks import parts

    words = [sys.executable, str(EVAL / "check_cuda.py"), "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    own = {"PYTHONPATH": str(EVAL.parent), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, capture_output=True, text=True, env=os.environ | own, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    records = [json.loads(line) for line in (tmp_path / "check_cuda.jsonl").read_text().splitlines()]
    assert [record["part"] for record in records] == list(parts.PARTS)
    assert {record["outcome"] for record in records} == {"done"}
    left_out = [record["part"] for record in records if record["rows"][:1] and record["rows"][0][0] == "left out"]
    assert left_out == ([] if find_spec("robustbench") else ["published"])
    bars = {bar["what"]: bar for record in records for bar in record["bars"]}
    assert {bar["met"] for bar in bars.values()} == {True, None}  # speed is not judged here
    assert bars["resume: verdicts that a kill changes"]["value"] == 0
    assert all(record["about"]["versions"]["torch"] for record in records)
    page = (tmp_path / "check_cuda.md").read_text()
    assert all(what in page for what in bars)


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(EVAL)
    import check_cuda

    return check_cuda


def test_parts_are_chosen_by_name(check, tmp_path):
    words = ["--device", "cpu", "--tiny", "--out", str(tmp_path)]
    result = CliRunner().invoke(check.main, [*words, "--only", "train,parity", "--skip", "parity"])
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["part"] for line in (tmp_path / "check_cuda.jsonl").read_text().splitlines()] == ["train"]
    result = CliRunner().invoke(check.main, [*words, "--only", "nothing"])
    assert result.exit_code == 2
    assert "unknown part nothing" in result.output


def test_a_failure_and_a_missed_bar_are_told(check, monkeypatch, tmp_path):
    from cuda_checks.parts import PARTS, Bar, Found

    def failing(place):
        raise RuntimeError("no memory\nat all")

    monkeypatch.setitem(PARTS, "failing", failing)
    monkeypatch.setitem(PARTS, "slow", lambda place: Found(bars=[Bar("seconds", 3.0, 2.0, "most")]))
    monkeypatch.setitem(PARTS, "fine", lambda place: Found(bars=[Bar("times", 3.0, 2.0, "least", "cuda")]))
    for only, code in (("failing,fine", 1), ("slow", 1), ("fine", 0)):
        words = ["--device", "cpu", "--only", only, "--out", str(tmp_path / only)]
        assert CliRunner().invoke(check.main, words).exit_code == code, only
    page = (tmp_path / "failing,fine" / "check_cuda.md").read_text()
    assert "failed (RuntimeError: no memory at all)" in page
    assert "| times | 3 | at least 2 | not judged here |" in page
    assert "**missed**" in (tmp_path / "slow" / "check_cuda.md").read_text()
