"""Records of the embedded digits triplet on eight made-up images, made without an attack."""

import json
from dataclasses import replace

import numpy as np
import torch

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.evaluation import Evaluation
from adaptive_smoothing_zoo.evaluation.adapt import AdaptiveEvaluation
from adaptive_smoothing_zoo.publishing.adaptive_record import make_adaptive_record
from adaptive_smoothing_zoo.publishing.evidence import update_entry
from adaptive_smoothing_zoo.publishing.run_record import RunRecord, make_record, write_results
from adaptive_smoothing_zoo.publishing.validation_record import Validation
from adaptive_smoothing_zoo.validation import CheckResult

MODEL = load_model("Demo2026Adaptive", dataset="digits")
ENTRY = MODEL.entry
CIFAR_ENTRY = replace(ENTRY, dataset="cifar10", eps="8/255")
EXAMPLES = Examples(
    images=torch.rand(8, 1, 8, 8), labels=torch.arange(8), source="eight made-up images", test_set_size=8
)
THREAT = ENTRY.threat
MORE = replace(EXAMPLES, images=torch.cat([EXAMPLES.images] * 2), labels=torch.cat([EXAMPLES.labels] * 2))


def first(n):
    """The first of sixteen examples, of which eight are ``EXAMPLES``."""
    return MORE.first(n)


def an_evaluation(**changes):
    """Examples 0 to 6 are classified correctly, 0 to 3 robustly."""
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
        "threat": THREAT,
        "settings": AttackSettings(engine="reference", batch_size=8),
        "device": "cpu",
    }
    return Evaluation(**(fields | changes))


def a_record(entry=ENTRY, **changes):
    return replace(make_record(entry, an_evaluation(threat=entry.threat), EXAMPLES, MODEL), **changes)


def write_run(folder, record=None):
    """Run record and verdicts."""
    write_results(folder, ENTRY, an_evaluation(), EXAMPLES, record or a_record())


def publish(folder, record=None):
    """The same with the leaderboard entry, whose path is returned."""
    write_run(folder, record)
    return update_entry(folder, ENTRY)


def entry_of(folder):
    """The leaderboard entry that follows from what is recorded."""
    return json.loads(update_entry(folder, ENTRY).read_text())


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
        threat=THREAT,
        settings=AttackSettings(attacks=("apgd-ce-low",), batch_size=8),
        device="cpu",
    )
    make_adaptive_record(folder, ENTRY, RunRecord.read(folder, ENTRY), found).write(folder, ENTRY)


def a_check(name, verdict="passed", group="strength"):
    return CheckResult(
        name=name,
        group=group,
        what="Something.",
        rule="All is well.",
        verdict=verdict,
        found="a | b.",
        measured={"share": 0.25, "points": 3.0},
        passes=12,
        seconds=1.0,
    )


def a_validation(*newly_broken, failed=(), **changes):
    """The record of two checks on the first 6 examples."""
    record = a_record()
    same = ("model", "dataset", "threat_model", "eps", "data", "seed", "identity", "batch_size", "device")
    checks = [a_check(name, "failed" if name in failed else "passed") for name in ("losses_agree", "eight_bits")]
    fields = {
        **{name: getattr(record, name) for name in (*same, "device_name")},
        "n": 6,
        "data_sha256": EXAMPLES.first(6).sha256,
        "clean_accuracy": 1.0,
        "accuracy": 0.5,
        "recorded_n": 8,
        "recorded_accuracy": 0.5,
        "recorded_data_sha256": record.data_sha256,
        "newly_broken": newly_broken,
        "checks": tuple(checks),
        "budget": {"steps": 3},
        "series": {},
        "versions": {},
        "commit": None,
    }
    return Validation(**(fields | changes))


def add_validation(folder, *newly_broken, **changes):
    a_validation(*newly_broken, **changes).write(folder, ENTRY)
