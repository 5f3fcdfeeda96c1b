"""What a progress bar tells of the time that is left."""

import re

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
    with progress.progress_bar() as show:
        bars[0].start_t -= 10
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
        assert "AutoAttack warns" not in capsys.readouterr().err
        for done in (1, 2):
            show(Progress(done=done, passes_done=1 + done, **where, warnings=("a randomized net",)))
    assert capsys.readouterr().err.count("AutoAttack warns: a randomized net") == 1
