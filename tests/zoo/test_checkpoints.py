"""Foreign checkpoint files: every layout that people have, and a sentence for every file that is none."""

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.bit_resnet import BIT_NPZ_KEYS
from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork
from adaptive_smoothing_zoo.zoo.checkpoints import (
    NESTINGS,
    WRAPPERS,
    convert_base_net,
    convert_mixing_network,
    read_checkpoint,
    read_triplet_state,
)
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig

WRN = BaseNetConfig(
    architecture="dm_wide_resnet",
    arguments={"depth": 10, "width": 1, "activation": "silu", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
)
SMALL = BaseNetConfig(architecture="small_cnn", arguments={"widths": [2, 3]})
BIT = BaseNetConfig(architecture="bit_resnet", arguments={"depth": [1, 1, 1, 1], "width": 1, "image_size": 32})


def net_of(config):
    torch.manual_seed(0)
    return build(config.architecture, num_classes=10, **config.arguments)


def foreign_wrn(net):
    """The state dict of ``net`` under DeepMind's keys, made from the structure and not from the package's table."""
    state = net.state_dict()
    found = {"init_conv.weight": state["stem.weight"]}
    for stage in range(3):
        ours, theirs = f"stages.{stage}.0", f"layer.{stage}.block.0"
        for i in (0, 1):
            found[f"{theirs}.conv_{i}.weight"] = state[f"{ours}.conv{i + 1}.weight"]
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                found[f"{theirs}.batchnorm_{i}.{name}"] = state[f"{ours}.norm{i + 1}.{name}"]
        if f"{ours}.shortcut.weight" in state:
            found[f"{theirs}.shortcut.weight"] = state[f"{ours}.shortcut.weight"]
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        found[f"batchnorm.{name}"] = state[f"final.0.{name}"]
    found |= {"logits.weight": state["head.weight"], "logits.bias": state["head.bias"]}
    return found


def nested(state, nesting):
    for key in reversed(nesting):
        state = {"epoch": 3, key: state}
    return state


@given(
    nesting=st.lists(st.sampled_from(NESTINGS), max_size=2),
    prefix=st.lists(st.sampled_from(["module.", "module.0.", "_orig_mod.", "model.", "backbone."]), max_size=2),
)
def test_every_nesting_and_prefix_gives_the_same_weights(nesting, prefix):
    net = net_of(WRN)
    state = {"".join(prefix) + key: value for key, value in foreign_wrn(net).items()}
    converted = convert_base_net(nested(state, nesting), WRN, net, "a file")
    assert converted.keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in converted.items())


WRAPPED = st.lists(st.sampled_from(WRAPPERS), min_size=1, max_size=3).map("".join)


@given(nesting=st.lists(st.sampled_from(NESTINGS), max_size=2), prefix=WRAPPED)
def test_our_own_keys_lose_a_prefix_that_all_of_them_have(nesting, prefix):
    net = build("small_cnn", widths=(2, 3), num_classes=5)
    state = {prefix + key: value for key, value in net.state_dict().items()}
    converted = convert_base_net(nested(state, nesting), SMALL, net, "a file")
    assert {key: id(value) for key, value in converted.items()} == {
        key.removeprefix(prefix): id(value) for key, value in state.items()
    }


@given(prefix=WRAPPED, data=st.data())
def test_a_prefix_that_only_some_keys_have_is_refused(prefix, data):
    net = build("small_cnn", widths=(2, 3), num_classes=5)
    state = net.state_dict()
    bare = data.draw(st.sets(st.sampled_from(sorted(state)), min_size=1, max_size=len(state) - 1))
    mixed = {key if key in bare else prefix + key: value for key, value in state.items()}
    with pytest.raises(WeightsError, match="does not have our keys"):
        convert_base_net(mixed, SMALL, net, "a file")


def test_a_net_whose_own_keys_begin_like_a_wrapper_keeps_them():
    net = nn.ModuleDict({"model": nn.Linear(2, 2)})
    assert net.state_dict().keys() == {"model.weight", "model.bias"}
    for prefix in ("", "module.", "model."):
        state = {prefix + key: value for key, value in net.state_dict().items()}
        assert convert_base_net(state, SMALL, net, "a file").keys() == net.state_dict().keys()


