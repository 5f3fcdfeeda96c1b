"""Leaderboard entry, claim and card know of every record that belongs to a run, and of none that does not."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from recorded import (
    ENTRY,
    EXAMPLES,
    MODEL,
    a_record,
    add_adaptive,
    add_validation,
    an_evaluation,
    entry_of,
    publish,
    write_run,
)

from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings, Plan
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.adaptive_record import AdaptiveRecord
from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.publishing.claim import claim
from adaptive_smoothing_zoo.publishing.evidence import read_evidence, update_entry
from adaptive_smoothing_zoo.publishing.leaderboard import read_tables, render
from adaptive_smoothing_zoo.publishing.run_record import RunRecord, make_record, write_results
from adaptive_smoothing_zoo.publishing.validation_record import Validation
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of


@pytest.fixture
def folder(tmp_path):
    """Results of a run in which examples 0 to 3 of 8 are robust."""
    write_run(tmp_path)
    return tmp_path


def card_of(folder):
    return model_card(ENTRY, read_evidence(folder, ENTRY))


def test_a_run_alone_has_no_external_figure(folder):
    assert "external" not in entry_of(folder)
    card = card_of(folder)
    assert "`asz adapt`" in card
    assert "`asz validate`" in card
    assert "| AutoAttack | 50.00 | 15.70 to 84.30 |" in card
    assert "after all attacks" not in card


def test_attacks_that_broke_nothing_change_no_number(folder):
    add_adaptive(folder)
    add_validation(folder)
    assert "external" not in entry_of(folder)
    card = card_of(folder)
    assert "| and apgd-ce-low | 50.00 |" in card
    assert "| after all attacks | 50.00 |" in card
    assert re.search(r"first 6 images: 2 checks passed, 0 failed, 0 did not apply\. .* 0 ", card)
    assert "**" not in card


@pytest.mark.parametrize(
    ("fallen", "newly_broken", "external", "due"),
    [
        ((1,), (), "37.50", "adaptive AutoAttack, which broke 1 of the 4"),
        ((), (0, 3), "25.00", "the attacks of asz validate, which broke 2 of the 4"),
        ((1, 2), (2, 3), "12.50", "adaptive AutoAttack and the attacks of asz validate, which broke 3 of the 4"),
        ((0, 1, 2, 3), (2,), "0.00", "adaptive AutoAttack and the attacks of asz validate, which broke 4 of the 4"),
    ],
)
def test_what_other_attacks_broke_is_the_external_figure_each_example_once(fallen, newly_broken, external, due, folder):
    add_adaptive(folder, *fallen)
    add_validation(folder, *newly_broken)
    entry = entry_of(folder)
    assert (entry["autoattack_acc"], entry["external"]) == ("50.00", external)
    assert f"{external}% robust accuracy is due to" in entry["footnote"]
    assert due in entry["footnote"]
    assert f"| after all attacks | {external} |" in card_of(folder)
    assert f": {len({*fallen, *newly_broken})}, by {due.partition(', which')[0]}" in card_of(folder)
    page, text = render(folder)
    assert f"{external} %" in page
    assert f"| {external} |" in text


def test_a_failed_check_is_told_in_record_entry_card_and_forbids_a_claim(folder):
    add_validation(folder, failed=("losses_agree",))
    assert "asz validate failed in losses_agree." in entry_of(folder)["footnote"]
    assert RunRecord.read(folder, ENTRY).failed_checks == ("losses_agree",)
    evidence = read_evidence(folder, ENTRY)
    card = card_of(folder)
    assert "**: asz validate failed in losses_agree." in card
    assert "- losses_agree: a | b. Expected: All is well." in card
    with pytest.raises(ResultsError, match="asz validate failed in losses_agree: the number is not to be trusted"):
        claim(ENTRY, evidence, "https://example.org", identity_of(MODEL))
    add_validation(folder)  # a check that passes later takes the mark away
    assert "asz validate" not in entry_of(folder)["footnote"]
    assert RunRecord.read(folder, ENTRY).failed_checks == ()


def test_images_that_are_said_later_to_have_chosen_the_mix_are_counted(folder):
    assert "chose" not in entry_of(folder)["footnote"]
    path = update_entry(folder, replace(ENTRY, chosen_on="test:5:200"))
    assert "3 of these examples chose the mix" in json.loads(path.read_text())["footnote"]
    assert RunRecord.read(folder, ENTRY).chosen_among == 3
    update_entry(folder, ENTRY)  # and stay counted if the entry forgets them
    assert RunRecord.read(folder, ENTRY).chosen_among == 3


def test_chosen_adaptive_attacks_are_not_called_all(folder):
    add_adaptive(folder, 1)
    record = AdaptiveRecord.read(folder, ENTRY)
    assert "and those of asz adapt |" in card_of(folder)
    replace(record, protocol="chosen attacks: apgd-ce-low").write(folder, ENTRY)
    assert "and those of asz adapt (only chosen ones) |" in card_of(folder)
    assert "due to chosen adaptive attacks" in entry_of(folder)["footnote"]
    assert "only chosen adaptive attacks" in render(folder)[0]


def test_a_new_run_is_marked_by_the_validation_that_lies_there(folder):
    add_validation(folder, failed=("eight_bits",))
    write_run(folder, a_record(seed=1))
    assert "failed in eight_bits" in entry_of(folder)["footnote"]
    assert RunRecord.read(folder, ENTRY).failed_checks == ("eight_bits",)


def test_a_run_on_part_of_the_test_set_says_so_in_the_footnote(tmp_path):
    write_run(tmp_path, a_record(test_set_size=9))
    assert "8 examples." in entry_of(tmp_path)["footnote"]
    assert "Not the whole test set" in render(tmp_path)[1]


def test_a_flag_of_autoattack_is_told_in_card_and_footnote(tmp_path):
    write_run(tmp_path, a_record(warnings=("Square Attack has decreased the accuracy of 1.00%. See flags_doc.md.",)))
    footnote = entry_of(tmp_path)["footnote"]
    assert "raised a flag: Square Attack has decreased the accuracy of 1.00%." in footnote
    assert "see" not in footnote.lower()  # a leaderboard's reader has neither card nor documents
    assert "\n> Square Attack has decreased" in card_of(tmp_path)


@pytest.mark.parametrize(("left", "external"), [((0, 1, 2, 3, 4), "50.00"), ((0, 2, 3, 4, 5), None)])
def test_of_adaptive_attacks_on_other_verdicts_only_the_broken_examples_count(left, external, folder):
    add_adaptive(folder, 1)
    robust = np.isin(np.arange(8), left)
    broken_by = np.where(robust, "", np.where(np.arange(8) < 7, "apgd-t", "clean"))
    after = {"clean": 0.875, **dict.fromkeys(STANDARD_ATTACKS, 0.625)}
    other = an_evaluation(robust=robust, broken_by=broken_by, accuracy_after=after)
    write_results(folder, ENTRY, other, EXAMPLES, make_record(ENTRY, other, EXAMPLES, MODEL))
    evidence = read_evidence(folder, ENTRY)
    assert evidence.adaptive is None
    assert "adaptive.json started from other verdicts than the run next to it; run asz adapt again" in evidence.stale[0]
    assert evidence.stale[0].endswith("(only the examples that it broke count)") == (external is not None)
    entry, card = entry_of(folder), card_of(folder)
    assert entry.get("external") == external
    assert ("1 of the 5 examples" in entry["footnote"]) == (external is not None)
    assert ("and those of an earlier asz adapt |" in card) == (external is not None)
    assert ("by earlier adaptive attacks." in card) == (external is not None)


def test_adaptive_attacks_on_other_examples_break_none_of_these(folder):
    add_adaptive(folder, 1)
    replace(AdaptiveRecord.read(folder, ENTRY), data_sha256="1" * 64).write(folder, ENTRY)
    assert AdaptiveRecord.read(folder, ENTRY).fallen_of(RunRecord.read(folder, ENTRY)) == frozenset()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"identity": Identity(sha256="1" * 64)}, "with another model (other weights, alpha or logit maps)"),
        ({"eps": "1/4"}, "at another eps, 1/4,"),
        ({"recorded_data_sha256": "1" * 64}, "on other examples"),
    ],
)
def test_a_validation_of_something_else_is_left_aside_and_that_is_said(changes, why, folder):
    add_validation(folder, 1, failed=("losses_agree",), **changes)
    evidence = read_evidence(folder, ENTRY)
    assert evidence.validation is None
    assert f"{why} than the run next to it; run asz validate again" in evidence.stale[0]
    assert "external" not in entry_of(folder)
    assert RunRecord.read(folder, ENTRY).failed_checks == ()


def test_a_validation_counts_no_example_twice_that_a_later_run_broke_itself(folder):
    add_validation(folder, 0, 4, recorded_accuracy=0.625)  # a run in which 4 was robust had been recorded
    assert read_evidence(folder, ENTRY).broken == {0}


@pytest.mark.parametrize("kind", [AdaptiveRecord, Validation])
def test_another_seed_replaces_no_record(kind, folder):
    add_adaptive(folder, 1)
    add_validation(folder, 1)
    kind.check_replaceable(folder, ENTRY, MODEL, examples=EXAMPLES, seed=0)
    with pytest.raises(ResultsError, match=rf"{kind.KIND}\.json has seed 0, this run has 1; choose .* --overwrite"):
        kind.check_replaceable(folder, ENTRY, MODEL, examples=EXAMPLES, seed=1)


def test_adaptive_attacks_cannot_break_what_the_run_has_as_broken(folder):
    add_adaptive(folder, 0)
    path = folder / "digits" / "Linf" / f"{ENTRY.name}.adaptive.json"
    text = path.read_text()
    path.write_text(text.replace('"apgd-ce-low": [\n      0', '"apgd-ce-low": [\n      7'))
    assert path.read_text() != text
    with pytest.raises(ResultsError, match="has as broken already"):
        update_entry(folder, ENTRY)


@pytest.mark.parametrize(
    "settings",
    [
        *(AttackSettings().limited(**{number: 2}) for number in ("iterations", "targets", "restarts", "queries")),
        AttackSettings(search_precision="bfloat16"),
        AttackSettings(attacks=("apgd-ce", "apgd-t")),
        AttackSettings(attacks=(*AttackSettings().attacks, Plan("mine"))),
    ],
    ids=lambda settings: settings.protocol[14:60],
)
def test_a_run_that_is_not_standard_has_no_leaderboard_entry(settings, tmp_path):
    entry = publish(tmp_path)
    found = an_evaluation(settings=settings, accuracy_after={"clean": 0.875, **dict.fromkeys(settings.names, 0.5)})
    write_results(tmp_path, ENTRY, found, EXAMPLES, make_record(ENTRY, found, EXAMPLES, MODEL))
    run = RunRecord.read(tmp_path, ENTRY)
    assert run.settings == settings
    assert not run.is_standard
    assert update_entry(tmp_path, ENTRY) == RunRecord.path(tmp_path, ENTRY)
    assert not entry.exists()
    assert run.protocol in render(tmp_path)[1]
    with pytest.raises(ResultsError, match="no leaderboard entries"):
        read_tables(tmp_path)


def test_an_older_record_without_settings_is_standard(folder):
    path = RunRecord.path(folder, ENTRY)
    content = json.loads(path.read_text())
    assert content.pop("settings")["engine"] == "reference"
    path.write_text(json.dumps(content))
    run = RunRecord.read(folder, ENTRY)
    assert run.settings is None
    assert run.is_standard
    assert update_entry(folder, ENTRY).name == f"{ENTRY.name}.json"
