"""Records of certificates and what a card says of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from adaptive_smoothing_zoo.certification.logs import certificates_of
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.publishing.certification_record import (
    BoundRecord,
    CertificationRecord,
    SamplingRecord,
    certificates_section,
    certification_path,
    grid_of,
    read_certification,
    table_of,
    write_certification,
)
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.zoo.registry import find_entry

ENTRY = find_entry("Demo2026Constant", "digits", "Linf")
SAMPLING = SamplingRecord(
    sigma=0.25,
    votes="soft",
    n0=100,
    n=100_000,
    failure_probability=0.001,
    seed=0,
    dtype="float32",
    tf32=False,
    mean_samples=100_100.0,
)


def record(**changes):
    values = {
        "model": "Demo2026Constant",
        "dataset": "digits",
        "threat_model": "Linf",
        "part": "whole",
        "smoothed": False,
        "norm": "L2",
        "alpha_min": 0.8,
        "logits_lipschitz": None,
        "sampling": SAMPLING,
        "at_radius": None,
        "radii": (0.0, 0.25),
        "bounds": {
            "theorem5": BoundRecord(log="a.tsv", average_radius=0.123456, certified_accuracy=(0.9, 0.5)),
            "sharp": BoundRecord(log="b.tsv", average_radius=0.2, certified_accuracy=(0.95, 0.75)),
        },
        "clean_accuracy": 0.97,
        "n": 359,
        "skip": 1,
        "test_set_size": 359,
        "data": "digits",
        "data_sha256": "0" * 64,
        "identity": Identity(sha256="1" * 64),
        "batch_size": None,
        "device": "cpu",
        "device_name": "a CPU",
        "versions": {"torch": "2"},
        "commit": None,
        "seconds": 1.0,
    }
    return CertificationRecord(**{**values, **changes})


def test_a_record_is_read_back(tmp_path):
    path = certification_path(tmp_path, ENTRY, "certified.json")
    assert read_certification(tmp_path, ENTRY) is None
    assert write_certification(path, record()) == path
    assert path.name == "Demo2026Constant.certified.json"
    assert read_certification(tmp_path, ENTRY) == record()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "Other"}, "records Other on digits Linf"),
        ({"radii": [0.0]}, "one certified accuracy for each of 1 radii"),
        ({"part": "g"}, "no part 'g'; known: whole, std_model, rob_model"),
        ({"alpha_min": 2.0}, "'alpha_min' in "),
        ({"top_k": 0}, "top_k must be a whole number >= 1, got 0"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(tmp_path, change, message):
    path = certification_path(tmp_path, ENTRY, "certified.json")
    write_certification(path, record())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ResultsError, match=message):
        read_certification(tmp_path, ENTRY)


def test_the_section_names_theorem_norm_alpha_samples_failure_probability_accuracies_and_average():
    text = certificates_section(record())
    assert "| l_2 radius | > 0 | 0.25 | average radius |" in text
    assert "| theorem5 | 90.00 | 50.00 | 0.123 |" in text
    assert "| sharp | 95.00 | 75.00 | 0.200 |" in text
    assert "- theorem5: Bai, Anderson and Sojoudi 2024" in text
    assert "- sharp: Bai, Anderson and Sojoudi 2024 (arXiv:2311.15165), Lemma 2" in text
    for part in ("alpha_min = 0.8", "sigma = 0.25", "100 noises to choose", "100,000 others", "0.001", "97.00 %"):
        assert part in text
    assert "exact mean over all noise" in text
    assert "the whole test set" in text


def test_the_section_of_a_lipschitz_net_tells_of_its_constant_and_of_no_samples():
    text = certificates_section(record(sampling=None, logits_lipschitz=3.000001, n=90, skip=4, test_set_size=None))
    assert "constant 3, proven layer by layer" in text
    assert "no sampling" in text
    assert "not the whole test set, every 4th" in text


def test_the_section_of_a_top_k_says_what_is_certified():
    text = certificates_section(record(top_k=2, sampling=replace(SAMPLING, n0=0)))
    assert "the share of examples whose label is among the 2 likeliest classes of the mix" in text
    assert "- top 2: the label stays among the k = 2 likeliest classes" in text
    assert "100,000 noises for the bounds, failure probability 0.001" in text
    assert "Clean top-2 accuracy on the same examples: 97.00 %" in text
    usual = certificates_section(record())
    assert "that the mix classifies correctly" in usual
    assert "Clean accuracy" in usual
    assert "likeliest" not in usual


def test_tables_end_where_nothing_is_certified_and_start_above_0():
    found = certificates_of([(0, 1, 1, 0.3, True, 0.0), (1, 1, 1, 0.05, True, 0.0), (2, 1, 0, 2.0, False, 0.0)])
    np.testing.assert_array_equal(grid_of([found]), [0.0, 0.1, 0.25, 0.5])
    assert table_of(
        record(
            at_radius=0.5,
            radii=(0.5,),
            bounds={"sharp": BoundRecord(log="b.tsv", average_radius=None, certified_accuracy=(0.4,))},
        )
    ) == [["l_2 radius", "0.5"], ["sharp", "40.00"]]


def test_a_card_has_the_section_or_says_why_there_is_none():
    text = model_card(ENTRY, None, None, record())
    assert certificates_section(record()) in text
    assert "| certified, l_2 radius 0.25 | 75.00 |  | any attack within it, by the bound sharp |" in text
    assert "None: h has no certificate" in model_card(ENTRY, None)
    lipschitz = replace(ENTRY, rob_model=replace(ENTRY.rob_model, architecture="lipschitz", arguments={}))
    assert "Not computed here (`asz certify`)" in model_card(lipschitz, None)


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ({}, "float32, TF32 off. The certificates hold for the mix"),
        ({"tf32": True}, "float32, TF32 on. The certificates hold for the net in this precision."),
        ({"dtype": "bfloat16"}, "bfloat16, TF32 off. The certificates hold for the net in this precision."),
    ],
)
def test_a_card_says_which_net_is_certified(precision, words):
    assert words in certificates_section(record(sampling=replace(SAMPLING, **precision)))
