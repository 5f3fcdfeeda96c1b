"""A triplet is what its entry says, and a folder holds all of it."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, WeightsError
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.storage.files import file_sha256
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.zoo import triplet as triplet_module
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, entry_to_text, read_entry
from adaptive_smoothing_zoo.zoo.triplet import Triplet, load_triplet

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def random_triplet(entry):
    """A triplet whose every tensor, running statistics included, differs from a fresh one."""
    triplet = Triplet(entry).train()
    with torch.no_grad():
        for _ in range(2):
            triplet(torch.rand(16, 1, 8, 8))
        for parameter in triplet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return triplet.eval()


@pytest.fixture
def saved(entry, tmp_path):
    """A triplet and the folder it was saved to."""
    triplet = random_triplet(entry)
    triplet.save_pretrained(tmp_path / "saved")
    return triplet, tmp_path / "saved"


class TestEntry:
    def test_nets_scales_and_normalization_are_the_entry_s(self, entry):
        triplet = Triplet(entry)
        assert [info["num_chs"] for info in triplet.feature_info] == [3, 4, 5, 6]  # of both nets, at full size and half
        assert (triplet.std_map.scale, triplet.rob_map.scale) == (2.0, 0.5)
        assert triplet.rob_model.mean.item() == pytest.approx(0.3)
        assert triplet.num_classes == 10

    def test_alpha_is_the_entry_s(self, tiny_entry, adaptive_entry):
        assert Triplet(tiny_entry).alpha.alpha_min == Triplet(tiny_entry).alpha.alpha_max == 0.75
        config = replace(adaptive_entry.alpha, logit_scale=3.0, logit_bias=-1.0, std_taps=(0, 1), rob_taps=(-2, -1))
        alpha = Triplet(replace(adaptive_entry, alpha=config)).alpha
        assert isinstance(alpha, AdaptiveAlpha)
        found = (alpha.alpha_min, alpha.alpha_max, alpha.logit_scale, alpha.logit_bias)
        assert found == (0.6, 0.9, 3.0, -1.0)
        assert (alpha.std_taps, alpha.rob_taps, alpha.clamp) == ((0, 1), (-2, -1), None)
        assert alpha.mixing_network.head.weight.shape == (1, 8)

    def test_the_output_is_the_formula_of_the_entry(self, entry):
        triplet = random_triplet(entry).double()
        images = IMAGES.double()
        alpha = triplet.alpha_of(images)[:, None]
        g, h = triplet.std_model(images), triplet.rob_model(images)
        expected = ((1 - alpha) * (2.0 * g).softmax(dim=1) + alpha * (0.5 * h).softmax(dim=1)).log()
        torch.testing.assert_close(triplet(images), expected)

    def test_pretrained_cfg_tells_timm_s_users_what_goes_in_and_out(self, entry):
        cfg = Triplet(entry).pretrained_cfg
        assert (cfg["architecture"], cfg["num_classes"], cfg["input_size"]) == ("Doe2024Tiny", 10, (1, 8, 8))
        assert (cfg["mean"], cfg["std"]) == ((0.0,), (1.0,))
        assert Triplet(entry).default_cfg == cfg

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda triplet: pickle.loads(pickle.dumps(triplet))])
    def test_copies_keep_entry_and_output(self, entry, copied):
        triplet = random_triplet(entry)
        twin = copied(triplet)
        assert twin.entry == triplet.entry
        assert torch.equal(twin(IMAGES), triplet(IMAGES))

    @pytest.mark.parametrize(
        ("net", "message"),
        [
            ({"architecture": "no_such_net"}, "unknown architecture 'no_such_net'"),
            ({"architecture": "small_cnn", "arguments": {"depth": 3}}, "wrong arguments for architecture"),
            ({"architecture": "small_cnn", "pretrained": "nothing"}, "no base net 'nothing'; known: "),
        ],
    )
    def test_a_base_net_that_does_not_exist_is_refused_with_the_entry_s_key(self, tiny_entry, net, message):
        with pytest.raises(ConfigError, match=f"entry of Doe2024Tiny-digits-Linf cannot be built: .*{message}"):
            Triplet(replace(tiny_entry, std_model=BaseNetConfig(**net)))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"version": 3}, "version 3 adds"),
            ({"version": 5}, "versions 3 and 4"),
            ({"std_taps": (0, 2)}, r"std_model has no feature map at index 2 \(std_taps\)"),
            ({"rob_taps": (-3, 1)}, r"rob_model has no feature map at index -3 \(rob_taps\)"),
        ],
    )
    def test_a_mixing_network_that_does_not_fit_is_refused_with_the_entry_s_key(self, adaptive_entry, change, message):
        entry = replace(adaptive_entry, alpha=replace(adaptive_entry.alpha, **change))
        with pytest.raises(ConfigError, match=f"entry of Doe2024Tiny-digits-Linf cannot be built: .*{message}"):
            Triplet(entry)


class TestFolder:
    def test_a_saved_triplet_is_loaded_bit_by_bit(self, saved):
        triplet, folder = saved
        loaded = Triplet.from_pretrained(folder)
        for key, value in triplet.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key
        assert torch.equal(loaded(IMAGES), triplet(IMAGES))

    def test_a_loaded_triplet_is_in_eval_mode_and_frozen(self, saved):
        loaded = Triplet.from_pretrained(str(saved[1]))
        assert not any(module.training for module in loaded.modules())
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        images = IMAGES.clone().requires_grad_()
        assert torch.autograd.grad(loaded(images)[:, 0].sum(), images)[0].abs().sum() > 0

    def test_a_folder_holds_two_files_and_the_hash_of_one_in_the_other(self, saved):
        triplet, folder = saved
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
        digest = file_sha256(folder / "model.safetensors")
        entry = triplet.entry.about(identity_of(triplet).sha256)
        assert read_entry(folder / "config.json") == entry.self_contained(digest)
        assert load_file(folder / "model.safetensors").keys() == triplet.state_dict().keys()

    def test_a_loaded_triplet_saves_the_very_same_files(self, saved, tmp_path):
        Triplet.from_pretrained(saved[1]).save_pretrained(tmp_path / "again")
        for name in ("config.json", "model.safetensors"):
            assert (tmp_path / "again" / name).read_bytes() == (saved[1] / name).read_bytes()

    @pytest.mark.parametrize(("device", "why"), [("meta", "have no values"), ("nowhere", "has no device 'nowhere'")])
    def test_a_device_that_cannot_be_is_refused(self, saved, device, why):
        with pytest.raises(ValueError, match=why):
            Triplet.from_pretrained(saved[1], device=device)

    def test_other_weights_under_the_same_name_are_refused(self, saved, entry):
        folder = saved[1]
        save_file(random_triplet(entry).state_dict(), folder / "model.safetensors")
        with pytest.raises(WeightsError, match=r"model\.safetensors has SHA-256"):
            Triplet.from_pretrained(folder)

    @pytest.mark.parametrize("content", [b"", b"not weights", b"<html>Sign in</html>"])
    def test_a_foreign_weights_file_is_refused(self, saved, content):
        folder = saved[1]
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(WeightsError, match=r"model\.safetensors"):
            Triplet.from_pretrained(folder)
        document = json.loads((folder / "config.json").read_text())
        document["entry"]["weights"]["sha256"] = None
        (folder / "config.json").write_text(json.dumps(document))
        with pytest.raises(WeightsError, match=r"model\.safetensors is not a complete safetensors file"):
            Triplet.from_pretrained(folder)

    @pytest.mark.parametrize(("name", "error"), [("config.json", ConfigError), ("model.safetensors", WeightsError)])
    def test_a_missing_file_is_named(self, saved, name, error):
        (saved[1] / name).unlink()
        with pytest.raises(error, match=name.replace(".", r"\.")):
            Triplet.from_pretrained(saved[1])

    def test_weights_of_another_entry_are_refused_with_their_keys(self, tiny_entry, adaptive_entry):
        with pytest.raises(WeightsError, match=r"missing: alpha\.mixing_network"):
            load_triplet(adaptive_entry, Triplet(tiny_entry).state_dict())
        with pytest.raises(WeightsError, match=r"do not fit Doe2024Tiny-digits-Linf; .* unexpected: alpha\.mixing"):
            load_triplet(tiny_entry, Triplet(adaptive_entry).state_dict())

    def test_weights_of_other_widths_are_refused_with_both_shapes(self, tiny_entry):
        wider = replace(tiny_entry, std_model=BaseNetConfig(architecture="small_cnn", arguments={"widths": [3, 9]}))
        with pytest.raises(WeightsError, match=r"std_model\.head\.weight has shape \(10, 9\), not \(10, 5\)"):
            load_triplet(tiny_entry, Triplet(wider).state_dict())

    @pytest.mark.parametrize("name", ["write_shards", "write_text"])
    def test_an_interrupted_save_leaves_no_half_written_file(self, entry, tmp_path, monkeypatch, name):
        def fail(*_):
            raise ResultsError("disk full")

        monkeypatch.setattr(triplet_module, name, fail)
        folder = tmp_path / "saved"
        with pytest.raises(ResultsError, match="disk full"):
            Triplet(entry).save_pretrained(folder)
        assert not (folder / "config.json").exists()
        with pytest.raises(ConfigError if folder.exists() else WeightsError):
            Triplet.from_pretrained(folder)

    def test_a_folder_that_cannot_be_written_is_named(self, tiny_entry, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(ResultsError, match=r"cannot write .*model\.safetensors"):
            Triplet(tiny_entry).save_pretrained(tmp_path / "file")

    def test_what_is_neither_folder_nor_repository_nor_cached_is_refused_by_name(self, tmp_path):
        with pytest.raises(WeightsError, match="neither an existing folder nor a repository name"):
            Triplet.from_pretrained(tmp_path / "missing")
        with pytest.raises(WeightsError, match=r"cannot get config\.json from 'nobody/nothing'"):
            Triplet.from_pretrained("nobody/nothing", cache_dir=tmp_path, local_files_only=True)

    def test_a_config_that_is_no_entry_is_refused_before_weights_are_read(self, saved):
        (saved[1] / "config.json").write_text(entry_to_text(saved[0].entry).replace('"dataset"', '"data_set"'))
        (saved[1] / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match="unknown key 'data_set'"):
            Triplet.from_pretrained(saved[1])


class TestPretrainedBaseNet:
    """A base net whose weights a dependency ships: it is not in the triplet's own file until it is saved."""

    @pytest.fixture
    def shipped(self, tiny_entry, monkeypatch):
        net = Triplet(tiny_entry).std_model
        fake = type("Shipped", (), {"state_dict": staticmethod(net.state_dict)})
        monkeypatch.setitem(triplet_module.BASE_NETS, "shipped", fake)
        return net

    def test_its_weights_come_from_the_dependency_and_the_rest_from_the_file(self, tiny_entry, shipped, tmp_path):
        entry = replace(tiny_entry, std_model=replace(tiny_entry.std_model, pretrained="shipped"))
        rest = {key: value for key, value in Triplet(entry).state_dict().items() if not key.startswith("std_model.")}
        loaded = load_triplet(entry, rest)
        for key, value in shipped.state_dict().items():
            assert torch.equal(loaded.state_dict()[f"std_model.{key}"], value)

        loaded.save_pretrained(tmp_path)
        alone = Triplet.from_pretrained(tmp_path)
        assert alone.entry.std_model.pretrained is None
        assert torch.equal(alone(IMAGES), loaded(IMAGES))
