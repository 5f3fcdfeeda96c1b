"""Triplets of base nets that come along are entries without a file of weights; others store what is missing."""

import pytest
import torch
from click.testing import CliRunner

from adaptive_smoothing_zoo import MixedClassifier, load_base_net, load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale
from adaptive_smoothing_zoo.zoo import embedding, registry
from adaptive_smoothing_zoo.zoo.embedding import embed, shipped_config
from adaptive_smoothing_zoo.zoo.entry import read_entry

H = "cifar10_resnet18_nfgsm"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty package, of which ``load_model`` reads the entries."""
    folder = tmp_path / "package"
    monkeypatch.setattr(registry, "ENTRIES", folder / "zoo" / "entries")
    registry._all_entries.cache_clear()
    yield folder
    registry._all_entries.cache_clear()


def saved(mix, folder, **words):
    mix.save_pretrained(folder, name="Doe2026Mix", dataset="cifar10", image_shape=(3, 32, 32), **words)
    return folder


def test_a_mix_of_nets_that_come_along_stores_no_weights(tmp_path, package):
    h = load_base_net(H)
    maps = {"std_map": HardMax(), "rob_map": NormClampPowerScale(scale=5.0, power=2.0, clamp_bias=-1.0)}
    mix = MixedClassifier(h, h, alpha=0.7, **maps).eval()
    entry = embed(saved(mix, tmp_path / "mix"), ("Not evaluated.",), package)
    assert (entry.std_model.pretrained, entry.rob_model.pretrained) == (H, H)
    assert entry.comes_along
    assert entry.limits[-1] == "Not evaluated."
    assert not (package / "pretrained").exists()
    assert read_entry(package / "zoo/entries/cifar10/Linf/Doe2026Mix.json") == entry
    images = torch.rand(2, 3, 32, 32)
    again = load_model("Doe2026Mix")
    assert "Doe2026Mix" in CliRunner().invoke(asz, ["list"]).output
    assert torch.equal(again(images), mix(images))


def test_a_head_on_one_net_alone_needs_no_other(tmp_path, package):
    mix = MixedClassifier(load_base_net(H), build("resnet18", width=4), alpha=0.7).eval()
    mix.prune_intermediate_layers([0])
    assert mix.rob_model is None
    entry = embed(saved(mix, tmp_path / "mix"), (), package)
    assert list(entry.head.stages) == ["std_model"]


def test_one_other_weight_makes_it_another_net():
    h = load_base_net(H)
    assert shipped_config(h).pretrained == H
    h.head.bias[0] += 1e-3
    assert shipped_config(h) is None
    assert shipped_config(build("resnet18", width=4)) is None


def test_the_command_stores_what_is_not_there(tmp_path, package, monkeypatch):
    net = build("resnet18", width=4).eval()
    folder = saved(MixedClassifier(net, net, alpha=0.7).eval(), tmp_path / "mix")
    monkeypatch.setattr(embedding.embed, "__defaults__", ((), package))
    result = CliRunner().invoke(asz, ["embed", str(folder)])
    assert result.exit_code == 0, result.output
    assert "embedded Doe2026Mix-cifar10-Linf: Doe2026Mix-cifar10-Linf.safetensors" in result.output
    assert (package / "pretrained" / "Doe2026Mix-cifar10-Linf.safetensors").is_file()
    refused = CliRunner().invoke(asz, ["embed", str(tmp_path / "nowhere")])
    assert refused.exit_code != 0
    assert "holds no finished triplet" in str(refused.output) + str(refused.exception)
