from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss
from adaptive_smoothing_zoo.training.recipe import (
    RECIPES,
    BaseNetRecipe,
    TrainedNet,
    TripletNet,
    TripletRecipe,
    describe,
    find_recipe,
    list_recipes,
    read_recipe,
)
from adaptive_smoothing_zoo.zoo.registry import find_entry

SMALL = """
kind = "base_net"
data = { dataset = "digits" }
net = { architecture = "small_cnn", arguments = { widths = [4, 8] } }
training = { epochs = 1, eps = "8/255", attack_step_size = "8/255" }
"""
SMOOTHED = """
kind = "smoothed_net"
data = { dataset = "digits" }
net = { architecture = "small_cnn" }
training = { sigma = "1/4", epochs = 2, loss = { kind = "smoothmix", steps = 1 } }
"""


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_ours_is_complete(path):
    recipe = read_recipe(path)
    if isinstance(recipe, BaseNetRecipe):
        build(recipe.net.architecture, num_classes=10, **recipe.net.arguments)
        return
    for source in (recipe.std_model, recipe.rob_model):
        if isinstance(source, TrainedNet):
            learned = read_recipe(find_recipe(source.recipe, path.parent)).data
            assert learned == replace(recipe.data, learn_every=learned.learn_every)
        elif isinstance(source, TripletNet):
            find_entry(source.name, recipe.data.dataset, source.threat_model or recipe.threat_model)


@pytest.mark.parametrize(
    ("file", "name", "loss"),
    [
        ("cifar100_edm", "Bai2023Improving_edm", CompositeLoss(c_ce=0.0, c_bce=1.5, c_prod=0.2)),
        ("cifar10_edm", "Bai2023Improving_edm", CompositeLoss(c_ce=0.0, c_bce=1.5, c_prod=0.3)),
        (
            "cifar100_trades",
            "Bai2023Improving_trades",
            CompositeLoss(c_ce=0.5, c_bce=1.0, c_prod=0.1, clean_weight=2.0),
        ),
    ],
)
def test_recipes_of_published_triplets_have_their_entry_s_numbers_and_their_authors_settings(file, name, loss):
    dataset = file.partition("_")[0]
    recipe, entry = read_recipe(RECIPES / f"{file}.toml"), find_entry(name, dataset, "Linf")
    assert (recipe.alpha, recipe.std_map, recipe.rob_map) == (entry.alpha, entry.std_map, entry.rob_map)
    assert recipe.eps == entry.eps
    assert recipe.choice is None
    training = recipe.training
    assert training.loss == loss
    assert training.learning_rate == (1e-4 if "trades" in name else 5e-5)
    assert (training.epochs, training.steps, training.accumulation, training.weight_decay) == (3, 5, 4, 1e-5)
    assert (training.logit_scale, training.logit_bias, training.clamp, training.gradient_clip) == (2.0, 0.4, 0.6, 10.0)
    attack = training.attack
    assert (attack.setting, attack.targets, attack.every_run, attack.eps) == ("C", 9, True, 8 / 255)
    drawn = attack.randomization
    assert (drawn.radius_factor, drawn.steps, drawn.alpha_weight, drawn.budget) == ((0.4, 1.1), 75, (0.0, 0.4), 1.0)


def test_a_variant_is_a_base_and_what_it_changes(tmp_path):
    (tmp_path / "base.toml").write_text(SMALL)
    (tmp_path / "variant.toml").write_text('base = "base.toml"\ntraining = { epochs = 3, seed = 1 }\n')
    variant = read_recipe(tmp_path / "variant.toml", ["training.batch_size=32", "net.architecture=resnet20"])
    assert (variant.training.epochs, variant.training.seed, variant.training.batch_size) == (3, 1, 32)
    assert variant.training.eps == 8 / 255
    assert variant.net.architecture == "resnet20"
    assert variant.net.arguments == {"widths": [4, 8]}


def test_a_table_of_another_kind_takes_the_whole_place(tmp_path):
    constant, adaptive = (read_recipe(RECIPES / f"digits_{name}.toml") for name in ("constant", "adaptive"))
    assert constant.alpha.kind == "constant"
    assert adaptive.alpha.kind == "adaptive"
    assert constant.training is None
    assert isinstance(adaptive, TripletRecipe)
    assert adaptive.training.attack.eps == 0.2  # the recipe's own


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (None, [], "there is no recipe"),
        ("a = ", [], "not a TOML file"),
        ("kind = 'net'", [], "'kind' must be one of 'base_net', 'smoothed_net', 'triplet', got 'net'"),
        (SMALL, ["training.epoch=1"], "unknown key 'epoch'"),
        (SMALL, ["training.epochs=many"], "training.epochs: must be a valid integer, got 'many'"),
        (SMALL, ["training=1"], "'training' is a table"),
        (SMALL, ["training.eps=1/0"], "eps must be a number or a fraction"),
        (SMALL, ["epochs"], "key=value"),
        (SMALL, [".=1"], "key=value"),
        (SMALL, ["data.dataset=mnits"], "unknown dataset 'mnits'"),
        (SMALL, ["data.dataset=images-own"], "'images-own' are images of the user's own"),
        (SMALL, ["data.hold_out_every=10"], "digits have a validation split"),
        (SMALL, ["data.learn_every=0"], "learn_every must be at least 1, got 0"),
        (SMALL, ["training.noise_factor=2.0", "training.eps=0.0"], "need a radius"),
        (SMOOTHED, ["training.loss.kind=none"], "'kind' must be one of 'gaussian', 'stability'"),
        (SMOOTHED, ["training.loss.eta=1.0"], "unknown key 'eta'"),
        (SMOOTHED, ["training.sigma=0.0"], "sigma must be positive"),
        ("base = 3", [], "must name a recipe"),
        ("base = 'recipe.toml'", [], "is based on it"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(tmp_path, text, changes, message):
    path = tmp_path / "recipe.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(path, changes)


def test_a_mixing_network_needs_a_training_and_a_constant_none():
    with pytest.raises(ConfigError, match="if and only if its alpha is adaptive"):
        read_recipe(RECIPES / "digits_constant.toml", ["training.epochs=1"])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mnist_constant", "data.hold_out_every=0", "needs held-out examples; set data.hold_out_every"),
        ("mnist_constant", "choice.vary=logit_bias", "a constant alpha has no bias"),
        ("digits_adaptive", "training.ema_decay=2.0", "ema_decay must be in"),
        ("digits_adaptive", "training.steps=0", "steps must be at least 1"),
        ("digits_adaptive", "training.clamp=0.0", "clamp must be positive or None"),
    ],
)
def test_what_would_fail_after_the_base_nets_are_trained_fails_before(name, change, message):
    changes = [change, *(["choice.alpha_mins=[0.5]"] if "vary" in change else [])]
    with pytest.raises(ConfigError, match=message):
        read_recipe(name, changes)


