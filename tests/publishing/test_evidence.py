"""Leaderboard entry, claim and card know of every record that belongs to a run, and of none that does not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_publishing import EXAMPLES, MODEL, WEIGHTS, a_record, an_evaluation

from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation.adapt import AdaptiveEvaluation
from adaptive_smoothing_zoo.publishing.adaptive_record import make_adaptive_record, write_adaptive
from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.publishing.claim import claim
from adaptive_smoothing_zoo.publishing.evidence import check_records, read_evidence, update_entry
from adaptive_smoothing_zoo.publishing.leaderboard import render
from adaptive_smoothing_zoo.publishing.records import make_record, read_record, write_results
from adaptive_smoothing_zoo.publishing.validation_record import validation_path
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.validation import CheckResult, Validation
from adaptive_smoothing_zoo.validation.report import to_text

ENTRY = MODEL.entry


@pytest.fixture
def folder(tmp_path):
    """Results of a run in which examples 0 to 3 of 8 are robust."""
    write_results(tmp_path, ENTRY, an_evaluation(), EXAMPLES, a_record())
    return tmp_path


def add_adaptive(folder, *fallen):
    broken_by = np.where(np.isin(np.arange(8), fallen), "apgd-ce-low", "")
    robust = an_evaluation().robust & (broken_by == "")
    found = AdaptiveEvaluation(
        robust=robust,
        broken_by=broken_by,
        adversarials=EXAMPLES.images.numpy(),
        accuracy_after={"standard": 0.5, "apgd-ce-low": float(robust.mean())},
        seconds={"apgd-ce-low": 1.0},
        engine="adaptive 1",
        threat=ThreatModel("Linf", 0.2),
        settings=AttackSettings(attacks=("apgd-ce-low",), batch_size=8),
        device="cpu",
    )
    write_adaptive(folder, ENTRY, make_adaptive_record(folder, ENTRY, read_record(folder, ENTRY), found))


def add_validation(folder, *newly_broken, failed=(), **changes):
    record = a_record()
    checks = tuple(
        CheckResult(
            name=name,
            group="strength",
            what="Something.",
            rule="All is well.",
            verdict="failed" if name in failed else "passed",
            found="it was looked at.",
            measured={},
            passes=1,
            seconds=1.0,
        )
        for name in ("losses_agree", "eight_bits")
    )
    fields = {
        **{name: getattr(record, name) for name in ("model", "dataset", "threat_model", "eps", "data", "seed")},
        **{name: getattr(record, name) for name in ("identity", "batch_size", "device", "device_name")},
        "n": 6,
        "data_sha256": "0" * 64,
        "clean_accuracy": 1.0,
        "accuracy": 0.5,
        "recorded_n": 8,
        "recorded_accuracy": 0.5,
        "recorded_data_sha256": record.data_sha256,
        "newly_broken": newly_broken,
        "checks": checks,
        "budget": {},
        "series": {},
        "versions": {},
        "commit": None,
    }
    validation_path(folder, ENTRY).write_text(to_text(Validation(**(fields | changes))))


def entry_of(folder):
    return json.loads(update_entry(folder, ENTRY).read_text())


def test_a_run_alone_has_no_external_figure(folder):
    entry = entry_of(folder)
    assert "external" not in entry
    card = model_card(ENTRY, read_evidence(folder, ENTRY))
    assert "(`asz adapt`) were not run" in card
    assert "was not checked (`asz validate`)" in card
    assert "Best known" not in card


def test_attacks_that_broke_nothing_change_no_number(folder):
    add_adaptive(folder)
    add_validation(folder)
    assert "external" not in entry_of(folder)
    card = model_card(ENTRY, read_evidence(folder, ENTRY))
    assert "| and apgd-ce-low | 50.00 |" in card
    assert "2 checks passed, 0 failed, 0 did not apply; its attacks broke 0 examples" in card
    assert "not to be trusted" not in card


@pytest.mark.parametrize(
    ("fallen", "newly_broken", "external", "due"),
    [
        ((1,), (), "37.50", "adaptive AutoAttack, which broke 1 of the 4"),
        ((), (0, 3), "25.00", "the attacks of asz validate, which broke 2 of the 4"),
        ((1, 2), (2, 3), "12.50", "adaptive AutoAttack and the attacks of asz validate, which broke 3 of the 4"),
        ((0, 1, 2, 3), (2,), "0.00", "which broke 4 of the 4"),
    ],
)
def test_what_other_attacks_broke_is_the_external_figure_each_example_once(fallen, newly_broken, external, due, folder):
    add_adaptive(folder, *fallen)
    add_validation(folder, *newly_broken)
    entry = entry_of(folder)
    assert (entry["autoattack_acc"], entry["external"]) == ("50.00", external)
    assert f"{external}% robust accuracy is due to" in entry["footnote"]
    assert due in entry["footnote"]
    assert f"Best known robust accuracy: **{external} %**" in model_card(ENTRY, read_evidence(folder, ENTRY))
    page, text = render(folder)
    assert f"{external} %" in page
    assert f"| {external} |" in text


def test_a_failed_check_is_told_in_record_entry_card_and_forbids_a_claim(folder):
    add_validation(folder, failed=("losses_agree",))
    assert "not to be trusted as it stands: asz validate failed in losses_agree." in entry_of(folder)["footnote"]
    assert read_record(folder, ENTRY).failed_checks == ("losses_agree",)
    evidence = read_evidence(folder, ENTRY)
    card = model_card(ENTRY, evidence)
    assert "**The robust accuracy is not to be trusted as it stands**: asz validate failed in losses_agree." in card
    assert "- losses_agree: it was looked at. Expected: All is well." in card
    with pytest.raises(ResultsError, match="asz validate failed in losses_agree: the number is not to be trusted"):
        claim(ENTRY, evidence, "https://example.org", WEIGHTS)


def test_a_check_that_passes_later_takes_the_mark_away(folder):
    add_validation(folder, failed=("losses_agree",))
    update_entry(folder, ENTRY)
    add_validation(folder)
    assert "not to be trusted" not in entry_of(folder)["footnote"]
    assert read_record(folder, ENTRY).failed_checks == ()


def test_a_new_run_is_marked_by_the_validation_that_lies_there(folder):
    add_validation(folder, failed=("eight_bits",))
    write_results(folder, ENTRY, an_evaluation(), EXAMPLES, a_record(seed=1))
    assert "failed in eight_bits" in entry_of(folder)["footnote"]
    assert read_record(folder, ENTRY).failed_checks == ("eight_bits",)


def test_adaptive_attacks_on_other_verdicts_are_left_aside_and_that_is_said(folder):
    add_adaptive(folder, 1)
    robust = np.arange(8) < 5
    broken_by = np.where(robust, "", np.where(np.arange(8) < 7, "apgd-t", "clean"))
    other = an_evaluation(robust=robust, broken_by=broken_by, accuracy_after={"clean": 0.875, "apgd-t": 0.625})
    write_results(folder, ENTRY, other, EXAMPLES, make_record(ENTRY, other, EXAMPLES, MODEL))
    evidence = read_evidence(folder, ENTRY)
    assert evidence.adaptive is None
    assert "run asz adapt again" in evidence.stale[0]
    assert "external" not in entry_of(folder)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"identity": Identity(sha256="1" * 64)}, "with another model"),
        ({"eps": "1/4"}, "at another eps, 1/4,"),
        ({"recorded_data_sha256": "1" * 64}, "on other examples"),
    ],
)
def test_a_validation_of_something_else_is_left_aside_and_that_is_said(changes, why, folder):
    add_validation(folder, 1, failed=("losses_agree",), **changes)
    evidence = read_evidence(folder, ENTRY)
    assert evidence.validation is None
    assert f"{why} than the run" in evidence.stale[0]
    assert "run asz validate again" in evidence.stale[0]
    assert "external" not in entry_of(folder)
    assert read_record(folder, ENTRY).failed_checks == ()


def test_a_validation_counts_no_example_twice_that_a_later_run_broke_itself(folder):
    add_validation(folder, 0, 4, recorded_accuracy=0.625)  # a run in which 4 was robust had been recorded
    assert read_evidence(folder, ENTRY).broken == {0}


@pytest.mark.parametrize("kind", ["adaptive", "validation"])
def test_a_damaged_record_is_named(kind, folder):
    add_adaptive(folder, 1)
    add_validation(folder)
    path = folder / "digits" / "Linf" / f"{ENTRY.name}.{kind}.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ResultsError, match=rf"{kind}\.json is not"):
        read_evidence(folder, ENTRY)
    with pytest.raises(ResultsError, match=rf"{kind}\.json is not"):
        check_records(folder, ENTRY)
    path.write_text("{}")
    with pytest.raises(ResultsError, match="missing key"):
        update_entry(folder, ENTRY)


def test_a_record_of_another_triplet_is_refused(folder):
    add_adaptive(folder, 1)
    path = folder / "digits" / "Linf" / f"{ENTRY.name}.adaptive.json"
    path.write_text(path.read_text().replace(ENTRY.name, "Other2026Model"))
    with pytest.raises(ResultsError, match=r"records .*Other2026Model"):
        read_evidence(folder, replace(ENTRY))
