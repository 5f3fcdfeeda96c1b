"""The scripts of docs/examples run in their short form, and say what their page says of them."""

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
SAYS = {
    "load_and_attack": r"g: 100\.0% clean, 0\.0% after a short attack\nh: .*\nthe mix: ",
    "tune_your_own_mix": r"alpha 0\.\d+: .* on held-out images\non 16 test images: .* after a short attack\n",
    "certify": r"Lipschitz h, sharp: .*\n(.*\n)*mix, alpha 0\.7, theorem5: .*\nwrote .*certified\.png\n",
    "fine_tune_a_backbone": r"linear head: .*\nfine-tuned: \d",
}


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    more = ["--figure", str(tmp_path / "certified.png")] if name == "certify" else []
    monkeypatch.setattr(sys, "argv", [name, "--short", *more])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert re.search(SAYS[name], capsys.readouterr().out)


def test_every_example_is_tried_and_on_the_page():
    scripts = sorted(path.stem for path in FOLDER.glob("*.py"))
    page = (FOLDER / "README.md").read_text()
    assert scripts == sorted(SAYS)
    assert all(f"]({name}.py)" in page for name in scripts)