@pytest.mark.parametrize("old_format", [False, True])
def test_pytorch_files_of_both_formats_are_read(tmp_path, old_format):
    net = net_of(WRN)
    content = {
        "model_state_dict": OrderedDict(foreign_wrn(net)),
        "optimizer": {"param_groups": [{"lr": 0.1}]},
        "best_accuracy": np.float64(93.25),  # NumPy's numbers are common in checkpoints
        "epoch": np.int64(7),
    }
    path = tmp_path / "checkpoint.anything"
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    converted = convert_base_net(read_checkpoint(path), WRN, net, str(path))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in converted.items())


def test_safetensors_with_our_own_keys_are_taken_as_they_are(tmp_path):
    net = net_of(WRN)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    converted = convert_base_net(read_checkpoint(tmp_path / "net.safetensors"), WRN, net, "it")
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in converted.items())


def npz_arrays(net):
    """The arrays of a BiT file, found by asking the key table which name gives which key."""
    state = {key: value for key, value in net.state_dict().items() if key not in ("mean", "std")}
    arrays = {}
    names = ["resnet/root_block/standardized_conv2d/kernel", "resnet/group_norm/gamma", "resnet/group_norm/beta"]
    names += [f"resnet/head/conv2d/{kind}" for kind in ("kernel", "bias")]
    for block in range(1, 5):
        unit = f"resnet/block{block}/unit01/"
        names.append(unit + "a/proj/standardized_conv2d/kernel")
        for letter in "abc":
            names += [unit + f"{letter}/{rest}" for rest in ("standardized_conv2d/kernel", "group_norm/gamma")]
            names.append(unit + f"{letter}/group_norm/beta")
    import re

    for name in names:
        for pattern, ours in BIT_NPZ_KEYS.items():
            if match := re.fullmatch(pattern, name):
                key = match.expand(ours) if isinstance(ours, str) else ours(match)
                value = state.pop(key).numpy()
                if key == "head.weight":
                    value = value[:, :, None, None]
                arrays[name] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    assert not state
    return arrays


def test_bits_npz_files_are_read(tmp_path):
    net = net_of(BIT)
    np.savez(tmp_path / "BiT-M.npz", **npz_arrays(net))
    converted = convert_base_net(read_checkpoint(tmp_path / "BiT-M.npz"), BIT, net, "it")
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in converted.items())


class TestMixingNetwork:
    alpha = AdaptiveAlpha(MixingNetwork(8, 12, (4, 6, 8)))

    @staticmethod
    def foreign(alpha):
        renamed = {}
        for key, value in alpha.state_dict().items():
            key = key.removeprefix("mixing_network.").replace("groups.", "layers.").replace(".norm", ".bn")
            key = key.replace("shortcut.", "shortcut.0.").replace("project.", "conv1x1.").replace("head.", "linear.")
            if not key.startswith("norm."):
                renamed[key] = value
        norm = {key.removeprefix("norm."): v for key, v in alpha.state_dict().items() if key.startswith("norm.")}
        return {"model": renamed, "bn": norm}

    @pytest.mark.parametrize("wrap", [lambda c: c, lambda c: {"state_dict": c, "epoch": 1}])
    def test_model_and_bn_are_found(self, wrap):
        converted = convert_mixing_network(wrap(self.foreign(self.alpha)), self.alpha, "it")
        assert all(torch.equal(value, self.alpha.state_dict()[key]) for key, value in converted.items())
        assert converted.keys() == self.alpha.state_dict().keys()

    @pytest.mark.parametrize("nesting", [(), ("state_dict",), ("model",)])
    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model._orig_mod."])
    def test_our_own_keys_lose_the_prefixes_of_wrappers(self, prefix, nesting):
        state = {prefix + key: value for key, value in self.alpha.state_dict().items()}
        converted = convert_mixing_network(nested(state, nesting), self.alpha, "it")
        assert converted.keys() == self.alpha.state_dict().keys()

    @pytest.mark.parametrize("content", [{}, {"model": {}}, {"model": 1, "bn": {}}, {"bn": {}}])
    def test_what_lacks_one_of_them_is_refused(self, content):
        with pytest.raises(WeightsError, match="it is not a mixing network's checkpoint: it needs 'model' and 'bn'"):
            convert_mixing_network(content, self.alpha, "it")


class RunsCode:
    def __reduce__(self):
        return (print, ("executed",))


def zip_with(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"hello")
    return buffer.getvalue()


def tar_with_a_file():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("checkpoint.pt")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return buffer.getvalue()