def test_recipes_of_the_package_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = list_recipes()
    assert {RECIPES / f"{name}.toml" for name in names} == set(RECIPES.rglob("*.toml"))
    assert {"digits_rob", "smoothed/digits_macer_0.25"} <= set(names)
    for name in names:
        assert find_recipe(name) == find_recipe(f"{name}.toml") == RECIPES / f"{name}.toml"
    assert read_recipe("digits_rob").training.attack_steps == 7


def test_a_path_comes_before_a_name_and_what_is_neither_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_rob.toml").write_text(SMALL)
    assert find_recipe("digits_rob.toml") == Path("digits_rob.toml")
    assert find_recipe("digits_rob") == RECIPES / "digits_rob.toml"
    for name in ("digits", "smoothed", "", ".", "../recipes/digits_rob", "/digits_rob", "a\0b", "x" * 5000):
        with pytest.raises(ConfigError, match="there is no recipe"):
            find_recipe(name)


def test_the_former_path_is_found_with_a_word_about_the_name(caplog, tmp_path):
    for folder in ("", "./", f"{tmp_path}/"):
        caplog.clear()
        assert find_recipe(f"{folder}eval/recipes/smoothed/digits_macer_0.25.toml").parent == RECIPES / "smoothed"
        assert "part of the package, as smoothed/digits_macer_0.25" in caplog.text


def test_a_recipe_of_one_s_own_names_those_of_the_package(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "digits_rob"\ntraining = { epochs = 2 }')
    (tmp_path / "digits_rob.toml").write_text('base = "digits_rob"\ntraining = { epochs = 3 }')  # not itself
    assert read_recipe(tmp_path / "mine.toml").training.epochs == 2
    assert read_recipe(tmp_path / "digits_rob.toml").training.epochs == 3
    (tmp_path / "again.toml").write_text('base = "digits_rob.toml"')  # the file next to it
    assert read_recipe(tmp_path / "again.toml").training.epochs == 3


def test_recipes_are_listed_with_what_they_train_and_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = CliRunner().invoke(asz, ["recipes"]).output.splitlines()
    assert [line.split()[0] for line in listed] == list_recipes()
    assert next(line for line in listed if line.startswith("digits_rob ")).endswith(
        "base net: small_cnn on digits, PGD-7, 60 epochs"
    )
    printed = CliRunner().invoke(asz, ["recipes", "smoothed/digits_macer_0.25"])
    assert printed.output == (RECIPES / "smoothed" / "digits_macer_0.25.toml").read_text()
    result = CliRunner().invoke(asz, ["recipes", "nothing"])
    assert "there is no recipe nothing" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("cifar10_rob", [], "FGSM-RS, 8 epochs"),
        ("cifar10_rob_nfgsm", [], "N-FGSM, 16 epochs"),
        ("cifar10_rob_trades", [], "TRADES, 60 epochs"),
        ("digits_std", ["training.epochs=1"], "base net: small_cnn on digits, standard, 1 epoch"),
        ("smoothed/digits_macer_0.25", [], "macer, sigma 0.25, 30 epochs"),
        ("digits_constant", [], "triplet: Demo2026Constant on digits, Linf 1/5, constant alpha"),
        ("cifar100_edm", [], "mixing network, attacked in setting C, 3 epochs"),
    ],
)
def test_a_recipe_says_what_it_trains(name, changes, line):
    assert describe(read_recipe(name, changes)).endswith(line)


def test_the_momentum_is_plain_for_nets_that_will_be_smoothed_but_where_recorded_results_had_nesterov_s():
    assert read_recipe("cifar10_rob").training.momentum == "nesterov"
    for name in list_recipes():
        if name.startswith("smoothed/"):
            expected = "nesterov" if "digits" in name else "plain"
            assert read_recipe(name).training.optimization.momentum == expected
    with pytest.raises(ConfigError, match="must be 'nesterov' or 'plain', got 'heavy'"):
        read_recipe("digits_std", ["training.momentum=heavy"])
