"""Records, leaderboard entries, pages, claims and cards, made from an evaluation without an attack."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation import Evaluation
from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.publishing.claim import claim
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve, CurvePoint
from adaptive_smoothing_zoo.publishing.evidence import Evidence, update_entry
from adaptive_smoothing_zoo.publishing.leaderboard import leaderboard_entry, render
from adaptive_smoothing_zoo.publishing.records import (
    agreement,
    make_record,
    read_record,
    results_path,
    verdicts_path,
    write_results,
)
from adaptive_smoothing_zoo.storage.files import file_sha256
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.zoo.entry import Published
from adaptive_smoothing_zoo.zoo.registry import list_models

MODEL = load_model("Demo2026Adaptive", dataset="digits")
MODEL_INFO = Path(__file__).parents[2] / "../shared/reference/robustbench_model_info"
PUBLISHED = [entry for entry in list_models() if entry.published is not None]
CIFAR_ENTRY = replace(MODEL.entry, dataset="cifar10", eps="8/255")
EXAMPLES = Examples(
    images=torch.rand(8, 1, 8, 8), labels=torch.arange(8), source="eight made-up images", test_set_size=8
)


WEIGHTS = identity_of(MODEL)


def an_evaluation(**changes):
    clean, robust = np.arange(8) < 7, np.arange(8) < 4
    fields = {
        "clean_correct": clean,
        "robust": robust,
        "broken_by": np.where(robust, "", np.where(clean, "apgd-t", "clean")),
        "adversarials": EXAMPLES.images.numpy(),
        "accuracy_after": {"clean": 0.875, "apgd-ce": 0.875, "apgd-t": 0.5, "fab-t": 0.5, "square": 0.5},
        "warnings": (),
        "deterministic": True,
        "seconds": {"apgd-ce": 1.234},
        "remarks": (),
        "points": np.arange(8),
        "engine": "pyautoattack 0.2.0",
        "threat": ThreatModel("Linf", 0.2),
        "settings": AttackSettings(batch_size=8),
        "device": "cpu",
    }
    return Evaluation(**(fields | changes))


def a_record(entry=MODEL.entry, **changes):
    return replace(make_record(entry, an_evaluation(), EXAMPLES, MODEL), **changes)


def publish(folder, record=None):
    write_results(folder, MODEL.entry, an_evaluation(), EXAMPLES, record or a_record())
    return update_entry(folder, MODEL.entry)


def test_results_come_back_as_written(tmp_path):
    record = a_record()
    path = publish(tmp_path, record)
    assert path == tmp_path / "digits" / "Linf" / "Demo2026Adaptive.json"
    verdicts_sha256 = file_sha256(verdicts_path(tmp_path, MODEL.entry))
    assert read_record(tmp_path, MODEL.entry) == replace(record, verdicts_sha256=verdicts_sha256)
    arrays = np.load(path.with_suffix(".examples.npz"))
    assert sorted(arrays) == ["broken_by", "clean_correct", "index", "label", "robust"]
    np.testing.assert_array_equal(arrays["robust"], an_evaluation().robust)
    assert {file.name for file in path.parent.iterdir()} == {
        "Demo2026Adaptive.json",
        "Demo2026Adaptive.run.json",
        "Demo2026Adaptive.examples.npz",
    }


def test_agreement_counts_equal_verdicts(tmp_path):
    publish(tmp_path)
    robust = an_evaluation().robust.copy()
    robust[[0, 5]] ^= True
    other = an_evaluation(robust=robust, engine="fast 1", seed=3)
    assert agreement(tmp_path, MODEL.entry, other, EXAMPLES) == (
        "the verdicts of fast 1 (seed 3) equal those of pyautoattack 0.2.0 (seed 0) on 6 of 8 examples; "
        "robust accuracy 50.00 % and 50.00 %"
    )
    record = make_record(MODEL.entry, other, EXAMPLES, MODEL, remarks=("Something to say",))
    assert "Something to say." in model_card(MODEL.entry, Evidence(run=record))
    with pytest.raises(ResultsError, match="is of other data"):
        agreement(tmp_path, MODEL.entry, other, replace(EXAMPLES, labels=EXAMPLES.labels.flip(0)))
    results_path(tmp_path, MODEL.entry).with_suffix(".examples.npz").write_bytes(b"PK")
    with pytest.raises(ResultsError, match=r"examples\.npz is missing or damaged"):
        agreement(tmp_path, MODEL.entry, other, EXAMPLES)


def test_writing_the_same_results_twice_gives_the_same_bytes(tmp_path):
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        path = publish(folder)
        contents.append([file.read_bytes() for file in sorted(path.parent.iterdir())])
    assert contents[0] == contents[1]


def test_the_record_tells_other_weights_and_other_data_apart():
    record = a_record()
    other = load_model("Demo2026Adaptive", dataset="digits")
    other.rob_model.head.bias.add_(1e-3)
    assert make_record(MODEL.entry, an_evaluation(), EXAMPLES, other).identity != record.identity
    shuffled = replace(EXAMPLES, labels=EXAMPLES.labels.flip(0))
    assert make_record(MODEL.entry, an_evaluation(), shuffled, MODEL).data_sha256 != record.data_sha256


def test_leaderboard_entry_quotes_what_was_published_and_what_was_measured():
    data = leaderboard_entry(MODEL.entry, 0.95, 0.68)
    assert data["reported"] == data["autoattack_acc"] == "68.00"
    assert data["eps"] == "1/5"
    assert data["additional_data"] is False
    assert data["number_forward_passes"] == 2


@pytest.mark.parametrize("entry", PUBLISHED, ids=[entry.key for entry in PUBLISHED])
def test_entries_of_published_models_are_robustbench_s_own(entry):
    path = MODEL_INFO / entry.dataset / entry.threat_model / f"{entry.name}.json"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    theirs, published = json.loads(path.read_text()), entry.published
    ours = leaderboard_entry(entry, float(published.clean) / 100, float(published.autoattack) / 100)
    assert list(ours.items()) == list(theirs.items())


def test_the_lowest_known_figure_is_external_and_the_authors_count():
    entry = replace(MODEL.entry, published=Published(clean="90.00", autoattack="60.00", source="s", adaptive="58.00"))
    cases = ((0.60, None, "58.00"), (0.60, 0.59, "58.00"), (0.60, 0.57, "57.00"), (0.57, None, None))
    for robust, external, expected in cases:
        data = leaderboard_entry(entry, 0.9, robust, external=external)
        assert data.get("external") == expected
        assert data["reported"] == "58.00"
    keys = list(leaderboard_entry(entry, 0.9, 0.6))
    assert keys.index("external") == keys.index("autoattack_acc") + 1


def test_published_figures_do_not_count_at_another_radius():
    entry = replace(MODEL.entry, published=Published(clean="90.00", autoattack="60.00", source="s", adaptive="58.00"))
    data = leaderboard_entry(entry, 0.9, 0.7, eps="1/10")
    assert data["reported"] == data["autoattack_acc"] == "70.00"
    assert "external" not in data
    assert leaderboard_entry(entry, 0.9, 0.7, eps="0.2")["external"] == "58.00"


def test_pages_rank_by_the_best_known_accuracy_and_escape_text(tmp_path):
    folder = tmp_path / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    for name, robust, extra in (
        ("First", 0.5, {}),
        ("Third", 0.6, {"external": "10.00", "footnote": "<script>alert(1)</script>"}),
        ("Second", 0.4, {"link": "javascript:alert(1)"}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(leaderboard_entry(CIFAR_ENTRY, 0.9, robust) | extra))
    (folder / "First.run.json").write_text("{}")
    page, text = render(tmp_path)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "Rank" not in line and "---" not in line]
    assert [row.split(" | ")[1] for row in rows] == ["First", "Second", "Third"]
    assert "<script>" not in page
    assert "javascript:" not in page
    assert "eps 8/255" in page
    assert page.index("First") < page.index("Second") < page.index("Third")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": 3}', "\x00"])
def test_a_file_that_is_no_entry_is_named(tmp_path, content):
    folder = tmp_path / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    (folder / "Broken.json").write_text(content)
    with pytest.raises(ResultsError, match=r"Broken\.json is not a leaderboard entry"):
        render(tmp_path)


def test_an_empty_folder_has_no_leaderboard(tmp_path):
    with pytest.raises(ResultsError, match="no leaderboard entries"):
        render(tmp_path)


def test_a_claim_holds_what_the_form_asks_for():
    text = claim(CIFAR_ENTRY, Evidence(run=a_record(CIFAR_ENTRY)), "https://example.org/weights", WEIGHTS)
    for line in (
        "[New Model] <Demo2026Adaptive>",
        "- Dataset: cifar10",
        "- Threat Model: Linf",
        "- eps: 8/255",
        "- Clean accuracy: 87.50%",
        "- Robust accuracy: 50.00%",
        "- Additional data: false",
        "- Checkpoint and code: https://example.org/weights",
    ):
        assert line in text.splitlines()
    assert "AutoAttack (standard), pyautoattack 0.2.0, full test set of 8 images" in text


@pytest.mark.parametrize(
    ("entry", "changes", "message"),
    [
        (CIFAR_ENTRY, {"n": 7}, "took 7 examples"),
        (CIFAR_ENTRY, {"test_set_size": None}, "all of the test set"),
        (CIFAR_ENTRY, {"protocol": "quick"}, "all of the test set"),
        (CIFAR_ENTRY, {"deterministic": False}, "deterministic"),
        (CIFAR_ENTRY, {"attacks": ("apgd-ce",)}, "through apgd-ce"),
        (CIFAR_ENTRY, {"tf32": True}, "TF32 on"),
        (CIFAR_ENTRY, {"identity": Identity(sha256="0" * 64)}, "model that was evaluated is not the one"),
        (CIFAR_ENTRY, {"eps": "4/255"}, "eps was 4/255, the entry's is 8/255"),
        (MODEL.entry, {}, "no leaderboard for digits"),
    ],
)
def test_a_run_that_is_not_the_full_protocol_cannot_be_claimed(entry, changes, message):
    with pytest.raises(ResultsError, match=message):
        claim(entry, Evidence(run=a_record(entry, **changes)), "https://example.org", WEIGHTS)


def test_a_card_has_front_matter_that_parses_and_says_what_was_measured():
    text = model_card(MODEL.entry, Evidence(run=a_record()))
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "adaptive-smoothing-zoo"
    assert front["license"] == "mit"
    metrics = front["model-index"][0]["results"]
    values = [metric["value"] for result in metrics for metric in result["metrics"]]
    assert values == [87.5, 50.0]
    assert "n = 8 (the whole test set" in text
    assert "None: h carries no certificate" in text
    assert f"[{MODEL.entry.alpha.alpha_min:g}, {MODEL.entry.alpha.alpha_max:g}]" in text


def test_a_card_without_results_says_so_and_claims_nothing():
    text = model_card(MODEL.entry, None)
    assert "Not measured here." in text
    assert "model-index" not in text


def a_curve(*points):
    return ConstantCurve(
        name="X",
        dataset="digits",
        threat_model="Linf",
        eps="1/5",
        engine="pyautoattack 0.2.0",
        n=8,
        seed=0,
        batch_size=8,
        device="d",
        data="d",
        data_sha256=a_record().data_sha256,
        std_sha256="0" * 64,
        rob_sha256="0" * 64,
        versions={},
        points=tuple(CurvePoint(alpha=a, clean=c, robust=r) for a, c, r in points),
    )


def test_the_curve_is_read_at_equal_robustness():
    curve = a_curve((0.0, 1.0, 0.0), (0.5, 0.9, 0.4), (1.0, 0.8, 0.6))
    assert curve.clean_at(0.4) == 0.9
    assert curve.clean_at(0.5) == pytest.approx(0.85)
    assert curve.clean_at(0.2) == pytest.approx(0.95)
    assert curve.clean_at(0.61) is None
    # A later alpha may be better in both; the best one counts.
    assert a_curve((0.5, 0.7, 0.4), (1.0, 0.8, 0.6)).clean_at(0.4) == 0.8


@pytest.mark.parametrize(
    ("clean", "expected"),
    [(0.95, "5.00 points above it"), (0.85, "5.00 points below it"), (0.9, "no more and no less")],
)
def test_a_card_says_by_how_much_the_mix_beats_or_misses_the_constant_alphas(clean, expected):
    curve = a_curve((0.0, 1.0, 0.0), (0.5, 0.9, 0.5))
    text = model_card(MODEL.entry, Evidence(run=a_record(clean_accuracy=clean, robust_accuracy=0.5)), curve)
    assert expected in text


def test_a_curve_of_other_settings_is_not_set_beside_the_run():
    curve = replace(a_curve((0.0, 1.0, 0.0), (0.5, 0.9, 0.5)), seed=1)
    assert "Beside constant alphas" not in model_card(MODEL.entry, Evidence(run=a_record()), curve)


def test_results_that_are_missing_damaged_or_of_another_model_are_named(tmp_path):
    with pytest.raises(ResultsError, match="run asz eval"):
        read_record(tmp_path, MODEL.entry)
    path = publish(tmp_path)
    record_path = path.with_suffix(".run.json")
    good = record_path.read_text()
    for content in ("", "[]", good.replace('"seed"', '"sead"'), good[:200]):
        record_path.write_text(content)
        with pytest.raises(ResultsError, match=r"run\.json"):
            read_record(tmp_path, MODEL.entry)
    record_path.write_text(good.replace("Demo2026Adaptive", "Other2026Model"))
    with pytest.raises(ResultsError, match="records 'Other2026Model-digits-Linf'"):
        read_record(tmp_path, MODEL.entry)
    assert results_path(tmp_path, MODEL.entry) == path


def test_a_run_on_part_of_the_test_set_says_so_in_the_footnote(tmp_path):
    publish(tmp_path, a_record(test_set_size=9))
    entry = json.loads(results_path(tmp_path, MODEL.entry).read_text())
    assert "Not the whole test set: 8 examples." in entry["footnote"]
    assert "Not the whole test set" in render(tmp_path)[1]


def test_a_flag_of_autoattack_is_told_in_card_and_footnote(tmp_path):
    record = a_record(warnings=("Square Attack has decreased the robust accuracy of 1.00%. See flags_doc.md.",))
    publish(tmp_path, record)
    footnote = json.loads(results_path(tmp_path, MODEL.entry).read_text())["footnote"]
    assert "raised a flag in this evaluation: Square Attack has decreased the robust accuracy of 1.00%." in footnote
    assert "see" not in footnote.lower()  # a leaderboard's reader has neither card nor documents
    card = model_card(MODEL.entry, Evidence(run=record))
    assert "> Square Attack has decreased" in card
    assert "upper bound" in card
    assert "raised no flag" in model_card(MODEL.entry, Evidence(run=a_record()))


@pytest.mark.parametrize("features", ["both", "std_model", "rob_model"])
@pytest.mark.parametrize("classes", [0, 7])
def test_the_card_of_a_fine_tuned_model_tells_of_no_mix(features, classes):
    model = load_model("Demo2026Adaptive", dataset="digits")
    model.reset_classifier(classes, features=features)
    text = model_card(model.described(), None)
    assert (f"Logits of {classes} classes" in text) == bool(classes)
    assert "without a classifier" in text or classes
    for name in ("std_model", "rob_model"):
        assert (f"({name})" in text) == (f"| {name} (" in text) == (features in (name, "both"))
    assert not any(word in text for word in ("softmax", "alpha range", "t_g", "alpha_min", "## Certified", "log_prob"))
