"""A bound is one file and one line: the page's example certifies, is recorded and listed; docs/certify.md names all."""

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from adaptive_smoothing_zoo.certification import BOUNDS, bounds, mix_certificates, read_log, vote_needed
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.publishing.certification_record import certificates_section, read_certification
from adaptive_smoothing_zoo.zoo.registry import find_entry

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "doors" / "bound.md"
SMOOTHED = ("Demo2026Smoothed", "--dataset", "digits")


def certify(*arguments):
    """What ``asz certify`` says."""
    result = CliRunner().invoke(asz, ["certify", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def bound(monkeypatch):
    """The bound of the page, in its place."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(block.splitlines()) + 1 < 40
    module = ModuleType("paper_constant")
    exec(block, module.__dict__)
    monkeypatch.setitem(BOUNDS, module.BOUND.name, module.BOUND)
    return module.BOUND


def test_the_example_certifies_is_recorded_and_listed(tmp_path, bound):
    assert f"|{bound.name}]" in re.sub(r"\s", "", certify("--help"))
    few = (*SMOOTHED, "--n", 300, "--n-examples", 6, "--out", tmp_path)
    assert f"{bound.name}: {bound.sentence}" in certify(*few)
    folder = tmp_path / "digits" / "L2" / "certificates"
    record = json.loads((folder / "Demo2026Smoothed.certified.json").read_text())
    assert list(record["bounds"]) == ["theorem4", "theorem5", "sharp", bound.name]
    found, best = (read_log(folder / record["bounds"][name]["log"]) for name in (bound.name, "theorem4"))
    assert (found.radius > 0).any()
    np.testing.assert_allclose(found.radius, best.radius / 2, atol=1e-12)
    entry = find_entry("Demo2026Smoothed", "digits", "L2")
    assert f"- {bound.name}: {bound.sentence}." in certificates_section(read_certification(tmp_path, entry))

    certify(*few, "--radius", 0.02, "--bound", bound.name)
    assert (read_log(folder / f"Demo2026Smoothed.certified-{bound.name}-at-0.02.tsv").radius > 0).any()


def test_its_vote_gives_its_radius(bound):
    p = vote_needed(0.05, 0.8, 0.25, bound=bound.name)
    assert p == pytest.approx(0.625 + 0.05 * np.sqrt(2 / np.pi) / 0.25)


def test_every_bound_has_the_name_of_its_file_a_paper_and_something_to_say():
    assert list(BOUNDS) == list(bounds.FILES)
    files = {path.stem for path in Path(bounds.__file__).parent.glob("*.py")}
    assert files == {*BOUNDS, "__init__", "bound", "margin", "pairwise"}
    for name, known in BOUNDS.items():
        assert known.name == name
        assert re.fullmatch(r"[A-Z]+\d\d", known.paper)
        assert "arXiv:" in known.sentence
        assert not known.sentence.endswith(".")


def test_the_page_of_certificates_names_every_bound():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "certify.md").read_text(), re.MULTILINE)
    assert rows == list(BOUNDS)


@pytest.mark.parametrize("name", ["cohen", "theorem6"])
def test_a_bound_that_is_not_about_a_mix_is_refused(name):
    with pytest.raises(ValueError, match=f"must be one of theorem4, theorem5, sharp, got '{name}'"):
        mix_certificates(read_log(next((ROOT / "eval/results").rglob("*certified-sharp.tsv"))), 0.8, 0.25, bound=name)
