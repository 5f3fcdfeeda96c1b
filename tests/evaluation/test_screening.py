"""A screening is an upper bound, cheap, and written nowhere."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from adaptive_smoothing_zoo import cli, load_model
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.evaluation.screening import screen
from adaptive_smoothing_zoo.publishing.run_record import RunRecord


def test_it_bounds_the_recorded_robust_accuracy_from_above_at_a_fraction_of_its_passes():
    from pathlib import Path

    model = load_model("Demo2026Adaptive", dataset="digits")
    examples = load_data("digits").first(60)
    seen = []
    settings = {"eps": model.entry.eps_value, "batch_size": 60, "device": "cpu"}
    found = screen(model, examples.images, examples.labels, on_progress=seen.append, **settings)
    results = Path(__file__).parents[2] / "eval" / "results"
    recorded = np.load(results / "digits" / "Linf" / "Demo2026Adaptive.examples.npz")
    assert RunRecord.read(results, model.entry).n == 359
    assert np.array_equal(found.clean_correct, recorded["clean_correct"][:60])
    assert recorded["robust"][:60].mean() <= found.upper_bound < found.clean_accuracy
    # Most points that the whole protocol breaks fall here already.
    assert found.upper_bound - recorded["robust"][:60].mean() <= 0.1
    assert {progress.attack for progress in seen} == {"clean", "apgd-t", "verified"}
    assert found.passes < 60 * 9767 / 50


def test_a_ball_of_radius_zero_costs_a_look_at_each_image():
    model = load_model("Demo2026Constant", dataset="digits")
    examples = load_data("digits").first(10)
    found = screen(model, examples.images, examples.labels, eps=0.0, device="cpu")
    assert np.array_equal(found.standing, found.clean_correct)
    assert 10 <= found.passes <= 12 * 10


def test_the_command_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["eval", "Demo2026Constant", "--dataset", "digits", "--n", "8", "--quick", "--out", "results"]
    monkeypatch.setattr("sys.argv", ["asz", *arguments, "--device", "cpu"])
    cli.main()
    out = capsys.readouterr().out
    assert "robust, at most" in out
    assert "nothing was written" in out
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("more", ["--iterations=5", "--engine=reference", "--shard=0/2"])
def test_the_command_takes_no_other_attacks(more):
    arguments = ["eval", "Demo2026Constant", "--dataset", "digits", "--n", "8", "--quick", more]
    found = CliRunner().invoke(cli.asz, arguments)
    assert found.exit_code == 2
    assert "--quick uses its own attack" in found.output


def test_bad_images_are_refused():
    model = load_model("Demo2026Constant", dataset="digits")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        screen(model, torch.full((2, 1, 8, 8), 1.5), torch.zeros(2, dtype=torch.int64), eps=0.1)
