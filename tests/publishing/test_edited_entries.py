"""Whoever edits a number of an entry has another model: what was kept or recorded of the old one is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.publishing.claim import claim
from adaptive_smoothing_zoo.publishing.evidence import read_evidence
from adaptive_smoothing_zoo.publishing.export import card_of
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.publishing.validation_record import recorded_run
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.zoo.entry import HardMaxConfig, NormClampPowerScaleConfig, ScaleConfig
from adaptive_smoothing_zoo.zoo.triplet import load_triplet

RESULTS = Path(__file__).parents[2] / "eval" / "results"
MODEL = load_model("Demo2026Adaptive", dataset="digits")
ENTRY, EXAMPLES = MODEL.entry, load_data("digits")
MAP = NormClampPowerScaleConfig(scale=1.0, power=2.0, clamp_bias=0.1)


def alpha(**changes):
    return {"alpha": replace(ENTRY.alpha, **changes)}


EDITS = {
    "alpha_min": alpha(alpha_min=0.8500001),
    "alpha_max": alpha(alpha_max=0.999),
    "logit_scale": alpha(logit_scale=2.001),
    "logit_bias": alpha(logit_bias=1.001),
    "std_taps": alpha(std_taps=(-2, -1)),
    "rob_taps": alpha(rob_taps=(-2, -1)),
    "t_g": {"std_map": ScaleConfig(factor=1.0001)},
    "t_h": {"rob_map": ScaleConfig(factor=1.0001)},
    "hard_max": {"std_map": HardMaxConfig()},
    "map": {"rob_map": MAP},
}


def edited(changes):
    return load_triplet(replace(ENTRY, **changes), MODEL.state_dict())


@pytest.mark.parametrize("edit", EDITS)
def test_records_states_validations_cards_and_claims_refuse_an_edited_model(edit, tmp_path):
    model = edited(EDITS[edit])
    record, first = RunRecord.read(RESULTS, ENTRY), EXAMPLES.first(2)
    assert record.identity == identity_of(MODEL) != identity_of(model)
    with pytest.raises(ResultsError, match="another model"):
        record.verdicts_on(RESULTS, ENTRY, EXAMPLES, model)
    assert "another model" in recorded_run(RESULTS, ENTRY, model, first, EXAMPLES.first)
    with pytest.raises(ResultsError, match="another model"):
        read_evidence(RESULTS, ENTRY, identity_of(model))
    with pytest.raises(ResultsError, match="another model"):
        card_of(model, RESULTS)
    with pytest.raises(ResultsError, match="the model that was evaluated is not the one"):
        claim(ENTRY, read_evidence(RESULTS, ENTRY), "https://example.org", identity_of(model))
    evaluate(MODEL, first.images, first.labels, eps=0.0, state=tmp_path, device="cpu")
    with pytest.raises(ResultsError, match="made with model"):
        evaluate(model, first.images, first.labels, eps=0.0, state=tmp_path, device="cpu")


@pytest.mark.parametrize("number", ["scale", "power", "clamp_bias", "top_k"])
def test_each_number_of_a_map_makes_another_model(number):
    changed = replace(MAP, **{number: getattr(MAP, number) + 1})
    assert identity_of(edited({"rob_map": MAP})) != identity_of(edited({"rob_map": changed}))
