"""A state survives a kill, belongs to one piece of work, and tells of damage in one sentence."""

import json
import logging
import re
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context

import pytest
import torch

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.storage.bound_state import (
    BoundState,
    check_same,
    locked,
    read_binding,
    read_entries,
    remove_state,
)
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import to_json


@dataclass(frozen=True)
class Binding:
    model: Identity
    examples: int
    data_sha256: str
    settings: dict[str, dict[str, float]]


BOUND = Binding(Identity(sha256="a" * 64, answers=(0.5, 1.0)), 3, "d" * 64, {"attack": {"eps": 0.1, "steps": 10}})


def the_tensors(tensors, about):
    return tensors["values"].tolist(), about


def add(state, *values):
    for value in values:
        state.append("batch", {"values": torch.tensor([value])}, {"n": value})


def test_a_folder_with_other_files_is_refused_unless_it_may_be_shared(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    for folder, said in ((tmp_path, "holds thesis.tex and no state"), (tmp_path / "thesis.tex", "is a file; name a")):
        with pytest.raises(ResultsError, match=said):
            BoundState(folder, BOUND)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    BoundState(tmp_path, BOUND, shared=True)
    add(BoundState(tmp_path, BOUND), 1)  # now it is a state


def test_what_an_interrupted_start_left_is_no_other_file(tmp_path):
    for name in (".lock", ".binding.json.k3x_8f.json"):
        (tmp_path / name).write_text("")
    add(BoundState(tmp_path, BOUND), 1)


class TestWhatItKeeps:
    def test_entries_come_back_in_order_and_a_named_file_is_the_last_one_written(self, tmp_path):
        state = BoundState(tmp_path / "state", BOUND)
        add(state, *range(12))
        for value in (1.0, 2.0):
            state.replace("running", {"values": torch.tensor([value])}, "x")
        again = BoundState(tmp_path / "state", BOUND)
        assert again.entries("batch", the_tensors) == [([i], {"n": i}) for i in range(12)]
        assert again.read("running", the_tensors) == ([2.0], "x")
        assert again.read("other", the_tensors) is None
        again.drop("running")
        assert again.read("running", the_tensors) is None
        remove_state(tmp_path / "state")
        assert not (tmp_path / "state").exists()

    @pytest.mark.parametrize("harm", [lambda data: data[:-3], lambda data: data[:-1] + b"\x7f", lambda data: b""])
    def test_a_damaged_file_is_put_aside_with_a_warning_and_the_others_stay(self, tmp_path, harm, caplog):
        state = BoundState(tmp_path, BOUND)
        add(state, 1, 2, 3)
        second = tmp_path / "batch-000002.safetensors"
        second.write_bytes(harm(second.read_bytes()))
        with caplog.at_level(logging.WARNING):
            assert [values for values, _ in state.entries("batch", the_tensors)] == [[1], [3]]
        assert "damaged" in caplog.text
        assert not second.exists()
        assert second.with_suffix(".damaged").exists()
        add(state, 4)
        assert [values for values, _ in state.entries("batch", the_tensors)] == [[1], [3], [4]]

    def test_nobody_s_folder_is_read_strictly(self, tmp_path):
        state = BoundState(tmp_path, BOUND)
        add(state, 1)
        (tmp_path / "batch-000001.safetensors").write_bytes(b"no")
        with pytest.raises(ResultsError, match="damaged"):
            read_entries(tmp_path, "batch", the_tensors)

    def test_what_does_not_fit_is_put_aside(self, tmp_path, caplog):
        state = BoundState(tmp_path, BOUND)
        state.replace("running", {"values": torch.ones(1)}, None)
        state.drop("running", ValueError("of other points"))
        assert "of other points" in caplog.text
        assert (tmp_path / "running.damaged").exists()


class TestWhomItBelongsTo:
    @pytest.mark.parametrize(
        ("other", "said"),
        [
            (replace(BOUND, examples=4), "3 examples, this run has 4 examples"),
            (replace(BOUND, data_sha256="e" * 64), "images and labels of SHA-256"),
            (replace(BOUND, model=Identity(sha256="b" * 64)), "model bbbbbbbbbbbb"),
            (replace(BOUND, model=Identity(sha256="a" * 64, answers=(0.5, 1.1))), "answers 0.5, 1.1"),
            (replace(BOUND, settings={"attack": {"eps": 0.2, "steps": 10}}), "settings.attack.eps 0.1"),
            (replace(BOUND, settings={"attack": {"eps": 0.1}}), "no settings.attack.steps"),
        ],
    )
    def test_another_run_is_refused_in_a_sentence(self, tmp_path, other, said):
        BoundState(tmp_path, BOUND)
        with pytest.raises(ResultsError, match=re.escape(said)) as refusal:
            BoundState(tmp_path, other)
        assert "delete" in str(refusal.value)
        BoundState(tmp_path, BOUND)

    def test_a_model_s_answers_may_differ_by_rounding(self, tmp_path):
        BoundState(tmp_path, BOUND)
        BoundState(tmp_path, replace(BOUND, model=Identity(sha256="a" * 64, answers=(0.50001, 1.0))))

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"examples": NaN}'])
    def test_a_damaged_binding_is_refused(self, tmp_path, text):
        BoundState(tmp_path, BOUND)
        (tmp_path / "binding.json").write_text(text)
        with pytest.raises(ResultsError, match="damaged"):
            BoundState(tmp_path, BOUND)

    @pytest.mark.parametrize(
        "model",
        [
            {"sha256": 0.5, "answers": []},
            *[{"sha256": "a" * 64, "answers": odd} for odd in (["x", 1.0], [10**400, 1.0], "", None, 3, {})],
        ],
    )
    def test_what_is_no_identity_is_another_model(self, tmp_path, model):
        BoundState(tmp_path, {"model": model})
        with pytest.raises(ResultsError, match=r"was made with (no )?model"):
            BoundState(tmp_path, BOUND)

    @pytest.mark.parametrize(
        "odd", ["x" * 5000, None, [1] * 5000, {"a": "x" * 5000}, 10**4000, True, -0.5], ids=lambda odd: f"{odd}"[:9]
    )
    @pytest.mark.parametrize("name", [field.name for field in fields(BOUND)])
    def test_a_value_of_another_type_is_another_value_in_a_short_sentence(self, tmp_path, name, odd):
        BoundState(tmp_path, to_json(BOUND) | {name: odd})
        with pytest.raises(ResultsError, match=r"was made with|no ") as refusal:
            BoundState(tmp_path, BOUND)
        assert len(str(refusal.value)) < 500 + 2 * len(str(tmp_path))

    def test_a_folder_without_a_state_says_so(self, tmp_path):
        with pytest.raises(ResultsError, match="holds no state"):
            read_binding(tmp_path)

    def test_a_binding_may_be_a_mapping_and_reads_back(self, tmp_path):
        BoundState(tmp_path, {"seed": 1, "attacks": ("a", "b")})
        assert read_binding(tmp_path) == {"seed": 1, "attacks": ["a", "b"]}
        assert json.loads((tmp_path / "binding.json").read_text()) == read_binding(tmp_path)

    def test_equal_values_are_the_same(self, tmp_path):
        check_same({"a": [1, 2]}, {"a": [1, 2]}, tmp_path)


def _hold(folder, begun, end):
    with locked(folder):
        begun.set()
        end.wait(30)


def test_of_two_that_begin_at_once_the_folder_is_the_first_one_s(tmp_path):
    states = [BoundState(tmp_path / "state", BOUND)]
    (tmp_path / "state" / "binding.json").unlink()  # both found none
    states.append(BoundState(tmp_path / "state", replace(BOUND, examples=4)))
    with pytest.raises(ResultsError, match="made with 4 examples, this run has 3 examples"), states[0].locked():
        pass
    with states[1].locked():
        add(states[1], 1)


def test_one_process_at_a_time(tmp_path):
    context = get_context("fork")
    begun, end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, begun, end))
    process.start()
    try:
        assert begun.wait(60)
        with pytest.raises(ResultsError, match="another process works in"), BoundState(tmp_path, BOUND).locked():
            pass
    finally:
        end.set()
        process.join()
    with BoundState(tmp_path, BOUND).locked():
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot write"), locked(tmp_path / "file"):
        pass
