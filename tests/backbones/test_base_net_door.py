"""docs/doors/base_net.md: its file alone makes a net that everything can build."""

import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
import torch

from adaptive_smoothing_zoo import Triplet, load_base_net, load_model
from adaptive_smoothing_zoo.backbones import ARCHITECTURES, architecture, build
from adaptive_smoothing_zoo.training.recipe import read_recipe
from adaptive_smoothing_zoo.zoo import shipped_nets
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig

PAGE = (Path(__file__).parents[2] / "docs" / "doors" / "base_net.md").read_text()
CODE = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
IMAGES = torch.rand(3, 1, 8, 8)


@pytest.fixture
def patch_net():
    """The net as its file would register it."""
    module = ModuleType("adaptive_smoothing_zoo.backbones.patch_net")
    exec(CODE, vars(module))
    yield module.PatchNet
    del ARCHITECTURES["patch_net"]


def test_the_example_is_short_and_its_net_keeps_the_promises_of_base_nets(patch_net):
    assert len(CODE.splitlines()) < 40
    net = build("patch_net", patch=2, num_classes=5).eval()
    assert isinstance(net, patch_net)
    final, maps = net.forward_intermediates(IMAGES)
    torch.testing.assert_close(net.forward_head(final), net(IMAGES))
    assert [m.shape[1:] for m in maps] == [(i["num_chs"], 4, 4) for i in net.feature_info] == [(32, 4, 4), (64, 4, 4)]


def test_entries_recipes_and_load_base_net_build_it(patch_net, tmp_path, monkeypatch):
    entry = load_model("Demo2026Constant", dataset="digits").entry
    model = Triplet(replace(entry, std_model=BaseNetConfig(architecture="patch_net", arguments={"patch": 2}))).eval()
    assert isinstance(model.std_model, patch_net)
    assert model(IMAGES).shape == (3, 10)

    recipe = tmp_path / "patch.toml"
    recipe.write_text(dedent(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]))
    read = read_recipe(recipe)
    assert read.net.arguments["patch"] == 2
    assert isinstance(build(read.net.architecture, **read.net.arguments), patch_net)

    shipped = build("patch_net", patch=2)
    config = replace(
        shipped_nets.BASE_NETS["pyautoattack_resnet18"],
        architecture="patch_net",
        arguments={"patch": 2},
        state_dict=shipped.state_dict,
    )
    monkeypatch.setitem(shipped_nets.BASE_NETS, "patches", config)
    assert torch.equal(load_base_net("patches")(IMAGES), shipped.eval()(IMAGES))


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="there is another architecture 'small_cnn', SmallCNN"):
        architecture("small_cnn")(torch.nn.Linear)
