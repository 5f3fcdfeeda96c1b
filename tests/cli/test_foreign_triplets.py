"""Commands on a triplet that the zoo does not know: what it is made for says its own folder."""

import json
from dataclasses import replace

import pytest
from command_line import run

from adaptive_smoothing_zoo import Triplet, load_model


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """An l_2 triplet for the digits; the options' defaults are CIFAR-10 and l_inf."""
    known = load_model("Demo2026Lipschitz", dataset="digits", threat_model="L2")
    model = Triplet(replace(known.entry, name="Doe2026Toy", aliases=()))
    model.load_state_dict(known.state_dict())
    folder = tmp_path_factory.mktemp("doe") / "toy"
    model.save_pretrained(folder)
    return f"local-dir:{folder}"


def test_it_is_attacked_in_its_own_norm_on_its_own_data(foreign, tmp_path, capsys):
    code, _, err = run(
        capsys, "eval", foreign, "--n", 2, "--attacks", "square", "--queries", 2, "--device", "cpu", "--out", tmp_path
    )
    assert code == 0, err
    record = json.loads((tmp_path / "digits/L2/Doe2026Toy.custom.run.json").read_text())
    assert (record["dataset"], record["threat_model"]) == ("digits", "L2")


def test_it_is_certified_and_its_card_tells(foreign, tmp_path, capsys):
    code, _, err = run(capsys, "certify", foreign, "--n-examples", 4, "--out", tmp_path)
    assert code == 0, err
    code, _, err = run(capsys, "card", foreign, "--results", tmp_path, "--out", tmp_path)
    assert code == 0, err
    assert "sharp: " in (tmp_path / "Doe2026Toy-digits-L2.md").read_text()


@pytest.mark.slow
def test_an_experiment_measures_it_in_its_own_norm(foreign, tmp_path, capsys):
    code, _, err = run(
        capsys, "experiment", "trust-options", "--model", foreign, "--n", 4, "--steps", 1, "--out", tmp_path
    )
    assert code == 0, err
    record = json.loads((tmp_path / "trust-options/Doe2026Toy-digits-L2.json").read_text())
    assert (record["dataset"], record["threat_model"]) == ("digits", "L2")


def test_it_is_validated_on_its_own_data(foreign, tmp_path, capsys):
    code, told, err = run(capsys, "validate", foreign, "--n", 4, "--only", "repeated_forward", "--out", tmp_path)
    assert code == 0, err
    assert "Doe2026Toy-digits-L2: 4 examples" in told


def test_it_is_verified_on_its_own_data(foreign, capsys):
    _, told, err = run(capsys, "verify", foreign, "--n", 4)
    assert "Doe2026Toy-digits-L2: clean accuracy 100.00 % on 4 examples" in told, err
