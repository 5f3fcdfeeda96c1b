"""What ``asz eval`` does beyond the standard protocol, and that its records say so."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import run

from adaptive_smoothing_zoo import MixedClassifier, Triplet, load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import DataSet, Examples, add_data_set, load_data
from adaptive_smoothing_zoo.data.data_set import DATA_SETS
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.adversarial_file import read_adversarials
from adaptive_smoothing_zoo.publishing.claim import claim
from adaptive_smoothing_zoo.publishing.evidence import read_evidence
from adaptive_smoothing_zoo.publishing.radii_curve import RadiiCurve
from adaptive_smoothing_zoo.threat import parse_eps

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
        (("--version", "plus", "--attacks", "square"), "give one of the two"),
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


RADII = ("1/10", "0.2", "3/10")


def test_several_radii_have_a_record_each_and_a_curve_and_the_entry_s_own_stays(tmp_path, capsys):
    asz_eval(capsys, tmp_path, "--n", 12, "--attacks", "square", "--queries", 5)
    own = record_of(tmp_path)
    words = ("--n", 12, "--attacks", "apgd-ce,square", *SHORT, "--eps", "3/10, 1/10,0.2")
    told, _ = asz_eval(capsys, tmp_path, *words)
    assert record_of(tmp_path) == own
    curve = record_of(tmp_path, kind="radii")
    assert [point["eps"] for point in curve["points"]] == list(RADII)
    assert (tmp_path / "digits/Linf/Demo2026Constant.custom.radii.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.state"))
    before = None
    for eps, point in zip(RADII, curve["points"], strict=True):
        name = f"Demo2026Constant.custom.eps-{eps.replace('/', '_')}"
        record = record_of(tmp_path, name)
        assert point["record"] == f"{name}.run.json"
        assert point["robust_accuracy"] == record["robust_accuracy"]
        assert point["low"] < point["robust_accuracy"] < point["high"] or point["robust_accuracy"] in (0.0, 1.0)
        assert f"{100 * record['robust_accuracy']:.2f} %" in told
        assert record["settings"]["begun_at"] == before
        assert ("begun from the adversarial examples of radius" in record["protocol"]) == (before is not None)
        before = parse_eps(eps)
    asz_eval(capsys, tmp_path / "alone", *words[:-1], RADII[-1])
    assert record["robust_accuracy"] <= record_of(tmp_path / "alone")["robust_accuracy"]
    asz_eval(capsys, tmp_path, *words)  # again: the same records
    assert record_of(tmp_path, kind="radii") == curve
    for others, message in (
        (("--attacks", "apgd-ce", *SHORT, "--eps", "0.2,0.15"), "is of other attacks"),
        ((*words[2:-1], "1/10,0.35", "--n", 13), "has radii that this run does not have (0.2, 3/10)"),
        ((*words[2:], "--n", 13), None),
        (("--attacks", "apgd-ce,square", *SHORT, "--eps", "0.35,0.45"), "radii.json has 13 examples, this run has 12"),
    ):
        code, _, err = run(capsys, "eval", *DEMO, "--n", 12, *others, "--out", tmp_path)
        assert (message is None) == (code == 0)
        assert message is None or message in err


def test_a_standard_run_of_several_radii_makes_no_entry_of_the_leaderboard(tmp_path, capsys, monkeypatch):
    asz_eval(capsys, tmp_path, "--n", 1, "--eps", "0,1")
    names = {path.name for path in (tmp_path / "digits/Linf").iterdir()}
    kinds = {"radii.json", "radii.png"}
    kinds |= {f"eps-{eps}.{kind}" for eps in ("0", "1") for kind in ("run.json", "examples.npz")}
    assert names == {f"Demo2026Constant.{kind}" for kind in kinds}
    assert record_of(tmp_path, "Demo2026Constant.eps-0")["protocol"] == "AutoAttack standard"
    assert record_of(tmp_path, "Demo2026Constant.eps-1")["protocol"] != "AutoAttack standard"
    code, _, err = run(capsys, "leaderboard", tmp_path)
    assert not code
    assert "Demo2026Constant.eps-1" in (tmp_path / "leaderboard.md").read_text()
    assert "\n| 1 |" not in (tmp_path / "leaderboard.md").read_text()
    code, _, err = run(capsys, "eval", *DEMO, "--out", tmp_path / "other", "--eps", "0,0/3")
    assert code
    assert "different radii of one norm" in err


@pytest.mark.parametrize("more", [("--quick",), ("--shard", "0/2"), ("--save-adversarials", "a.npz")])
def test_several_radii_go_with_no_more(more, tmp_path, capsys):
    code, _, err = run(capsys, "eval", *DEMO, "--out", tmp_path, "--eps", "0.1,0.2", *more)
    assert code == 2
    assert "several radii need a single process" in err


@pytest.mark.parametrize("part", [("--quick",), ("--shard", "0/2")])
@pytest.mark.parametrize("option", ["--save-adversarials", "--compare-with"])
def test_what_needs_a_whole_run_is_refused_without_one(part, option, tmp_path, capsys):
    code, _, err = run(capsys, "eval", *DEMO, "--out", tmp_path, *part, option, "a.npz")
    assert code == 2
    assert "need a whole run; omit --quick and --shard" in err


@pytest.mark.parametrize("ending", [".npz", ".pt"])
def test_saved_adversarial_images_give_the_recorded_accuracy(ending, tmp_path, capsys):
    file = tmp_path / f"images{ending}"
    told, _ = asz_eval(capsys, tmp_path, "--n", 20, "--attacks", "apgd-ce", *SHORT, "--save-adversarials", file)
    assert f"wrote {file}" in told
    record, examples = record_of(tmp_path), load_data("digits").first(20)
    raw = dict(np.load(file)) if ending == ".npz" else torch.load(file)
    images, labels = torch.as_tensor(raw["adv_complete"]), torch.as_tensor(raw["labels"])
    assert images.dtype == torch.float32
    assert torch.equal(labels, examples.labels)
    model = load_model("Demo2026Constant", dataset="digits").eval()
    robust = model(images).argmax(1) == labels
    assert 0 < robust.double().mean() == record["robust_accuracy"] < 1
    assert torch.equal(images[robust], examples.images[robust])
    said = read_adversarials(file).about
    assert {name: said[name] for name in ("eps", "model", "protocol", "robust_accuracy")} == {
        name: record[name] for name in ("eps", "model", "protocol", "robust_accuracy")
    }
    code, told, err = run(capsys, "check-adversarials", file, *DEMO)
    assert (code, "as recorded" in told) == (0, True), err
    other = ("Demo2026Adaptive", *DEMO[1:])
    code, _, err = run(capsys, "check-adversarials", file, *other)
    assert (code, "made for another model" in err) == (1, True)
    torch.save({"adv_complete": examples.images, "about": json.dumps(said)}, tmp_path / "clean.pt")
    code, _, err = run(capsys, "check-adversarials", tmp_path / "clean.pt", *DEMO)
    assert (code, f"the recorded accuracy is {100 * record['robust_accuracy']:.2f} %" in err) == (1, True)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"threat_model": "L1", "eps": "0.2"}, "'about' is damaged: .*got 'L1'"),
        ({"threat_model": "Linf", "eps": [1]}, "'about' is damaged"),
        ({"identity": {"sha256": "0"}}, "'about' is damaged: .*answers"),
        ([], "'about' is damaged"),
        (None, "it has no adv_complete"),
    ],
)
def test_damaged_files_of_adversarial_images_are_refused(about, said, tmp_path):
    file = tmp_path / "images.npz"
    images = np.zeros((2, 1, 8, 8), np.float32)
    np.savez(file, **({"images": images} if about is None else {"adv_complete": images, "about": json.dumps(about)}))
    with pytest.raises(ResultsError, match=f"holds no adversarial images: {said}"):
        read_adversarials(file)


def test_images_that_break_the_rules_are_refused(tmp_path, capsys):
    file, examples = tmp_path / "images.pt", load_data("digits").first(4)
    images = examples.images.clone()
    images[2] = (images[2] + 0.5).clamp(max=1.0)
    torch.save({"adv_complete": images}, file)  # as AutoAttack's script writes it: the entry's radius counts
    code, _, err = run(capsys, "check-adversarials", file, *DEMO)
    assert (code, "image 2 leaves the Linf ball of radius 0.2" in err) == (2, True)
    torch.save({"adv_complete": examples.images}, file)
    code, told, _ = run(capsys, "check-adversarials", file, *DEMO)
    assert (code, "has no recorded accuracy" in told) == (0, True)
    torch.save({"adv_complete": examples.images, "labels": examples.labels.flip(0)}, file)
    code, _, err = run(capsys, "check-adversarials", file, *DEMO)
    assert (code, "the labels in" in err) == (2, True)
    for wrong in (b"no file", b""):
        file.write_bytes(wrong)
        code, _, err = run(capsys, "check-adversarials", file, *DEMO)
        assert (code, "holds no adversarial images" in err) == (2, True)


@pytest.mark.parametrize(("place", "message"), [("a.jpg", ".npz or .pt"), ("file/a.npz", "cannot write")])
def test_where_adversarial_images_cannot_be_written_nothing_is_begun(place, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, out, err = run(capsys, "eval", *DEMO, "--out", tmp_path / "out", "--save-adversarials", tmp_path / place)
    assert code == 2
    assert message in err
    assert not out
    assert not (tmp_path / "out").exists()


def test_a_curve_that_contradicts_itself_is_refused(tmp_path, capsys):
    asz_eval(capsys, tmp_path, "--n", 2, "--eps", "0,1", "--attacks", "apgd-ce", *SHORT)
    entry = replace(load_model("Demo2026Constant", dataset="digits").entry, name="Demo2026Constant.custom")
    assert len(RadiiCurve.read(tmp_path, entry).points) == 2
    path = RadiiCurve.path(tmp_path, entry)
    curve = json.loads(path.read_text())
    for wrong in (curve["points"][::-1], [curve["points"][0] | {"robust_accuracy": 0.75, "low": 0.9}]):
        path.write_text(json.dumps(curve | {"points": wrong}))
        with pytest.raises(ResultsError, match="must rise in 'eps' and fall in 'robust_accuracy'"):
            RadiiCurve.read(tmp_path, entry)


def test_merged_shards_of_other_attacks_replace_no_record(tmp_path, capsys):
    for shard in ("0/2", "1/2"):
        asz_eval(capsys, tmp_path, "--n", 2, "--attacks", "square", "--queries", 2, "--shard", shard)
    asz_eval(capsys, tmp_path, "--n", 2, "--attacks", "apgd-ce", *SHORT)
    known = record_of(tmp_path)
    code, _, err = run(capsys, "merge", *DEMO[:3], "--n", 2, "--out", tmp_path)
    assert code
    assert "is of other attacks" in err
    assert record_of(tmp_path) == known
