"""Recipes carried out: as functions, and by the command line with the process killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from adaptive_smoothing_zoo import Triplet, load_model
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ResultsError, TrainingError
from adaptive_smoothing_zoo.training import runs
from adaptive_smoothing_zoo.training.keeping import CHECKPOINT_FILE, read_log
from adaptive_smoothing_zoo.training.recipe import TrainingData, read_recipe
from adaptive_smoothing_zoo.zoo.embedding import embed
from adaptive_smoothing_zoo.zoo.entry import NormClampPowerScaleConfig, read_entry

NET = """
kind = "base_net"
data = { dataset = "digits" }
net = { architecture = "small_cnn", arguments = { widths = [4, 8], mean = [0.3], std = [0.37] } }
training = { epochs = 1, batch_size = 128 }
"""
TRIPLET = """
kind = "triplet"
eps = "1/5"
data = { dataset = "digits" }
std_model = { kind = "recipe", recipe = "net.toml" }
rob_model = { kind = "triplet", name = "Demo2026Adaptive", part = "rob_model" }
alpha = { kind = "adaptive", alpha_min = 0.8, alpha_max = 1.0, logit_scale = 2.0, logit_bias = 0.4, planes = [8, 8, 8] }
training = { epochs = 1, batch_size = 128, learning_rate = 1e-3, attack.randomization.steps = 4 }
half = true

[choice]
rule = "robust"
target = 0.8
relative = true
first = 0.0
step = 0.25
widths = [0.2]
attack_steps = 3
attack_targets = 1
attacked_examples = 40

