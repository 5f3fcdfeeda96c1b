"""Records come back as written; damaged and foreign ones are refused; none replaces one that says more."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded import (
    ENTRY,
    EXAMPLES,
    MODEL,
    a_record,
    a_validation,
    add_adaptive,
    add_validation,
    an_evaluation,
    first,
    publish,
    write_run,
)

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.errors import ResultsError, ZooError
from adaptive_smoothing_zoo.publishing.adaptive_record import AdaptiveRecord
from adaptive_smoothing_zoo.publishing.description import renamed
from adaptive_smoothing_zoo.publishing.evidence import check_records, update_entry
from adaptive_smoothing_zoo.publishing.record import check_writable
from adaptive_smoothing_zoo.publishing.run_record import RunRecord, agreement, make_record, verdicts_path, write_results
from adaptive_smoothing_zoo.publishing.validation_record import Validation
from adaptive_smoothing_zoo.storage.files import file_sha256
from adaptive_smoothing_zoo.storage.identity import Identity

KINDS = {"run": RunRecord, "adaptive": AdaptiveRecord, "validation": Validation}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded")
    publish(path)
    add_adaptive(path, 1)
    add_validation(path, 2)
    return path


@pytest.fixture
def folder(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_results_come_back_as_written(tmp_path):
    record = a_record()
    path = publish(tmp_path, record)
    assert path == tmp_path / "digits" / "Linf" / "Demo2026Adaptive.json"
    sha256 = file_sha256(verdicts_path(tmp_path, ENTRY))
    assert RunRecord.read(tmp_path, ENTRY) == replace(record, verdicts_sha256=sha256)
    arrays = np.load(path.with_suffix(".examples.npz"))
    assert sorted(arrays) == ["broken_by", "clean_correct", "index", "label", "robust"]
    np.testing.assert_array_equal(arrays["robust"], an_evaluation().robust)
    written = {file.name.removeprefix("Demo2026Adaptive") for file in path.parent.iterdir()}
    assert written == {".json", ".run.json", ".examples.npz"}
    validation = a_validation(1, failed=("eight_bits",))
    assert validation.write(tmp_path, ENTRY) == path.with_suffix(".validation.json")
    assert Validation.read(tmp_path, ENTRY) == validation


def test_writing_the_same_results_twice_gives_the_same_bytes(tmp_path):
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        path = publish(folder)
        contents.append([file.read_bytes() for file in sorted(path.parent.iterdir())])
    assert contents[0] == contents[1]


def test_a_record_says_no_other_radius_than_the_evaluation_s():
    for entry, eps in ((ENTRY, "0.01"), (replace(ENTRY, threat_model="L2"), None)):
        with pytest.raises(ResultsError, match=r"the evaluation had Linf 0\.\d+, not "):
            make_record(entry, an_evaluation(), EXAMPLES, MODEL, eps=eps)


def test_agreement_counts_equal_verdicts(folder):
    robust = an_evaluation().robust.copy()
    robust[[0, 5]] ^= True
    other = an_evaluation(robust=robust, engine="fast 1", settings=AttackSettings(seed=3))
    text = agreement(folder, ENTRY, other, EXAMPLES)
    assert "fast 1 (seed 3)" in text
    assert "6 of 8" in text
    with pytest.raises(ResultsError, match="on other examples"):
        agreement(folder, ENTRY, other, replace(EXAMPLES, labels=EXAMPLES.labels.flip(0)))


def test_the_record_tells_other_weights_and_other_data_apart():
    record = a_record()
    other = load_model("Demo2026Adaptive", dataset="digits")
    other.rob_model.head.bias.add_(1e-3)
    assert make_record(ENTRY, an_evaluation(), EXAMPLES, other).identity != record.identity
    shuffled = replace(EXAMPLES, labels=EXAMPLES.labels.flip(0))
    assert make_record(ENTRY, an_evaluation(), shuffled, MODEL).data_sha256 != record.data_sha256


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_is_missing_damaged_or_of_another_triplet_is_named(kind, folder):
    path = KINDS[kind].path(folder, ENTRY)
    good = path.read_text()
    for content in ("", "[]", good.replace('"seed"', '"sead"'), good.replace('"n": ', '"n": "x"'), good[:200], "{}"):
        path.write_text(content)
        for read in (KINDS[kind].read, *([check_records] if kind != "run" else []), update_entry):
            with pytest.raises(ResultsError, match=rf"{kind}\.json is not"):
                read(folder, ENTRY)
    path.write_text(good.replace("Demo2026Adaptive", "Other2026Model"))
    with pytest.raises(ResultsError, match="records 'Other2026Model-digits-Linf'"):
        KINDS[kind].read(folder, ENTRY)
    path.unlink()
    assert KINDS[kind].find(folder, ENTRY) is None
    with pytest.raises(ResultsError, match=rf"{kind}\.json does not exist; run asz"):
        KINDS[kind].read(folder, ENTRY)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("run", {"clean_accuracy": 7.0}, "accuracies are fractions"),
        ("run", {"robust_accuracy": -0.5}, "accuracies are fractions"),
        ("run", {"robust_accuracy": 0.625}, "'accuracy_after' must fall from"),
        ("run", {"accuracy_after": {}}, "'accuracy_after' must name"),
        ("run", {"accuracy_after": {"clean": 0.875, "apgd-ce": 0.5}}, "'accuracy_after' must name what"),
        ("run", {"accuracy_after": {"clean": 0.875, **dict.fromkeys(STANDARD_ATTACKS, 0.25)}}, "must fall from"),
        ("run", {"attacks": STANDARD_ATTACKS[:1], "accuracy_after": {"clean": 0.875, "apgd-ce": 0.5}}, "'settings'"),
        ("run", {"broken_by": {"clean": 1}}, "'broken_by' does not add up"),
        ("run", {"n": 0}, "'n' must be at least 1"),
        ("run", {"eps": "1e999999999"}, "eps must be a number"),
        ("run", {"model": "x" * 5000}, "records 'xxx"),
        ("run", {"broken_by": {"clean": 2, "apgd-t": 2}}, "'broken_by' contradicts the clean accuracy, 0.875"),
        ("adaptive", {"fallen": {"a": [1, 1]}}, "'fallen' must name different examples of 8"),
        ("adaptive", {"fallen": {"a": [8]}}, "'fallen' must name different examples of 8"),
        ("adaptive", {"fallen": {"a": [1, 2]}}, "'fallen' does not add up"),
        ("validation", {"accuracy": 1.5}, "accuracies must be fractions"),
        ("validation", {"newly_broken": [1, 1]}, "must name different examples"),
        ("validation", {"newly_broken": [8]}, "must name different examples"),
    ],
)
def test_a_record_whose_numbers_cannot_be_is_refused(folder, kind, changes, message):
    KINDS[kind].read(folder, ENTRY)
    change(KINDS[kind].path(folder, ENTRY), **changes)
    with pytest.raises(ResultsError, match=message) as refusal:
        KINDS[kind].read(folder, ENTRY)
    assert len(str(refusal.value)) < 1000


def test_verdicts_of_another_run_are_refused_though_as_many_points_are_robust(folder, tmp_path_factory):
    """As they stand there when a process dies between writing the one and the other."""
    record = RunRecord.read(folder, ENTRY)
    assert record.verdicts(folder, ENTRY).tolist() == [True] * 4 + [False] * 4
    other = tmp_path_factory.mktemp("other")
    robust = np.array([False, True, True, True, True, False, False, False])
    write_results(other, ENTRY, an_evaluation(robust=robust), EXAMPLES, a_record())
    verdicts_path(folder, ENTRY).write_bytes(verdicts_path(other, ENTRY).read_bytes())
    with pytest.raises(ResultsError, match="does not belong to the run record"):
        record.verdicts(folder, ENTRY)


@pytest.mark.parametrize("content", [b"", b"PK", np.arange(3).tobytes(), b"\x93NUMPY\x01\x00v\x00{'descr': '<i8'"])
def test_damaged_verdicts_are_refused(folder, content):
    record = RunRecord.read(folder, ENTRY)
    verdicts_path(folder, ENTRY).write_bytes(content)
    with pytest.raises(ResultsError, match="missing or damaged"):
        record.verdicts(folder, ENTRY)


@pytest.mark.parametrize("out", ["missing", "missing/below", "."])
def test_asking_whether_results_can_be_written_leaves_nothing_behind(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    check_writable(Path(out), ENTRY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["file", "file/below", "x" * 300, "/dev/null/x", "/proc/x"])
def test_where_results_cannot_be_written_that_is_said_before_a_run(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=rf"cannot write .*{ENTRY.name}\.json: .*; choose another folder"):
        check_writable(Path(out), ENTRY)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["eval", "validate", "certify", "experiment"])
def test_a_command_without_its_data_leaves_no_folder(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    about, threat_model = {"experiment": ("trust-options", "Linf"), "certify": ("Demo2026Smoothed", "L2")}.get(
        command, (ENTRY.name, "Linf")
    )
    names = ["--dataset", "digits", "--threat-model", threat_model, "--data-dir", "nope", "--device", "cpu"]
    with pytest.raises((ZooError, ValueError), match="data_dir has no meaning"):
        asz([command, about, *names], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


OTHER = {"identity": Identity(sha256="0" * 64)}


@pytest.mark.parametrize(
    ("known", "n", "eps", "message"),
    [
        (None, 1, None, None),
        ({}, 8, None, None),
        ({}, 9, None, None),
        (
            {},
            7,
            None,
            "run.json has 8 examples, this run has 7; choose another folder for this run, or add --overwrite",
        ),
        (OTHER, 7, None, r"is of another model \(other weights, .*\); choose .* or add --overwrite"),
        (OTHER, 9, None, "is of another model"),
        (
            {},
            8,
            "0.1",
            r"has the radius 1/5, this run has 0\.1; choose another folder for this run, or add --overwrite",
        ),
        ({}, 8, "1/5", None),
        ({"eps": "0.3"}, 8, "0.30", None),
        ({"eps": "0.3"}, 8, "0.1", r"has the radius 0\.3, this run has 0\.1; choose"),
        ({"eps": "0.3"}, 8, None, r"has the radius 0\.3, this run has 1/5; choose"),
    ],
)
def test_a_record_that_says_more_or_is_of_another_model_is_not_replaced(tmp_path, known, n, eps, message):
    if known is not None:
        write_run(tmp_path, a_record(**known))
    if message is None:
        RunRecord.check_replaceable(tmp_path, ENTRY, MODEL, examples=first(n), eps=eps)
    else:
        with pytest.raises(ResultsError, match=message):
            RunRecord.check_replaceable(tmp_path, ENTRY, MODEL, examples=first(n), eps=eps)


def test_a_record_of_other_images_is_not_replaced(tmp_path):
    write_run(tmp_path, a_record())
    RunRecord.check_replaceable(tmp_path, ENTRY, MODEL, examples=first(9))
    for n in (8, 9):
        other = replace(first(n), images=first(n).images.flip(0))
        with pytest.raises(ResultsError, match=r"is of other images \(.*\); choose another folder .* --overwrite"):
            RunRecord.check_replaceable(tmp_path, ENTRY, MODEL, examples=other)


def test_a_record_of_other_attacks_or_engine_or_seed_is_not_replaced(tmp_path):
    write_run(tmp_path, a_record())
    known = RunRecord.read(tmp_path, ENTRY).settings
    assert known.engine == "reference"
    RunRecord.check_replaceable(tmp_path, ENTRY, MODEL, examples=first(9), settings=replace(known, batch_size=3))
    for settings, message in (
        (AttackSettings.version("plus"), r"is of other attacks \(.*\), this run makes: .*AutoAttack plus; choose"),
        (replace(known, engine="fast"), "was made by the engine 'reference', this run has 'fast'; choose"),
        (replace(known, seed=known.seed + 1), "has seed 0, this run has 1; choose another folder .* --overwrite"),
    ):
        with pytest.raises(ResultsError, match=message):
            RunRecord.check_replaceable(tmp_path, ENTRY, MODEL, examples=first(9), settings=settings)


def test_a_name_with_another_model_s_records_is_not_given(folder):
    other = replace(ENTRY, name="Doe2026Other")
    assert renamed(folder, other, "Doe2026New").name == "Doe2026New"
    with pytest.raises(ResultsError, match=f"has records of another model called {ENTRY.name} .*; choose another name"):
        renamed(folder, other, ENTRY.name)
