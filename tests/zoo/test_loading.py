"""Slips in the arguments of ``load_model``, and triplets that are not in the zoo."""

import sys
from pathlib import Path

import pytest
import torch

from adaptive_smoothing_zoo import Triplet, load_model
from adaptive_smoothing_zoo.errors import ConfigError, UnknownModelError, WeightsError
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.robustbench import drive_ids

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mine(entry, tmp_path):
    """A folder with a triplet that no zoo knows, and the triplet."""
    triplet = Triplet(entry).eval()
    triplet.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine", triplet


class TestModelDir:
    @pytest.mark.parametrize(
        ("slip", "right"),
        [
            ("digits", 'dataset="digits"'),
            ("CIFAR10", 'dataset="cifar10"'),
            ("Linf", 'threat_model="Linf"'),
        ],
    )
    @pytest.mark.parametrize("below", [None, ".", "Linf"])
    def test_a_data_set_in_its_place_is_refused_with_both_right_calls(self, slip, right, below, tmp_path, monkeypatch):
        """Also where a folder of that name holds other things: results, or images."""
        monkeypatch.chdir(tmp_path)
        if below is not None:
            (tmp_path / slip / below).mkdir(parents=True)
            (tmp_path / slip / below / "Demo2026Constant.json").write_text("{}")
        with pytest.raises(ConfigError) as caught:
            load_model("Demo2026Constant", slip)
        assert f'load_model("Demo2026Constant", {right})' in str(caught.value)
        assert f'load_model("Demo2026Constant", "./{slip}")' in str(caught.value)

    @pytest.mark.parametrize("below", [".", "Demo2026Constant-digits-Linf"])
    def test_a_folder_of_that_name_with_the_weights_is_a_folder(self, below, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model = load_model("Demo2026Constant", dataset="digits")
        torch.nn.init.ones_(model.rob_model.head.bias)
        model.save_pretrained(tmp_path / "digits" / below)
        again = load_model("Demo2026Constant", "digits", "digits")
        assert torch.equal(again(IMAGES), model(IMAGES))
        with pytest.raises(
            (ConfigError, WeightsError),
            match=r"'digits' is a dataset, and no folder|holds Demo2026Constant-digits-Linf",
        ):
            load_model("Demo2026Constant", "digits")

    def test_an_empty_folder_that_is_meant_as_one_and_a_file_of_that_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "digits").mkdir()
        assert load_model("Demo2026Constant", "./digits", "digits").entry.dataset == "digits"
        (tmp_path / "digits").rmdir()
        (tmp_path / "digits").write_bytes(b"")
        with pytest.raises(ConfigError, match=r'load_model."Demo2026Constant", dataset="digits"'):
            load_model("Demo2026Constant", "digits")
        with pytest.raises(ConfigError, match="is a file; a weights file is given as custom_checkpoint"):
            load_model("Demo2026Constant", tmp_path / "digits", "digits")

    @pytest.mark.parametrize("missing", ["./digits", "models", "no/such/place"])
    def test_one_that_is_missing_is_a_cache_to_be_and_is_logged(self, missing, tmp_path, monkeypatch, caplog):
        monkeypatch.chdir(tmp_path)
        assert load_model("Demo2026Constant", missing, "digits").entry.dataset == "digits"
        assert "there is no folder" in caplog.text
        assert list(tmp_path.iterdir()) == []

    def test_a_slip_in_the_name_of_a_folder_that_has_the_weights_is_refused(self, tmp_path):
        load_model("Demo2026Constant", dataset="digits").save_pretrained(tmp_path / "finetuned")
        with pytest.raises(ConfigError, match=r"there is no folder .*finetund; did you mean .*finetuned\?"):
            load_model("Demo2026Constant", tmp_path / "finetund", "digits")
        assert load_model("Demo2026Constant", tmp_path / "other", "digits").entry.name == "Demo2026Constant"