[entry]
name = "Trial2026Triplet"
description = "A trial."
architecture = "small"
training = "g: by net.toml."
paper = { title = "T", authors = "A", venue = "N/A", link = "https://example.org" }
"""


@pytest.fixture
def recipes(tmp_path):
    (tmp_path / "net.toml").write_text(NET)
    (tmp_path / "trial.toml").write_text(TRIPLET)
    return tmp_path


def run(recipes, out, *changes, **machine):
    recipe = read_recipe(recipes / "trial.toml", changes)
    return runs.run_recipe(recipe, out, runs.Machine(**machine), beside=recipes)


def test_a_triplet_is_trained_with_its_base_net_chosen_saved_and_found_again(recipes, tmp_path):
    stages, candidates = [], []
    out = tmp_path / "out" / "trial"
    made = run(recipes, out, on_stage=stages.append, on_candidate=lambda *found: candidates.append(found))
    assert [stage.split(" on ")[0] for stage in stages] == ["small_cnn", "mixing network", "alpha"]
    assert (out.parent / "net" / "model.safetensors").is_file()
    record = json.loads((out / "training.json").read_text())
    chosen = record["chosen"]["candidate"]
    assert [chosen, *record["chosen"]["tried"][0][1:]] != []
    assert record["examples"] == len(load_data("digits", "train"))
    assert record["last_round"] == read_log(out)[-1]
    assert not (out / CHECKPOINT_FILE).exists()
    entry = read_entry(out / "entry.json")
    assert {key: getattr(entry.alpha, key) for key in chosen} == chosen
    assert (made.alpha.alpha_min, made.alpha.alpha_max) == (chosen["alpha_min"], chosen["alpha_max"])
    assert "setting B" in entry.training
    assert "validation split" in entry.training
    assert entry.training.startswith("g: by net.toml. Mixing network: 1 epoch on 1079 examples")
    images = load_data("digits").images[:20]
    again = Triplet.from_pretrained(out)
    assert torch.equal(again(images), made(images))
    assert again.entry.name == "Trial2026Triplet"
    # A finished run is read, not made again; another recipe does not get its folder.
    assert torch.equal(run(recipes, out, on_stage=stages.append)(images), made(images))
    assert len(stages) == 3
    with pytest.raises(
        ResultsError,
        match=r"belongs to another recipe: .* recipe\.training\.epochs 1, this run has recipe\.training\.epochs 2",
    ):
        run(recipes, out, "training.epochs=2")
    # The rounded weights are the embedded ones, in half the space; the entry tells where they are.
    package = tmp_path / "package"
    embedded = embed(out, ("Trained on few images.",), package)
    assert embedded.limits == (*entry.limits, "Trained on few images.")
    file = package / "pretrained" / "Trial2026Triplet-digits-Linf.safetensors"
    assert file.stat().st_size < 0.6 * (out / "model.safetensors").stat().st_size
    assert {value.dtype for value in load_file(file).values()} <= {torch.float16, torch.int64}
    assert read_entry(package / "zoo/entries/digits/Linf/Trial2026Triplet.json") == embedded
    whole = load_file(out / "model.safetensors")
    assert all(torch.equal(value.to(whole[key].dtype), whole[key]) for key, value in load_file(file).items())


def test_a_constant_alpha_is_chosen_without_training(recipes, tmp_path):
    text = TRIPLET.replace(
        TRIPLET[TRIPLET.index("alpha = {") : TRIPLET.index("half")], 'alpha = { kind = "constant", value = 0.9 }\n'
    )
    (recipes / "trial.toml").write_text(
        text.replace(
            '{ kind = "recipe", recipe = "net.toml" }',
            '{ kind = "triplet", name = "Demo2026Adaptive", part = "std_model" }',
        )
    )
    nuts = 'rob_map={ kind = "norm_clamp_power_scale", scale = 4.0, power = 2.0, clamp_bias = 0.5 }'
    made = run(recipes, tmp_path / "out", nuts)
    entry = read_entry(tmp_path / "out" / "entry.json")
    assert entry.rob_map == NormClampPowerScaleConfig(scale=4.0, power=2.0, clamp_bias=0.5)
    assert (made.rob_map.power, made.rob_map.clamp_bias) == (2.0, 0.5)
    assert entry.alpha.kind == "constant"
    assert entry.alpha.value == made.alpha.alpha_min
    assert entry.alpha.value in (0.0, 0.25, 0.5, 0.75, 1.0)
    demo = load_model("Demo2026Adaptive", dataset="digits").std_model.state_dict()
    rounded = {key: value.half().float() if value.is_floating_point() else value for key, value in demo.items()}
    assert all(torch.equal(value, made.std_model.state_dict()[key]) for key, value in rounded.items())


def test_what_is_held_out_is_in_order_balanced_and_not_learned_from(tmp_path, monkeypatch):
    import numpy as np

    labels = np.repeat(np.arange(10), 12)
    images = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "train.npz", images=images, labels=labels)
    data = TrainingData(dataset="cifar10", hold_out_every=4)
    train, held = runs.training_examples(data, str(tmp_path / "train.npz"))
    everything = load_data("cifar10", "train", data_dir=tmp_path / "train.npz")
    assert torch.equal(held.images, everything.images[::4])
    assert held.labels.bincount().tolist() == [3] * 10
    assert len(train) == 90
    assert not {image.numpy().tobytes() for image in train.images} & {image.numpy().tobytes() for image in held.images}
    assert "every 4th alone" in held.source
    assert runs.training_examples(TrainingData(dataset="cifar10"), str(tmp_path / "train.npz"))[1] is None
    few, same = runs.training_examples(replace(data, learn_every=8), str(tmp_path / "train.npz"))
    assert torch.equal(few.images, train.images[::8])
    assert torch.equal(same.images, held.images)
    assert "without every 4th, of these every 8th" in few.source


def test_numbers_of_examples_are_said_as_people_say_them():
    ordinals = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 50: "50th"}
    assert {number: runs._ordinal(number) for number in ordinals} == ordinals


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_record_is_said(tmp_path, text):
    (tmp_path / "net.toml").write_text(NET)
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(ResultsError, match=r"training\.json is damaged .*; delete it to train again"):
        runs.run_recipe(read_recipe(tmp_path / "net.toml"), tmp_path, runs.Machine())


def test_base_nets_must_hold_out_the_same(recipes, tmp_path, monkeypatch):
    (recipes / "net.toml").write_text(NET.replace('"digits" }', '"cifar10", hold_out_every = 7 }'))
    with pytest.raises(ValueError, match="both must hold out the same examples"):
        run(recipes, tmp_path / "out")


def test_weights_that_half_precision_cannot_hold_are_refused():
    net = torch.nn.Linear(2, 2)
    net.weight.data[0, 0] = 1e6
    with pytest.raises(TrainingError, match="weight has values that half precision cannot hold"):
        runs.round_to_half(net)


def test_nothing_is_embedded_of_an_unfinished_run(tmp_path):
    with pytest.raises(ResultsError, match="no finished triplet"):
        embed(tmp_path, package=tmp_path)


def asz_train(recipes, out):
    program = "from adaptive_smoothing_zoo.cli import main; main()"
    arguments = ["train", recipes / "trial.toml", "--out", out, "--device", "cpu", "--checkpoint-seconds", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_weights(recipes, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(recipes, tmp_path / "whole" / "trial")
    finally:
        torch.set_num_threads(threads)
    out = tmp_path / "killed" / "trial"
    process = asz_train(recipes, out)
    deadline = time.monotonic() + 120
    while not ((out / "log.csv").exists() and len((out / "log.csv").read_text().splitlines()) > 3):
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "training.json").exists()
    process = asz_train(recipes, out)
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    assert f"wrote {out}" in output
    for name in ("trial", "net"):
        files = [tmp_path / where / name / "model.safetensors" for where in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()
        logs = [[{**row, "seconds": 0} for row in read_log(path.parent)] for path in files]
        assert logs[0] == logs[1]
    assert Path(out / "config.json").read_text() == (tmp_path / "whole" / "trial" / "config.json").read_text()


def test_limits_without_an_embedded_entry_are_refused(recipes):
    result = CliRunner().invoke(asz, ["train", str(recipes / "trial.toml"), "--limit", "Trained on few images."])
    assert result.exit_code == 2
    assert "--limit needs --embed" in result.output
