"""Experiments that train: networks that outlive an interruption, mixes of equal clean accuracy, verdicts both ways."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from making import EXAMPLES, MODEL, OF_THE_TRIPLET, a_table, begun, measuring, of_images, settings

from adaptive_smoothing_zoo import ThreatModel
from adaptive_smoothing_zoo.attacks.views import GrayBox
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, TrainingError
from adaptive_smoothing_zoo.experiments import (
    alpha_width,
    loss_ablation,
    pseudo_labels,
    sigmoid_scale,
    training_bench,
    training_settings,
)
from adaptive_smoothing_zoo.experiments.bench import Pgd
from adaptive_smoothing_zoo.experiments.training_bench import TrainingBench, TrainingExperiment, TrainingTable
from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss
from adaptive_smoothing_zoo.training.recipe import RECIPES, read_recipe

RECIPE = RECIPES / "digits_adaptive_short.toml"
HELD_OUT = load_data("digits", "validation").first(120)
SETTINGS, ABLATION, SCALES = training_settings.EXPERIMENT, loss_ablation.EXPERIMENT, sigmoid_scale.EXPERIMENT
WIDTHS, LABELS = alpha_width.EXPERIMENT, pseudo_labels.EXPERIMENT
SHORTER = (
    "training.epochs=1",
    "training.batch_size=32",
    "training.steps=1",
    "training.attack.randomization.steps=1",
    "alpha.planes=[8, 8, 8]",
)


@pytest.fixture
def bench(tmp_path):
    return a_bench(tmp_path / "trained")


def a_bench(trained, changes=(), **others):
    recipe = read_recipe(RECIPE, [*SHORTER, *changes])
    made = {
        "training": recipe.training,
        "alpha": recipe.alpha,
        "train": load_data("digits", "train").first(64),
        "held_out": HELD_OUT,
        "trained": trained,
        "apgd_steps": 1,
        **others,
    }
    return TrainingBench(**settings(pgd=Pgd(2), batch_size=64) | made)


def share(model, examples):
    return float((model(examples.images).argmax(1) == examples.labels).double().mean())


def training_table(experiment, rows, **changes):
    recipe = read_recipe(RECIPE)
    about = {
        **OF_THE_TRIPLET,
        "n": 10_000,
        "steps": 20,
        "training": recipe.training,
        "alpha": recipe.alpha,
        "apgd_steps": 20,
        "clean_share": 0.5,
        "clean_target": 0.9,
        "training_data": "nothing",
        "held_out": "nothing",
        "training_data_sha256": "0",
    }
    return a_table(experiment, *rows, kind=TrainingTable, about=about, **changes)


def test_mixes_have_the_clean_accuracy_half_way_and_just_that(bench):
    ends = [share(net, HELD_OUT) for net in (MODEL.rob_model, MODEL.std_model)]
    assert bench.clean_target == pytest.approx(sum(ends) / 2)
    constant = bench.constant()
    alpha = constant.numbers["alpha"]
    accuracies = [share(bench.mix(value), HELD_OUT) for value in (alpha, alpha + 0.001)]
    assert accuracies[0] == constant.numbers["held_out"] >= bench.clean_target > accuracies[1]
    adaptive = bench.adaptive(bench.of_setting("B"), scale=1.0)
    alpha = adaptive.model.alpha
    assert (alpha.alpha_min, alpha.alpha_max, alpha.logit_scale) == (0.0, 1.0, 1.0)
    assert share(adaptive.model, HELD_OUT) == adaptive.numbers["held_out"] >= bench.clean_target
    assert alpha.logit_bias == adaptive.numbers["bias"]
    alpha.logit_bias += 0.02
    assert share(adaptive.model, HELD_OUT) < bench.clean_target


def test_mixes_may_be_put_to_an_accuracy_that_is_asked_for(tmp_path):
    low, high = (share(net, HELD_OUT) for net in (MODEL.rob_model, MODEL.std_model))
    goal = low + 0.9 * (high - low)
    bench = a_bench(tmp_path, clean_goal=goal)
    assert bench.constant().numbers["held_out"] >= bench.clean_target == goal
    table = bench.table("loss-ablation")
    assert (table.clean_share, table.clean_target) == (None, goal)
    words = f"with at least {goal:.2%} clean accuracy on held-out examples ({HELD_OUT.source}), as asked for;"
    assert words in table.how()
    for outside in (low, high + 0.001):
        with pytest.raises(ConfigError, match=r"h alone has .* and g .*; give a --clean between them"):
            _ = a_bench(tmp_path, clean_goal=outside).clean_target


def test_nets_without_a_trade_off_are_refused_before_anything_is_trained(tmp_path):
    labels = MODEL.rob_model(HELD_OUT.images).argmax(1)
    bench = a_bench(tmp_path / "trained", held_out=of_images(HELD_OUT, HELD_OUT.images, labels))
    with pytest.raises(ConfigError, match=r"no clean accuracy to trade: .* h alone has 100\.00% and g "):
        next(SETTINGS.run(bench, tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_bias_is_looked_for_twice_as_far_until_it_is_inside(bench, monkeypatch):
    training = bench.of_setting("B")
    usual = bench.adaptive(training).numbers
    monkeypatch.setattr(training_bench, "REACH", 2.0)  # the bias is far outside of it
    assert abs(usual["bias"]) > 2.0
    assert replace(bench, _made={}).adaptive(training).numbers == usual
    monkeypatch.setattr(training_bench, "FARTHEST", 2.0)
    with pytest.raises(TrainingError, match="with the largest bias of alpha_logit, 2, the mix still has a clean"):
        replace(bench, _made={}).adaptive(training)


@pytest.mark.parametrize("width", [0.02, 0.5, 1.0])
def test_a_range_has_its_width_and_the_clean_accuracy_and_just_that(width, bench):
    """By its lower end, or, where it ends at 1, by its bias."""
    training = bench.of_setting("B")
    mixed = bench.in_range(training, width)
    alpha = mixed.model.alpha
    assert alpha.alpha_max - alpha.alpha_min == pytest.approx(width)
    assert alpha.logit_scale == training.logit_scale
    assert share(mixed.model, HELD_OUT) == mixed.numbers["held_out"] >= bench.clean_target
    if width == 0.02:
        assert (mixed.numbers["alpha_min"], alpha.logit_bias) == (alpha.alpha_min, training.logit_bias)
        alpha.set_range(alpha.alpha_min + 0.001, alpha.alpha_max + 0.001)
    else:
        assert (mixed.numbers["bias"], alpha.alpha_max) == (alpha.logit_bias, 1.0)
        alpha.logit_bias += 0.02
    assert share(mixed.model, HELD_OUT) < bench.clean_target


def test_c_may_be_as_long_as_the_papers(bench):
    long = replace(bench, long_c=True)
    attack = long.of_setting("C").attack
    assert (attack.randomization.steps, attack.randomization.budget, attack.targets) == (75, 1.0, 9)
    assert long.of_setting("C").steps == 5
    assert long.of_setting("B") == bench.of_setting("B")
    assert "in C, 75 steps on average and up to 10 attacked images" in long.table("settings").how()


def widths(lowered, attacked=0.6):
    return [
        (
            {"width": w},
            {"clean": 0.9, "attacked": 0.5 if w == "0" else attacked, "adapted": v, "held_out": 0.9, name: 0.8},
        )
        for (w, v), name in zip(lowered.items(), ["alpha", *["alpha_min"] * 6], strict=True)
    ]


@pytest.mark.parametrize(
    ("changes", "attacked", "said"),
    [
        ({}, 0.6, "yes: "),
        ({"0.15": 0.4, "0.1": 0.4}, 0.6, "it was not seen that after all attacks one of them is better"),
        ({"0.5": 0.6}, 0.6, "it was not seen that no wider range is better there"),
        ({}, 0.5, "it was not seen that a width of 0.1 or 0.15 is better than a constant alpha under PGD"),
    ],
)
def test_the_verdict_on_widths_follows_from_the_rows(changes, attacked, said):
    lowered = {"0": 0.45, "0.05": 0.5, "0.1": 0.5, "0.15": 0.55, "0.3": 0.5, "0.5": 0.4, "1": 0.3, **changes}
    table = training_table("alpha-width", widths(lowered, attacked))
    assert said in WIDTHS.agreement(table)
    assert "| 0.3 | 90.00 |" in WIDTHS.summary(table)
    assert "alpha has a range of the width in the table" in table.how()


def labelled(attacked):
    cases = [("constant", "constant"), *pseudo_labels.TRAININGS]
    return [
        ({"attack": a, "labels": b}, {"clean": 0.9, "attacked": v, "adapted": v / 2, "held_out": 0.9, name: 0.8})
        for (a, b), v, name in zip(cases, attacked, ["alpha", *["bias"] * 4], strict=True)
    ]


@pytest.mark.parametrize(
    ("attacked", "said"),
    [
        ((0.5, 0.5, 0.55, 0.3, 0.4), "yes: "),
        ((0.5, 0.5, 0.4, 0.3, 0.55), "yes: "),
        ((0.5, 0.5, 0.5, 0.3, 0.5), "it was not seen that pseudo-labels by which net is better"),
        ((0.5, 0.5, 0.55, 0.5, 0.5), "it was not seen that a network that never met an attack on itself"),
    ],
)
def test_the_verdict_on_pseudo_labels_follows_from_the_rows(attacked, said):
    table = training_table("pseudo-labels", labelled(attacked))
    assert said in LABELS.agreement(table)
    assert '| BT, "attack" | 90.00 |' in LABELS.summary(table)


def test_the_rows_of_pseudo_labels_are_networks_of_that_attack_and_rule(bench, monkeypatch):
    trainings = []
    monkeypatch.setattr(TrainingBench, "adaptive", lambda self, training: trainings.append(training) or self.constant())
    for case in LABELS.cases():
        LABELS.measure(bench, case)
    assert [(training.attack.setting, training.pseudo_labels) for training in trainings] == list(
        pseudo_labels.TRAININGS
    )
    assert len({bench._name(training) for training in trainings}) == 4


def test_the_choice_looks_at_no_test_example(bench, tmp_path):
    other = a_bench(tmp_path / "trained", examples=of_images(EXAMPLES, EXAMPLES.images.flip(0), EXAMPLES.labels * 0))
    assert other.constant().numbers == bench.constant().numbers
    assert other.adaptive(other.of_setting("B")).numbers == bench.adaptive(bench.of_setting("B")).numbers


def test_the_settings_differ_in_the_attack_and_in_the_steps_alone(bench):
    trainings = {setting: bench.of_setting(setting) for setting in "ABC"}
    assert [training.attack.setting for training in trainings.values()] == ["A", "B", "C"]
    assert [training.steps for training in trainings.values()] == [1, 1, 1]  # three attacked images in C
    assert replace(trainings["A"], attack=trainings["B"].attack) == trainings["B"]
    whole = replace(bench.training, attack=replace(bench.training.attack, targets=9))
    assert replace(bench, training=whole).of_setting("C").steps == 5  # ten, as the authors have it
    assert replace(bench, threat=ThreatModel("L2", 0.1)).of_setting("A").attack.eps == 0.1
    assert replace(bench, threat=ThreatModel("L2", 0.1)).of_setting("A").attack.norm == "L2"
    assert bench.of_setting("B", CompositeLoss(c_ce=1.0)).loss.c_ce == 1.0


def test_rows_are_accuracies_of_the_shifted_mix_under_each_attack(bench):
    measure = SETTINGS.measure
    mixed = bench.adaptive(bench.of_setting("A"))
    expected = {
        "clean": share(mixed.model, EXAMPLES),
        "A": share(mixed.model, replace(EXAMPLES, images=bench.attack(GrayBox(mixed.model)))),
        "B": share(mixed.model, replace(EXAMPLES, images=bench.attack(mixed.model))),
    }
    found = {attack: measure(bench, {"net": "A", "attack": attack}) for attack in ["clean", "A", "B", "C", "D"]}
    assert {attack: found[attack]["accuracy"] for attack in expected} == expected
    assert {**found["clean"], "accuracy": 0.0} == {**mixed.numbers, "accuracy": 0.0}
    after = [found[attack]["accuracy"] for attack in ("clean", "C", "D")]
    assert after == sorted(after, reverse=True)
    standing = bench.standing(mixed.model)
    assert found["C"]["accuracy"] == float(standing.double().mean())
    assert not bool((bench.standing_lowered(mixed.model, standing) & ~standing).any())
    assert measure(bench, {"net": "h", "attack": "clean"}) == {"accuracy": share(MODEL.rob_model, EXAMPLES)}


def test_longer_apgd_breaks_what_a_short_one_leaves(bench):
    left = [int(replace(bench, apgd_steps=steps, _made={}).standing(MODEL).sum()) for steps in (1, 15)]
    assert left[1] < left[0]


def test_autoattack_itself_is_kept_on_disk(bench):
    whole = replace(bench, apgd_steps=None, examples=EXAMPLES.first(3), _made={})
    g = whole.mix(0.0)
    assert not bool(whole.standing(g).any())
    (folder,) = whole.trained.glob("autoattack_*")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert not bool(replace(whole, _made={}).standing(g).any())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before


def test_another_loss_trains_another_network_and_the_same_loss_none(bench):
    rows = {}
    for case in ABLATION.cases()[1:3]:
        rows[case["c_ce"]] = ABLATION.measure(bench, case)
    assert len(list(bench.trained.iterdir())) == 2
    again = replace(bench, _made={}, on_stage=lambda what: pytest.fail(f"trained again: {what}"))
    assert ABLATION.measure(again, ABLATION.cases()[1]) == rows["0"]
    losses = [
        bench.of_setting("B", CompositeLoss(c_ce=float(ce), c_bce=float(bce), c_prod=0.0))
        for ce, bce in loss_ablation.SPLITS
    ]
    weights = [bench.network(training).alpha.mixing_network.state_dict() for training in losses]
    assert any(not torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    for values in rows.values():
        assert values["adapted"] <= values["attacked"] <= values["clean"]
    mixes = [bench.constant(), bench.adaptive(losses[0])]
    for mixed, values in zip(mixes, (ABLATION.measure(bench, ABLATION.cases()[0]), rows["0"]), strict=True):
        assert values["adapted"] <= float(bench.standing(mixed.model).double().mean())  # APGD on the mix, too


def test_an_interrupted_training_goes_on_and_ends_the_same(bench, tmp_path):
    training = replace(bench.of_setting("B"), epochs=2)  # 4 rounds
    whole = bench.network(training)
    rounds = []

    def interrupt(what):
        rounds.append(what)
        if len(rounds) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        a_bench(tmp_path / "other", on_stage=interrupt, checkpoint_seconds=0.0).network(training)
    resumed = a_bench(tmp_path / "other", on_stage=rounds.append).network(training)
    assert [what.split(": ")[1] for what in rounds] == [f"round {i} of 4" for i in (1, 2, 3, 4)]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize(
    ("changes", "others", "named"),
    [
        (["training.epochs=2"], {}, "training"),
        (["training.attack.randomization.steps=2"], {}, "training"),
        (["training.loss.c_prod=0.1"], {}, "training"),
        (["alpha.planes=[8, 8, 16]"], {}, "alpha"),
        ([], {"apgd_steps": 2}, "apgd_steps 1, not 2"),
        ([], {"apgd_steps": None}, "apgd_steps 1, not None"),
        ([], {"clean_share": 0.25}, "clean_share"),
        ([], {"held_out": load_data("digits", "validation").first(60)}, "clean_target"),
        ([], {"train": load_data("digits", "train").first(96)}, "training_data_sha256"),
        ([], {"pgd": Pgd(3)}, "steps 2, not 3"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, list) else None,
)
def test_a_file_of_other_settings_is_not_resumed(changes, others, named, bench, tmp_path):
    experiment = measuring(SETTINGS, lambda bench, case: {"accuracy": 0.5})
    begun(experiment, bench, tmp_path, rows=1)
    with pytest.raises(ResultsError, match=f"was measured with {named}"):
        next(experiment.run(a_bench(tmp_path, changes, **others), tmp_path))


def test_test_examples_are_not_trained_on(tmp_path):
    with pytest.raises(ResultsError, match="of the 12 different test images are among the training examples"):
        a_bench(tmp_path, train=load_data("digits"))
    with pytest.raises(ResultsError, match="test images are among the training examples"):
        a_bench(tmp_path, held_out=load_data("digits").first(30))


def published(dataset):
    rows = [
        ({"net": net, "attack": attack}, {"accuracy": value / 100, "bias": 1.0})
        for net, values in training_settings.PAPER[dataset].items()
        for attack, value in values.items()
    ]
    constant = [({"net": "constant", "attack": a}, {"accuracy": 0.4, "alpha": 0.9}) for a in ("clean", "B", "C")]
    return rows + constant


def changed(rows, net, attack, accuracy):
    case = {"net": net, "attack": attack}
    return [(where, {**values, "accuracy": accuracy} if where == case else values) for where, values in rows]


@pytest.mark.parametrize("dataset", training_settings.PAPER)
def test_the_published_tables_agree_with_themselves(dataset):
    table = training_table("settings", published(dataset))
    assert SETTINGS.agreement(table).startswith("yes: ")
    text = SETTINGS.summary(table)
    assert f"| C, AutoAttack | {training_settings.PAPER[dataset]['h']['C']:.2f} | 40.00 |" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("A", "A", 0.2)], "not seen that each network keeps 80% of h's accuracy"),
        ([("B", "C", 0.4278)], "not seen that the one trained in C is the most accurate"),
        ([("A", "D", 0.5)], "not seen that the one trained in C is the most accurate"),
        ([("C", "D", 0.4177)], "not seen that D takes at most a point more than C"),
        ([("A", "A", 0.2), ("B", "C", 0.5), ("A", "D", 0.1)], "no: "),
    ],
)
def test_settings_that_behave_otherwise_do_not_agree(changes, said):
    rows = published("CIFAR-10")
    for net, attack, accuracy in changes:
        rows = changed(rows, net, attack, accuracy)
    text = SETTINGS.agreement(training_table("settings", rows))
    assert text.startswith("in part: " if len(changes) == 1 else "no: ")
    assert said in text


def test_settings_that_keep_just_enough_agree():
    rows = published("CIFAR-10")
    just = [("h", "B", 0.55), ("A", "A", 0.44), ("B", "B", 0.44), ("C", "C", 0.55), ("C", "D", 0.54)]
    for net, attack, accuracy in just:  # 80 % of h's, and a point more
        rows = changed(rows, net, attack, accuracy)
    assert SETTINGS.agreement(training_table("settings", rows)).startswith("yes: ")


@pytest.mark.parametrize("attack", ["B", "C"])
def test_without_a_robust_h_there_is_nothing_to_keep(attack):
    table = training_table("settings", changed(published("CIFAR-10"), "h", attack, 0.0))
    assert SETTINGS.agreement(table).startswith("not answered: h is right on none of the 10000 images under B or C")


def ablation(published, constant):
    """Rows of the loss ablation; what APGD leaves is half of what PGD leaves."""
    rows = [({"c_ce": "constant", "c_bce": "constant", "c_prod": "constant"}, constant, "alpha")]
    rows += [
        ({"c_ce": ce, "c_bce": bce, "c_prod": product}, value, "bias")
        for product, values in published.items()
        for (ce, bce), value in zip(loss_ablation.SPLITS, values, strict=True)
    ]
    return [
        (case, {"clean": 0.9, "attacked": value / 100, "adapted": value / 200, name: 1.0, "held_out": 0.9})
        for case, value, name in rows
    ]


def test_the_published_ablation_agrees_with_itself():
    table = training_table("loss-ablation", ablation(loss_ablation.PAPER, loss_ablation.PAPER_CONSTANT))
    text = ABLATION.agreement(table)
    assert text.startswith("yes: ")
    assert "The highest accuracy under PGD is 55.10 %, with c_CE, c_BCE, c_prod = 0, 1.5, 0.2" in text
    assert "the constant alpha has 26.30 %, the networks 26.40 to 27.55 %; 12 of the 12 are better." in text
    assert "| 0, 1.5, 0.2 | 90.00 | 55.10 | 27.55 | 55.1 | bias 1, 90.00 % clean" in ABLATION.summary(table)


@pytest.mark.parametrize(
    ("changes", "constant", "missing"),
    [
        ({"0": (55.1, 52.8, 53.8, 54.4)}, 52.6, "c_CE 0, c_BCE 1.5, c_prod 0.2 is the best one"),  # equal is not best
        ({"0": (54.5, 54.0, 54.8, 54.8)}, 52.6, "c_prod 0.1 and 0.2 are better than 0 on the mean"),
        ({}, 52.8, "every network is better than the constant alpha"),
    ],
)
def test_another_ablation_does_not_agree(changes, constant, missing):
    text = ABLATION.agreement(training_table("loss-ablation", ablation({**loss_ablation.PAPER, **changes}, constant)))
    assert text.startswith("in part: ")
    assert f"it was not seen that {missing}." in text


def scales(published):
    return [
        ({"scale": scale}, {"clean": 0.9, "attacked": v / 100, "adapted": v / 200, "bias": 1.0, "held_out": 0.9})
        for scale, v in published.items()
    ]


def test_the_published_scales_agree_with_themselves():
    text = SCALES.agreement(training_table("sigmoid-scale", scales(sigmoid_scale.PAPER)))
    assert text.startswith("yes: ")
    assert "the best scale is 2, with 55.70 %; the four lie 0.60 points apart" in text
    assert "3 of the 3 others are that close to the best" in text  # so near that 10,000 examples do not tell


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"4": 55.7}, "in part: 0.5 is the worst one of the four; every scale is better than the constant alpha; but"),
        ({"0.5": 55.6}, "in part: a scale of 2 is the best one; every scale is better than the constant alpha; but"),
        ({"0": 55.1}, "in part: a scale of 2 is the best one; 0.5 is the worst one of the four; but"),
        ({"0": 56.0, "0.5": 55.8}, "no: "),
    ],
)
def test_other_scales_do_not_agree(changes, verdict):
    text = SCALES.agreement(training_table("sigmoid-scale", scales({**sigmoid_scale.PAPER, **changes})))
    assert text.startswith(verdict)


def test_a_long_form_says_so():
    table = training_table("settings", [])
    long = replace(table.training.attack, randomization=replace(table.training.attack.randomization, steps=20))
    assert table.is_short
    assert replace(table, apgd_steps=None).is_short
    table = replace(table, apgd_steps=None, training=replace(table.training, attack=long))
    assert "This is the long form" in table.how()
    assert "C is AutoAttack itself" in table.how()


@pytest.mark.slow
def test_the_command_trains_and_writes_data_picture_and_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["experiment", "sigmoid-scale", "--n", "4", "--steps", "1", "--apgd-steps", "1", "--device", "cpu"]
    arguments += ["--recipe", str(RECIPE), "--set", "training.batch_size=512"]
    arguments += [word for change in SHORTER if "batch_size" not in change for word in ("--set", change)]
    result = CliRunner().invoke(asz, [*arguments, "--out", "out"], catch_exceptions=False)
    assert result.exit_code == 0
    path = SCALES.file(Path("out"), MODEL.entry.key)
    assert str(path.with_suffix(".md")) in result.output
    assert json.loads(path.read_text())["training"]["epochs"] == 1
    page = path.with_suffix(".md").read_text()
    assert f"({path.stem}.png)" in page
    assert "This is the short form: each mixing network is trained for 1 epochs" in page
    assert "), half way from h's to g's; no test example is used for this" in page
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list(Path("runs/experiments").glob("Demo2026Adaptive-digits-Linf/B_0_1.5_0.2_*"))) == 1


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("digits_constant", "is not the recipe of a triplet with a mixing network"),
        ("cifar10_adaptive", "is for cifar10, the triplet for digits"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(recipe, message, tmp_path):
    arguments = ["experiment", "settings", "--recipe", str(RECIPE.with_name(f"{recipe}.toml")), "--n", "4"]
    result = CliRunner().invoke(asz, [*arguments, "--out", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_training_examples_may_come_from_another_file_than_those_to_be_tested(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for name, count in (("test", 4), ("train", 100)):
        images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(count) % 10)
    benches = []
    monkeypatch.setattr(TrainingExperiment, "run", lambda self, bench, *where: benches.append(bench) or [])
    arguments = ["experiment", "settings", "--dataset", "cifar10", "--device", "cpu", "--n", "4"]
    arguments += ["--recipe", str(RECIPE.with_name("cifar10_adaptive.toml")), "--data-dir", str(tmp_path / "test.npz")]
    apart = ["--train-data-dir", str(tmp_path / "train.npz")]
    assert CliRunner().invoke(asz, [*arguments, *apart], catch_exceptions=False).exit_code == 0
    (bench,) = benches
    assert [len(x.images) for x in (bench, bench.train, bench.held_out)] == [4, 98, 2]
    assert "train.npz" in bench.train.source
    refused = CliRunner().invoke(asz, arguments)
    assert "--train-data-dir" in str(refused.exception)


@pytest.mark.parametrize(
    ("experiment", "rows"),
    [
        (SETTINGS, published("CIFAR-10")),
        (ABLATION, ablation(loss_ablation.PAPER, 52.6)),
        (SCALES, scales(sigmoid_scale.PAPER)),
    ],
)
def test_pages_quote_what_was_published(experiment, rows):
    text = experiment.page(training_table(experiment.name, rows), "picture.png")
    assert experiment.paper in text
    assert "**Agreement:** yes: " in text


@pytest.mark.parametrize(("accuracies", "near"), [([1.0, 1.0, 0.0], 1), ([0.0, 0.0, 0.0], 2), ([0.9, 0.8999, 0.5], 1)])
def test_the_best_one_is_not_among_those_near_to_it(accuracies, near):
    words = training_bench.noise(training_table("settings", []), accuracies)
    assert f": {near} of the {len(accuracies) - 1} others are that close" in words


def test_two_standard_errors_cover_the_noise_of_the_worse_of_two_accuracies():
    """A difference of two independent shares p and q has variance (p (1 - p) + q (1 - q)) / n."""
    table = training_table("settings", [])
    for p, q in ((1.0, 0.9), (0.99, 0.95), (0.7, 0.6)):
        said = float(training_bench.noise(table, [p, q]).split("below ")[1].split(" points")[0])
        assert said >= 200 * ((p * (1 - p) + q * (1 - q)) / table.n) ** 0.5 - 0.05
