"""What is said of an entry before it is added, its published schema, and the contributor's door."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adaptive_smoothing_zoo import Triplet, cli, list_models, load_model
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.zoo.entry import read_entry
from adaptive_smoothing_zoo.zoo.entry_check import SCHEMA, problems_of, schema_text
from adaptive_smoothing_zoo.zoo.registry import ENTRIES

DOOR = Path(__file__).parents[2] / "docs" / "doors" / "triplet.md"
PINNED = {"hub_repo": "doe/tiny", "revision": "0" * 40, "sha256": "1" * 64}
URL = {"kind": "url", "url": "https://example.org/g"}


def check(path, monkeypatch, capsys):
    """The exit code and the words of the command."""
    monkeypatch.setattr(sys, "argv", ["asz", "check-entry", str(path)])
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


@pytest.fixture
def problems(tiny_entry, tmp_path):
    """What is wrong with the tiny entry after changes."""

    def of(**changes):
        file = tmp_path / "Doe2024Tiny.json"
        file.write_text(json.dumps({**to_json(tiny_entry), "weights": PINNED, **changes}))
        return problems_of(file)

    return of


def test_the_published_schema_is_up_to_date():
    assert SCHEMA.read_text() == schema_text(), f"asz check-entry --schema > {SCHEMA}"


@pytest.mark.parametrize("path", sorted(ENTRIES.glob("*/*/*.json")), ids=lambda path: "-".join(path.parts[-3:]))
def test_of_the_zoo_s_own_entries_at_most_hashes_are_missing(path):
    found = problems_of(path)
    if read_entry(path).comes_along:
        assert found == []
    assert all(re.search(r"weights\.components\.\w+\.sources\[\d\]: no 'sha256'; ", problem) for problem in found)


def test_a_complete_entry_has_no_problems(problems):
    assert problems() == []
    sources = {"sources": [{**URL, "sha256": "0" * 64}]}
    assert problems(weights={"components": {"std_model": sources, "rob_model": sources}}) == []


ADAPTIVE = {"kind": "adaptive", "alpha_min": 0, "alpha_max": 1, "logit_scale": 1, "logit_bias": 0, "planes": [4, 6, 8]}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"colour": "red"}, ["unknown key 'colour'"]),
        ({"name": "Doe2024Other"}, [r"Doe2024Tiny\.json: name: the file must be called Doe2024Other\.json"]),
        ({"alpha": {"kind": "constant", "value": 2}}, ["alpha.value: must be less than or equal to 1, got 2"]),
        ({"std_model": {"architecture": "big_cnn"}}, ["cannot be built: unknown architecture 'big_cnn'; known: "]),
        ({"alpha": {**ADAPTIVE, "std_taps": [0, 7]}}, [r"no feature map at index 7 \(std_taps\)"]),
        ({"preprocessing": "Res224"}, ["preprocessing: digits images are as they are; they take no preprocessing"]),
        ({"surrogate": {"name": "none", "alpha": 0.5}}, ["no surrogate 'none'; known: "]),
        ({"weights": {}}, ["weights: name 'hub_repo' .*, 'embedded', or 'components'"]),
        ({"weights": {"hub_repo": "doe/tiny", "revision": "main"}}, ["full hash of a commit", "'sha256' or 'shards'"]),
        ({"weights": {"embedded": "no.safetensors"}}, ["'sha256' must be that of the", "there is no weights file"]),
        (
            {"weights": {"components": {"std_model": {"sources": [URL]}}}},
            [r"components\.std_model\.sources\[0\]: no 'sha256'", r"components\.rob_model: no source"],
        ),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_sentences(problems, changes, found):
    said = problems(**changes)
    assert len(said) == len(found)
    assert all(re.search(pattern, problem) for pattern, problem in zip(found, said, strict=True)), said


def test_the_command_prints_the_problems_and_ends_with_1(tmp_path, monkeypatch, capsys):
    code, said = check(tmp_path / "none.json", monkeypatch, capsys)
    assert (code, "there is no file" in said) == (1, True)


def test_the_door_works_as_its_page_says(zoo_of, tiny_entry, tmp_path, monkeypatch, capsys):
    blocks = dict(re.findall(r"```(json|python)\n(.*?)```", DOOR.read_text(), re.DOTALL))
    assert sum(block.count("\n") for block in blocks.values()) < 40
    monkeypatch.chdir(tmp_path)
    file = zoo_of(tiny_entry) / "digits" / "Linf" / "Doe2026Toy.json"
    for path in (file, Path("Doe2026Toy.json")):
        path.write_text(blocks["json"])
    zoo_of()  # it looks again
    assert check(file, monkeypatch, capsys) == (0, f"{file} is complete\n")
    assert "Doe2026Toy" in [entry.name for entry in list_models("digits")]
    subprocess.run([sys.executable, "-c", blocks["python"]], check=True)
    images = torch.rand(3, 1, 8, 8)
    model = load_model("Doe2026Toy", "toy", "digits")
    assert isinstance(model, Triplet)
    assert torch.equal(model(images), load_model("local-dir:toy")(images))