def torch_file(old_format=False):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, buffer, _use_new_zipfile_serialization=not old_format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; delete it"),
        (b"\n <!DOCTYPE html><html><body>Google Drive - Quota exceeded</body></html>", "is a web page, not a checkp"),
        (b"<html>", "is a web page"),
        (b"hello, world", r"not a checkpoint in a known format .* begins with b'hello, world'"),
        (torch_file()[:-300], "is truncated or damaged at its end"),
        (torch_file()[:100], "is truncated or damaged at its end"),
        (torch_file(old_format=True)[:-300], "is a damaged or truncated PyTorch file|was refused"),
        (pickle.dumps({"a": RunsCode()}, protocol=2), "was refused: reading it would run code"),
        (pickle.dumps([1, 2], protocol=2), "was refused|damaged"),
        (tar_with_a_file(), "is a tar archive, not a checkpoint; unpack it"),
        (zip_with("weights.txt"), "is a zip archive, not a checkpoint; unpack it"),
        (zip_with("a.npy"), r"is a damaged \.npz file"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named_as_what_it_is(tmp_path, capsys, content, message):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"checkpoint\.pt .*({message})|checkpoint\.pt ({message})"):
        read_checkpoint(path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "args": RunsCode()}, r"g\.pt was refused: reading it would run code.*print"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
    ],
)
def test_what_is_no_state_dict_of_tensors_is_refused_and_not_run(tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "g.pt")
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "g.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, {"model": {"a": 1}}])
def test_a_checkpoint_without_weights_says_what_it_has(content):
    with pytest.raises(WeightsError, match="it holds no weights: it has"):
        convert_base_net(content, WRN, net_of(WRN), "it")


def test_another_nets_checkpoint_lists_what_does_not_fit():
    net = net_of(WRN)
    state = foreign_wrn(net)
    with pytest.raises(WeightsError, match=r"not one of BiT's ResNet; .* unknown: init_conv\.weight"):
        convert_base_net(state, BIT, net_of(BIT), "it")
    del state["logits.bias"]
    with pytest.raises(WeightsError, match=r"do not fit dm_wide_resnet \(it\); 1 missing: head\.bias"):
        convert_base_net(state, WRN, net, "it")
    state["logits.bias"] = torch.zeros(11)
    with pytest.raises(WeightsError, match=r"head\.bias has shape \(11,\), not \(10,\)"):
        convert_base_net(state, WRN, net, "it")


def test_an_architecture_without_a_key_table_says_so():
    config = BaseNetConfig(architecture="small_cnn", arguments={"widths": [3, 5]})
    with pytest.raises(WeightsError, match="there is no key table for 'small_cnn'"):
        convert_base_net({"conv.weight": torch.zeros(1)}, config, nn.Linear(2, 2), "it")


class TestWholeTriplets:
    """What ``custom_checkpoint`` takes."""

    @pytest.fixture
    def model(self):
        return load_model("Demo2026Constant", dataset="digits")

    @pytest.mark.parametrize("old_format", [False, True])
    @pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
    def test_a_pytorch_file_loads_like_a_safetensors_file(self, model, tmp_path, old_format, wrap):
        torch.save(wrap(model.state_dict()), tmp_path / "own.pt", _use_new_zipfile_serialization=not old_format)
        save_file(model.state_dict(), tmp_path / "own.safetensors")
        images = torch.rand(3, 1, 8, 8)
        for name in ("own.pt", "own.safetensors"):
            loaded = load_model("Demo2026Constant", dataset="digits", custom_checkpoint=tmp_path / name)
            assert torch.equal(loaded(images), model(images))

    def test_a_file_of_one_part_is_refused_with_the_command_that_takes_it(self, model, tmp_path):
        torch.save(model.std_model.state_dict(), tmp_path / "g.pt")
        message = r"g\.pt is not the state dict of a whole triplet, .* by asz convert and give the folder as model_dir"
        with pytest.raises(WeightsError, match=message):
            load_model("Demo2026Constant", dataset="digits", custom_checkpoint=tmp_path / "g.pt")

    def test_a_whole_pickled_module_is_refused_and_not_run(self, model, tmp_path):
        torch.save(model.std_model, tmp_path / "module.pt")
        with pytest.raises(WeightsError, match=r"module\.pt was refused: .*torch\.save\(net\.state_dict\(\)"):
            read_triplet_state(tmp_path / "module.pt")


def test_a_file_that_is_not_there_or_cannot_be_read_is_named(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match=r"there is no checkpoint .*absent\.pt"):
        read_checkpoint(tmp_path / "absent.pt")
    (tmp_path / "g.pt").write_bytes(b"PK")
    monkeypatch.setattr("pathlib.Path.open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(WeightsError, match=r"cannot read .*g\.pt: .*Permission denied"):
        read_checkpoint(tmp_path / "g.pt")
