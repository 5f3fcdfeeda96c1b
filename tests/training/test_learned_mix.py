"""``asz tune --form learned``: the mixing network of two given nets, learned on training images."""

import json
import textwrap

import pytest
import torch
from command_line import run

from adaptive_smoothing_zoo import ThreatModel, load_model
from adaptive_smoothing_zoo.data import Examples, load_data
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.training.learned_mix import choice_for, mixing_recipe, without
from adaptive_smoothing_zoo.tuning.tune import Target

CODE = """
    from torch import nn
    from adaptive_smoothing_zoo import load_model

    def accurate():
        return load_model("Demo2026Adaptive", dataset="digits").std_model

    def robust():
        return load_model("Demo2026Adaptive", dataset="digits").rob_model

    def plain():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
SHORT = ["training.epochs=1", "training.batch_size=256", "training.attack.randomization.steps=1"]
SHORT += ["choice.widths=[0.3]", "choice.biases=[0.4]", "choice.step=0.2", "choice.first=0.1", "choice.attack_steps=2"]
SHORT += ["choice.attack_targets=1", 'choice.attacks=["apgd-t-pinned"]', "alpha.planes=[4, 6, 8]"]


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(textwrap.dedent(CODE))
    return path


def arguments(code, out, *more, std="accurate"):
    nets = ["--std-model", f"{code}:{std}", "--rob-model", f"{code}:robust", "--dataset", "digits", "--eps", "0.05"]
    short = [word for change in SHORT for word in ("--set", change)]
    return ["tune", str(out), *nets, "--form", "learned", "--tune-on", "validation:0:60", *short, *more]


def test_a_triplet_with_a_mixing_network_comes_out_that_needs_no_code(code, tmp_path, capsys):
    out = tmp_path / "out"
    status, told, _ = run(capsys, *arguments(code, out, "--clean", "0.9", "--name", "Learned2026"))
    assert status == 0
    assert "chosen: alpha" in told
    written = code.read_text()
    code.unlink()
    triplet, record = load_model(str(out)), json.loads((out / "tuning.json").read_text())
    assert (triplet.entry.name, triplet.entry.eps, triplet.entry.image_shape) == ("Learned2026", "0.05", (1, 8, 8))
    assert triplet.entry.chosen_on == "validation:0:60"
    chosen = record["chosen"]
    assert f"alpha: chosen on 60 images (digits validation:0:60); there the mix has {chosen['clean']:.2%}" in (
        triplet.entry.training
    )
    assert (triplet.alpha.alpha_min, triplet.alpha.alpha_max) == (chosen["alpha_min"], chosen["alpha_max"])
    assert chosen["clean"] >= 0.9
    held = load_data("digits", "validation")
    found = (triplet(held.images[:60]).argmax(1) == held.labels[:60]).double().mean().item()
    assert found == pytest.approx(chosen["clean"])
    assert chosen["robust"] == max(each["robust"] for each in record["tried"] if each["clean"] >= 0.9)
    norm = triplet.alpha.norm
    assert norm.num_batches_tracked == record["training"]["examples"] // 256
    # The same command resumes from what was learned, also for another target.
    rows = (out / "learning" / "log.csv").read_text()
    code.write_text(written)
    assert run(capsys, *arguments(code, out, "--robust", "0.5"))[0] == 0
    assert (out / "learning" / "log.csv").read_text() == rows
    assert torch.equal(load_model(str(out)).alpha.norm.running_mean, norm.running_mean)


@pytest.mark.parametrize(
    ("learned_on", "used"),
    [("validation:60:160", "validation:0:160"), ("train:0:100", "validation:0:60")],
    ids=["of the same split", "of another"],
)
def test_the_images_to_learn_from_may_be_a_range_and_are_not_reported(code, learned_on, used, tmp_path, capsys):
    short = ("--set", "training.batch_size=50", "--set", "choice.attacks=[]")
    status, _, told = run(
        capsys, *arguments(code, tmp_path / "out", "--clean", "0.5", "--train-on", learned_on, *short)
    )
    assert status == 0, told
    record = json.loads((tmp_path / "out" / "tuning.json").read_text())
    split, first, end = learned_on.split(":")
    assert record["training"]["examples"] == 100
    assert record["training"]["data"].endswith(f"{split} {first} to {int(end) - 1}")
    assert load_model(str(tmp_path / "out")).entry.chosen_on == used


def test_held_out_images_are_not_learned_from():
    data = load_data("digits", "train")
    held = Examples(images=data.images[5:9], labels=data.labels[5:9], source="some")
    left = without(data, held)
    assert len(left) == len(data) - 4
    assert "without 4 that are held out" in left.source
    assert torch.equal(left.images[5], data.images[9])
    with pytest.raises(ConfigError, match="are held out; choose other"):
        without(held, data)


def test_the_recipe_has_the_radius_and_the_target_that_are_asked_for():
    recipe = mixing_recipe("digits", ThreatModel("L2", 0.5), changes=["training.epochs=7"])
    assert (recipe.training.epochs, recipe.training.attack.eps, recipe.training.attack.norm) == (7, 0.5, "L2")
    assert (recipe.threat.norm, recipe.threat.eps) == ("L2", 0.5)
    assert mixing_recipe("cifar100", ThreatModel("Linf", 0.1)).training.padding == 4  # as cifar10_adaptive
    for target, wanted in ((Target(clean=0.9), ("clean", 0.9, False)), (Target(robust=0.8), ("robust", 0.8, True))):
        choice = choice_for(recipe, target)
        assert (choice.rule, choice.target, choice.relative) == wanted
        assert choice.widths == recipe.choice.widths
    assert choice_for(recipe, Target()) == recipe.choice
    with pytest.raises(ConfigError, match="digits_constant trains no mixing network"):
        mixing_recipe("digits", ThreatModel("Linf", 0.1), "digits_constant")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--recipe", "nothing"], "there is no recipe"),
        (["--set", "training.epoch=1"], "epoch"),
        (["--clean", "1.5"], "(0, 1]"),
        (["--train-on", "test:0:9"], "--train-on must be of train or, as --tune-on, of validation"),
        (["--train-on", "test:9"], "--train-on must be SPLIT:FIRST:END, as test:5000:6000, got 'test:9'"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_a_sentence(code, tmp_path, capsys, more, said):
    status, _, told = run(capsys, *arguments(code, tmp_path / "out", *more))
    assert status == 2
    assert said in told


def test_nets_without_feature_maps_are_refused(code, tmp_path, capsys):
    status, _, told = run(capsys, *arguments(code, tmp_path / "out", std="plain"))
    assert status == 2
    assert "std_model (Sequential) has no forward_intermediates" in told
