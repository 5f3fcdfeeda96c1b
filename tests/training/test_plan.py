"""What asz train says before it begins, and after it was interrupted."""

import json
import math
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from click.exceptions import Abort
from click.testing import CliRunner
from safetensors.torch import load_file
from test_runs import NET, TRIPLET
from tqdm import tqdm

from adaptive_smoothing_zoo.cli import asz, progress
from adaptive_smoothing_zoo.cli import train_commands as training
from adaptive_smoothing_zoo.cli.interruption import Terminated
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.training import base_nets, plan, runs
from adaptive_smoothing_zoo.training.keeping import CHECKPOINT_FILE, rounds_kept
from adaptive_smoothing_zoo.training.loop import Progress
from adaptive_smoothing_zoo.training.recipe import read_recipe

ROBUST = NET.replace("batch_size = 128", "batch_size = 128, eps = 0.1, attack_steps = 2, attack_step_size = 0.1")
ROUNDS = 8  # of an epoch of 1079 digits in batches of 128


@pytest.fixture
def recipes(tmp_path):
    (tmp_path / "net.toml").write_text(ROBUST)
    (tmp_path / "trial.toml").write_text(TRIPLET)
    return tmp_path


def a_plan(recipes, name="trial"):
    recipe = read_recipe(recipes / f"{name}.toml")
    return plan.make_plan(recipe, recipes / "out" / name, runs.Machine(), beside=recipes)


def test_a_plan_says_what_is_trained_what_exists_and_what_is_left(recipes):
    g, h, network, alpha = map(str, a_plan(recipes))
    assert g == f"g: small_cnn, 1 epoch; {ROUNDS} rounds in {recipes / 'out' / 'net'}"
    assert h == "h: rob_model of Demo2026Adaptive"
    assert network == f"mixing network: 1 epoch, attacked in setting B; {ROUNDS} rounds in {recipes / 'out' / 'trial'}"
    assert alpha.startswith("alpha: chosen on held-out examples")
    assert not (recipes / "out").exists()
    runs.run_recipe(read_recipe(recipes / "net.toml"), recipes / "out" / "net", runs.Machine())
    stages = a_plan(recipes)
    assert str(stages[0]) == f"g: small_cnn, 1 epoch; trained, in {recipes / 'out' / 'net'}"
    assert plan.kept(stages) == "kept: g (trained)"


def test_a_plan_for_another_recipe_s_folder_is_refused_before_anything_is_timed(recipes):
    runs.run_recipe(read_recipe(recipes / "net.toml"), recipes / "out" / "net", runs.Machine())
    (recipes / "net.toml").write_text(NET)
    for name in ("net", "trial"):
        with pytest.raises(ResultsError, match="belongs to another recipe"):
            a_plan(recipes, name)


def test_a_round_is_timed_and_nothing_of_it_is_kept(recipes, monkeypatch):
    stages = a_plan(recipes)
    state = torch.get_rng_state()
    for stage in (stages[0], stages[2]):
        assert 0.0 < plan.pace(stage) < 60.0
    assert torch.equal(torch.get_rng_state(), state)
    assert not (recipes / "out").exists()
    rounds = []

    def train(on_progress):
        for i in range(1, 10):
            rounds.append(i)
            on_progress(Progress(round=i, rounds=9, measured={"seconds": 4.0 * i}))

    stage = plan.Stage("net", "", SimpleNamespace(machine=runs.Machine(), train_anew=train))
    assert plan.pace(stage) == 8.0  # the first round warms up; after the second, time is up
    assert rounds == [1, 2]
    assert math.isnan(plan.pace(plan.Stage("net", "")))


def test_the_plan_alone_is_printed(recipes):
    arguments = ["train", str(recipes / "trial.toml"), "--out", str(recipes / "out" / "trial"), "--device", "cpu"]
    result = CliRunner().invoke(asz, [*arguments, "--plan"], catch_exceptions=False)
    assert "g: small_cnn, 1 epoch" in result.output
    assert "time left: g about 1 s, mixing network about" in result.output
    assert " in total" in result.output
    assert not (recipes / "out").exists()


