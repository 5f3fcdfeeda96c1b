"""What a progress bar tells of the time that is left."""

import re
import sys

from tqdm import tqdm

from adaptive_smoothing_zoo.cli import progress
from adaptive_smoothing_zoo.evaluation import Progress


def test_what_was_done_before_does_not_count_for_the_estimate(monkeypatch, capsys):
    bars = []

    class Bar(tqdm):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            bars.append(self)

    monkeypatch.setattr(progress, "tqdm", Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.progress_bar() as show:
        bars[0].start_t -= 10
        bars[0].mininterval = 0
        where = {"attack": "apgd-t", "done": 3, "total": 9, "robust": 8, "passes_before": 5000}
        show(Progress(passes_done=5000, passes_left=1000, **where))
        assert "< ?" in capsys.readouterr().err.split("\r")[-1]
        show(Progress(passes_done=5010, passes_left=1000, **where))
    last = capsys.readouterr().err.split("\r")[-1]
    assert "apgd-t 3/9:  83%" in last
    assert "8 points still robust" in last
    assert re.search(r"< 16:[34]\d", last)  # 1000 passes at one a second


def test_a_warning_of_the_model_is_told_at_once_and_once(capsys):
    where = {"attack": "apgd-ce", "total": 9, "robust": 8, "passes_before": 0, "passes_left": 9}
    with progress.progress_bar() as show:
        show(Progress(done=0, passes_done=1, **where))
        assert "Warning" not in capsys.readouterr().err
        for done in (1, 2):
            show(Progress(done=done, passes_done=1 + done, **where, warnings=("a randomized net",)))
    assert capsys.readouterr().err.count("Warning: a randomized net") == 1


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(monkeypatch, capsys):
    where = {"attack": "apgd-t", "total": 999, "robust": 8, "passes_before": 0}
    with progress.progress_bar() as show:
        for done in range(500):
            show(Progress(done=done, passes_done=done, passes_left=500 - done, **where))
    log = capsys.readouterr().err
    assert "\r" not in log
    first, last = log.splitlines()
    assert "| 00:00 <" in first
    assert "apgd-t 499/999" in last
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0)
    with progress.progress_bar() as show:
        for done in range(3):
            show(Progress(done=done, passes_done=done, passes_left=3 - done, **where))
    lines = capsys.readouterr().err.splitlines()
    assert all(f"apgd-t {done}/999" in lines[1 + done] for done in range(3))


def test_without_a_terminal_nothing_else_of_a_bar_changes(capsys):
    with progress.open_bar(total=4, unit="image", desc="attack on h") as bar:
        for _ in range(4):
            bar.update(1)
    assert "attack on h: 100%" in capsys.readouterr().err.splitlines()[-1]
