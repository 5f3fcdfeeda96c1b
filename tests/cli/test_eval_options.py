"""What ``asz eval`` does beyond the standard protocol, and that its records say so."""

import json
from dataclasses import replace

import pytest
import torch
from command_line import run

from adaptive_smoothing_zoo import MixedClassifier, Triplet, load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import DataSet, Examples, add_data_set
from adaptive_smoothing_zoo.data.data_set import DATA_SETS
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.claim import claim
from adaptive_smoothing_zoo.publishing.evidence import read_evidence

DEMO = ("Demo2026Constant", "--dataset", "digits", "--device", "cpu")
SHORT = ("--iterations", 3, "--queries", 5)


def asz_eval(capsys, out, *words, model=DEMO):
    """What the command says; it must succeed."""
    code, told, err = run(capsys, "eval", *model, "--out", out, *words)
    assert code == 0, err
    return told, err


def record_of(out, name="Demo2026Constant.custom", kind="run"):
    return json.loads((out / f"digits/Linf/{name}.{kind}.json").read_text())


@pytest.fixture
def three_classes(tmp_path, monkeypatch):
    """A triplet of three classes in a folder, for a data set of its own."""
    torch.manual_seed(0)
    known = load_model("Demo2026Constant", dataset="digits").entry
    entry = replace(known, name="Doe2026Three", aliases=(), dataset="three", num_classes=3)
    mix = MixedClassifier(*(build("small_cnn", widths=(4, 8), num_classes=3) for _ in range(2)), 0.7)
    nets = {"std_model": {"widths": (4, 8)}, "rob_model": {"widths": (4, 8)}}
    parts = {name: replace(getattr(entry, name), arguments=arguments) for name, arguments in nets.items()}
    model = Triplet(replace(entry, **parts, alpha=replace(entry.alpha, value=0.7)))
    model.load_state_dict(mix.state_dict(), strict=False)
    images = torch.rand(6, 1, 8, 8)
    examples = Examples(images=images, labels=model.eval()(images).argmax(1), source="noise", test_set_size=6)
    monkeypatch.setitem(DATA_SETS, "three", None)
    read = {"num_classes": 3, "image_shape": (1, 8, 8), "test_set_size": 6, "read": lambda *_: examples}
    add_data_set(DataSet(name="three", **read))
    model.save_pretrained(tmp_path / "three")
    return str(tmp_path / "three")


def test_three_classes_are_evaluated_and_the_record_says_what_stepped_aside(three_classes, tmp_path, capsys):
    _, err = asz_eval(capsys, tmp_path, *SHORT, "--device", "cpu", model=(three_classes,))
    assert "3 classes: not standard" in err
    folder = tmp_path / "three/Linf"
    names = ["Doe2026Three.custom.examples.npz", "Doe2026Three.custom.run.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    record = json.loads((folder / names[1]).read_text())
    assert record["attacks"] == ["apgd-ce", "apgd-gap", "fab-t", "square"]
    assert record["settings"]["aside"] == ["apgd-t"]
    assert "without apgd-t, for which the model has too few classes" in record["protocol"]


@pytest.mark.parametrize(
    ("words", "protocol"),
    [
        (("--version", "rand", "--iterations", 3), "apgd-ce iterations=3 restarts=1 eot=20; apgd-dlr"),
        (("--version", "rand", "--eot", 2, "--iterations", 3), "eot 2, judged by one pass"),
        (("--attacks", "apgd-dlr,fab", "--version", "custom", *SHORT), "apgd-dlr iterations=3 restarts=1; fab it"),
        (("--individual", "--attacks", "apgd-ce,square", *SHORT), "each attack on all correctly classified points"),
    ],
)
def test_what_is_not_standard_is_recorded_so_and_never_claimed(words, protocol, tmp_path, capsys):
    _, err = asz_eval(capsys, tmp_path, "--n", 4, *words)
    record = record_of(tmp_path)
    assert record["protocol"].startswith("not standard: ")
    assert protocol in record["protocol"]
    assert record["protocol"] in err
    entry = replace(load_model("Demo2026Constant", dataset="digits").entry, name="Demo2026Constant.custom")
    evidence = read_evidence(tmp_path, entry)
    with pytest.raises(ResultsError, match="not standard"):
        claim(entry, evidence, "https://example.org", evidence.run.identity)


def test_a_version_by_its_name_is_called_so(tmp_path, capsys):
    asz_eval(capsys, tmp_path, "--n", 1, "--eps", 0, "--version", "plus")
    assert record_of(tmp_path)["protocol"] == "not standard: AutoAttack plus"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--version", "plus", "--attacks", "square"), "give one of both"),
        (("--version", "custom"), "--version custom needs --attacks"),
        (("--version", "fast"), "is not one of 'standard', 'plus', 'rand', 'custom'"),
        (("--eot", "0"), "eot of apgd-ce must be an integer of at least 1"),
    ],
)
def test_versions_that_cannot_be_meant_are_refused(words, message, tmp_path, capsys):
    code, _, err = run(capsys, "eval", *DEMO, "--n", 1, "--out", tmp_path, *words)
    assert code
    assert message in err
    assert not list(tmp_path.iterdir())


def test_individual_attacks_are_told_alone_and_together(tmp_path, capsys):
    told, _ = asz_eval(capsys, tmp_path, "--n", 40, "--individual", "--attacks", "apgd-ce,square,fab-t", *SHORT)
    record = record_of(tmp_path)
    alone, after = record["accuracy_alone"], record["accuracy_after"]
    assert list(alone) == ["apgd-ce", "square", "fab-t"]
    assert alone["apgd-ce"] == after["apgd-ce"]
    assert min(alone.values()) >= after["fab-t"] == record["robust_accuracy"]
    assert alone["square"] > after["square"]  # few queries break little of what APGD has broken
    for name in alone:
        asz_eval(capsys, tmp_path / name, "--n", 40, "--attacks", name, *SHORT)
        assert record_of(tmp_path / name)["robust_accuracy"] == alone[name]
    assert ["square", "alone", f"{100 * alone['square']:.2f}", "%"] in [line.split() for line in told.splitlines()]