def train(recipes, out):
    arguments = ["train", str(recipes / "net.toml"), "--out", str(out), "--device", "cpu"]
    return asz.main([*arguments, "--checkpoint-seconds", "1000"], standalone_mode=False)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, Abort), (signal.SIGTERM, Terminated)])
def test_a_signal_inside_a_round_keeps_the_last_finished_one(recipes, monkeypatch, capsys, number, error):
    monkeypatch.setattr(plan, "pace", lambda *given: 1.0)
    if number == signal.SIGINT:  # which a shell's background jobs inherit switched off
        signal.signal(number, signal.default_int_handler)
    train(recipes, recipes / "whole")
    attacks = []

    def interrupted(*given, **named):
        attacks.append(None)
        if len(attacks) == 4:
            signal.raise_signal(number)
        return pgd(*given, **named)

    pgd = base_nets.pgd
    monkeypatch.setattr(base_nets, "pgd", interrupted)
    out = recipes / "parts"
    with pytest.raises(error):
        train(recipes, out)
    assert rounds_kept(out) == 3
    assert f"kept: round 3 of {ROUNDS} of net; repeat the command to resume" in capsys.readouterr().err
    train(recipes, out)
    assert f"{ROUNDS} rounds in {out}, resumed after round 3" in capsys.readouterr().out
    assert len(attacks) == 4 + ROUNDS - 3
    whole, parts = (load_file(folder / "model.safetensors") for folder in (recipes / "whole", out))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    assert not (out / CHECKPOINT_FILE).exists()
    assert json.loads((out / "training.json").read_text())["optimization"]["momentum"] == "nesterov"


def test_a_signal_in_the_midst_of_steps_leaves_the_state_of_the_last_finished_round(recipes, monkeypatch):
    """Statistics and weights have changed by then; what is kept has not."""
    monkeypatch.setattr(plan, "pace", lambda *given: 1.0)
    train(recipes, recipes / "whole")
    steps = []

    def step(self, *given):
        found = sgd(self, *given)
        steps.append(None)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return found

    sgd = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(Abort):
        train(recipes, recipes / "parts")
    assert rounds_kept(recipes / "parts") == 3
    train(recipes, recipes / "parts")
    whole, parts = (load_file(recipes / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_the_time_left_is_computed_from_this_run_s_pace(monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            bars.append(self)

    monkeypatch.setattr(progress, "tqdm", Bar)
    with training.progress_bars(shown=True) as (on_stage, on_progress, _):
        for first in (205, 1):  # of another stage the second time
            on_stage("a net")
            bars[0].start_t = bars[0].last_print_t = time.time() - 10.0  # so long for the first round of this run
            on_progress(Progress(round=first, rounds=480, measured={}))
            found = bars[0].format_dict
            assert (found["n"], found["total"], found["initial"]) == (first, 480, first - 1)
            assert (found["n"] - found["initial"]) / found["elapsed"] == pytest.approx(0.1, rel=0.1)


def test_a_finished_run_of_before_there_was_a_choice_of_momentum_is_read(recipes):
    out = recipes / "out" / "net"
    runs.run_recipe(read_recipe(recipes / "net.toml"), out, runs.Machine())
    record = json.loads((out / "recipe.json").read_text())
    assert record["training"].pop("momentum") == "nesterov"
    (out / "recipe.json").write_text(json.dumps(record))
    a_job = lambda *changes: runs.job_of(read_recipe(recipes / "net.toml", changes), out, runs.Machine(), recipes)  # noqa: E731
    a_job().check_folder()
    with pytest.raises(
        ResultsError, match=r"training\.momentum 'nesterov', this run has recipe\.training\.momentum 'plain'"
    ):
        a_job("training.momentum=plain").check_folder()