class TestReferences:
    @pytest.mark.parametrize("scheme", ["", "local-dir:"])
    def test_a_folder_is_loaded_by_its_path(self, mine, scheme):
        folder, triplet = mine
        for loaded in (load_model(f"{scheme}{folder}"), Triplet.from_pretrained(f"{scheme}{folder}")):
            assert torch.equal(loaded(IMAGES), triplet(IMAGES))
        assert torch.equal(load_model(Path(folder))(IMAGES), triplet(IMAGES))
        assert find_entry(f"{scheme}{folder}", "cifar10", "Linf").name == "Doe2024Tiny"

    def test_what_names_no_place_or_two_is_refused(self, mine, tmp_path):
        (tmp_path / "empty").mkdir()
        for reference, error, words in (
            (f"local-dir:{tmp_path / 'nothing'}", WeightsError, "there is no folder"),
            (f"local-dir:{tmp_path / 'empty'}", ConfigError, r"there is no file .*config\.json"),
            ("org/mine", UnknownModelError, 'for a Hub repository write "hf-hub:org/mine"'),
        ):
            with pytest.raises(error, match=words):
                load_model(reference)
        with pytest.raises(ConfigError, match="says where the weights are"):
            load_model(str(mine[0]), mine[0])

    def test_a_repository_is_loaded_by_its_reference_and_its_revision(self, hub, mine):
        folder, triplet = mine
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        commit = hub.commit("org/mine", files)
        hub.commit("org/mine", {"config.json": b"{}"})
        loaded = load_model(f"hf-hub:org/mine@{commit}")
        assert torch.equal(loaded(IMAGES), triplet(IMAGES))
        assert torch.equal(load_model("hf-hub:org/mine", revision=commit)(IMAGES), triplet(IMAGES))
        with pytest.raises(ConfigError):
            load_model("hf-hub:org/mine")
        with pytest.raises(WeightsError, match="names a revision"):
            load_model(f"hf-hub:org/mine@{commit}", revision="main")

    def test_caches_are_the_caller_s(self, hub, mine, tmp_path):
        files = {path.name: path.read_bytes() for path in mine[0].iterdir()}
        hub.commit("org/mine", files)
        with pytest.raises(WeightsError, match="not in the cache"):
            load_model("hf-hub:org/mine", cache_dir=tmp_path / "cache", local_files_only=True)
        load_model("hf-hub:org/mine", cache_dir=tmp_path / "cache")
        before = len(hub.requests)
        load_model("hf-hub:org/mine", cache_dir=tmp_path / "cache", local_files_only=True)
        assert len(hub.requests) == before


class TestNumberFormats:
    def test_they_have_names(self):
        by_name = load_model("Demo2026Constant", dataset="digits", dtype="bfloat16")
        by_value = load_model("Demo2026Constant", dataset="digits", dtype=torch.bfloat16)
        assert by_name.std_model.dtype == torch.bfloat16
        assert torch.equal(by_name(IMAGES), by_value(IMAGES))

    @pytest.mark.parametrize("dtype", ["int8", "float64", "half"])
    def test_others_are_refused(self, dtype):
        with pytest.raises(ValueError, match=f"got {dtype}"):
            load_model("Demo2026Constant", dataset="digits", dtype=dtype)


def test_images_of_another_size_are_warned_of():
    model = load_model("Demo2026Constant", dataset="digits")
    for call in (model, model.predict, model.forward_features):
        with pytest.warns(UserWarning, match=r"Demo2026Constant-digits-Linf was made for images"):
            call(torch.rand(2, 1, 16, 16))


def test_looking_up_a_download_id_leaves_nothing_behind(monkeypatch):
    pytest.importorskip("pyautoattack")
    for name in ("autoattack", "autoattack.state"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("adaptive_smoothing_zoo.plug.register", lambda: pytest.fail("registers models with timm"))
    assert len(drive_ids("Bai2023Improving_edm", "cifar100", "Linf")) == 3
    assert not {"autoattack", "autoattack.state"} & sys.modules.keys()
