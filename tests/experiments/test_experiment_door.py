"""The example of docs/doors/experiment.md is short, and works as it stands there."""

import json
import re
from pathlib import Path

from making import EXAMPLES, MODEL, a_bench

PAGE = Path(__file__).parents[2] / "docs" / "doors" / "experiment.md"


def test_the_example_measures_and_writes_data_picture_and_page(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) < 40
    made = {}
    exec(code, made)
    experiment, bench = made["EXPERIMENT"], a_bench(examples=EXAMPLES.first(6))
    (*_, table) = experiment.run(bench, tmp_path)
    accuracies = [row["accuracy"] for row in table.rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[1] == bench.accuracy(MODEL, bench.attack(MODEL))
    path = experiment.file(tmp_path, MODEL.entry.key)
    assert len(json.loads(path.read_text())["rows"]) == 3
    assert "**Agreement:** yes: more steps are stronger." in path.with_suffix(".md").read_text()
    assert path.with_suffix(".png").exists()
