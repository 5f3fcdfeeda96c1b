"""Recipes of nets to be smoothed, and of triplets with such an h."""

import json

import pytest
import torch

from adaptive_smoothing_zoo import Triplet
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.training import runs
from adaptive_smoothing_zoo.training.recipe import RECIPES, SmoothedNetRecipe, read_recipe
from adaptive_smoothing_zoo.training.smoothed_losses import MacerLoss, SmoothAdvLoss, SmoothMixLoss

SMOOTHED = RECIPES / "smoothed"
METHODS = ("gaussian", "stability", "smoothadv", "macer", "consistency", "smoothmix", "smoothmix_one_step")
NET = """
kind = "smoothed_net"
data = { dataset = "digits" }
net = { architecture = "small_cnn", arguments = { widths = [4, 8], mean = [0.3], std = [0.37] } }
training = { sigma = "1/4", epochs = 2, loss = { kind = "smoothmix", noises = 2, steps = 1, warm_up = 1 } }
"""
TRIPLET = """
kind = "triplet"
threat_model = "L2"
eps = "1/4"
data = { dataset = "digits" }
std_model = { kind = "triplet", name = "Demo2026Constant", part = "std_model", threat_model = "Linf" }
rob_model = { kind = "smoothed", recipe = "net.toml", num_noises = 5, votes = "hard", logit_scale = 3 }
alpha = { kind = "constant", value = 0.75 }

[entry]
name = "Trial2026Triplet"
description = "A trial."
architecture = "small"
paper = { title = "T", authors = "A", venue = "N/A", link = "https://example.org" }
"""


def test_there_is_a_recipe_for_every_method():
    names = {f"digits_{method}_{sigma}" for method in METHODS for sigma in ("0.125", "0.25", "0.5")}
    names |= {f"cifar10_{method}{form}" for method in METHODS for form in ("", "_long")}
    rows = (*METHODS, "smoothmix_eta1", "smoothmix_eta1_one_step")
    names |= {f"mnist_{method}{form}" for method in rows for form in ("", "_long")}
    assert {path.stem for path in SMOOTHED.glob("*.toml")} == names


@pytest.mark.parametrize("path", sorted(SMOOTHED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_complete_and_is_what_its_name_says(path):
    recipe = read_recipe(path)
    assert isinstance(recipe, SmoothedNetRecipe)
    build(recipe.net.architecture, num_classes=10, **recipe.net.arguments)
    dataset, *method = path.stem.removesuffix("_long").split("_")
    assert recipe.data.dataset == dataset
    if dataset == "digits":
        assert recipe.training.sigma == float(method.pop())
    elif dataset == "mnist":
        assert recipe.net.architecture == "lenet"
        if "smoothmix" in method:
            assert recipe.training.loss.weight == (1.0 if "eta1" in method else 5.0)
            method = [part for part in method if part != "eta1"]
    else:
        assert recipe.net.architecture == ("resnet110" if path.stem.endswith("_long") else "resnet20")
    loss = recipe.training.loss
    assert loss.kind == method[0]
    assert getattr(loss, "one_step", False) == (method[1:] == ["one", "step"])


@pytest.mark.parametrize(("sigma", "steps", "weight"), [(0.125, 2, 16), (0.25, 4, 16), (0.5, 8, 6)])
def test_the_constants_for_digits_are_those_for_mnist_with_half_their_lengths(sigma, steps, weight):
    losses = {method: read_recipe(SMOOTHED / f"digits_{method}_{sigma}.toml").training.loss for method in METHODS}
    mnist = SmoothMixLoss(warm_up=3)
    expected = (mnist.noises, mnist.step_size / 2, steps, 5.0)
    for method in ("smoothmix", "smoothmix_one_step"):
        loss = losses[method]
        assert (loss.noises, loss.step_size, loss.steps, loss.weight) == expected
    assert losses["smoothadv"] == SmoothAdvLoss(eps=0.5, warm_up=3)
    assert losses["macer"] == MacerLoss(weight=2 * weight, deferred=10)
    assert losses["consistency"].weight == (10.0 if sigma == 0.125 else 5.0)


def test_a_triplet_has_the_smoothed_net_as_h(tmp_path):
    (tmp_path / "net.toml").write_text(NET)
    (tmp_path / "triplet.toml").write_text(TRIPLET)
    recipe = read_recipe(tmp_path / "triplet.toml")
    triplet = runs.run_recipe(recipe, tmp_path / "runs" / "triplet", runs.Machine(), beside=tmp_path)
    assert (triplet.entry.threat_model, triplet.entry.eps) == ("L2", "1/4")
    assert triplet.entry.number_forward_passes == 6
    h, images = triplet.rob_model, load_data("digits").first(5).images
    assert (h.sigma, len(h.noise), h.votes, h.logit_scale.scale) == (0.25, 5, "hard", 3.0)
    net = runs.run_recipe(read_recipe(tmp_path / "net.toml"), tmp_path / "runs" / "net", runs.Machine())
    torch.testing.assert_close(h.base(images), net(images))
    votes = torch.stack([net(images + 0.25 * noise).argmax(1) for noise in h.noise])
    for i in range(5):
        expected = torch.bincount(votes[:, i], minlength=10) / 5
        torch.testing.assert_close(h(images)[i].exp(), expected)
    again = Triplet.from_pretrained(tmp_path / "runs" / "triplet")
    torch.testing.assert_close(again(images), triplet(images))


def test_a_run_from_before_a_loss_had_these_options_is_read_and_another_is_refused(tmp_path):
    (tmp_path / "net.toml").write_text(NET.replace("epochs = 2", "epochs = 1"))
    recipe, out = read_recipe(tmp_path / "net.toml"), tmp_path / "net"
    net = runs.run_recipe(recipe, out, runs.Machine())
    data = json.loads((out / "recipe.json").read_text())
    del data["training"]["loss"]["printed"], data["training"]["loss"]["max_norm"]
    (out / "recipe.json").write_text(json.dumps(data))
    images = load_data("digits").first(2).images
    assert torch.equal(runs.run_recipe(recipe, out, runs.Machine())(images), net(images))
    other = read_recipe(tmp_path / "net.toml", ["training.loss.printed=true"])
    with pytest.raises(ResultsError, match="belongs to another recipe"):
        runs.run_recipe(other, out, runs.Machine())


def test_a_net_that_was_not_trained_for_it_is_not_smoothed(tmp_path):
    (tmp_path / "net.toml").write_text(
        NET.replace("smoothed_net", "base_net").split("training")[0] + "training.epochs = 1"
    )
    (tmp_path / "triplet.toml").write_text(TRIPLET)
    recipe = read_recipe(tmp_path / "triplet.toml")
    with pytest.raises(ValueError, match=r"net\.toml is not the recipe of a smoothed net"):
        runs.run_recipe(recipe, tmp_path / "runs" / "triplet", runs.Machine(), beside=tmp_path)
