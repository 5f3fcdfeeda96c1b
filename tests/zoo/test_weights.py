"""Weights files: read whole and strictly, or refused by name."""

from hashlib import sha256
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo import weights
from adaptive_smoothing_zoo.zoo.weights import (
    check_sha256,
    load_strictly,
    read_metadata,
    read_safetensors,
    write_safetensors,
)

STATE = {
    "half": torch.randn(2, 3).half(),
    "brain": torch.randn(4).bfloat16(),
    "single": torch.randn(3, 1, 2),
    "double": torch.randn(2).double(),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "transposed": torch.arange(6.0).view(2, 3).t(),
}


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


def test_tensors_are_read_back_bit_by_bit(tmp_path):
    path = tmp_path / "w.safetensors"
    digest = write_safetensors(path, STATE)
    assert digest == sha256(path.read_bytes()).hexdigest()
    assert_same(read_safetensors(path, digest), STATE)
    assert_same(read_safetensors(path), STATE)
    assert_same(load_file(path), STATE)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda content, kept=kept: content[:kept] for kept in (0, 4, 8, 100, -1)),
        lambda content: b"hello",
        lambda content: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        lambda content: b"PK\x03\x04" + bytes(100),
        lambda content: bytes(64),
    ],
)
def test_a_truncated_or_foreign_file_is_refused_by_name(tmp_path, change):
    path = tmp_path / "w.safetensors"
    digest = write_safetensors(path, STATE)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"w\.safetensors is not a complete safetensors file"):
        read_safetensors(path)
    with pytest.raises(WeightsError, match=rf"w\.safetensors has SHA-256 [0-9a-f]{{64}}, but {digest} was expected"):
        read_safetensors(path, digest)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no weights file .*w\.safetensors"):
        read_safetensors(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="there is no weights file"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_while_writing_leaves_no_half_written_file(tmp_path, monkeypatch, existing):
    path = tmp_path / "w.safetensors"
    if existing:
        save_file({"old": torch.ones(1)}, path)

    def fail_halfway(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise MemoryError("out of memory")

    monkeypatch.setattr(weights, "save_file", fail_halfway)
    with pytest.raises(MemoryError):
        write_safetensors(path, STATE)
    assert [p.name for p in tmp_path.iterdir()] == ([path.name] if existing else [])
    assert not existing or load_file(path).keys() == {"old"}


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: without(state, "0.bias"), r"do not fit a net; 1 missing: 0\.bias"),
        (lambda state: {**state, "2.bias": torch.zeros(3)}, r"do not fit a net; 1 unexpected: 2\.bias"),
        (
            lambda state: {**state, "0.weight": torch.zeros(3, 4)},
            r"0\.weight has shape \(3, 4\), not \(3, 2\)",
        ),
        (
            lambda state: {**state, "1.running_mean": torch.zeros(1)},
            r"1\.running_mean has shape \(1,\), not \(3,\)",
        ),
        (
            lambda state: {f"module.{k}": v for k, v in state.items()},
            "7 missing: .*, ...; 7 unexpected: module",
        ),
        (lambda state: {}, "7 missing: 0.bias, 0.weight, 1.bias, 1.num_batches_tracked, 1.running_mean, ..."),
        (
            lambda state: {**without(state, "0.bias"), "b": torch.zeros(1), "0.weight": torch.zeros(1)},
            r"1 missing: 0\.bias; 1 unexpected: b; 1 of another shape: 0\.weight",
        ),
    ],
)
def test_weights_that_do_not_fit_name_their_keys_and_change_nothing(change, message):
    module, other = net(), net()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_strictly(module, change(other.state_dict()), "a net")
    assert_same(module.state_dict(), before)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_weights_that_fit_are_loaded_whole_and_training_stays_the_module_s_choice(device, requires_grad):
    with torch.device(device):
        module = net().requires_grad_(requires_grad)
    other = net()
    load_strictly(module, other.state_dict(), "a net")
    assert_same(module.state_dict(), other.state_dict())
    assert {parameter.requires_grad for parameter in module.parameters()} == {requires_grad}


def test_weights_take_the_module_s_number_formats():
    module = net().double()
    source = net()
    load_strictly(module, source.half().state_dict(), "a net")
    expected = {key: value.to(module.state_dict()[key].dtype) for key, value in source.state_dict().items()}
    assert module[0].weight.dtype == torch.float64
    assert_same(module.state_dict(), expected)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    digest = write_safetensors(path, STATE)
    for name in ("load_file", "file_sha256", "safe_open"):
        monkeypatch.setattr(weights, name, Mock(side_effect=PermissionError(13, "Permission denied")))
    message = r"cannot read .*w\.safetensors: .*Permission denied"
    for read in (read_safetensors, read_metadata, lambda path: check_sha256(path, digest)):
        with pytest.raises(WeightsError, match=message):
            read(path)


def test_a_note_of_a_checked_file_that_cannot_be_read_costs_another_look(tmp_path, monkeypatch):
    path, note = tmp_path / "w.safetensors", tmp_path / "note"
    digest = write_safetensors(path, STATE)
    note.write_bytes(b"\xff")
    monkeypatch.setattr(weights, "_ALWAYS_HASHED", 0)
    monkeypatch.setattr(weights, "_memo_file", lambda path: note)
    hashed = Mock(side_effect=weights.file_sha256)
    monkeypatch.setattr(weights, "file_sha256", hashed)
    for _ in range(2):
        check_sha256(path, digest)
    assert hashed.call_count == 1  # the first look left a good note
